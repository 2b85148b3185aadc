"""A typed JSON inference server for promptable image segmentation with SAM 1, SAM 2 and SAM 3."""

__version__ = "0.2.0"
