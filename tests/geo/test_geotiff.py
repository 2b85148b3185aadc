"""Writing GeoTIFFs."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import Compression
from rasterio.io import MemoryFile

from inference_server.geo import GeoRaster, write_label_strips, write_labels
from inference_server.images.gdal import gdal
from inference_server.masks import LabelPlane
from tests.geo.files import PLACES, SIZE, reference


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_read_back(place: str, dtype: str) -> None:
    highest = int(np.iinfo(dtype).max)
    plane = np.linspace(0, highest, 80).astype(dtype).reshape(SIZE)
    data = write_labels(plane, reference(place))
    with gdal(), MemoryFile(data) as file, file.open() as image:
        assert image.driver == "GTiff"
        assert image.count == 1
        assert image.dtypes == (dtype,)
        assert image.nodata is None
        assert image.compression == Compression.deflate
        assert image.crs == PLACES[place][0]
        assert image.transform.almost_equals(PLACES[place][1], 1e-9)
        np.testing.assert_array_equal(image.read(1), plane)
    found = GeoRaster(data).reference
    assert found is not None
    assert found.crs == PLACES[place][0]
    assert found.size == SIZE


def test_without_a_reference_it_is_a_plain_tiff() -> None:
    plane: LabelPlane = np.arange(80, dtype=np.uint8).reshape(SIZE)
    data = write_labels(plane, None)
    assert GeoRaster(data).reference is None
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), plane)


def test_writing_prints_nothing() -> None:
    code = (
        "import numpy as np, inference_server.geo as geo\n"
        "data = geo.write_labels(np.zeros((2, 3), np.uint8), None)\n"
        "assert geo.GeoRaster(data).reference is None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_reference_is_of_the_same_size() -> None:
    with pytest.raises(ValueError, match="plane of size"):
        write_labels(np.zeros((10, 8), np.uint8), reference("utm"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_strips_are_the_plane(tmp_path: Path, dtype: type[np.uint8]) -> None:
    size = (600, 301)
    highest = int(np.iinfo(dtype).max)
    plane = np.random.default_rng(5).integers(0, highest, size, dtype, endpoint=True)
    strips = (plane[top : top + 256] for top in range(0, 600, 256))
    write_label_strips(tmp_path / "ids.tif", strips, size, dtype, reference("turned", size))
    with rasterio.open(tmp_path / "ids.tif") as image:
        assert image.driver == "GTiff"
        assert image.count == 1
        assert image.dtypes == (np.dtype(dtype).name,)
        assert image.nodata is None
        assert image.compression == Compression.deflate
        assert image.block_shapes == [(256, 256)]
        assert image.crs == PLACES["turned"][0]
        assert image.transform.almost_equals(PLACES["turned"][1], 1e-9)
        np.testing.assert_array_equal(image.read(1), plane)
    with pytest.raises(ValueError, match="plane of size"):
        write_label_strips(tmp_path / "ids.tif", [], size, dtype, reference("utm"))


def test_a_plane_that_could_exceed_classic_tiff_is_a_big_one(tmp_path: Path) -> None:
    size = (65_536, 50_000)
    empty = np.zeros((256, size[1]), np.uint8)
    write_label_strips(tmp_path / "ids.tif", [empty], size, np.uint8, None)
    assert (tmp_path / "ids.tif").read_bytes()[:4] == b"II+\0"
    with rasterio.open(tmp_path / "ids.tif") as image:
        assert image.shape == size
