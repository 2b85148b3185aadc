"""Measuring: how fast a machine is with some weights, by the segmenter itself, without HTTP."""
