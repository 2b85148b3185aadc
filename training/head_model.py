"""The visual head of the demo SAM 3: its configuration, and its initialisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Sam3Config, Sam3TrackerVideoConfig, Sam3VideoConfig

from inference_server.engines.sam3.visual_head import VisualHead
from training.concept_model import IMAGE_SIZE, PATCH_SIZE, TOKENS, WIDTH
from training.visual_model import initialize_prompts, scale_matrices


def video_config(detector: Sam3Config) -> Sam3VideoConfig:
    """Build the configuration of the published layout, with a small visual head.

    Memory attention and memory encoder, which only video uses, have their minimum size.

    Args:
        detector: configuration of the concept side.
    """
    side = {"hidden_size": WIDTH, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    make: Any = Sam3TrackerVideoConfig
    vision: Any = detector.vision_config
    tracker = make(
        vision_config=vision.to_dict(),
        prompt_encoder_config=side,
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 4 * WIDTH,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": WIDTH,
        },
        num_maskmem=1,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=WIDTH,
        memory_attention_rope_feat_sizes=[TOKENS, TOKENS],
        memory_encoder_hidden_size=WIDTH,
        memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=WIDTH,
        image_size=IMAGE_SIZE,
    )
    return Sam3VideoConfig(
        detector_config=detector.to_dict(),
        tracker_config=tracker.to_dict(),
        low_res_mask_size=4 * TOKENS,
    )


@torch.no_grad()
def initialize_head(head: VisualHead) -> None:
    """Initialise a head for fast training; see `initialize_prompts`.

    Args:
        head: new head, changed in place.
    """
    scale_matrices(head)
    levels: Any = head.levels
    for level in levels:
        level.proj2.weight.mul_(0.5)
        nn.init.zeros_(level.proj2.bias)
    initialize_prompts(head.prompt_encoder, head.mask_decoder)
    prompts: Any = head.prompt_encoder
    positions: Any = head.image_positions
    positions.positional_encoding_gaussian_matrix.copy_(
        prompts.pe_layer.positional_encoding_gaussian_matrix
    )
