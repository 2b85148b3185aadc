"""Trains the visual head of the demo SAM 3 for second clicks, on its frozen image encoder.

The other trainings place corrective clicks on the decoder's grid. Once masks are right but for a
pixel along the edge, such clicks teach nothing, and a second click made the worst masks worse. Here
they lie where the error of the enlarged mask is deepest, as a person places them, and the loss is
that of the single mask, which answers several clicks.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.head import HeadTraining
from training.pool import SceneBatch
from training.visual_loss import mask_loss, pick
from training.visual_prompts import Prompts, correction, first_prompts


class SecondClickTraining(HeadTraining):
    """One run, which begins with an exported SAM 3 and its head.

    Args:
        out: directory of the run; its state is loaded from there.
        device: `cpu` or `cuda`.
        seed: seed of prompts.
        weights: directory of the demo SAM 3.

    Raises:
        ValueError: The SAM 3 has no visual head.
    """

    images_per_step = (8, 8)
    corrected_share = 0.75
    plain_share = 0.1
    rate = 0.25

    def __init__(self, out: Path, device: str, seed: int, weights: Path) -> None:
        super().__init__(out, device, seed, weights)
        if not self.step:
            self.start_from(weights)

    def losses(
        self, batch: SceneBatch, side: int, *, corrected: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss of clicks with a second click, and of boxes so that they stay good.

        Args:
            batch: scenes on the CPU, of a multiple of `side`.
            side: side of the model's input in pixels.
            corrected: ignored; there always are second clicks.

        Returns:
            Scalar loss, and figures for the progress line by name.
        """
        del corrected
        clicks, boxes = (prompts.to(self.device) for prompts in first_prompts(batch, self.rng))
        batch = batch.to(self.device)
        _, features = self._encode(self._shown(batch, side))
        loss, report = self._second(batch, features, clicks)
        truth, box = self._truth(batch, boxes)
        answer = self._decode(features, boxes, None)
        part, iou = self.loss.of_answer(answer, self._shrunk(truth), box)
        loss = loss + 0.2 * part
        report["box"] = pick(iou, answer.choice)[truth.any(dim=(1, 2))].mean().item()
        return loss, report | {"loss": loss.item()}

    def _second(
        self, batch: SceneBatch, features: list[Tensor], clicks: Prompts
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss of clicks, in every second step, and of second clicks."""
        full, box = self._truth(batch, clicks)
        truth, real = self._shrunk(full), full.any(dim=(1, 2))
        with torch.set_grad_enabled(self.step % 2 == 0):
            answer = self._decode(features, clicks, None)
            loss, iou = self.loss.of_answer(answer, truth, box)
        loss = 0.5 * loss if loss.requires_grad else torch.zeros((), device=self.device)
        chosen = pick(iou, answer.choice)
        keep = self._to_correct(chosen, real)
        keep = keep[real[keep]]
        masks = pick(answer.logits.detach(), answer.choice)[keep].clamp(-32, 32)
        shown = F.interpolate(
            masks[:, None], size=full.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
        points, labels = correction(shown, full[keep], self.rng, deepest=True)
        again = clicks.corrected(keep, points.to(self.device), labels.to(self.device))
        answer = self._decode(features, again, masks)
        part, iou = self.loss.of_answer(answer, truth[keep], box[keep])
        single = mask_loss(answer.logits[:, :1], truth[keep]).mean()
        return loss + 0.5 * part + 1.5 * single, {
            "click": chosen[real].mean().item(),
            "click before": chosen[keep].mean().item(),
            "click corrected": iou[:, 0].mean().item(),
        }

    def _truth(self, batch: SceneBatch, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Return the objects of prompts, `float32[P, S, S]` of the pool's side, and their boxes."""
        meant = batch.ids[prompts.image] == prompts.target[:, None, None]
        meant = meant & (prompts.target > 0)[:, None, None]
        return meant.float(), batch.boxes[prompts.image, prompts.target - 1]

    def _shrunk(self, truth: Tensor) -> Tensor:
        """Shrink objects to the side of the loss."""
        return F.adaptive_avg_pool2d(truth, 2 * self._mask_side)
