"""A CUDA device without a GPU: fake tensors, and a record of every wait for the device.

Tensors on `cuda` are PyTorch's fake tensors: they have a shape, a dtype and a device, and no data.
Tensors on the CPU are real. What arrives on the CPU from the device is made up.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.utils import import_utils

import inference_server
from inference_server.engines.device import Compute

_PACKAGE = Path(inference_server.__file__).parent
_CUDA = torch.device("cuda:0")
_CPU = torch.device("cpu")

_WHOLE = {
    torch.ops.aten.layer_norm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten.matmul.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten.scaled_dot_product_attention.default,
    torch.ops.aten.softmax.int,
    torch.ops.aten.upsample_bilinear2d.vec,
}
"""Composite operations that neither wait nor read the host; in parts they take three times as
long."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fake_compute(dtype: torch.dtype) -> Compute:
    """The fake device with one dtype for everything."""
    return Compute(_CUDA, dtype, dtype)


class FakeDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends operations to real tensors on the CPU or to fake ones on the device.

    An operation on tensors of both fails, and so does one whose result depends on fake data, such
    as `Tensor.item` and boolean indexing: with real data, each of them would wait for the device.

    Attributes:
        waits: The line of the package that waited, per wait: copies to the host, and copies to the
            device that are not marked as non-blocking.
        copies: The line that copied, per copy to the device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []
        self.copies: list[str] = []
        self._whole: set[Any] = set(_WHOLE)
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._random = torch.Generator().manual_seed(0)

    def place(self, module: ModuleT) -> ModuleT:
        """Move a module's parameters and buffers to the device, in place."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    moved = nn.Parameter(self._fake(parameter.data), requires_grad=False)
                    part._parameters[name] = moved
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self._fake(buffer)
        return module

    def _fake(self, tensor: Tensor) -> Tensor:
        with self.fake:
            return self.fake.from_tensor(tensor).to(_CUDA)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args)
        # Without autograd, composite operations arrive whole.
        if func not in self._whole:
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
            self._whole.add(func)
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        devices = {each.device for each in tensors if each.ndim or each.device != _CPU}
        if func is torch.ops.aten._to_copy.default:
            (source,) = tensors
            target = torch.device(kwargs.get("device") or source.device)
            if target.type != source.device.type:
                if target == _CPU or not kwargs.get("non_blocking"):
                    self.waits.append(_line())
                if target != _CPU:
                    self.copies.append(_line())
                if target == _CPU:
                    return self._made_up(source, kwargs.get("dtype") or source.dtype)
        elif func is torch.ops.aten.copy_.default and len(devices) > 1:
            target, source, *non_blocking = args
            if target.device == _CPU or not any(non_blocking):
                self.waits.append(_line())
            if target.device != _CPU:
                self.copies.append(_line())
            if target.device == _CPU:
                with unset_fake_temporarily():
                    return target.copy_(self._made_up(source, target.dtype))
            return target
        elif func is torch.ops.aten.index.Tensor and len(devices) > 1:
            self.waits.append(_line())  # the index is copied to the device
            self.copies.append(_line())
            return func(*args)
        elif len(devices) > 1:
            raise AssertionError(f"{func} with tensors on {sorted(map(str, devices))}")
        on_device = any(isinstance(each, FakeTensor) for each in tensors)
        if not on_device and torch.device(kwargs.get("device") or _CPU) == _CPU:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _made_up(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Numbers from 0 to 1, true and false, or zeros of an integer dtype."""
        with unset_fake_temporarily():
            values = torch.rand(tuple(tensor.shape), generator=self._random)
            return values > 0.5 if dtype == torch.bool else values.to(dtype)


def _line() -> str:
    """The innermost line of the package that is being run."""
    frame, found = sys._getframe(1), sys._getframe(1)
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(_PACKAGE):
            found = frame
            break
        frame = frame.f_back  # type: ignore[assignment]
    name, line = found.f_code.co_filename, found.f_lineno
    return f"{name}:{line} {linecache.getline(name, line).strip()}"


def _pageable(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.empty` without pinned memory."""
    return lambda *args, pin_memory=False, **kwargs: empty(*args, **kwargs)


@contextmanager
def fake_device(device: FakeDevice) -> Iterator[None]:
    """Make `cuda` a fake device, where autocast works as on a real one.

    Args:
        device: The fake device. Its tensors can be used whenever it is in use again.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
        # Pinned memory needs a driver; a fake copy from any memory does not wait.
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        patch.setattr(torch, "empty", _pageable(torch.empty))
        # `transformers` would leave out the questions to the device that it asks with real tensors.
        patch.setattr(import_utils, "is_fake_tensor", lambda tensor: False)
        with device.fake, device:
            yield
