"""The configured models, and which of them answers a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.engines.catalog import DEFAULT_SAM3, Catalog, ModelKey
from inference_server.engines.weights import SAM2_IDS, SAM2_VERSIONS, SAM3_NAME
from inference_server.errors import ModelUnavailableError
from inference_server.settings import Settings

SAM3 = ("sam3", "sam3/sam3_final")


def of(preload: str, weights: str = "demo") -> list[tuple[str, str]]:
    settings = Settings(
        preload=preload, sam1_weights="none", sam2_weights=weights, visual_model="sam2"
    )
    catalog = Catalog(settings)
    return [(key.family, key.name) for key in catalog.preloaded]


@pytest.fixture
def two_sizes(directory: Path) -> str:
    """A directory with files for two of the four sizes."""
    for name in ("sam2.1_hiera_tiny.pt", "sam2.1_hiera_base_plus.pt"):
        (directory / name).touch()
    return str(directory)


@pytest.mark.parametrize("preload", ["", " ", " , ,"])
def test_by_default_sam3_and_the_largest_sam2(preload: str, two_sizes: str) -> None:
    assert of(preload, two_sizes) == [SAM3, ("sam2", "hiera_b_plus")]


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
def test_an_unknown_model_is_reported_with_the_known_ones(part: str, two_sizes: str) -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        of(f"sam3:facebook/sam3,{part}", two_sizes)
    assert caught.value.message == (
        f"INFERENCE_PRELOAD={part}: no such model. Preload any of sam2:sam2-hiera-tiny, "
        "sam2:sam2-hiera-base-plus, sam3:facebook/sam3; separate several by commas."
    )


def test_a_size_without_weights_is_reported_with_the_missing_file(two_sizes: str) -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        of("sam2:hiera_small", two_sizes)
    assert caught.value.message == (
        f"INFERENCE_PRELOAD=sam2:hiera_small: INFERENCE_SAM2_WEIGHTS={two_sizes} has no weights "
        "for it. Preload any of sam2:sam2-hiera-tiny, sam2:sam2-hiera-base-plus, "
        "sam3:facebook/sam3, or add sam2.1_hiera_small.pt to the directory."
    )


@pytest.fixture
def sam3_directories(directory: Path) -> tuple[str, str]:
    """Directories of a SAM 3 with a visual head and of one without; the weights are missing."""
    for kind in ("sam3_video", "sam3"):
        (directory / kind).mkdir()
        (directory / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (directory / kind / name).write_text("{}")
    return str(directory / "sam3_video"), str(directory / "sam3")


def key_of(name: str) -> ModelKey:
    return ModelKey("sam2" if name.startswith("hiera") else "sam3", name)


@pytest.mark.parametrize(
    ("settings", "with_head", "without_head"),
    [
        ({}, SAM3_NAME, "hiera_large"),
        ({"visual_model": "sam2"}, "hiera_large", "hiera_large"),
        ({"visual_model": "sam3"}, SAM3_NAME, "have no visual head"),
        ({"sam2_weights": "none"}, SAM3_NAME, "No model answers points and boxes"),
        ({"sam2_weights": "none", "visual_model": "sam2"}, "needs SAM 2", "needs SAM 2"),
    ],
)
def test_who_answers_points_and_boxes(
    sam3_directories: tuple[str, str],
    settings: dict[str, Any],
    with_head: str,
    without_head: str,
) -> None:
    for weights, expected in zip(sam3_directories, (with_head, without_head), strict=True):
        if " " in expected:
            with pytest.raises(ModelUnavailableError, match=expected):
                Catalog(Settings(sam3_weights=weights, **settings)).visual(None)
        else:
            catalog = Catalog(Settings(sam3_weights=weights, **settings))
            assert catalog.visual(None) == key_of(expected)
            assert catalog.concept(None) == DEFAULT_SAM3


def test_a_request_may_name_who_answers(sam3_directories: tuple[str, str]) -> None:
    with_head, without = sam3_directories
    catalog = Catalog(Settings(sam3_weights=without, sam3_models={"crops/3": with_head}))
    crops = ModelKey("sam3", "crops/3")
    assert catalog.concept(crops) == crops
    assert catalog.visual(crops) == crops
    assert catalog.visual(None) == ModelKey("sam2", "hiera_large")
    assert catalog.visual(DEFAULT_SAM3) == ModelKey("sam2", "hiera_large"), "it has no head"
    assert catalog.visual(ModelKey("sam2", "hiera_tiny")) == ModelKey("sam2", "hiera_tiny")
    assert catalog.label(crops) == "sam3/crops/3", "a path would be told to clients"
    assert [key.name for key in catalog.keys if key.family == "sam3"] == [SAM3_NAME, "crops/3"]
    with pytest.raises(ModelUnavailableError, match=r"sam3/sam3_final, crops/3"):
        catalog.checkpoint(ModelKey("sam3", "crops/4"))


def test_what_is_preloaded_answers_requests_that_name_no_model(
    sam3_directories: tuple[str, str],
) -> None:
    with_head, without = sam3_directories
    assert Catalog(Settings(sam3_weights=with_head)).preloaded == [DEFAULT_SAM3]
    words = Catalog(Settings(sam3_weights=without, sam2_weights="none"))
    assert words.preloaded == [DEFAULT_SAM3]
    named = Settings(sam3_models={"crops/3": without}, preload="sam3:crops/3,sam2:hiera_tiny")
    assert Catalog(named).preloaded == [
        ModelKey("sam3", "crops/3"),
        ModelKey("sam2", "hiera_tiny"),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sam3_models": {"facebook/sam3": "demo"}}, "INFERENCE_SAM3_MODELS: facebook/sam3 is the"),
        ({"sam3_models": {"demo": "facebook/sam3"}}, "INFERENCE_SAM3_MODELS: demo is the name of"),
        ({"sam2_models": {"hiera_tiny": "demo"}}, "INFERENCE_SAM2_MODELS: hiera_tiny is the name"),
        (
            {"sam3_models": {"x": "/nowhere"}},
            "INFERENCE_SAM3_MODELS, x=/nowhere: no such directory",
        ),
        ({"sam2_models": {"x": "facebook"}}, "INFERENCE_SAM2_MODELS, x=facebook: names 4"),
    ],
)
def test_a_wrong_named_model_is_reported(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        Catalog(Settings(**settings))
    assert caught.value.message.startswith(message)


def test_a_checkpoint_file_of_sam3_is_listed_or_explained(directory: Path) -> None:
    file = directory / "sam3.pt"
    file.write_bytes(b"1234")
    with pytest.raises(ModelUnavailableError, match="contains no tokenizer") as caught:
        Catalog(Settings(sam3_weights=str(file)))
    assert "hf download openai/clip-vit-base-patch32 tokenizer.json" in caught.value.message
    (directory / "tokenizer.json").touch()
    catalog = Catalog(Settings(sam3_weights=str(file)))
    checkpoint = catalog.checkpoint(DEFAULT_SAM3)
    assert (checkpoint.name, checkpoint.nbytes) == ("sam3.pt", 4)
    assert catalog.uses_head(DEFAULT_SAM3)
    other = file.rename(directory / "model.safetensors")
    with pytest.raises(ModelUnavailableError, match="this is a file") as caught:
        Catalog(Settings(sam3_weights=str(other)))
    assert "Name the directory" in caught.value.message
