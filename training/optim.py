"""Optimizers for hidden matrices and for other parameters, and their learning rate schedule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """Orthogonalise matrices by Newton-Schulz iteration, so that singular values are about 1.

    Args:
        matrices: `float32[N, rows, columns]`.

    Returns:
        `float32[N, rows, columns]`.
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x: Tensor = wide / wide.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for matrices only.

    The same update as `torch.optim.Muon` with `adjust_lr_fn="original"`, but in float32 and for
    all matrices of one shape at once: ten times faster on a CPU without fast bfloat16, where it
    took a fifth of the training time. Source: K. Jordan et al., "Muon: an optimizer for hidden
    layers in neural networks", 2024.

    Args:
        params: matrices.
        lr: learning rate.
        momentum: momentum factor. Default: 0.95.
        weight_decay: weight decay factor. Default: 0.01.
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Args:
            closure: ignored.
        """
        del closure
        for group in self.param_groups:
            shapes: defaultdict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                updates = []
                for parameter in parameters:
                    state, gradient = self.state[parameter], parameter.grad
                    if gradient is None:
                        continue
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    state["momentum"].lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(state["momentum"], group["momentum"]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(
                    parameters, orthogonalized(torch.stack(updates)), strict=True
                ):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-rate)


def take_step(
    loss: Tensor,
    optimizers: Sequence[torch.optim.Optimizer],
    rates: Sequence[float],
    parameters: Sequence[Tensor],
    *,
    factor: float,
    clip: float = 1.0,
) -> None:
    """Back-propagate and update.

    Args:
        loss: scalar loss.
        optimizers: optimizers of the parameters.
        rates: learning rate of each optimizer.
        parameters: all parameters that are trained.
        factor: factor of the learning rates, from `schedule`.
        clip: maximum norm of the gradient. Default: 1.
    """
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(parameters, clip)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        optimizer.step()


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the moving average of a model's parameters towards the model.

    Args:
        average: model with the averages, changed in place.
        model: model that is trained.
        decay: share of the average that stays.
    """
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


class MuonWithAdamW:
    """Muon for matrices inside transformer layers, AdamW for other parameters.

    After six minutes on one core, token accuracy of shapes was 0.85, against 0.52 with AdamW alone.

    Args:
        named_parameters: names and parameters to train.
        muon_lr: learning rate of Muon. Default: 0.01.
        adamw_lr: learning rate of AdamW. Default: 0.002.

    Attributes:
        optimizers: Muon and AdamW.
        rates: learning rate of each.
        parameters: all parameters that are trained.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        muon_lr: float = 0.01,
        adamw_lr: float = 2e-3,
    ) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named_parameters:
            if not parameter.requires_grad:
                continue
            hidden = parameter.ndim == 2 and "layers." in name and "embed" not in name
            (matrices if hidden else others).append(parameter)
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=muon_lr),
            torch.optim.AdamW(
                others, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=1e-4, fused=True
            ),
        ]
        self.rates = [muon_lr, adamw_lr]
        self.parameters = matrices + others

    def step(self, loss: Tensor, rate: float, clip: float = 1.0) -> None:
        """Back-propagate and update.

        Args:
            loss: scalar loss.
            rate: factor of both learning rates, from `schedule`.
            clip: maximum norm of the gradient. Default: 1.
        """
        take_step(loss, self.optimizers, self.rates, self.parameters, factor=rate, clip=clip)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of both optimizers."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore the state of both optimizers.

        Args:
            state: result of `state_dict`.
        """
        for optimizer, part in zip(self.optimizers, state, strict=True):
            optimizer.load_state_dict(part)


def schedule(progress: float, step: int, warm_up: int = 100, decay_from: float = 0.5) -> float:
    """Return the learning rate factor: linear warm-up, constant, linear decay to 0.02.

    Args:
        progress: elapsed share of the planned time, 0 to 1.
        step: number of steps so far.
        warm_up: number of warm-up steps. Default: 100.
        decay_from: share of the time at which the decay starts. Default: 0.5.
    """
    tail = 1.0 if progress < decay_from else max(0.02, (1 - progress) / (1 - decay_from))
    return min(1.0, (step + 1) / warm_up) * tail
