"""Load weights that `weights` has found.

Weights are loaded strictly into the unmodified classes of `sam2` and `transformers`. Weights that
do not fit are refused; missing tensors are never initialised at random.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from omegaconf import OmegaConf
from safetensors import safe_open
from sam2.modeling.sam2_base import SAM2Base

from inference_server.engines.device import Compute
from inference_server.engines.sam1.weights import Sam1Checkpoint
from inference_server.engines.weights import Sam2Checkpoint
from inference_server.errors import ModelUnavailableError

if TYPE_CHECKING:
    from transformers import (
        Sam3LiteTextModel,
        Sam3Model,
        Sam3Processor,
        SamImageProcessor,
        SamModel,
    )

    from inference_server.engines.sam3.visual_head import VisualHead

_INFERENCE_OPTIONS = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}
"""Options that `sam2.build_sam.build_sam2` adds to a configuration for inference."""

_LOADING = threading.Lock()
"""Held while `transformers` loads a model: it replaces functions of PyTorch and its own, such as
`PreTrainedModel.tie_weights`, for that time, and two threads would leave them replaced for ever."""


@contextmanager
def _explained(setting: str, name: str) -> Iterator[None]:
    """Turn any exception of loading into an error that names the setting and the remedy."""
    try:
        yield
    except ModelUnavailableError:
        raise
    except Exception as error:  # a corrupt file may raise anything
        raise ModelUnavailableError(f"{setting}: {name} {_explanation(error)}") from error


def _explanation(error: BaseException) -> str:
    """Describe the cause and the remedy. `transformers` wraps the hub's exceptions."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            "is gated. Accept its licence on its Hugging Face page, then run `hf auth login` or "
            "set HF_TOKEN."
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return "does not exist on Hugging Face, or is private. Check the id, or set HF_TOKEN."
    if isinstance(error, HfHubHTTPError | OSError):
        return (
            f"could not be read ({_short(error)}). If it is a directory, check that its files are "
            "complete; if it is a Hugging Face id, check the network or download it first and "
            "name the directory."
        )
    return f"is corrupt or belongs to another model ({_short(error)}). Download it again."


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def load_sam1(checkpoint: Sam1Checkpoint, compute: Compute) -> tuple[SamModel, SamImageProcessor]:
    """Load a SAM 1 model and its image processor.

    Args:
        checkpoint: Weights found by `find_sam1`.
        compute: Device to load the model to.

    Returns:
        The model in evaluation mode, and the processor.

    Raises:
        ModelUnavailableError: The weights are missing, corrupt or gated.
    """
    from transformers import AutoConfig, SamConfig, SamImageProcessor, SamModel

    model: Any
    processor = SamImageProcessor()
    source = checkpoint.source
    with _explained("INFERENCE_SAM1_WEIGHTS", checkpoint.name):
        if checkpoint.file is not None:
            model = _published_sam1(checkpoint.file, checkpoint.version)
        else:
            config: Any = AutoConfig.from_pretrained(source)
            if not isinstance(config, SamConfig):
                raise ValueError(f"its config.json is that of a {config.model_type}")
            vision: Any = config.vision_config
            prompts: Any = config.prompt_encoder_config
            if vision.image_size != prompts.image_size:
                raise ValueError(
                    f"its config.json has input sizes {vision.image_size} and {prompts.image_size}"
                )
            model = _pretrained(SamModel, source, "INFERENCE_SAM1_WEIGHTS", checkpoint.name)
            # A model that was saved without its processor is normalised as the published ones.
            if not Path(source).is_dir() or any(Path(source).glob("*processor_config.json")):
                processor = SamImageProcessor.from_pretrained(source)
    return model.to(compute.device).eval().requires_grad_(False), processor


def _published_sam1(file: Path, version: str) -> SamModel:
    """Load a file that Meta published for SAM 1."""
    from transformers import SamModel

    from inference_server.engines.sam1.published import config_of, tensors_of

    state = torch.load(file, map_location="cpu", weights_only=True)
    tensors = {name: tensor.float() for name, tensor in tensors_of(state).items()}
    with torch.device("meta"):  # without initialising 640 million parameters
        model: Any = SamModel(config_of(version))
    names = model.state_dict().keys()
    if names != tensors.keys():
        lacking, surplus = sorted(names - tensors.keys()), sorted(tensors.keys() - names)
        raise ValueError(
            f"{len(lacking)} tensors of a {version} are missing, {len(surplus)} are not its; the "
            f"first is {(lacking + surplus)[0]}"
        )
    model.load_state_dict(tensors, strict=True, assign=True)
    loaded: SamModel = model
    return loaded


def load_sam2(checkpoint: Sam2Checkpoint, compute: Compute) -> SAM2Base:
    """Load a SAM 2 model.

    Args:
        checkpoint: Weights found by `find_sam2`.
        compute: Device to load the model to.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelUnavailableError: The weights are missing, corrupt or gated.
    """
    with _explained("INFERENCE_SAM2_WEIGHTS", checkpoint.name):
        file = checkpoint.file
        if file is None:
            file = Path(hf_hub_download(str(checkpoint.repository), checkpoint.filename))
        config = OmegaConf.load(checkpoint.config)
        for option, value in _INFERENCE_OPTIONS.items():
            OmegaConf.update(
                config, f"model.sam_mask_decoder_extra_args.{option}", value, force_add=True
            )
        OmegaConf.resolve(config)
        model: SAM2Base = hydra.utils.instantiate(config.model, _recursive_=True)
        state = torch.load(file, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"], strict=True)
    return model.to(compute.device).eval().requires_grad_(False)


def load_sam3(
    source: str, name: str, compute: Compute
) -> tuple[Sam3Model | Sam3LiteTextModel, Sam3Processor]:
    """Load a SAM 3 model and its processor: `sam3`, `sam3_video`, `sam3_lite_text` or `sam3.pt`.

    Args:
        source: `Sam3Checkpoint.source`.
        name: Name of the weights for error messages.
        compute: Device to load the model to.

    Returns:
        The model in evaluation mode, and the processor.

    Raises:
        ModelUnavailableError: The weights are missing, corrupt or gated.
    """
    # Imported here, because it takes half of the import time of both models.
    from transformers import (
        AutoConfig,
        Sam3LiteTextConfig,
        Sam3LiteTextModel,
        Sam3Model,
        Sam3Processor,
    )

    if Path(source).is_file():
        return _published_sam3(Path(source), name, compute)
    with _explained("INFERENCE_SAM3_WEIGHTS", name):
        is_lite = isinstance(AutoConfig.from_pretrained(source), Sam3LiteTextConfig)
        kind = Sam3LiteTextModel if is_lite else Sam3Model
        model = _pretrained(kind, source, "INFERENCE_SAM3_WEIGHTS", name)
        processor = Sam3Processor.from_pretrained(source)
    return model.to(compute.device).eval().requires_grad_(False), processor


def _published_sam3(file: Path, name: str, compute: Compute) -> tuple[Sam3Model, Sam3Processor]:
    """Load the concept side of the file that Meta published for SAM 3."""
    from transformers import CLIPTokenizer, Sam3ImageProcessor, Sam3Model, Sam3Processor

    from inference_server.engines.sam3 import published

    with _explained("INFERENCE_SAM3_WEIGHTS", name):
        model = _pretrained(
            Sam3Model,
            None,
            "INFERENCE_SAM3_WEIGHTS",
            name,
            config=published.config().detector_config,
            state_dict=published.concept_tensors(published.read(file)),
        )
        tokenizer = CLIPTokenizer.from_pretrained(str(file.parent))
        size = model.config.vision_config.backbone_config.image_size
        images = Sam3ImageProcessor(size={"height": size, "width": size})
        processor = Sam3Processor(images, tokenizer)
    return model.to(compute.device).eval().requires_grad_(False), processor


def _pretrained(kind: Any, source: str | None, setting: str, name: str, **tensors: Any) -> Any:
    """Load a model of `transformers` in float32; one that lacks a tensor is refused.

    Without a source, `tensors` has the configuration and the tensors, of which none may be left.
    """
    from transformers.utils import logging as transformers_logging

    if not sys.stderr.isatty():  # a progress bar would add a hundred lines to a log
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with _LOADING:
        model, report = kind.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **tensors
        )
    lacking = sorted(report["missing_keys"]) + [str(k) for k in report["mismatched_keys"]]
    if lacking:
        family = setting.removeprefix("INFERENCE_").removesuffix("_WEIGHTS").replace("SAM", "SAM ")
        raise ModelUnavailableError(
            f"{setting}: {name} lacks {len(lacking)} of the model's tensors (the first is "
            f"{lacking[0]}). Download it again, or check that it is a {family}."
        )
    if source is None and report["unexpected_keys"]:
        raise ValueError(f"unknown tensor {min(report['unexpected_keys'])}")
    return model


def load_sam3_head(source: str, name: str, compute: Compute) -> VisualHead | None:
    """Load SAM 3's visual head, which checkpoints in the published layout contain.

    Args:
        source: `Sam3Checkpoint.source`.
        name: Name of the weights for error messages.
        compute: Device to load the head to.

    Returns:
        The head in evaluation mode; None if the checkpoint is in the `sam3` layout.

    Raises:
        ModelUnavailableError: The weights are missing, corrupt or gated.
    """
    from transformers import AutoConfig, Sam3VideoConfig

    from inference_server.engines.sam3 import published
    from inference_server.engines.sam3.visual_head import NECK, TRACKER, VisualHead

    with _explained("INFERENCE_SAM3_WEIGHTS", name):
        file = Path(source) if Path(source).is_file() else None
        config: Any = published.config() if file else AutoConfig.from_pretrained(source)
        if not isinstance(config, Sam3VideoConfig):
            return None
        detector: Any = config.detector_config
        tracker: Any = config.tracker_config
        head = VisualHead(tracker, detector.vision_config)
        if file is None:
            head.load(_read_tensors(source, (TRACKER, NECK)))
        else:
            head.load_state_dict(published.head_tensors(published.read(file)), strict=True)
    return head.to(compute.device).eval().requires_grad_(False)


def _read_tensors(source: str, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Read the tensors whose names begin with one of the prefixes, as float32.

    `from_pretrained` would load the image encoder once more.
    """
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    index = cached_file(
        source, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False
    )
    files = (
        [cached_file(source, SAFE_WEIGHTS_NAME)]
        if index is None
        else get_checkpoint_shard_files(source, index)[0]  # type: ignore[no-untyped-call]
    )
    tensors = {}
    for file in files:
        with safe_open(file, "pt") as content:
            for key in content.keys():  # noqa: SIM118 - not a dictionary
                if key.startswith(prefixes):
                    tensors[key] = content.get_tensor(key).float()
    return tensors
