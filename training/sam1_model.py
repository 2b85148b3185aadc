"""The demo SAM 1: its configuration, and its initialisation from the demo SAM 3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import SamConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from inference_server.engines.sam1.head import PromptHead
from training.concept_model import HIDDEN, TOKENS, WIDTH
from training.concept_model import PATCH_SIZE as FINE_PATCH_SIZE

PATCH_SIZE = 16
IMAGE_SIZE = TOKENS * PATCH_SIZE
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LAYERS, _HEADS = 6, 4


def sam1_config() -> SamConfig:
    """Build the configuration: image encoder and mask decoder have the demo SAM 3's sizes."""
    return SamConfig(
        vision_config={
            "hidden_size": HIDDEN,
            "mlp_dim": 3 * HIDDEN,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": _HEADS,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "output_channels": WIDTH,
            "window_size": 0,
            "global_attn_indexes": list(range(_LAYERS)),
            "num_pos_feats": WIDTH // 2,
        },
        prompt_encoder_config={
            "hidden_size": WIDTH,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        },
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 4 * WIDTH,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": WIDTH,
        },
    )


class Sam1(nn.Module):
    """The image encoder of `transformers`, and prompt encoder and mask decoder of `sam2`.

    Args:
        config: configuration of the model.
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        vision: Any = config.vision_config
        self.vision_encoder = SamVisionEncoder(vision)
        self.head = PromptHead(config)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Return what the neck reads, `float32[B, h, w, C]`.

        Args:
            pixels: normalised images, `float32[B, 3, S, S]`.
        """
        encoder: Any = self.vision_encoder
        hidden: Tensor = encoder.patch_embed(pixels) + encoder.pos_embed
        for layer in encoder.layers:
            hidden = layer(hidden)
        return hidden


@torch.no_grad()
def adopt_trunk(model: Sam1, trunk: Any, images: Tensor) -> None:
    """Initialise the image encoder so that it computes almost what SAM 3's does.

    Both are vision transformers; positions differ. SAM 3 rotates queries and keys, SAM 1 adds to
    each attention logit a product of the query and a vector for the offset. So the mean query's
    products with the mean key, by offset, become these vectors. Attention that depends on contents
    and offset at once is not adopted, nor is the normalisation before the first layer, except for
    its mean effect.

    Args:
        model: new model, changed in place.
        trunk: SAM 3's image encoder.
        images: some images, `float32[B, 3, S, S]`, 0 to 1, for mean values.
    """
    encoder: Any = model.vision_encoder
    small = nn.functional.avg_pool2d(images, PATCH_SIZE // FINE_PATCH_SIZE)
    raw = trunk.embeddings(2 * small - 1)
    norm, spread = trunk.layer_norm, raw.std(dim=-1).mean()
    gain = norm.weight / spread
    patches = trunk.embeddings.patch_embeddings.projection.weight
    patches = (patches - patches.mean(dim=0)) * gain[:, None, None, None]
    factor = PATCH_SIZE // FINE_PATCH_SIZE
    wide = patches.repeat_interleave(factor, 2).repeat_interleave(factor, 3) / factor**2
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    encoder.patch_embed.projection.weight.copy_(wide * 2 * std)
    encoder.patch_embed.projection.bias.copy_((wide * (2 * mean - 1)).sum(dim=(1, 2, 3)))
    places = trunk.embeddings.position_embeddings.view(1, TOKENS, TOKENS, -1)
    places = (places - places.mean(dim=-1, keepdim=True)) * gain
    encoder.pos_embed.copy_(places + norm.bias)
    hidden = norm(raw).view(len(images), TOKENS, TOKENS, -1)
    for new, old in zip(encoder.layers, trunk.layers, strict=True):
        for name in ("layer_norm1", "layer_norm2"):
            getattr(new, name).load_state_dict(getattr(old, name).state_dict())
        for mine, theirs in ((new.mlp.lin1, old.mlp.fc1), (new.mlp.lin2, old.mlp.fc2)):
            mine.load_state_dict(theirs.state_dict())
        _adopt_attention(new.attn, old, old.layer_norm1(hidden))
        hidden = old(hidden)


def _adopt_attention(mine: Any, layer: Any, inputs: Tensor) -> None:
    """Initialise an attention; `inputs` are SAM 3's, `[B, h, w, C]`."""
    theirs = layer.attention
    parts = (theirs.q_proj, theirs.k_proj, theirs.v_proj)
    mine.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
    mine.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
    mine.proj.load_state_dict(theirs.o_proj.state_dict())
    heads, width = theirs.num_attention_heads, theirs.head_dim
    query = theirs.q_proj(inputs).view(-1, heads, width).mean(dim=0)
    key = theirs.k_proj(inputs).view(-1, heads, width).mean(dim=0)
    frequencies = layer.rotary_emb.inv_freq
    # One vector per offset serves all heads, so it solves one equation per head.
    offsets = torch.arange(-(TOKENS - 1), TOKENS)  # of the query from the key
    axes = []
    for axis in (0, 1):  # columns, rows
        half = slice(axis * width // 2, (axis + 1) * width // 2)
        q = torch.view_as_complex(query[:, half].reshape(heads, -1, 2).contiguous())
        k = torch.view_as_complex(key[:, half].reshape(heads, -1, 2).contiguous())
        turn = torch.polar(torch.ones(1), offsets[:, None] * frequencies)
        logits = ((q * k.conj())[:, None] * turn).real.sum(dim=-1) * theirs.scaling
        axes.append(logits)  # [heads, offsets]
    for table, logits in ((mine.rel_pos_w, axes[0]), (mine.rel_pos_h, axes[1])):
        table.copy_(torch.linalg.lstsq(query, logits).solution.T)
    # Products of the mean query and key are in the tables already.
    mine.qkv.bias[HIDDEN : 2 * HIDDEN] -= key.flatten()


@torch.no_grad()
def adopt_head(model: Sam1, state: dict[str, Tensor]) -> None:
    """Initialise prompt encoder and mask decoder from SAM 3's visual head.

    Args:
        model: new model, changed in place.
        state: state of a `VisualHead`.
    """
    own = model.head.state_dict()
    for name, tensor in own.items():
        tensor.copy_(state[name])
    model.head.load_state_dict(own)
    quality: Any = model.head.mask_decoder.iou_prediction_head.layers[-1]
    quality.weight.mul_(0.15)  # the tangent of the sigmoid, which SAM 1 lacks
    quality.bias.mul_(0.15).add_(0.55)


@torch.no_grad()
def adopt_neck(model: Sam1, state: dict[str, Tensor], planes: Tensor) -> None:
    """Initialise the neck from that of SAM 3's visual head, which has no norms.

    The norms are set to undo themselves on average.

    Args:
        model: model, changed in place.
        state: state of a `VisualHead`.
        planes: SAM 3's tokens for some images, `float32[B, C, h, w]`.
    """
    neck: Any = model.vision_encoder.neck
    biases = (
        state["levels.2.proj1.bias"],
        state["levels.2.proj2.bias"] + state["no_memory_embedding"].flatten(),
    )
    layers = ((neck.conv1, neck.layer_norm1), (neck.conv2, neck.layer_norm2))
    for index, ((conv, norm), bias) in enumerate(zip(layers, biases, strict=True), start=1):
        conv.weight.copy_(state[f"levels.2.proj{index}.weight"])
        planes = conv(planes)
        norm.weight.fill_(planes.std(dim=1).mean())
        norm.bias.copy_(bias)
        planes = planes + bias.view(1, -1, 1, 1)
