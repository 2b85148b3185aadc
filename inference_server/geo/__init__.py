"""Georeferenced images: GeoTIFF input and output, coordinates, GeoJSON.

It works on masks and label planes, and knows neither models nor HTTP. rasterio is imported on
first use.
"""

from inference_server.geo.detection import Detection, detection_list, mask_detections
from inference_server.geo.geojson import detection_features, polygon_features
from inference_server.geo.georeference import GeoRaster, GeoReference, across_antimeridian
from inference_server.geo.geotiff import write_labels

__all__ = [
    "Detection",
    "GeoRaster",
    "GeoReference",
    "across_antimeridian",
    "detection_features",
    "detection_list",
    "mask_detections",
    "polygon_features",
    "write_labels",
]
