"""Small models with random weights in the real architectures, and images for them.

The tests compare arithmetic, so any weights will do. They are drawn from a wide distribution, so
that a result depends on every part of its prompt, which trained weights do not guarantee.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from sam2.modeling.sam2_base import SAM2Base
from transformers import (
    Sam3Config,
    Sam3LiteTextConfig,
    Sam3LiteTextModel,
    Sam3Model,
    Sam3Processor,
    Sam3VideoConfig,
)

from inference_server.demo import WEIGHTS
from inference_server.demo.scenes import make_scene
from inference_server.engines.device import Compute
from inference_server.engines.load_weights import load_sam2
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.weights import find_sam2

CPU = Compute(torch.device("cpu"), torch.float32, torch.float32)
CPU_BFLOAT16 = Compute(torch.device("cpu"), torch.bfloat16, torch.bfloat16)

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Concept:
    """A SAM 3, its processor and its engine."""

    model: Sam3Model | Sam3LiteTextModel
    processor: Sam3Processor
    engine: ConceptEngine


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def cpu() -> Compute:
    return CPU


@pytest.fixture(scope="session")
def pictures() -> dict[str, Picture]:
    """Images of several aspect ratios, by name."""
    sizes = {"square": (96, 96), "wide": (160, 90), "tall": (70, 130), "large": (400, 300)}
    return {name: make_scene(i, size).image for i, (name, size) in enumerate(sizes.items())}


def sam2_config() -> Any:
    """The configuration of the demo, the smallest SAM 2."""
    return OmegaConf.load(WEIGHTS / "sam2" / "config.yaml")


def random_sam2(seed: int = 0) -> SAM2Base:
    """A SAM 2 with the demo's architecture and random weights."""
    torch.manual_seed(seed)
    config = sam2_config()
    config.model.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    model: SAM2Base = hydra.utils.instantiate(config.model, _recursive_=True)
    return model.eval().requires_grad_(False)


def sam3_config() -> Sam3Config:
    """The configuration of the demo's concept side, the smallest SAM 3."""
    config: Any = Sam3VideoConfig.from_pretrained(WEIGHTS / "sam3")
    detector: Sam3Config = config.detector_config
    return detector


def random_sam3(seed: int = 0) -> Sam3Model:
    """A SAM 3 with the demo's architecture and random weights."""
    torch.manual_seed(seed)
    model: Any = Sam3Model(sam3_config())
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.dot_product_scoring.query_proj.weight.data *= 5  # scores that differ
    ready: Sam3Model = model.float().eval().requires_grad_(False)
    return ready


def random_lite_text() -> Sam3LiteTextModel:
    """A SAM 3 LiteText with the demo's architecture otherwise, and random weights."""
    torch.manual_seed(0)
    vision: Any = sam3_config()
    own: Any = vision.to_dict()
    parts = {name: own[name] for name in own if name.endswith("_config") and name != "text_config"}
    for part in parts.values():
        part["model_type"] = part["model_type"].replace("sam3_", "sam3_lite_text_")
    parts["vision_config"] = vision.vision_config
    text = own["text_config"]
    words = {name: text[name] for name in ("vocab_size", "max_position_embeddings")}
    words |= {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config: Any = Sam3LiteTextConfig(**parts, text_config={**words, "num_hidden_layers": 3})
    model: Any = Sam3LiteTextModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.dot_product_scoring.query_proj.weight.data *= 5
    ready: Sam3LiteTextModel = model.float().eval().requires_grad_(False)
    return ready


@pytest.fixture(scope="session")
def sam2_model() -> SAM2Base:
    return random_sam2()


@pytest.fixture(scope="session")
def visual(sam2_model: SAM2Base) -> VisualEngine:
    return VisualEngine(sam2_model, "random", CPU)


@pytest.fixture(scope="session")
def demo_model() -> SAM2Base:
    """A SAM 2 with the demo weights."""
    return load_sam2(find_sam2("demo")["hiera_tiny"], CPU)


@pytest.fixture(scope="session")
def demo(demo_model: SAM2Base) -> VisualEngine:
    """An engine with the demo weights."""
    return VisualEngine(demo_model, "demo", CPU)


@pytest.fixture(scope="session")
def concept() -> Concept:
    model = random_sam3()
    processor = Sam3Processor.from_pretrained(WEIGHTS / "sam3")
    return Concept(model, processor, ConceptEngine(model, processor, "random", CPU))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for weights, with a name that appears in no error message by itself."""
    path = tmp_path / "my-weights"
    path.mkdir()
    return path
