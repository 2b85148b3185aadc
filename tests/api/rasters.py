"""GeoTIFFs for samgeo's endpoints, and decoding of the responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from tests.api.pictures import Plane, iou
from tests.api.serving import ALICE, Running

AUTOMATIC, PREDICT, TEXT = "/segment/automatic", "/segment/predict", "/segment/text"

PLACES: dict[str, Affine] = {
    "EPSG:3857": from_origin(1_490_000, 6_890_000, 0.5, 0.5),
    "EPSG:4326": from_origin(13.3, 52.6, 1e-5, 1e-5),
    "EPSG:32633": from_origin(390_000, 5_820_000, 0.5, 0.5),
}
"""Transforms by CRS, with pixels of half a metre or 1e-5 degrees."""


def geotiff(
    image: NDArray[Any],
    crs: str | None = "EPSG:3857",
    transform: Affine | None = None,
    **options: Any,
) -> bytes:
    """Encode an image, [H, W, bands], as a GeoTIFF; by default with the transform of `PLACES`."""
    height, width, bands = image.shape
    if crs is not None:
        options |= {"crs": crs, "transform": PLACES[crs] if transform is None else transform}
    with MemoryFile() as file:
        with file.open(
            driver="GTiff",
            height=height,
            width=width,
            count=bands,
            dtype=image.dtype.name,
            **options,
        ) as raster:
            raster.write(np.moveaxis(image, -1, 0))
        return bytes(file.getbuffer())


def post(
    server: Running,
    path: str,
    data: bytes,
    /,
    *,
    key: str | None = ALICE,
    name: str = "image.tif",
    **fields: Any,
) -> httpx.Response:
    """Send a form as samgeo's clients do; fields other than text are sent as JSON."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
    headers = {} if key is None else {"x-api-key": key}
    return server.http.post(path, files={"file": (name, data)}, data=texts, headers=headers)


def answer(server: Running, path: str, data: bytes, /, **fields: Any) -> Any:
    """Return the JSON of a response that must be 200."""
    response = post(server, path, data, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def ids(response: httpx.Response) -> NDArray[Any]:
    """Return the ids in a GeoTIFF or PNG response that must be 200."""
    assert response.status_code == 200, response.text
    with rasterio.open(BytesIO(response.content)) as raster:
        assert raster.count == 1
        plane: NDArray[Any] = raster.read(1)
        return plane


def masks_of(plane: NDArray[Any]) -> list[Plane]:
    """Return the mask of each id, ascending."""
    return [plane == value for value in np.unique(plane[plane > 0])]


def masks_of_geojson(
    collection: Any, size: tuple[int, int], transform: Affine | None = None
) -> list[Plane]:
    """Rasterise the polygons of each value; return the masks by ascending value."""
    assert collection["type"] == "FeatureCollection"
    by_value: dict[float, list[Any]] = {}
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        by_value.setdefault(feature["properties"]["value"], []).append(feature["geometry"])
    return [
        rasterize(by_value[value], out_shape=size, transform=transform or Affine.identity()).astype(
            bool
        )
        for value in sorted(by_value)
    ]


def assert_same_objects(
    found: Sequence[Plane], truth: Sequence[Plane], at_least: float = 0.6
) -> None:
    """Assert that each true mask matches a different one of equally many found masks."""
    assert len(found) == len(truth)
    left = list(found)
    for mask in truth:
        scores = [iou(mask, other) for other in left]
        assert max(scores) >= at_least, scores
        del left[int(np.argmax(scores))]
