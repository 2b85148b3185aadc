"""What the engines tell about their weights."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from inference_server.engines.features import bytes_of
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.trunk import TrunkEngine
from tests.engines.conftest import CPU, Concept


class Tied(nn.Module):
    """Two layers with one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 5, bias=False)
        self.other = nn.Linear(3, 5, bias=False)
        self.other.weight = self.one.weight
        self.register_buffer("scale", torch.ones(7, dtype=torch.bfloat16))


def test_parameters_and_buffers_count_once() -> None:
    tied = Tied()
    assert bytes_of(tied) == 4 * 15 + 2 * 7
    assert bytes_of(tied, tied.one, nn.Linear(2, 1)) == 4 * 15 + 2 * 7 + 4 * 3
    assert bytes_of() == 0


def test_an_engine_tells_the_memory_of_its_weights(
    visual: VisualEngine, sam2_model: SAM2Base, concept: Concept
) -> None:
    used = (sam2_model.image_encoder, sam2_model.sam_prompt_encoder, sam2_model.sam_mask_decoder)
    assert visual.weight_bytes == pytest.approx(bytes_of(*used), rel=0.1)
    assert visual.weight_bytes > 1_000_000
    # The image encoder lays its weights out anew; only a registry frees the originals.
    assert concept.engine.weight_bytes > bytes_of(concept.model) > 1_000_000
    trunk = TrunkEngine(concept.model, concept.processor, "random", CPU)
    assert trunk.weight_bytes == 0, "its weights are counted with those of the concept engine"
