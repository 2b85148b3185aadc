"""Segment rasters of any size, window by window, in bounded memory."""

from inference_server.segmentation.tiling.exemplars import with_exemplars
from inference_server.segmentation.tiling.grid import (
    Grid,
    checked_tile_size,
    plan_grid,
    window_around,
)
from inference_server.segmentation.tiling.journal import WindowJournal
from inference_server.segmentation.tiling.objects import TiledObjects
from inference_server.segmentation.tiling.run import (
    Progress,
    TiledResult,
    View,
    segment_around,
    segment_tiled,
    tile_size_of,
)
from inference_server.segmentation.tiling.seams import SeamOptions

__all__ = [
    "Grid",
    "Progress",
    "SeamOptions",
    "TiledObjects",
    "TiledResult",
    "View",
    "WindowJournal",
    "checked_tile_size",
    "plan_grid",
    "segment_around",
    "segment_tiled",
    "tile_size_of",
    "window_around",
    "with_exemplars",
]
