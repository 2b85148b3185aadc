"""`sam2`'s prompt encoder and mask decoder, of the sizes of a configuration of `transformers`."""

from __future__ import annotations

from typing import Any

from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from torch import nn


def prompt_encoder(config: Any, activation: Any = nn.GELU) -> PromptEncoder:
    """Make a prompt encoder without weights.

    Args:
        config: `prompt_encoder_config` of a SAM 1 or of SAM 3's tracker.
        activation: Creates the activation of the mask input; default GELU.
    """
    grid = config.image_size // config.patch_size
    return PromptEncoder(
        embed_dim=config.hidden_size,
        image_embedding_size=(grid, grid),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=config.mask_input_channels,
        activation=activation,
    )


def mask_decoder(config: Any, activation: Any = nn.ReLU, **options: Any) -> MaskDecoder:
    """Make a mask decoder without weights.

    Args:
        config: `mask_decoder_config` of a SAM 1 or of SAM 3's tracker.
        activation: Creates the activation of the transformer's MLPs; default ReLU.
        options: Further arguments of `MaskDecoder`.
    """
    return MaskDecoder(
        transformer_dim=config.hidden_size,
        transformer=TwoWayTransformer(
            depth=config.num_hidden_layers,
            embedding_dim=config.hidden_size,
            num_heads=config.num_attention_heads,
            mlp_dim=config.mlp_dim,
            activation=activation,
            attention_downsample_rate=config.attention_downsample_rate,
        ),
        num_multimask_outputs=config.num_multimask_outputs,
        iou_head_depth=config.iou_head_depth,
        iou_head_hidden_dim=config.iou_head_hidden_dim,
        **options,
    )
