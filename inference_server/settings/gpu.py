"""Settings: what a GPU does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class GpuSettings(EnvironmentSettings):
    """What a GPU does; without one they have no effect."""

    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "high",
        description="Matrix products and convolutions of float32 tensors on a GPU: `highest` for "
        "float32 throughout, `high` for TF32, which is several times as fast and rounds inputs to "
        "11 bits, or `medium`, which PyTorch may compute in bfloat16.",
    )
    cuda_graphs: int = Field(
        48,
        ge=0,
        le=1024,
        description="Maximum number of CUDA graphs of each model. A graph launches a decoder pass "
        "of one shape at once instead of kernel by kernel. Graphs of clicks, boxes and texts are "
        "recorded before the server is ready, others at their second use. 0: none.",
    )
    device_masks: int = Field(
        8,
        ge=0,
        description="Number of masks of a decoder pass from which a GPU upsamples them and sends "
        "their runs, instead of their logits for the CPU. Pixels may differ where a logit is "
        "within 0.0001 of the threshold, relative to the largest. 0: never.",
    )
