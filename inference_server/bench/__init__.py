"""Measures latency and throughput of a machine with the segmentation service, without HTTP."""
