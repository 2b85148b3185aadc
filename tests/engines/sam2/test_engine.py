"""PVS: the results of `SAM2ImagePredictor`, alone and in batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.utils.transforms import SAM2Transforms

from inference_server.demo.scenes import make_scene
from inference_server.engines.base import Candidates, Embedding, VisualPrompt, queries
from inference_server.engines.mask_decoder import FastMaskDecoder
from inference_server.engines.resize import Normalizer, resize
from inference_server.engines.sam2.engine import MEAN, STD, VisualEngine
from inference_server.masks import Mask, upsample_masks
from tests.engines.conftest import CPU, CPU_BFLOAT16, Picture
from tests.masks.planes import iou

TOLERANCE = 1e-5
"""Maximum difference of logits and scores, relative to the largest logit: other batch sizes may sum
in another order."""


def visual_prompt(
    *points: tuple[float, float, int],
    box: tuple[float, float, float, float] | None = None,
    mask: NDArray[np.float32] | None = None,
) -> VisualPrompt:
    """A prompt in fractions of the image's sides; see `placed`."""
    return VisualPrompt(
        np.array([point[:2] for point in points], np.float32).reshape(-1, 2),
        np.array([point[2] for point in points], np.int64),
        None if box is None else np.array(box, np.float32),
        mask,
    )


def placed(prompt: VisualPrompt, size: tuple[int, int]) -> VisualPrompt:
    """The prompt in pixels of an image of (height, width)."""
    scale = np.array(size[::-1], np.float32)
    box = None if prompt.box is None else prompt.box * np.tile(scale, 2)
    return VisualPrompt(prompt.points * scale, prompt.labels, box, prompt.mask_input)


def blob(side: int = 64) -> NDArray[np.float32]:
    """A mask input: a disc, as logits."""
    ys, xs = np.mgrid[0:side, 0:side].astype(np.float32)
    return np.asarray(12 - np.hypot(xs - 0.6 * side, ys - 0.3 * side), np.float32)


PROMPTS = {
    "click": visual_prompt((0.3, 0.4, 1)),
    "click beside": visual_prompt((0.3, 0.4, 0)),
    "corner": visual_prompt((0, 0, 1)),
    "several points": visual_prompt((0.3, 0.4, 1), (0.7, 0.2, 0), (0.35, 0.5, 1)),
    "box": visual_prompt(box=(0.2, 0.3, 0.6, 0.8)),
    "box and points": visual_prompt((0.3, 0.4, 1), (0.5, 0.7, 0), box=(0.2, 0.3, 0.6, 0.8)),
    "mask": visual_prompt(mask=blob()),
    "mask and click": visual_prompt((0.3, 0.4, 1), mask=blob()),
    "mask, box and click": visual_prompt((0.3, 0.4, 1), box=(0.1, 0.1, 0.9, 0.9), mask=-blob()),
    "empty": visual_prompt(),
}


def predictor_for(model: SAM2Base, image: Picture, *, same_pixels: bool = True) -> Any:
    predictor: Any = SAM2ImagePredictor(model)
    side = model.image_size
    # The predictor hard-codes the sizes of a model for 1024 x 1024.
    predictor._bb_feat_sizes = [(side // 4,) * 2, (side // 8,) * 2, (side // 16,) * 2]
    if same_pixels:  # the predictor resizes floats, the server bytes; compared below
        predictor._transforms = SamePixels(resolution=side, mask_threshold=0.0)  # type: ignore[no-untyped-call]
    predictor.set_image(image)
    return predictor


def test_normalisation_is_that_of_the_predictor() -> None:
    reference: Any = SAM2Transforms(resolution=64, mask_threshold=0.0)  # type: ignore[no-untyped-call]
    assert list(MEAN) == reference.mean
    assert list(STD) == reference.std


class SamePixels(SAM2Transforms):
    """The predictor's transforms with the server's resizing."""

    def __call__(self, image: Picture) -> torch.Tensor:
        resized = resize(image, self.resolution)
        return Normalizer(self.mean, self.std)([resized])[0]


def predict(
    predictor: Any, prompt: VisualPrompt, *, multimask: bool
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """Masks, scores and low-resolution logits of SAM 2's own predictor."""
    masks, scores, logits = predictor.predict(
        point_coords=prompt.points if len(prompt.points) else None,
        point_labels=prompt.labels if len(prompt.points) else None,
        box=prompt.box,
        mask_input=None if prompt.mask_input is None else prompt.mask_input[None],
        multimask_output=multimask,
    )
    return masks.astype(bool), scores, logits


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


def assert_same(found: Candidates, expected: Candidates) -> None:
    assert_close(found.planes, expected.planes)
    assert_close(found.scores, expected.scores)
    assert found.logits is not None
    assert expected.logits is not None
    assert_close(found.logits, expected.logits)


def embed(engine: VisualEngine, image: Picture) -> Embedding:
    (embedding,) = engine.encode([engine.prepare(image)])
    return embedding


@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
@pytest.mark.parametrize("picture", ["square", "wide", "tall"])
def test_answers_are_those_of_sam2s_own_predictor(
    visual: VisualEngine,
    sam2_model: SAM2Base,
    pictures: dict[str, Picture],
    picture: str,
    multimask: bool,
) -> None:
    image = pictures[picture]
    size = image.shape[:2]
    embedding = embed(visual, image)
    assert embedding.size == size
    predictor = predictor_for(sam2_model, image)
    for prompt in PROMPTS.values():
        asked = placed(prompt, (size[0], size[1]))
        (answer,) = visual.decode(queries(embedding, [asked], multimask=multimask))
        masks, scores, logits = predict(predictor, asked, multimask=multimask)
        assert len(answer.scores) == (3 if multimask else 1)
        assert answer.threshold == 0.0
        assert_close(answer.scores, scores)
        assert answer.logits is not None
        assert_close(answer.logits, logits)
        assert np.array_equal(answer.logits, answer.planes.clip(-32, 32))
        for mask, expected in zip(
            upsample_masks(answer.planes, (size[0], size[1])), masks, strict=True
        ):
            # Only pixels whose logit is almost zero may differ.
            assert np.count_nonzero(mask.to_plane() != expected) <= 2


@pytest.mark.parametrize("picture", ["square", "wide", "tall", "large"])
def test_resizing_bytes_changes_no_mask_that_can_be_seen(
    demo: VisualEngine, demo_model: SAM2Base, pictures: dict[str, Picture], picture: str
) -> None:
    """The predictor resizes floats. Uses the demo weights, whose masks are of objects."""
    image = pictures[picture]
    height, width = image.shape[:2]
    predictor = predictor_for(demo_model, image, same_pixels=False)
    embedding = embed(demo, image)
    for item in make_scene(list(pictures).index(picture), (width, height)).objects:
        x, y = item.click()
        asked = placed(visual_prompt((x / width, y / height, 1)), (height, width))
        (answer,) = demo.decode(queries(embedding, [asked]))
        expected, _, _ = predict(predictor, asked, multimask=True)
        for mask, plane in zip(masks_of(answer, image), expected, strict=True):
            assert iou(mask, Mask.from_plane(plane)) > 0.97 or plane.sum() < 50


def test_an_image_may_come_reduced(visual: VisualEngine, pictures: dict[str, Picture]) -> None:
    """Prompts and masks are in pixels of the original image."""
    image = pictures["large"]
    reduced = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    size = (image.shape[0], image.shape[1])
    (whole, half) = visual.encode(
        [visual.prepare(image), visual.prepare(reduced.astype(np.uint8), size, None)]
    )
    assert whole.size == half.size == size


def test_every_part_of_a_prompt_counts(visual: VisualEngine, pictures: dict[str, Picture]) -> None:
    """Otherwise the comparisons of this module would prove little."""
    image = pictures["wide"]
    embedding = embed(visual, image)
    prompts = [placed(prompt, embedding.size) for prompt in PROMPTS.values()]
    planes = [answer.planes for answer in visual.decode(queries(embedding, prompts))]
    for i, one in enumerate(planes):
        for other in planes[:i]:
            assert np.abs(one - other).max() > 100 * TOLERANCE * np.abs(one).max()
    (elsewhere,) = visual.decode(queries(embed(visual, pictures["wide"][::-1].copy()), prompts[:1]))
    assert np.abs(elsewhere.planes - planes[0]).max() > 100 * TOLERANCE * np.abs(planes[0]).max()


@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
def test_prompts_of_any_kind_share_a_call_and_each_gets_the_answer_it_gets_alone(
    visual: VisualEngine, pictures: dict[str, Picture], multimask: bool
) -> None:
    embedding = embed(visual, pictures["wide"])
    shifted = [
        visual_prompt((0.1 * i, 0.5, i % 2), box=None if i % 3 else (0.1, 0.1, 0.2 + 0.1 * i, 0.9))
        for i in range(8)
    ]
    kinds = [*PROMPTS.values(), *shifted, *PROMPTS.values()]
    prompts = [placed(prompt, embedding.size) for prompt in kinds]
    together = visual.decode(queries(embedding, prompts, multimask=multimask))
    assert len(together) == len(prompts)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = visual.decode(queries(embedding, [prompt], multimask=multimask))
        assert_same(answer, alone)


@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
def test_prompts_on_different_images_share_a_call_too(
    visual: VisualEngine, pictures: dict[str, Picture], multimask: bool
) -> None:
    asked = [
        query
        for name in ("wide", "tall", "square")
        for embedding in [embed(visual, pictures[name])]
        for query in queries(
            embedding,
            [placed(prompt, embedding.size) for prompt in PROMPTS.values()],
            multimask=multimask,
        )
    ]
    for query, answer in zip(asked, visual.decode(asked), strict=True):
        (alone,) = visual.decode([query])
        assert_same(answer, alone)


def test_the_best_of_three_is_the_one_with_the_highest_score(
    visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    embedding = embed(visual, pictures["wide"])
    prompts = [placed(prompt, embedding.size) for prompt in PROMPTS.values()]
    chosen = set()
    for three, best in zip(
        visual.decode(queries(embedding, prompts)),
        visual.decode(queries(embedding, prompts, best=True)),
        strict=True,
    ):
        index = int(three.scores.argmax())
        chosen.add(index)
        assert best.scores.shape == (1,)
        assert_close(best.scores, three.scores[index : index + 1])
        assert_close(best.planes, three.planes[index : index + 1])
    assert len(chosen) > 1, "the best mask is the same for all prompts"
    one = visual.decode(queries(embedding, prompts, multimask=False))
    same = visual.decode(queries(embedding, prompts, multimask=False, best=True))
    for expected, found in zip(one, same, strict=True):
        assert_same(found, expected)


def with_threshold(prompts: list[VisualPrompt], threshold: float) -> list[VisualPrompt]:
    return [replace(prompt, threshold=threshold) for prompt in prompts]


@pytest.mark.parametrize("best", [True, False], ids=["best", "all"])
@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
@pytest.mark.parametrize("together", [True, False], ids=["together", "alone"])
def test_a_threshold_drops_candidates_without_changing_the_others(
    visual: VisualEngine,
    pictures: dict[str, Picture],
    multimask: bool,
    best: bool,
    together: bool,
) -> None:
    """Also with the choice by stability, which this model makes for a single mask."""
    embedding = embed(visual, pictures["wide"])
    prompts = [placed(prompt, embedding.size) for prompt in PROMPTS.values()]
    prompts += [placed(visual_prompt((0.1 * i, 0.5, 1)), embedding.size) for i in range(10)]

    def asked(prompts: list[VisualPrompt]) -> list[Candidates]:
        wanted = queries(embedding, prompts, multimask=multimask, best=best)
        if together:
            return visual.decode(wanted)
        return [visual.decode([query])[0] for query in wanted]

    every = asked(prompts)
    scores = np.concatenate([answer.scores for answer in every])
    for threshold in (float(np.median(scores)), 0.5 * float(scores.min()), 1.0):
        found = asked(with_threshold(prompts, threshold))
        for answer, whole in zip(found, every, strict=True):
            kept = whole.scores > threshold
            assert len(answer.scores) == kept.sum()
            assert answer.planes.shape[1:] == whole.planes.shape[1:]
            if kept.any():
                assert_close(answer.scores, whole.scores[kept])
                assert_close(answer.planes, whole.planes[kept])
    assert len({len(answer.scores) for answer in asked(with_threshold(prompts, 1.0))}) == 1


def test_each_prompt_has_a_threshold_of_its_own_on_an_image_of_its_own(
    visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    prompts = [visual_prompt((30, 40, 1)), visual_prompt((30, 40, 1)), visual_prompt((30, 40, 1))]
    images = [embed(visual, pictures[name]) for name in ("wide", "tall", "square")]
    every = visual.decode([queries(e, [p])[0] for e, p in zip(images, prompts, strict=True)])
    thresholds = [0.0, 1.0, float(np.sort(every[2].scores)[1])]
    asked = [replace(p, threshold=t) for p, t in zip(prompts, thresholds, strict=True)]
    first, second, third = visual.decode(
        [queries(e, [p])[0] for e, p in zip(images, asked, strict=True)]
    )
    assert_same(first, every[0])
    assert second.planes.shape == (0, *every[1].planes.shape[1:])
    assert second.scores.shape == (0,)
    best = int(every[2].scores.argmax())
    assert_close(third.planes, every[2].planes[best : best + 1])


def test_a_prompt_without_candidates_is_not_upscaled(
    visual: VisualEngine, pictures: dict[str, Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = embed(visual, pictures["wide"])
    prompts = [visual_prompt((10.0 * i, 40, 1)) for i in range(12)]
    best = [float(answer.scores.max()) for answer in visual.decode(queries(embedding, prompts))]
    upscaled = []
    logits = FastMaskDecoder._logits

    def noting(self: FastMaskDecoder, *parts: torch.Tensor) -> torch.Tensor:
        upscaled.append(len(parts[-1]))
        return logits(self, *parts)

    monkeypatch.setattr(FastMaskDecoder, "_logits", noting)
    limit = float(np.median(best))
    visual.decode(queries(embedding, with_threshold(prompts, limit)))
    assert upscaled == [sum(score > limit for score in best)]
    assert 0 < upscaled[0] < 12


def test_mask_inputs_are_returned_only_on_request(
    visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    embedding = embed(visual, pictures["wide"])
    prompts = [visual_prompt((10, 40, 1))]
    (plain,) = visual.decode(queries(embedding, prompts, logits=False))
    (full,) = visual.decode(queries(embedding, prompts))
    assert plain.logits is None
    assert full.logits is not None
    assert np.array_equal(plain.planes, full.planes)


def test_several_threads_decode_at_a_time(
    visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    asked = [
        query
        for name in ("wide", "tall")
        for embedding in [embed(visual, pictures[name])]
        for query in queries(embedding, [placed(p, embedding.size) for p in PROMPTS.values()])
    ]
    expected = [visual.decode([query])[0] for query in asked]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda query: visual.decode([query])[0], asked * 8))
    for answer, alone in zip(found, expected * 8, strict=True):
        assert_same(answer, alone)


def test_no_prompts_no_answers(visual: VisualEngine, pictures: dict[str, Picture]) -> None:
    assert visual.decode(queries(embed(visual, pictures["square"]), [])) == []


def test_images_encoded_together_answer_as_if_encoded_alone(
    visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    images = list(pictures.values())
    together = visual.encode([visual.prepare(image) for image in images])
    assert [embedding.size for embedding in together] == [image.shape[:2] for image in images]
    for embedding, image in zip(together, images, strict=True):
        prompts = [placed(prompt, embedding.size) for prompt in PROMPTS.values()]
        alone = visual.decode(queries(embed(visual, image), prompts))
        for answer, expected in zip(visual.decode(queries(embedding, prompts)), alone, strict=True):
            assert_same(answer, expected)


def test_an_embedding_keeps_the_memory_that_it_says_and_not_its_neighbours(
    visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    """The cache counts `nbytes`: a view of the batch would keep the whole batch alive."""
    alone = embed(visual, pictures["square"])
    for embedding in [
        alone,
        *visual.encode([visual.prepare(pictures[n]) for n in ("square", "wide")] * 2),
    ]:
        tensors = embedding.features.tensors
        kept = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
        assert embedding.nbytes == kept == alone.nbytes


def test_the_answer_is_the_callers_to_keep(
    visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    """Nobody who asks later writes into it."""
    embedding = embed(visual, pictures["square"])
    prompts = [placed(prompt, embedding.size) for prompt in PROMPTS.values()]
    first = visual.decode(queries(embedding, prompts))
    copies = [answer.planes.copy() for answer in first]
    visual.decode(queries(embedding, prompts[::-1]))
    embed(visual, pictures["wide"])
    for answer, copy in zip(first, copies, strict=True):
        assert np.array_equal(answer.planes, copy)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 3), (3, 50)])
def test_tiny_images_are_images(visual: VisualEngine, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    embedding = embed(visual, image)
    assert embedding.size == size
    (answer,) = visual.decode(queries(embedding, [visual_prompt((0, 0, 1))]))
    assert np.isfinite(answer.planes).all()
    assert [mask.size for mask in upsample_masks(answer.planes, size)] == [size] * 3


def test_bfloat16_gives_nearly_the_same_masks(
    sam2_model: SAM2Base, visual: VisualEngine, pictures: dict[str, Picture]
) -> None:
    fast = VisualEngine(sam2_model, "random", CPU_BFLOAT16)
    image = pictures["wide"]
    precise, coarse = embed(visual, image), embed(fast, image)
    assert coarse.nbytes < precise.nbytes
    prompts = [placed(prompt, precise.size) for prompt in PROMPTS.values()]
    for expected, found in zip(
        visual.decode(queries(precise, prompts)), fast.decode(queries(coarse, prompts)), strict=True
    ):
        assert found.planes.dtype == found.scores.dtype == np.float32
        assert np.abs(found.scores - expected.scores).max() < 0.05
        for one, other in zip(masks_of(found, image), masks_of(expected, image), strict=True):
            assert iou(one, other) > 0.85 or max(one.area, other.area) < 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_embeddings_may_be_kept_in_half_precision(
    sam2_model: SAM2Base, visual: VisualEngine, pictures: dict[str, Picture], dtype: torch.dtype
) -> None:
    half = VisualEngine(sam2_model, "random", replace(CPU, cache_dtype=dtype))
    image = pictures["wide"]
    precise, coarse = embed(visual, image), embed(half, image)
    assert coarse.nbytes * 2 == precise.nbytes
    prompts = [placed(prompt, precise.size) for prompt in PROMPTS.values()]
    for expected, found in zip(
        visual.decode(queries(precise, prompts)),
        half.decode(queries(coarse, prompts)),
        strict=True,
    ):
        assert np.abs(found.scores - expected.scores).max() < 0.02
        for one, other in zip(masks_of(found, image), masks_of(expected, image), strict=True):
            assert iou(one, other) > 0.95 or max(one.area, other.area) < 50


def masks_of(answer: Candidates, image: Picture) -> list[Mask]:
    return upsample_masks(answer.planes, (image.shape[0], image.shape[1]), answer.threshold)


def test_the_model_is_left_as_it_was(sam2_model: SAM2Base, visual: VisualEngine) -> None:
    """No gradients, no training mode, nothing cached that grows."""
    image = np.zeros((8, 8, 3), np.uint8)
    before = {name: value.clone() for name, value in sam2_model.state_dict().items()}
    (answer,) = visual.decode(queries(embed(visual, image), [visual_prompt((1, 1, 1))]))
    assert not sam2_model.training
    assert answer.planes.flags.owndata or answer.planes.base is not None
    for name, value in sam2_model.state_dict().items():
        assert torch.equal(value, before[name])
