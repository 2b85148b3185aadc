"""Georeferenced images: GeoTIFF input and output, coordinates, GeoJSON.

It works on masks and label planes, and knows neither models nor HTTP. rasterio is imported on
first use.
"""

from inference_server.geo.detection import Detection, detection_list, mask_detections
from inference_server.geo.geojson import (
    detection_features,
    detection_list_pieces,
    detection_pieces,
    polygon_features,
    polygon_pieces,
)
from inference_server.geo.georeference import GeoRaster, GeoReference, across_antimeridian
from inference_server.geo.geotiff import write_label_strips, write_labels
from inference_server.geo.reprojection import MapCoordinates, Reprojection

__all__ = [
    "Detection",
    "GeoRaster",
    "GeoReference",
    "MapCoordinates",
    "Reprojection",
    "across_antimeridian",
    "detection_features",
    "detection_list",
    "detection_list_pieces",
    "detection_pieces",
    "mask_detections",
    "polygon_features",
    "polygon_pieces",
    "write_label_strips",
    "write_labels",
]
