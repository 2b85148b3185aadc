"""Detection and mask losses of the demo SAM 3, with several prompts per encoded image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[attr-defined]
from torch import Tensor
from torchvision.ops import box_convert
from transformers import CLIPTokenizer, Sam3Model

from training.concept_model import TOKENS
from training.dense import DenseTargets, ExemplarHead, FusionHead
from training.pool import SceneBatch
from training.prompts import BOX_PADDING, BoxPrompt, sample_box_prompt, sample_text_prompt

_TEXT_PROMPTS = 4
_BOX_PROMPTS = 4
_MASKED_PROMPTS = 16
_MASKED_OBJECTS = 80
_MASK_TARGET_SIDE = 128


@dataclass
class _Vision:
    """Vision features.

    Attributes:
        features: levels `[B, C, H, W]`, finest first.
        positions: position encodings of the levels, same shapes.
    """

    features: list[Tensor]
    positions: list[Tensor]

    def take(self, index: Tensor) -> _Vision:
        """Select images.

        Args:
            index: indices of images, `int64[N]`; may repeat.
        """
        return _Vision([f[index] for f in self.features], [p[index] for p in self.positions])


@dataclass
class _Detections:
    """Outputs of the decoder, by layer, and inputs of the mask decoder.

    Attributes:
        logits: scores of the queries, `[L, N, Q]`.
        boxes: boxes of the queries, `[L, N, Q, 4]`: x0, y0, x1, y1 as shares of the side.
        presence: presence logits, `[L, N]`.
        queries: query features of the last layer, `[N, Q, C]`.
        encoded: image tokens fused with the prompt, `[N, T*T, C]`.
        prompt: tokens of words and boxes, `[N, P, C]`.
        prompt_mask: True for tokens, False for padding, `[N, P]`.
        exemplars: tokens of the boxes, `[N, 3, C]`; None without boxes.
    """

    logits: Tensor
    boxes: Tensor
    presence: Tensor
    queries: Tensor
    encoded: Tensor
    prompt: Tensor
    prompt_mask: Tensor
    exemplars: Tensor | None


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the generalised IoU (Rezatofighi et al., 2019) of all pairs of boxes.

    Args:
        a: boxes, `float32[..., Q, 4]`: x0, y0, x1, y1.
        b: boxes, `float32[..., K, 4]`: x0, y0, x1, y1.

    Returns:
        `float32[..., Q, K]`, -1 to 1.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(dim=-1)

    both = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    either = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - both + 1e-6
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])) + 1e-6
    return both / either - (hull - either) / hull


def _focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the elementwise focal loss (Lin et al., 2017), gamma 2, positives weighted twice."""
    gap = (targets - logits.sigmoid()).abs().square()
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return plain * gap * (1 + targets)


def _dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the Dice loss of planes `[K, H, W]`, as `[K]`."""
    share = logits.sigmoid().flatten(1)
    truth = targets.flatten(1)
    return 1 - (2 * (share * truth).sum(1) + 1) / (share.sum(1) + truth.sum(1) + 1)


class ConceptLoss:
    """Loss from backbone tokens and a batch of scenes.

    Args:
        model: model that is trained.
        fusion: auxiliary head on the fused tokens.
        exemplar: auxiliary head on the tokens of exemplar boxes.
        tokenizer: tokenizer of the prompts.
        device: device of the model.

    Attributes:
        settled: whether the model learns from the auxiliary heads. False while new heads learn on a
            trained model. Default: yes.
    """

    def __init__(
        self,
        model: Sam3Model,
        fusion: FusionHead,
        exemplar: ExemplarHead,
        tokenizer: CLIPTokenizer,
        device: str,
    ) -> None:
        self.settled = True
        self._model = model
        self._fusion = fusion
        self._exemplar = exemplar
        self._tokenizer = tokenizer
        self._device = device
        self._turn = False

    def __call__(
        self,
        tokens: Tensor,
        batch: SceneBatch,
        targets: DenseTargets,
        rng: np.random.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss of a batch with random prompts.

        Args:
            tokens: tokens of the backbone, `float32[B, T*T, C]`.
            batch: scenes.
            targets: dense targets of the tokens.
            rng: source of random prompts.

        Returns:
            Scalar loss, and figures for the progress line by name.
        """
        self._turn = not self._turn
        vision = self._neck(tokens)
        shapes, colors = batch.shape.cpu().numpy(), batch.color.cpu().numpy()
        count = len(shapes)
        texts = [
            sample_text_prompt(rng, colors[i], shapes[i])
            for i in range(count)
            for _ in range(_TEXT_PROMPTS)
        ]
        groups = [self._group(vision, batch, targets, texts, rng, masks=self._turn)]
        exemplars = self._box_prompts(batch, rng)
        groups.append(self._group(vision, batch, targets, exemplars, rng, masks=not self._turn))
        report = groups[0][1] | {f"box_{name}": value for name, value in groups[1][1].items()}
        return groups[0][0] + groups[1][0], report

    def kinds(
        self, tokens: Tensor, batch: SceneBatch, rng: np.random.Generator
    ) -> tuple[Tensor, float]:
        """Compute the loss of exemplar boxes alone: the colour and shape of the object in each.

        Args:
            tokens: tokens of the backbone, `float32[B, T*T, C]`.
            batch: scenes.
            rng: source of random prompts.

        Returns:
            Scalar loss, and the share of boxes with both right.
        """
        with torch.no_grad():
            vision = self._neck(tokens)
        prompts = self._box_prompts(batch, rng)
        images = torch.arange(len(batch.ids), device=self._device).repeat_interleave(_BOX_PROMPTS)
        found = self._geometry(
            _Vision(vision.features[-1:], vision.positions[-1:]).take(images), prompts
        )
        return self._kind_loss(found[0], batch, images, prompts)

    def _box_prompts(self, batch: SceneBatch, rng: np.random.Generator) -> list[BoxPrompt]:
        shapes, colors = batch.shape.cpu().numpy(), batch.color.cpu().numpy()
        boxes = batch.boxes.cpu().numpy()
        return [
            sample_box_prompt(rng, colors[i], shapes[i], boxes[i])
            for i in range(len(shapes))
            for _ in range(_BOX_PROMPTS)
        ]

    def _kind_loss(
        self, exemplars: Tensor, batch: SceneBatch, images: Tensor, prompts: list[BoxPrompt]
    ) -> tuple[Tensor, float]:
        objects = torch.from_numpy(
            np.stack([p.objects for p in prompts if p.objects is not None])
        ).to(self._device)
        given = objects >= 0
        index = objects.clamp(min=0)
        shape, color = batch.shape[images].gather(1, index), batch.color[images].gather(1, index)
        loss, right = self._exemplar(exemplars[given], shape[given], color[given])
        return loss, right

    def _geometry(self, vision: _Vision, prompts: list[BoxPrompt]) -> tuple[Tensor, Tensor, Tensor]:
        """Encode boxes: their tokens, these and the encoder's own token, and where they are."""
        boxes = torch.from_numpy(np.stack([p.boxes for p in prompts if p.boxes is not None]))
        labels = torch.from_numpy(np.stack([p.labels for p in prompts if p.labels is not None]))
        boxes, labels = boxes.to(self._device), labels.to(self._device)
        geometry = self._model.geometry_encoder(
            box_embeddings=boxes,
            box_mask=labels != BOX_PADDING,
            box_labels=labels.clamp(min=0),
            img_feats=vision.features,
            img_pos_embeds=vision.positions,
        )
        tokens = geometry.last_hidden_state
        return tokens[:, : boxes.shape[1]], tokens, geometry.attention_mask

    def _neck(self, tokens: Tensor) -> _Vision:
        """Compute the feature levels that masks use."""
        neck = self._model.vision_encoder.neck
        plane = tokens.view(len(tokens), TOKENS, TOKENS, -1).permute(0, 3, 1, 2)
        features = [layer(plane) for layer in list(neck.fpn_layers)[:-1]]
        positions = [neck.position_encoding(f.shape, f.device, f.dtype) for f in features]
        return _Vision(features, [p.expand(len(tokens), -1, -1, -1) for p in positions])

    def _group(
        self,
        vision: _Vision,
        batch: SceneBatch,
        targets: DenseTargets,
        prompts: list[BoxPrompt],
        rng: np.random.Generator,
        *,
        masks: bool,
    ) -> tuple[Tensor, dict[str, float]]:
        each = len(prompts) // len(batch.ids)
        images = torch.arange(len(batch.ids), device=self._device).repeat_interleave(each)
        wanted = torch.from_numpy(np.stack([p.wanted for p in prompts])).to(self._device)
        coarsest = _Vision(vision.features[-1:], vision.positions[-1:]).take(images)
        found = self._detect(coarsest, prompts)
        matches, loss, report = self._detection_loss(found, batch.boxes[images], wanted)
        encoded = found.encoded if self.settled else found.encoded.detach()
        fusion = self._fusion(encoded, wanted, targets.take(images))
        loss, report = loss + 8 * fusion, report | {"fusion": fusion.item()}
        if found.exemplars is not None:
            tokens = found.exemplars if self.settled else found.exemplars.detach()
            kind, right = self._kind_loss(tokens, batch, images, prompts)
            loss, report = loss + kind, report | {"kind": right}
        if not masks:
            return loss, report
        mask_loss, mask_report = self._mask_loss(vision, batch, images, wanted, found, matches, rng)
        return loss + mask_loss, report | mask_report

    def _detect(self, vision: _Vision, prompts: list[BoxPrompt]) -> _Detections:
        model = self._model
        words = self._tokenizer([p.text for p in prompts], padding=True, return_tensors="pt")
        words = words.to(self._device)
        prompt = model.get_text_features(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        ).pooler_output
        mask = words["attention_mask"].bool()
        exemplars = None
        if prompts[0].boxes is not None:
            exemplars, tokens, given = self._geometry(vision, prompts)
            prompt, mask = torch.cat([prompt, tokens], dim=1), torch.cat([mask, given], dim=1)
        encoder = model.detr_encoder(
            vision_features=vision.features[-1:],
            text_features=prompt,
            vision_pos_embeds=vision.positions[-1:],
            text_mask=mask,
        )
        decoder = model.detr_decoder(
            vision_features=encoder.last_hidden_state,
            text_features=prompt,
            vision_pos_encoding=encoder.pos_embeds_flattened,
            text_mask=mask,
            spatial_shapes=encoder.spatial_shapes,
        )
        hidden = decoder.intermediate_hidden_states
        reference = torch.logit(decoder.reference_boxes, eps=1e-3)
        boxes = (reference + model.detr_decoder.box_head(hidden)).sigmoid()
        logits = model.dot_product_scoring(hidden, prompt, mask).squeeze(-1)
        return _Detections(
            logits,
            box_convert(boxes, "cxcywh", "xyxy"),
            decoder.presence_logits.squeeze(-1),
            hidden[-1],
            encoder.last_hidden_state,
            prompt,
            mask,
            exemplars,
        )

    def _detection_loss(
        self, found: _Detections, boxes: Tensor, wanted: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, dict[str, float]]:
        layers = len(found.logits)
        total = wanted.sum().clamp(min=1)
        present = wanted.any(dim=1).float()
        loss = found.logits.new_zeros(())
        distance = (found.boxes[..., None, :] - boxes[None, :, None]).abs().sum(-1)
        overlap = pairwise_giou(found.boxes, boxes[None])
        chance = found.logits.sigmoid()[..., None]
        costs = (5 * distance - 2 * overlap - 2 * chance).detach().cpu().numpy()
        columns = [np.flatnonzero(row) for row in wanted.cpu().numpy()]
        last = (torch.empty(0), torch.empty(0), torch.empty(0))
        for layer in range(layers):
            where, query, target = self._match(costs[layer], columns)
            truth = torch.zeros_like(found.logits[layer])
            truth[where, query] = 1
            loss = loss + 8 * _focal(found.logits[layer], truth).sum() / total
            loss = loss + 2 * F.binary_cross_entropy_with_logits(found.presence[layer], present)
            loss = loss + 5 * distance[layer, where, query, target].sum() / total
            loss = loss + 2 * (1 - overlap[layer, where, query, target]).sum() / total
            last = (where, query, target)
        with torch.no_grad():
            score = found.logits[-1].sigmoid() * found.presence[-1].sigmoid()[:, None]
            fired = score > 0.5
            hits = fired[last[0], last[1]].sum()
            f1 = 2 * hits / (fired.sum() + wanted.sum()).clamp(min=1)
            absent = present == 0
            quiet = (~fired.any(dim=1))[absent].float().mean()
            giou = overlap[-1, last[0], last[1], last[2]].mean()
        return last, loss, {"f1": f1.item(), "quiet": quiet.item(), "giou": giou.item()}

    def _match(
        self, costs: NDArray[np.float32], columns: list[NDArray[np.int64]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Match queries and objects (Hungarian); return indices of prompt, query and object."""
        pairs = []
        for n, wanted in enumerate(columns):
            if len(wanted):
                rows, cols = linear_sum_assignment(costs[n][:, wanted])
                pairs += [(n, int(r), int(wanted[c])) for r, c in zip(rows, cols, strict=True)]
        table = torch.tensor(pairs, dtype=torch.long, device=self._device).view(-1, 3)
        return table[:, 0], table[:, 1], table[:, 2]

    def _mask_loss(
        self,
        vision: _Vision,
        batch: SceneBatch,
        images: Tensor,
        wanted: Tensor,
        found: _Detections,
        matches: tuple[Tensor, Tensor, Tensor],
        rng: np.random.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """Compute the mask loss for some prompts with objects: masks cost more than boxes."""
        asked = np.flatnonzero(wanted.any(dim=1).cpu().numpy())
        chosen = np.sort(rng.permutation(asked)[:_MASKED_PROMPTS])
        if not len(chosen):
            return found.logits.new_zeros(()), {}
        rows = torch.from_numpy(chosen).to(self._device)
        some = vision.take(images[rows])
        output = self._model.mask_decoder(
            decoder_queries=found.queries[rows],
            backbone_features=some.features,
            encoder_hidden_states=found.encoded[rows],
            prompt_features=found.prompt[rows],
            prompt_mask=found.prompt_mask[rows],
        )
        position = torch.full((len(images),), -1, device=self._device)
        position[rows] = torch.arange(len(rows), device=self._device)
        where, query, target = matches
        kept = torch.nonzero(position[where] >= 0)[:, 0]
        if len(kept) > _MASKED_OBJECTS:
            some_of = rng.permutation(len(kept))[:_MASKED_OBJECTS]
            kept = kept[torch.from_numpy(np.sort(some_of)).to(self._device)]
        where, query, target = where[kept], query[kept], target[kept]
        masks = output.pred_masks[position[where], query]
        side = _MASK_TARGET_SIDE
        truth = (batch.ids[images[where]] == target[:, None, None] + 1).float()
        truth = F.adaptive_avg_pool2d(truth, side)
        fine = F.interpolate(masks[:, None], size=(side, side), mode="bilinear")[:, 0]
        cross = F.binary_cross_entropy_with_logits(fine, truth, reduction="none")
        area = truth.sum((1, 2)) + 100
        loss = 3 * (cross.sum((1, 2)) / area).mean() + 6 * _dice(fine, truth).mean()
        union = torch.stack(
            [torch.isin(batch.ids[images[r]], torch.nonzero(wanted[r])[:, 0] + 1) for r in rows]
        ).float()
        coarse = F.adaptive_avg_pool2d(union, output.semantic_seg.shape[-2:])
        semantic = output.semantic_seg[:, 0]
        loss = loss + 3 * F.binary_cross_entropy_with_logits(semantic, coarse)
        loss = loss + _dice(semantic, coarse).mean()
        with torch.no_grad():
            guess, right = fine > 0, truth > 0.5
            both = (guess & right).sum((1, 2)) / (guess | right).sum((1, 2)).clamp(min=1)
        return loss, {"iou": both.mean().item()}
