"""Writing GeoTIFFs."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rasterio.enums import Compression
from rasterio.io import MemoryFile

from inference_server.geo import GeoRaster, write_labels
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
