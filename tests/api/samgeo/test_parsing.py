"""How often a request parses its upload: counts, not durations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rasterio.warp import transform

from inference_server.images import headers, raster_file
from tests.api.pictures import Picture
from tests.api.rasters import PLACES, PREDICT, geotiff, ids, post
from tests.api.serving import RunningHere

WEB = "EPSG:3857"


@pytest.mark.parametrize(
    ("dtype", "options", "uncached", "cached"),
    [
        # Pillow decodes it, and no pixel can be invalid: GDAL reads only the georeference.
        ("uint8", {}, (3, 1), (2, 1)),
        # GDAL also decodes it, and reads the valid mask after the limit on pixels was checked.
        ("uint16", {"nodata": 0}, (4, 3), (2, 2)),
    ],
)
def test_an_upload_is_surveyed_as_often_as_it_is_needed(
    server: RunningHere,
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    options: dict[str, Any],
    uncached: tuple[int, int],
    cached: tuple[int, int],
) -> None:
    """Surveys and openings by GDAL of a first request and of one whose image is cached.

    One survey is for georeference and valid mask, and one to choose between the whole image and
    windows. The others are for decoding: to choose a decoder, and before GDAL decodes.
    """
    counts: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        work: Callable[..., Any] = getattr(module, name)

        def count(*arguments: Any) -> Any:
            counts[name] += 1
            return work(*arguments)

        monkeypatch.setattr(module, name, count)

    counted(raster_file, "survey_tiff")
    counted(headers, "survey_tiff")
    counted(raster_file, "open_surveyed_tiff")
    image = picture.scene.image.astype(dtype)
    image[:4] = np.arange(4, dtype=dtype)[:, None, None]  # another upload than those of other tests
    data = geotiff(image, WEB, **options)
    ((x,), (y,)) = transform(
        WEB, "EPSG:4326", *([value] for value in PLACES[WEB] @ picture.one("blue square").click())
    )
    fields: dict[str, Any] = {
        "model_version": "sam2",
        "point_coords": [[x, y]],
        "point_crs": "EPSG:4326",
        "output_format": "geotiff",
    }
    for surveys, openings in (uncached, cached):
        counts.clear()
        assert ids(post(server, PREDICT, data, **fields)).any()
        assert counts == {"survey_tiff": surveys, "open_surveyed_tiff": openings}
