"""PVS by SAM 1: the results of `SamModel` and `SamProcessor`, alone and in batches."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import SamConfig

from inference_server.demo.scenes import make_scene
from inference_server.engines.base import Candidates, Embedding, VisualPrompt, queries
from inference_server.engines.device import Compute
from inference_server.engines.features import bytes_of
from inference_server.engines.sam1.engine import Sam1Engine
from inference_server.engines.sam1.fit import fitted_size, padded
from inference_server.masks import upsample_masks
from tests.engines.conftest import CPU, CPU_BFLOAT16, Picture
from tests.engines.sam1.models import SIDE, processor_of, random_sam1
from tests.engines.sam2.test_engine import (
    TOLERANCE,
    assert_close,
    assert_same,
    blob,
    placed,
    visual_prompt,
)

SIZES = {
    "small": (45, 64),
    "small portrait": (63, 38),
    "landscape": (90, 160),
    "portrait": (160, 100),
    "square": (96, 96),
    "tiny": (5, 7),
    "odd": (301, 203),
    "large": (467, 700),
    "strip": (9, 320),
}
"""(height, width) of the images, by name."""

BOX = (0.2, 0.3, 0.6, 0.8)
BLOB = blob(SIDE // 4)
PROMPTS = {
    "click": visual_prompt((0.3, 0.4, 1)),
    "click beside": visual_prompt((0.3, 0.4, 0)),
    "corner": visual_prompt((0, 0, 1)),
    # As many tokens as a box, which has no padding point.
    "two points": visual_prompt((0.3, 0.4, 1), (0.6, 0.7, 0)),
    "several points": visual_prompt((0.3, 0.4, 1), (0.7, 0.2, 0), (0.35, 0.5, 1)),
    "box": visual_prompt(box=BOX),
    "box and points": visual_prompt((0.3, 0.4, 1), (0.5, 0.7, 0), box=BOX),
    "mask": visual_prompt(mask=BLOB),
    "mask and click": visual_prompt((0.3, 0.4, 1), mask=BLOB),
    "mask and box": visual_prompt(box=BOX, mask=BLOB),
    "mask, box and click": visual_prompt((0.3, 0.4, 1), box=(0.1, 0.1, 0.9, 0.9), mask=-BLOB),
    "empty": visual_prompt(),
}


def scene(name: str) -> Picture:
    height, width = SIZES[name]
    whole = make_scene(list(SIZES).index(name), (max(width, 64), max(height, 64))).image
    return np.ascontiguousarray(whole[:height, :width])


@pytest.fixture(scope="module")
def model() -> Any:
    return random_sam1()


@pytest.fixture(scope="module")
def engine(model: Any) -> Sam1Engine:
    return Sam1Engine(model, processor_of().image_processor, "random", CPU)


def embed(engine: Sam1Engine, image: Picture) -> Embedding:
    (embedding,) = engine.encode([engine.prepare(image)])
    return embedding


def inputs_of(processor: Any, image: Picture, prompt: VisualPrompt) -> Any:
    """The model's inputs for a prompt, made by its own processor."""
    points: dict[str, Any] = {}
    if len(prompt.points):
        points["input_points"] = [prompt.points.tolist()]
        points["input_labels"] = [prompt.labels.tolist()]
    if prompt.box is not None:
        points["input_boxes"] = [[prompt.box.tolist()]]
    inputs = processor(images=image, return_tensors="pt", **points)
    if prompt.mask_input is not None:
        inputs["input_masks"] = torch.from_numpy(prompt.mask_input)[None, None]
    return inputs


def expected(
    model: Any, processor: Any, image: Picture, prompt: VisualPrompt, *, multimask: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Low-resolution logits, scores and logits of the image's size, of `transformers`."""
    inputs = inputs_of(processor, image, prompt)
    sizes = (inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes"))
    with torch.inference_mode():
        output = model(**inputs, multimask_output=multimask)
        (full,) = processor.post_process_masks(output.pred_masks, *sizes, binarize=False)
    return output.pred_masks[0, 0].numpy(), output.iou_scores[0, 0].numpy(), full[0].numpy()


@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
@pytest.mark.parametrize("name", SIZES)
def test_answers_are_those_of_sam_model_and_its_processor(
    model: Any, engine: Sam1Engine, name: str, multimask: bool
) -> None:
    image = scene(name)
    size = SIZES[name]
    embedding = embed(engine, image)
    assert embedding.size == size
    for prompt in PROMPTS.values():
        asked = placed(prompt, size)
        (answer,) = engine.decode(queries(embedding, [asked], multimask=multimask))
        logits, scores, full = expected(model, processor_of(), image, asked, multimask=multimask)
        assert len(answer.scores) == (3 if multimask else 1)
        assert answer.threshold == 0.0
        assert_close(answer.scores, scores)
        assert answer.logits is not None
        assert_close(answer.logits, logits.clip(-32, 32))
        assert_same_masks(answer, full, exact=max(size) <= SIDE // 2)


def assert_same_masks(answer: Candidates, full: NDArray[np.float32], *, exact: bool) -> None:
    """The masks of logits of the image's size.

    If the masks are not exact, pixels may differ whose logit is close to zero. How close differs
    with random logits, which change from pixel to pixel; see also `test_fit`.
    """
    size = (full.shape[1], full.shape[2])
    for mask, logits in zip(upsample_masks(answer.planes, size), full, strict=True):
        wrong = mask.to_plane() != (logits > 0)
        if wrong.any():
            assert np.abs(logits[wrong]).max() <= (1e-5 if exact else 0.2) * np.abs(logits).max()


def test_its_weights_are_those_of_the_model(model: Any, engine: Sam1Engine) -> None:
    assert 0 < engine.weight_bytes <= bytes_of(model)
    assert engine.weight_bytes > bytes_of(model.vision_encoder)


def test_every_part_of_a_prompt_counts(engine: Sam1Engine) -> None:
    """Otherwise the comparisons of this module would prove little."""
    embedding = embed(engine, scene("landscape"))
    prompts = [placed(prompt, embedding.size) for prompt in PROMPTS.values()]
    planes = [answer.planes for answer in engine.decode(queries(embedding, prompts))]
    for i, one in enumerate(planes):
        for other in planes[:i]:
            assert np.abs(one - other).max() > 100 * TOLERANCE * np.abs(one).max()
    flipped = scene("landscape")[::-1].copy()
    (elsewhere,) = engine.decode(queries(embed(engine, flipped), prompts[:1]))
    assert np.abs(elsewhere.planes - planes[0]).max() > 100 * TOLERANCE * np.abs(planes[0]).max()


@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
def test_prompts_of_any_kind_on_images_of_any_size_share_a_call(
    engine: Sam1Engine, multimask: bool
) -> None:
    embeddings = engine.encode([engine.prepare(scene(name)) for name in SIZES])
    asked = [
        query
        for embedding in embeddings
        for query in queries(
            embedding,
            [placed(prompt, embedding.size) for prompt in [*PROMPTS.values()] * 2],
            multimask=multimask,
        )
    ]
    for query, answer in zip(asked, engine.decode(asked), strict=True):
        (alone,) = engine.decode([query])
        assert_same(answer, alone)


def test_images_that_share_a_batch_are_encoded_as_alone(engine: Sam1Engine) -> None:
    together = engine.encode([engine.prepare(scene(name)) for name in SIZES])
    for name, embedding in zip(SIZES, together, strict=True):
        alone = embed(engine, scene(name))
        assert embedding.size == alone.size
        assert embedding.nbytes == alone.nbytes
        assert_close(embedding.features.pixels.numpy(), alone.features.pixels.numpy())


def test_the_best_of_three_is_the_one_with_the_highest_score(engine: Sam1Engine) -> None:
    embedding = embed(engine, scene("portrait"))
    prompts = [placed(prompt, embedding.size) for prompt in PROMPTS.values()]
    for three, best in zip(
        engine.decode(queries(embedding, prompts)),
        engine.decode(queries(embedding, prompts, best=True)),
        strict=True,
    ):
        index = int(three.scores.argmax())
        assert_close(best.scores, three.scores[index : index + 1])
        assert_close(best.planes, three.planes[index : index + 1])


def test_a_threshold_drops_candidates_without_changing_the_others(engine: Sam1Engine) -> None:
    embedding = embed(engine, scene("portrait"))
    prompts = [placed(prompt, embedding.size) for prompt in PROMPTS.values()]
    every = engine.decode(queries(embedding, prompts))
    threshold = float(np.median(np.concatenate([answer.scores for answer in every])))
    strict = [
        VisualPrompt(p.points, p.labels, p.box, p.mask_input, threshold=threshold) for p in prompts
    ]
    found = engine.decode(queries(embedding, strict, logits=False))
    kept = [answer.scores > threshold for answer in every]
    assert 0 < sum(map(np.count_nonzero, kept)) < 3 * len(prompts)
    for answer, whole, which in zip(found, every, kept, strict=True):
        assert answer.logits is None
        assert answer.planes.shape == (which.sum(), *whole.planes.shape[1:])
        assert np.allclose(answer.planes, whole.planes[which], atol=1e-5)


def test_logits_serve_as_a_mask_input(model: Any, engine: Sam1Engine) -> None:
    """They cover the padded input, as `SamModel` expects, and not just the image."""
    image = scene("landscape")
    embedding = embed(engine, image)
    click = placed(PROMPTS["click"], embedding.size)
    (first,) = engine.decode(queries(embedding, [click], multimask=False))
    assert first.logits is not None
    assert first.logits.shape == (1, SIDE // 4, SIDE // 4)
    assert first.planes.shape != first.logits.shape
    again = VisualPrompt(click.points, click.labels, mask_input=first.logits[0])
    (second,) = engine.decode(queries(embedding, [again], multimask=False))
    logits, _, _ = expected(model, processor_of(), image, again, multimask=False)
    assert second.logits is not None
    assert_close(second.logits, logits)


@pytest.mark.parametrize(("bias", "score"), [(5.0, 1.0), (-5.0, 0.0)])
def test_scores_are_between_0_and_1(bias: float, score: float) -> None:
    """SAM 1 predicts IoUs above 1 at times."""
    model = random_sam1()
    torch.nn.init.constant_(model.mask_decoder.iou_prediction_head.proj_out.bias, bias)
    engine = Sam1Engine(model, processor_of().image_processor, "random", CPU)
    embedding = embed(engine, scene("square"))
    (answer,) = engine.decode(queries(embedding, [placed(PROMPTS["click"], embedding.size)]))
    assert answer.scores.tolist() == [score] * 3


def test_norms_have_the_configured_epsilon() -> None:
    """`sam2`'s modules have others."""
    config: Any = SamConfig.from_dict(random_sam1().config.to_dict())
    config.mask_decoder_config.layer_norm_eps = 0.3
    config.prompt_encoder_config.layer_norm_eps = 0.2
    model = random_sam1(config)
    engine = Sam1Engine(model, processor_of().image_processor, "random", CPU)
    image = scene("square")
    embedding = embed(engine, image)
    prompt = placed(PROMPTS["mask, box and click"], embedding.size)
    (answer,) = engine.decode(queries(embedding, [prompt]))
    logits, _, _ = expected(model, processor_of(), image, prompt, multimask=True)
    assert_close(answer.logits if answer.logits is not None else answer.planes, logits)


@pytest.mark.parametrize("name", SIZES)
def test_pixels_are_those_of_the_processor(engine: Sam1Engine, name: str) -> None:
    image = scene(name)
    prepared = engine.prepare(image)
    assert prepared.pixels.dtype == torch.uint8
    assert prepared.pixels.shape == (3, *fitted_size(SIZES[name], SIDE))
    reference = processor_of()(images=image, return_tensors="pt")["pixel_values"]
    found = padded([prepared.pixels], SIDE, engine._normalize)
    assert torch.allclose(found, reference, atol=1e-5)


def test_an_image_may_come_reduced_with_a_fractional_extent(engine: Sam1Engine) -> None:
    """Prompts and masks are in pixels of the original image, and fit as the original does."""
    image = cv2.GaussianBlur(scene("large"), (0, 0), 4).astype(np.uint8)
    # 467 rows are 116.75 of the reduced image; the last one is partly beyond the image.
    filled = cv2.copyMakeBorder(image, 0, 1, 0, 0, cv2.BORDER_REPLICATE)
    reduced = cv2.resize(filled, (175, 117), interpolation=cv2.INTER_AREA).astype(np.uint8)
    prepared = engine.prepare(reduced, SIZES["large"], (116.75, 175.0))
    whole = engine.prepare(image)
    assert prepared.size == whole.size == SIZES["large"]
    assert prepared.pixels.shape == whole.pixels.shape
    assert float((prepared.pixels.float() - whole.pixels.float()).abs().max()) <= 6


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (1, 1), (2, 513)])
def test_images_of_extreme_shapes_keep_at_least_one_row(
    engine: Sam1Engine, size: tuple[int, int]
) -> None:
    """`SamProcessor` fails for images that are narrower than half a pixel of the input."""
    embedding = embed(engine, np.full((*size, 3), 90, np.uint8))
    prompts = [placed(prompt, size) for prompt in PROMPTS.values()]
    for answer in engine.decode(queries(embedding, prompts)):
        assert 0 not in answer.planes.shape
        assert np.isfinite(answer.planes).all()
        assert all(mask.size == size for mask in upsample_masks(answer.planes, size))


def test_an_embedding_is_a_plane_of_features_and_its_projections(
    engine: Sam1Engine, model: Any
) -> None:
    """Nothing that all images share is kept with each."""
    embedding = embed(engine, scene("large"))
    channels, grid = 32, SIDE // 16
    projections = 3 * channels // 2
    assert embedding.nbytes == 4 * (grid**2 * (channels + projections) + channels + channels // 2)
    assert embedding.nbytes == embedding.features.nbytes
    halved = Compute(torch.device("cpu"), torch.float32, torch.float16)
    half = Sam1Engine(model, processor_of().image_processor, "random", halved)
    assert embed(half, scene("large")).nbytes == embedding.nbytes // 2
    moved = embedding.to("cpu")
    assert (moved.size, moved.nbytes) == (embedding.size, embedding.nbytes)


@pytest.mark.parametrize(
    "compute",
    [CPU_BFLOAT16, Compute(torch.device("cpu"), torch.float32, torch.float16)],
    ids=["bfloat16", "float16 in the cache"],
)
def test_other_dtypes_give_similar_answers(
    model: Any, engine: Sam1Engine, compute: Compute
) -> None:
    other = Sam1Engine(model, processor_of().image_processor, "random", compute)
    owner = Sam1Engine(
        deepcopy(model), processor_of().image_processor, "random", compute, owned=True
    )
    image = scene("landscape")
    for one, like in zip(
        embed(owner, image).features.tensors, embed(other, image).features.tensors, strict=True
    ):
        assert torch.equal(one, like), "weights cast once compute what autocast computes"
    assert owner.weight_bytes < other.weight_bytes or compute.dtype == torch.float32
    asked = [placed(prompt, SIZES["landscape"]) for prompt in PROMPTS.values()]
    exact = engine.decode(queries(embed(engine, image), asked))
    for found, wanted in zip(other.decode(queries(embed(other, image), asked)), exact, strict=True):
        assert found.planes.dtype == found.scores.dtype == np.float32
        assert np.abs(found.scores - wanted.scores).max() < 0.05
        assert np.abs(found.planes - wanted.planes).max() < 0.1 * np.abs(wanted.planes).max()


class TestPublishedSize:
    """Decoder and prompt encoder as in vit_b, l and h, after an image encoder of two layers."""

    @pytest.fixture
    def large(self) -> Any:
        vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        return random_sam1(SamConfig(vision_config={**vision, "global_attn_indexes": []}))

    def test_answers_are_those_of_sam_model(self, large: Any) -> None:
        processor = processor_of(1024)
        engine = Sam1Engine(large, processor.image_processor, "random", CPU)
        image = make_scene(3, (900, 600)).image
        embedding = embed(engine, image)
        assert embedding.nbytes < 10.5e6
        mask = np.random.default_rng(0).normal(0, 3, (256, 256)).astype(np.float32)
        prompts = {
            "click": visual_prompt((0.3, 0.4, 1)),
            "box and points": visual_prompt((0.3, 0.4, 1), (0.5, 0.7, 0), box=BOX),
            "mask and box": visual_prompt(box=BOX, mask=mask),
        }
        asked = [placed(prompt, embedding.size) for prompt in prompts.values()]
        found = engine.decode(queries(embedding, asked))
        for prompt, answer in zip(asked, found, strict=True):
            logits, scores, full = expected(large, processor, image, prompt, multimask=True)
            assert answer.logits is not None
            limit = 1e-4 * np.abs(logits).max()
            assert np.abs(answer.logits - logits.clip(-32, 32)).max() <= limit
            assert np.abs(answer.scores - scores.clip(0, 1)).max() <= 1e-5
            assert answer.planes.shape == (3, 341, 256)
            assert_same_masks(answer, full, exact=False)


def test_results_have_the_documented_form(engine: Sam1Engine) -> None:
    embedding = embed(engine, scene("tiny"))
    (answer,) = engine.decode(queries(embedding, [placed(PROMPTS["box"], (5, 7))]))
    assert isinstance(answer, Candidates)
    assert answer.planes.dtype == answer.scores.dtype == np.float32
    assert answer.planes.shape[0] == len(answer.scores) == 3
    assert engine.side == SIDE
    assert engine.checkpoint == "random"
