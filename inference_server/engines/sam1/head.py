"""SAM 1's prompt encoder and mask decoder, loaded into the modules of `sam2`.

They have the architecture of SAM 2's, without high-resolution features, without an object score and
without a choice by stability, so `FastMaskDecoder` serves both models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import SamConfig
from transformers.activations import ACT2FN

from inference_server.engines.prompt_modules import mask_decoder, prompt_encoder
from inference_server.engines.tensor_names import name_in_sam2


class PromptHead(nn.Module):
    """The part of a `SamModel` that follows the image encoder.

    Args:
        config: Configuration of the model.

    Attributes:
        prompt_encoder: `sam2`'s, of this model's sizes.
        mask_decoder: `sam2`'s, of this model's sizes.
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        prompts: Any = config.prompt_encoder_config
        masks: Any = config.mask_decoder_config
        self.prompt_encoder = prompt_encoder(prompts, _activation(prompts.hidden_act))
        self.mask_decoder = mask_decoder(masks, _activation(masks.hidden_act))
        # `sam2` has 1e-5 here.
        transformer: Any = self.mask_decoder.transformer
        for layer in transformer.layers:
            for norm in (layer.norm1, layer.norm2, layer.norm3, layer.norm4):
                norm.eps = masks.layer_norm_eps
        for index in (1, 4):
            self.prompt_encoder.mask_downscaling[index].eps = prompts.layer_norm_eps

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the weights of a `SamModel`.

        Args:
            tensors: The model's tensors by name; those of the image encoder are ignored.

        Raises:
            RuntimeError: A tensor is missing, is unknown or has another shape.
        """
        prefixes = ("prompt_encoder.", "mask_decoder.")
        own = {
            name_in_sam2(name, self): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefixes)
        }
        self.load_state_dict(own, strict=True)


def _activation(name: str) -> Any:
    """What creates the activation of this name in `transformers`."""
    return lambda: ACT2FN[name]
