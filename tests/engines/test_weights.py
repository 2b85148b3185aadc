"""Models to preload, by their names."""

from __future__ import annotations

import pytest

from inference_server.engines.weights import (
    SAM2_IDS,
    SAM2_VERSIONS,
    find_sam2,
    largest,
    preloaded,
)
from inference_server.errors import ModelUnavailableError
from inference_server.settings import Settings

DEMO = find_sam2("demo")
SAM3 = ("sam3", "sam3/sam3_final")


def of(preload: str, *versions: str) -> list[tuple[str, str]]:
    there = {version: DEMO[version] for version in versions or SAM2_VERSIONS}
    return list(preloaded(Settings(preload=preload).preload, "my-weights", there))


@pytest.mark.parametrize("preload", ["", " ", " , ,"])
def test_by_default_sam3_and_the_largest_sam2(preload: str) -> None:
    assert of(preload) == [SAM3, ("sam2", "hiera_large")]
    assert of(preload, "hiera_tiny", "hiera_b_plus") == [SAM3, ("sam2", "hiera_b_plus")]


@pytest.mark.parametrize(
    ("preload", "wanted"),
    [
        ("sam2:sam2-hiera-base-plus", [("sam2", "hiera_b_plus")]),
        ("sam2:hiera_b_plus", [("sam2", "hiera_b_plus")]),
        ("sam3:facebook/sam3", [SAM3]),
        ("sam3:sam3/sam3_final", [SAM3]),
        (
            " sam2:hiera_tiny , sam3:facebook/sam3,,sam2:sam2-hiera-tiny",
            [("sam2", "hiera_tiny"), SAM3],
        ),
    ],
)
def test_by_the_names_of_either_contract(preload: str, wanted: list[tuple[str, str]]) -> None:
    assert of(preload) == wanted


def test_every_size_by_its_id() -> None:
    names = [f"sam2:{name}" for name in SAM2_IDS]
    assert of(",".join(names)) == [("sam2", version) for version in SAM2_VERSIONS]


@pytest.mark.parametrize(
    "part",
    [
        *("sam2", "sam3", "sam2:", ":hiera_tiny", "sam2-hiera-tiny", "facebook/sam3", "demo"),
        *(
            "sam:vit_h",
            "sam2:facebook/sam3",
            "sam3:hiera_tiny",
            "SAM2:hiera_tiny",
            "sam2: hiera_tiny",
        ),
    ],
)
def test_an_unknown_model_is_reported_with_the_known_ones(part: str) -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        of(f"sam3:facebook/sam3,{part}", "hiera_tiny", "hiera_b_plus")
    assert caught.value.message == (
        f"INFERENCE_PRELOAD={part}: no such model. Preload any of sam2:sam2-hiera-tiny, "
        "sam2:sam2-hiera-base-plus, sam3:facebook/sam3; separate several by commas."
    )


def test_a_size_without_weights_is_reported_with_the_missing_file() -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        of("sam2:hiera_b_plus", "hiera_tiny")
    assert caught.value.message == (
        "INFERENCE_PRELOAD=sam2:hiera_b_plus: INFERENCE_SAM2_WEIGHTS=my-weights has no weights for "
        "it. Preload any of sam2:sam2-hiera-tiny, sam3:facebook/sam3, or add "
        "sam2.1_hiera_base_plus.pt to the directory."
    )


def test_the_largest_there_is() -> None:
    assert largest(DEMO) == "hiera_large"
    assert largest({"hiera_small": DEMO["hiera_small"], "hiera_tiny": DEMO["hiera_tiny"]}) == (
        "hiera_small"
    )
