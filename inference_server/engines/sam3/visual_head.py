"""SAM 3's visual head: the part of its checkpoint that answers points, boxes and mask inputs.

The published checkpoint calls it the tracker. Its neck makes feature levels from the output of the
image encoder that the concept side reads as well. Its prompt encoder and mask decoder have SAM 2's
architecture, so their weights are loaded into the modules of `sam2`, and `FastMaskDecoder` serves
both models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from torch import Tensor, nn
from transformers import Sam3TrackerConfig, Sam3VisionConfig
from transformers.models.sam3.modeling_sam3 import Sam3VisionNeck

from inference_server.engines.prompt_modules import mask_decoder, prompt_encoder
from inference_server.engines.tensor_names import POSITION_MATRIX, name_in_sam2

TRACKER, NECK = "tracker_model.", "tracker_neck."
"""Prefixes of the head's tensors in a checkpoint of the published layout."""

_LEVELS = 3
"""Feature levels that the mask decoder reads. The neck has a coarser one that nothing reads."""

_POINTS = ".prompt_encoder.point_embed.weight"
"""One tensor with a row per kind of point, where `sam2` has a tensor per kind."""


class VisualHead(nn.Module):
    """The neck, prompt encoder and mask decoder of SAM 3's tracker.

    Args:
        config: The checkpoint's `tracker_config`.
        vision: Configuration of the image encoder, whose output the neck reads.

    Attributes:
        levels: The neck's layers, finest level first.
        prompt_encoder: SAM 2's, of this model's sizes.
        mask_decoder: SAM 2's, of this model's sizes.
        image_positions: Positional encoding of the image's pixels.
        no_memory_embedding: `[1, 1, C]`, added to the coarsest level of an image that follows no
            video frame.
    """

    def __init__(self, config: Sam3TrackerConfig, vision: Sam3VisionConfig) -> None:
        super().__init__()
        prompts: Any = config.prompt_encoder_config
        masks: Any = config.mask_decoder_config
        grid = prompts.image_size // prompts.patch_size
        self.levels = nn.ModuleList(list(Sam3VisionNeck(vision).fpn_layers)[:_LEVELS])
        self.prompt_encoder = prompt_encoder(prompts)
        self.mask_decoder = mask_decoder(
            masks,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
            dynamic_multimask_via_stability=masks.dynamic_multimask_via_stability,
            dynamic_multimask_stability_delta=masks.dynamic_multimask_stability_delta,
            dynamic_multimask_stability_thresh=masks.dynamic_multimask_stability_thresh,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
        )
        self.image_positions = PositionEmbeddingRandom(prompts.hidden_size // 2)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, masks.hidden_size))
        self._grid = (grid, grid)

    @property
    def side(self) -> int:
        """Side of the model's square input in pixels."""
        sizes: Any = self.prompt_encoder.input_image_size
        return int(sizes[0])

    def dense_positions(self) -> Tensor:
        """`[1, C, h, w]`, positional encoding of the coarsest level's pixels."""
        positions: Tensor = self.image_positions(self._grid)
        return positions.unsqueeze(0)

    def features(self, planes: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Make what the mask decoder reads from the image encoder's output.

        Meta's predictor adds the "no memory" embedding to the coarsest level that is read, and so
        does this. `Sam3TrackerModel` of `transformers` adds it to the neck's last level, which is
        the same level only if the neck has three.

        Args:
            planes: `[B, D, h, w]`, the image encoder's output, see `planes_of`.

        Returns:
            (`[B, C, h, w]`, [`[B, C / 8, 4 h, 4 w]`, `[B, C / 4, 2 h, 2 w]`]).
        """
        fine, middle, coarse = (layer(planes) for layer in self.levels)
        decoder = self.mask_decoder
        coarse = coarse + self.no_memory_embedding.view(1, -1, 1, 1)
        return coarse, [decoder.conv_s0(fine), decoder.conv_s1(middle)]

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a checkpoint's tensors; those of video tracking are ignored.

        Args:
            tensors: The checkpoint's tensors with the prefixes `TRACKER` and `NECK`, by name.

        Raises:
            RuntimeError: A tensor is missing or has another shape.
        """
        own: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name.endswith(_POINTS):
                for index, row in enumerate(tensor):
                    own[f"prompt_encoder.point_embeddings.{index}.weight"] = row[None]
            else:
                own[self._own_name(name)] = tensor
        wanted = self.state_dict().keys()
        self.load_state_dict({name: own[name] for name in own if name in wanted}, strict=True)

    def _own_name(self, name: str) -> str:
        """The name in this module of a checkpoint's tensor."""
        if name.startswith(NECK):
            return name.replace(f"{NECK}fpn_layers.", "levels.", 1)
        while name.startswith(TRACKER):  # `save_pretrained` of transformers 5 repeats the prefix
            name = name.removeprefix(TRACKER)
        if name == "shared_image_embedding.positional_embedding":
            return f"image_positions.{POSITION_MATRIX}"
        return name_in_sam2(name, self)
