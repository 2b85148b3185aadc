"""Weights in the dtype of products, so that autocast does not cast them at every call."""

from __future__ import annotations

import torch
from torch import nn

_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
"""Layers whose inputs autocast converts: they compute the same with weights of that dtype."""


def cast_weights(dtype: torch.dtype, *modules: nn.Module) -> None:
    """Convert the weights of linear and convolutional layers in place.

    Under autocast the results stay the same, bit for bit: it converts weights and inputs alike, and
    leaves those alone that have the dtype. For weights that need no gradient it keeps no copies, so
    each call converts them anew: at SAM 3's size that is a kernel per layer, and reading float32
    takes more of a GPU's time than a small batch's product. Norms and embeddings stay in float32.

    Args:
        dtype: Dtype of the products. With float32 nothing changes.
        modules: Modules that are used under autocast to this dtype only, or by `linear` of
            `engines/sam3/attention.py`.
    """
    if dtype == torch.float32:
        return
    for module in modules:
        for part in module.modules():
            if isinstance(part, _PRODUCTS):
                for name, weight in list(part.named_parameters(recurse=False)):
                    cast = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
                    setattr(part, name, cast)
