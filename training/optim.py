"""One optimizer for hidden matrices, one for everything else, and the schedule over both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest matrices whose singular values are all about 1, by Newton-Schulz iteration.

    Args:
        matrices: `float32[N, rows, columns]`.

    Returns:
        Likewise.
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x: Tensor = wide / wide.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Muon(torch.optim.Optimizer):
    """Momentum whose every step is orthogonalised, for matrices only.

    The same update as `torch.optim.Muon` with `adjust_lr_fn="original"`, but in float32 and all
    matrices of a shape at once: on a CPU without fast bfloat16 that is ten times faster, where a
    fifth of the training's time went. Source: K. Jordan et al., "Muon: an optimizer for hidden
    layers in neural networks", 2024.
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
        """Update every parameter that has a gradient."""
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


class MuonWithAdamW:
    """Muon on the matrices inside transformer layers, AdamW on the rest.

    On the shape task this reached in 7,000 images what AdamW alone had not reached in twice as many
    (token accuracy 0.85 against 0.52 after six minutes of one core).
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
        self._optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=muon_lr),
            torch.optim.AdamW(
                others, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=1e-4, fused=True
            ),
        ]
        self._rates = [muon_lr, adamw_lr]
        self._parameters = matrices + others

    def step(self, loss: Tensor, rate: float, clip: float = 1.0) -> None:
        """Back-propagate and update.

        Args:
            loss: scalar.
            rate: factor on both learning rates, from `schedule`.
            clip: largest gradient norm.
        """
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, clip)
        for optimizer, base in zip(self._optimizers, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * rate
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """State of both optimizers."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Undo `state_dict`."""
        for optimizer, part in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(part)


def schedule(progress: float, step: int, warm_up: int = 100, decay_from: float = 0.5) -> float:
    """Warm-up, then flat, then linear to two per cent: a factor on the learning rate.

    Args:
        progress: share of the planned time that has passed, 0 to 1.
        step: steps made so far.
        warm_up: steps of linear warm-up.
        decay_from: share of the time at which the decay begins.
    """
    tail = 1.0 if progress < decay_from else max(0.02, (1 - progress) / (1 - decay_from))
    return min(1.0, (step + 1) / warm_up) * tail
