"""Trains the demo SAM 2 on clicks, boxes and corrective clicks.

Minutes on one CPU core suffice for two reasons. The decoder's cross attention starts as a lookup by
position (`visual_model.initialize`), which otherwise takes thousands of steps to learn. And the
first part of the training runs at half the image side, on which the model does not depend.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from training.promptable import PromptableTraining, open_pools, save
from training.visual_model import IMAGE_SIZE, STRIDE, initialize, visual_config

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF_SIZE_SHARE = 0.4
_IMPROVE_RATE = 0.3
_IMPROVE_PLAIN_SHARE = 0.4
SHARPNESS = 4.0
"""Factor of exported mask logits, also for SAM 1; a power of two, so that masks do not change. The
stability score of automatic masks compares masks at logits of -1 and 1, and soft outlines on planes
of 64 x 64 fail it: without the factor 23 % of objects were found. On validation scenes, automatic
masks reached an F1 of 0.93 with 2 and 0.95 with 4 (SAM 1: 0.55 and 0.95; with 8 no more)."""


class VisualTraining(PromptableTraining):
    """One run of the demo SAM 2."""

    half_size_share = _HALF_SIZE_SHARE

    def _build(self) -> SAM2Base:
        model: SAM2Base = instantiate(visual_config().model, _recursive_=True)
        initialize(model)
        return model

    @property
    def _prompt_encoder(self) -> PromptEncoder:
        encoder: PromptEncoder = self.model.sam_prompt_encoder
        return encoder

    @property
    def _mask_decoder(self) -> Any:
        return self.model.sam_mask_decoder

    def _is_trained(self, name: str) -> bool:
        return name.startswith(("image_encoder.", "sam_")) or name == "no_mem_embed"

    def _set_side(self, side: int) -> None:
        prompts = self._prompt_encoder
        prompts.input_image_size = (side, side)
        prompts.image_embedding_size = (side // STRIDE, side // STRIDE)
        self.model.image_encoder.trunk.blocks[-1].window_size = side // STRIDE

    def _encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (_MEAN, _STD))
        levels = self.model.image_encoder((images - mean) / std)["backbone_fpn"]
        decoder = self._mask_decoder
        coarse = levels[2] + self.model.no_mem_embed.view(1, -1, 1, 1)
        return levels, [decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), coarse]

    def start_from(self, file: Path) -> None:
        """Start a new run from exported weights, at a lower learning rate and full image side.

        Args:
            file: `model.pt` of an export.
        """
        self.rate, self.half_size_share, self.first_correction = _IMPROVE_RATE, 0.0, 0.0
        self.plain_share = _IMPROVE_PLAIN_SHARE
        if self.step:
            return
        state = torch.load(file, map_location=self.device, weights_only=True)["model"]
        state = {name: tensor.float() for name, tensor in state.items()}
        for model in (self.model, self.average):
            model.load_state_dict(sharpened(state, 1 / SHARPNESS))


def sharpened(state: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Scale the mask logits of a SAM 2, both as output and as mask input.

    Args:
        state: state of the model.
        factor: factor of the logits.
    """
    names = [name for name in state if "output_hypernetworks_mlps." in name]
    last = max(name.split(".")[-2] for name in names)
    changed = {name: state[name] * factor for name in names if name.split(".")[-2] == last}
    (first,) = (name for name in state if name.endswith("prompt_encoder.mask_downscaling.0.weight"))
    return state | changed | {first: state[first] / factor}


def export(out: Path, to: Path) -> None:
    """Export a run's model as `config.yaml` and `model.pt`, in half precision.

    Args:
        out: directory of a run with a saved state.
        to: directory to write.
    """
    state = torch.load(out / "state.pt", map_location="cpu", weights_only=False)
    to.mkdir(parents=True, exist_ok=True)
    partial = to / "config.yaml.partial"
    OmegaConf.save(visual_config(), partial)
    partial.replace(to / "config.yaml")
    average = sharpened(state["average"], SHARPNESS)
    tensors = {name: tensor.half() for name, tensor in average.items()}
    save({"model": tensors}, to / "model.pt")


def train(
    out: Path,
    minutes: float,
    *,
    threads: int,
    device: str,
    seed: int = 0,
    scenes: int = 12_000,
    plain_scenes: int = 2_000,
    start_from: Path | None = None,
) -> None:
    """Train the demo SAM 2, or continue an interrupted run.

    Args:
        out: directory of the run, with state and learning curve (`curve.jsonl`). The scenes are in
            the directory above, for all runs.
        minutes: duration over all runs.
        threads: number of CPU threads.
        device: `cpu` or `cuda`.
        seed: seed of weights, scenes and prompts. Default: 0.
        scenes: number of scenes in the pool; each takes about 260 kB. Default: 12,000.
        plain_scenes: number of scenes of plain shapes. Default: 2,000.
        start_from: directory of exported weights to continue from. Default: none.
    """
    torch.set_num_threads(threads)
    pool, plain = open_pools(out.parent, IMAGE_SIZE, scenes, plain_scenes, seed)
    training = VisualTraining(out, device, seed)
    if start_from is not None:
        training.start_from(start_from / "model.pt")
    training.run(pool, minutes, plain)
