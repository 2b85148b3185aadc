"""Trains the visual head of the demo SAM 3, which answers clicks and boxes, on its image encoder.

The image encoder is frozen, so the concept side stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from torch import Tensor
from transformers import Sam3Model, Sam3VideoModel

from inference_server.engines.device import choose_compute
from inference_server.engines.load_weights import load_sam3_head
from inference_server.engines.sam3.trunk import planes_of
from inference_server.engines.sam3.visual_head import NECK, TRACKER, VisualHead
from training.head_model import initialize_head, video_config
from training.promptable import PromptableTraining, open_pools
from training.visual import sharpened
from training.visual_model import IMAGE_SIZE as POOL_SIZE

HEAD_SHARPNESS = 2.0
"""Factor of exported mask logits, as `visual.SHARPNESS` of the other models."""


class HeadTraining(PromptableTraining):
    """One run.

    Args:
        out: directory of the run; its state is loaded from there.
        device: `cpu` or `cuda`.
        seed: seed of weights and prompts.
        weights: directory of the demo SAM 3, whose image encoder is used.
    """

    images_per_step = (5, 5)

    def __init__(self, out: Path, device: str, seed: int, weights: Path) -> None:
        loaded: Any = Sam3Model.from_pretrained(weights, dtype=torch.float32)
        self._config = loaded.config
        self._trunk: Any = loaded.vision_encoder.backbone.to(device).eval().requires_grad_(False)
        super().__init__(out, device, seed)

    def start_from(self, weights: Path) -> None:
        """Begin with the head of a SAM 3 directory.

        Args:
            weights: the directory.

        Raises:
            ValueError: It has no visual head.
        """
        head = read_head(weights)
        if head is None:
            raise ValueError(f"{weights} has no visual head")
        for model in (self.model, self.average):
            model.load_state_dict(sharpened(head, 1 / HEAD_SHARPNESS))

    def _build(self) -> VisualHead:
        config = video_config(self._config)
        tracker: Any = config.tracker_config
        head = VisualHead(tracker, self._config.vision_config)
        initialize_head(head)
        return head

    @property
    def _prompt_encoder(self) -> PromptEncoder:
        encoder: PromptEncoder = self.model.prompt_encoder
        return encoder

    @property
    def _mask_decoder(self) -> Any:
        return self.model.mask_decoder

    def _trunk_tokens(self, images: Tensor) -> Tensor:
        """Encode images, as for `_encode`, to `float32[B, T*T, C]`."""
        with torch.no_grad():
            tokens: Tensor = self._trunk(2 * images - 1).last_hidden_state
        return tokens

    def _encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        planes = planes_of(self._trunk_tokens(images))
        levels = [layer(planes) for layer in self.model.levels]
        fine, middle, coarse = levels
        decoder = self._mask_decoder
        coarse = coarse + self.model.no_memory_embedding.view(1, -1, 1, 1)
        return levels, [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse]


def train(
    out: Path,
    minutes: float,
    *,
    threads: int,
    device: str,
    weights: Path,
    seed: int = 0,
    scenes: int = 12_000,
    plain_scenes: int = 2_000,
    kind: type[HeadTraining] = HeadTraining,
) -> None:
    """Train the visual head of the demo SAM 3, or continue an interrupted run.

    Args:
        out: directory of the run, with state and learning curve (`curve.jsonl`). The scenes are in
            the directory above, for all runs.
        minutes: duration over all runs.
        threads: number of CPU threads.
        device: `cpu` or `cuda`.
        weights: directory of the demo SAM 3.
        seed: seed of weights, scenes and prompts. Default: 0.
        scenes: number of scenes in the pool. Default: 12,000.
        plain_scenes: number of scenes of plain shapes. Default: 2,000.
        kind: the training, such as that of second clicks. Default: from random weights.
    """
    torch.set_num_threads(threads)
    pool, plain = open_pools(out.parent, POOL_SIZE, scenes, plain_scenes, seed)
    kind(out, device, seed, weights).run(pool, minutes, plain)


def export(out: Path, weights: Path) -> None:
    """Write a run's head into a SAM 3 directory, which becomes one of the published layout.

    Args:
        out: directory of a run with a saved state.
        weights: directory of the demo SAM 3, changed in place. A head that it has is replaced.
    """
    state = torch.load(out / "state.pt", map_location="cpu", weights_only=False)
    write_head(sharpened(state["average"], HEAD_SHARPNESS), weights)


@torch.no_grad()
def write_head(head: dict[str, Tensor], weights: Path) -> None:
    """Write a head's tensors into a SAM 3 directory, in half precision.

    Args:
        head: state of a `VisualHead`.
        weights: directory of the demo SAM 3, changed in place.
    """
    detector: Any = Sam3Model.from_pretrained(weights, dtype=torch.float32)
    torch.manual_seed(0)
    model: Any = Sam3VideoModel(video_config(detector.config))
    model.detector_model.load_state_dict(detector.state_dict())
    tracker: Any = model.config.tracker_config
    names = VisualHead(tracker, detector.config.vision_config)
    for name, tensor in model.state_dict().items():
        if not name.startswith((TRACKER, NECK)):
            continue
        if name == f"{TRACKER}prompt_encoder.point_embed.weight":
            rows = [head[f"prompt_encoder.point_embeddings.{i}.weight"] for i in range(len(tensor))]
            tensor.copy_(torch.cat(rows))
        elif (own := names._own_name(name)) in head:
            tensor.copy_(head[own].view_as(tensor))
        else:
            tensor.zero_()  # video tracking, and a level that nothing reads
    model.config.detector_config.name_or_path = ""  # a directory of this machine
    model.half().save_pretrained(weights)


def read_head(weights: Path) -> dict[str, Tensor] | None:
    """Read the state of the head in a SAM 3 directory; None if it has none.

    Args:
        weights: directory of the demo SAM 3.
    """
    if not (weights / "config.json").exists():
        return None
    head = load_sam3_head(str(weights), weights.name, choose_compute("cpu", "float32"))
    return None if head is None else head.state_dict()
