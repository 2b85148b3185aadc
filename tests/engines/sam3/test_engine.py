"""PCS: the results of `Sam3Processor`, `Sam3Model` and Meta's code, alone and in batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import Sam3LiteTextModel

from inference_server.demo import WEIGHTS
from inference_server.demo.scenes import make_scene
from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    Prepared,
    Query,
    queries,
)
from inference_server.engines.linear import round_rows
from inference_server.engines.load_weights import load_sam3
from inference_server.engines.sam3.decoder import ConceptImage, Detections
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.sam3.trunk import TrunkEngine
from inference_server.engines.weights import find_sam3
from inference_server.masks import Mask, upsample_masks
from tests.engines.conftest import CPU, CPU_BFLOAT16, Concept, Picture, random_lite_text
from tests.masks.planes import iou

SCORE_TOLERANCE = 1e-5
"""Maximum difference of scores: other batch sizes may sum in another order."""

PLANE_TOLERANCE = 1e-5
"""Maximum difference of logits, relative to the largest."""

QUERIES = 49
"""Object queries of the demo's architecture, so candidates per prompt."""


def concept_prompt(
    text: str | None, *boxes: tuple[float, float, float, float, int], threshold: float = 0.0
) -> ConceptPrompt:
    """A prompt in fractions of the image's sides, each box with its label; see `placed`."""
    return ConceptPrompt(
        text,
        np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4),
        np.array([box[4] for box in boxes], np.int64),
        threshold,
    )


def placed(prompt: ConceptPrompt, size: tuple[int, int]) -> ConceptPrompt:
    """The prompt in pixels of an image of (height, width)."""
    scale = np.tile(np.array(size[::-1], np.float32), 2)
    return ConceptPrompt(prompt.text, prompt.boxes * scale, prompt.labels, prompt.threshold)


PROMPTS = {
    "text": concept_prompt("red circle"),
    "other text": concept_prompt("a blue star"),
    "one word": concept_prompt("shape"),
    "box": concept_prompt(None, (0.1, 0.2, 0.4, 0.5, 1)),
    "negative box": concept_prompt(None, (0.1, 0.2, 0.4, 0.5, 0)),
    "boxes": concept_prompt(
        None, (0.1, 0.2, 0.4, 0.5, 1), (0.5, 0.5, 0.9, 0.8, 0), (0, 0.6, 0.3, 1, 1)
    ),
    "text and box": concept_prompt("circle", (0.1, 0.2, 0.4, 0.5, 1)),
    "text and boxes": concept_prompt("circle", (0.1, 0.2, 0.4, 0.5, 1), (0.5, 0.5, 0.9, 0.8, 0)),
}


def embed(engine: ConceptEngine, image: Picture) -> Embedding:
    (embedding,) = engine.encode([engine.prepare(image)])
    return embedding


def replies(
    engine: ConceptEngine, embedding: Embedding, *prompts: ConceptPrompt
) -> list[Candidates]:
    return engine.decode(queries(embedding, prompts))


def ask(engine: ConceptEngine, image: Picture, *prompts: ConceptPrompt) -> list[Candidates]:
    embedding = embed(engine, image)
    return replies(engine, embedding, *(placed(prompt, embedding.size) for prompt in prompts))


class Reference:
    """The result of a prompt by the model of `transformers`, with masks made in two ways."""

    @torch.inference_mode()
    def __init__(self, concept: Concept, image: Picture, prompt: ConceptPrompt) -> None:
        self._processor: Any = concept.processor
        inputs = self._processor(
            images=image,
            text=prompt.text,
            input_boxes=[prompt.boxes.tolist()] if len(prompt.boxes) else None,
            input_boxes_labels=[prompt.labels.tolist()] if len(prompt.boxes) else None,
            return_tensors="pt",
        )
        self._outputs = concept.model(**inputs)
        self._sizes = inputs["original_sizes"].tolist()

    def over(
        self, threshold: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """Scores, masks and boxes above a threshold, best first, by `transformers` alone."""
        (found,) = self._processor.post_process_instance_segmentation(
            self._outputs, threshold=threshold, mask_threshold=0.5, target_sizes=self._sizes
        )
        order = found["scores"].argsort(descending=True, stable=True)
        scores, masks, boxes = (found[name][order] for name in ("scores", "masks", "boxes"))
        return scores.numpy(), masks.bool().numpy(), boxes.numpy()

    @torch.inference_mode()
    def masks_of_meta(self, count: int) -> NDArray[np.bool_]:
        """The masks of the best candidates, as Meta's code makes them from the model's output.

        See `Sam3Processor._forward_grounding` in `sam3/model/sam3_image_processor.py` of
        facebookresearch/sam3 at 99d02f28: logits are interpolated, then become probabilities.
        """
        scores = self._outputs.pred_logits.sigmoid() * self._outputs.presence_logits.sigmoid()
        best = scores[0].argsort(descending=True, stable=True)[:count]
        enlarged = torch.nn.functional.interpolate(
            self._outputs.pred_masks[0, best][:, None],
            self._sizes[0],
            mode="bilinear",
            align_corners=False,
        )
        return (enlarged.sigmoid() > 0.5)[:, 0].numpy()


def masks_of(answer: Candidates, image: Picture) -> list[Mask]:
    return upsample_masks(answer.planes, (image.shape[0], image.shape[1]), answer.threshold)


def masks_from_probabilities(answer: Candidates, image: Picture) -> list[Mask]:
    """The masks if probabilities were enlarged instead of logits, as by `transformers`."""
    probabilities = torch.from_numpy(answer.planes).sigmoid().numpy()
    return upsample_masks(probabilities, (image.shape[0], image.shape[1]), 0.5)


def assert_same_masks(found: list[Mask], expected: NDArray[np.bool_]) -> None:
    for mask, plane in zip(found, expected, strict=True):
        # With random weights many pixels are near the threshold, where rounding decides, so a few
        # pixels of a mask may differ.
        assert iou(mask, Mask.from_plane(plane)) > 0.99 or plane.sum() < 100
        assert np.count_nonzero(mask.to_plane() != plane) <= 0.001 * plane.size


def assert_same(found: Candidates, expected: Candidates) -> None:
    assert found.threshold == expected.threshold
    assert found.scores.shape == expected.scores.shape
    assert np.abs(found.scores - expected.scores).max(initial=0) < SCORE_TOLERANCE
    for score, plane in zip(found.scores, found.planes, strict=True):
        # Candidates with nearly equal scores may come in any order.
        near = expected.planes[np.abs(expected.scores - score) < SCORE_TOLERANCE]
        tolerance = PLANE_TOLERANCE * max(1.0, float(np.abs(near).max()))
        assert np.abs(near - plane).max(axis=(1, 2)).min() < tolerance


@pytest.fixture(scope="module")
def lite_text(concept: Concept, tmp_path_factory: pytest.TempPathFactory) -> Concept:
    """A SAM 3 LiteText with random weights: another text encoder, loaded from its own layout."""
    model = random_lite_text()
    directory = tmp_path_factory.mktemp("weights") / "lite"
    model.save_pretrained(directory)
    concept.processor.save_pretrained(directory)
    found = find_sam3(str(directory))
    loaded, processor = load_sam3(found.source, found.name, CPU)
    assert type(loaded) is Sam3LiteTextModel
    return Concept(loaded, processor, ConceptEngine(loaded, processor, found.name, CPU))


@pytest.mark.parametrize("name", list(PROMPTS))
def test_answers_of_lite_text_are_those_of_transformers(
    lite_text: Concept, pictures: dict[str, Picture], name: str
) -> None:
    image = pictures["wide"]
    prompt = placed(PROMPTS[name], (image.shape[0], image.shape[1]))
    scores, _, boxes = Reference(lite_text, image, prompt).over(0.0)
    (found,) = replies(lite_text.engine, embed(lite_text.engine, image), prompt)
    assert np.abs(found.scores - scores).max() < SCORE_TOLERANCE
    assert found.boxes is not None
    assert np.abs(found.boxes[:5] - boxes[:5]).max() < 0.1


@pytest.mark.parametrize("name", list(PROMPTS))
@pytest.mark.parametrize("picture", ["square", "wide", "tall"])
def test_answers_are_those_of_transformers_with_the_masks_of_meta(
    concept: Concept, pictures: dict[str, Picture], picture: str, name: str
) -> None:
    image = pictures[picture]
    prompt = placed(PROMPTS[name], (image.shape[0], image.shape[1]))
    reference = Reference(concept, image, prompt)
    every, _, _ = reference.over(0.0)
    # In the widest gap between two scores, so that rounding decides nothing.
    middle = int((every[:-1] - every[1:])[5:25].argmax()) + 5
    threshold = float(every[middle : middle + 2].mean())
    prompt = replace(prompt, threshold=threshold)
    (found,) = replies(concept.engine, embed(concept.engine, image), prompt)
    scores, masks, boxes = reference.over(threshold)
    assert len(scores) == middle + 1
    assert found.scores.dtype == found.planes.dtype == np.float32
    assert found.scores.shape == scores.shape
    assert np.abs(found.scores - scores).max() < SCORE_TOLERANCE
    assert found.boxes is not None
    assert np.abs(found.boxes - boxes).max() < 1e-4 * max(image.shape)
    assert_same_masks(masks_of(found, image), reference.masks_of_meta(len(scores)))
    # The masks of `transformers` differ only in what is enlarged.
    assert_same_masks(masks_from_probabilities(found, image), masks)


@pytest.mark.parametrize("kind", ["concept", "lite_text"])
def test_weights_converted_once_give_the_same_answers(
    kind: str, pictures: dict[str, Picture], request: pytest.FixtureRequest
) -> None:
    """In bfloat16, bit for bit those of weights that are converted at every call.

    The embeddings of words are those of float16.
    """
    like: Concept = request.getfixturevalue(kind)
    image = pictures["wide"]
    asked = [PROMPTS[name] for name in PROMPTS]
    rounded = deepcopy(like.model)
    table = words_of(rounded)
    table.weight.data = table.weight.data.half().float()
    plain = ConceptEngine(rounded, like.processor, "random", CPU_BFLOAT16)
    expected = ask(plain, image, *asked)
    own = deepcopy(like.model)
    engine = ConceptEngine(own, like.processor, "random", CPU_BFLOAT16, owned=True)
    words = [part for part in own.text_encoder.modules() if isinstance(part, torch.nn.Linear)]
    assert words
    assert {part.weight.dtype for part in words} == {torch.bfloat16}
    assert words_of(own).weight.dtype == torch.float16
    assert engine.weight_bytes < plain.weight_bytes
    for found, other in zip(ask(engine, image, *asked), expected, strict=True):
        assert np.array_equal(found.scores, other.scores)
        assert np.array_equal(found.planes, other.planes)
    untouched = ConceptEngine(deepcopy(like.model), like.processor, "random", CPU, owned=True)
    assert untouched.weight_bytes == like.engine.weight_bytes


def words_of(model: Any) -> Any:
    """The embedding of words."""
    (found,) = [
        part
        for name, part in model.text_encoder.named_modules()
        if name.endswith("token_embedding")
    ]
    return found


def test_words_in_float16_do_not_change_texts() -> None:
    """Their rounding is far below that of the products in bfloat16."""
    model, processor = load_sam3(str(WEIGHTS / "sam3"), "demo", CPU)
    rows = words_of(model).weight.data
    torch.manual_seed(0)
    rows *= 1 + 1e-3 * torch.randn_like(rows)  # those of the demo are stored in float16
    texts = ["shape", "red circle", "a yellow star", "big purple circle", "no such thing"]

    def features(compute: Any, *, owned: bool = False, rounded: bool = False) -> list[Any]:
        own = deepcopy(model)
        if rounded:
            round_rows(words_of(own))
        engine = ConceptEngine(own, processor, "demo", compute, owned=owned)
        with torch.inference_mode():
            return [engine._text("", text) for text in texts]

    def error(found: list[Any]) -> float:
        pairs = zip(found, exact, strict=True)
        return max(float((one - other).norm() / other.norm()) for one, other in pairs)

    exact = features(CPU)
    products = error(features(CPU_BFLOAT16))
    assert 0 < error(features(CPU, rounded=True)) < products / 4
    assert error(features(CPU_BFLOAT16, owned=True)) < 1.05 * products


@pytest.mark.parametrize("value", [1e5, float("inf"), float("nan")])
def test_words_that_float16_cannot_hold_stay_in_float32(value: float) -> None:
    table = torch.nn.Embedding(3, 4)
    table.weight.data[1, 2] = value
    expected = table.weight.data.clone()
    round_rows(table)
    assert table.weight.dtype == torch.float32
    assert torch.equal(table.weight.nan_to_num(), expected.nan_to_num())


def test_every_part_of_a_prompt_counts(concept: Concept, pictures: dict[str, Picture]) -> None:
    """Otherwise the comparisons of this module would prove little."""
    answers = ask(concept.engine, pictures["wide"], *PROMPTS.values())
    for i, one in enumerate(answers):
        for other in answers[:i]:
            assert np.abs(one.scores - other.scores).max() > 10 * SCORE_TOLERANCE
    (elsewhere,) = ask(concept.engine, pictures["wide"][::-1].copy(), PROMPTS["text"])
    assert np.abs(elsewhere.scores - answers[0].scores).max() > 100 * SCORE_TOLERANCE


def test_prompts_of_any_kind_share_a_call_and_each_gets_the_answer_it_gets_alone(
    concept: Concept, pictures: dict[str, Picture]
) -> None:
    engine = concept.engine
    embeddings = [embed(engine, pictures[name]) for name in ("wide", "tall")]
    kinds = [*PROMPTS.values(), *list(PROMPTS.values())[::-1]]
    asked = [
        Query(embedding, placed(kind, embedding.size))
        for i, kind in enumerate(kinds)
        for embedding in [embeddings[i % 3 == 0]]
    ]
    together = engine.decode(asked)
    assert len(together) == len(asked)
    for query, found in zip(asked, together, strict=True):
        (alone,) = engine.decode([query])
        assert len(alone.scores) == QUERIES
        assert_same(found, alone)


def test_several_threads_get_the_answers_of_one(
    concept: Concept, pictures: dict[str, Picture]
) -> None:
    """Each thread decodes the prompts in its own order, and no text is cached at first."""
    engine = ConceptEngine(concept.model, concept.processor, "random", CPU)
    embeddings = [embed(concept.engine, pictures[name]) for name in ("wide", "tall")]
    asked = [
        Query(embedding, placed(prompt, embedding.size))
        for embedding in embeddings
        for prompt in PROMPTS.values()
    ]
    expected = [concept.engine.decode([query])[0] for query in asked]

    def work(thread: int) -> None:
        for i in np.random.default_rng(thread).permutation(len(asked)):
            (found,) = engine.decode([asked[i]])
            assert_same(found, expected[i])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


def test_a_concept_that_is_not_there_costs_no_mask(
    concept: Concept, pictures: dict[str, Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    decoder = concept.engine._decoder
    real = decoder.masks

    def masks(
        image: ConceptImage, detections: Detections, index: int, kept: Any, tokens: Any
    ) -> Any:
        made.append(len(kept))
        return real(image, detections, index, kept, tokens)

    monkeypatch.setattr(decoder, "masks", masks)
    image = pictures["wide"]
    (every,) = ask(concept.engine, image, concept_prompt("circle"))
    one = float(every.scores[:2].mean())
    made.clear()
    prompts = [concept_prompt("circle", threshold=level) for level in (1.0, one, 1.0)]
    absent, found, _ = ask(concept.engine, image, *prompts)
    assert made == [1]
    assert found.planes.shape == every.planes[:1].shape
    assert absent.planes.shape == (0, *every.planes.shape[1:])
    assert absent.planes.dtype == absent.scores.dtype == np.float32


def test_no_prompts_no_answers(concept: Concept, pictures: dict[str, Picture]) -> None:
    assert ask(concept.engine, pictures["square"]) == []


def test_images_encoded_together_answer_as_if_encoded_alone(
    concept: Concept, pictures: dict[str, Picture]
) -> None:
    images = list(pictures.values())
    together = concept.engine.encode([concept.engine.prepare(image) for image in images])
    assert [embedding.size for embedding in together] == [image.shape[:2] for image in images]
    for embedding, image in zip(together, images, strict=True):
        prompts = [placed(PROMPTS[name], embedding.size) for name in ("text", "boxes")]
        alone = replies(concept.engine, embed(concept.engine, image), *prompts)
        answers = replies(concept.engine, embedding, *prompts)
        for answer, expected in zip(answers, alone, strict=True):
            assert_same(answer, expected)


def test_thresholds_are_each_prompts_own_and_the_best_comes_first(
    concept: Concept, pictures: dict[str, Picture]
) -> None:
    (every,) = ask(concept.engine, pictures["wide"], concept_prompt("circle"))
    assert len(every.scores) == QUERIES
    assert (np.diff(every.scores) <= 0).all()
    levels = [float(every.scores[k]) for k in (0, 5, 20)]
    prompts = [concept_prompt("circle", threshold=level) for level in [*levels, 1.0]]
    answers = ask(concept.engine, pictures["wide"], *prompts)
    for answer, level in zip(answers, [*levels, 1.0], strict=True):
        expected = every.scores[every.scores > level]
        # Rounding decides about a score equal to the threshold.
        assert abs(len(answer.scores) - len(expected)) <= 1
        assert np.allclose(answer.scores, every.scores[: len(answer.scores)], atol=1e-5)
    assert answers[-1].planes.shape == (0, *every.planes.shape[1:])
    assert masks_of(answers[-1], pictures["wide"]) == []


def test_planes_are_logits(concept: Concept, pictures: dict[str, Picture]) -> None:
    (answer,) = ask(concept.engine, pictures["wide"], concept_prompt("circle"))
    assert answer.threshold == 0
    assert answer.planes.min() < 0
    assert answer.planes.max() > 1
    assert answer.logits is None


def test_masks_of_a_trained_model_hardly_depend_on_what_is_enlarged() -> None:
    """The figures of `python -m benchmarks thresholds`, with a margin."""
    model, processor = load_sam3(str(WEIGHTS / "sam3"), "demo", CPU)
    engine = ConceptEngine(model, processor, "demo", CPU)
    count, changed = 0, 0
    for seed in range(3):
        scene = make_scene(seed, (640, 480))
        (found,) = ask(engine, scene.image, concept_prompt("shape", threshold=0.5))
        pairs = zip(
            masks_of(found, scene.image), masks_from_probabilities(found, scene.image), strict=True
        )
        for mask, other in pairs:
            count += 1
            changed += int(np.count_nonzero(mask.to_plane() != other.to_plane()))
            assert iou(mask, other) > 0.9
    assert count >= 5
    assert changed > 0


@pytest.fixture
def embedded(concept: Concept, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Tokens of the texts that were encoded since the test began."""
    texts: list[list[int]] = []
    model: Any = concept.model
    real = model.get_text_features

    def get_text_features(input_ids: torch.Tensor, **inputs: Any) -> Any:
        texts.extend(input_ids.tolist())
        return real(input_ids=input_ids, **inputs)

    monkeypatch.setattr(model, "get_text_features", get_text_features)
    return texts


def test_a_known_text_is_not_embedded_again(
    concept: Concept, pictures: dict[str, Picture], embedded: list[list[int]]
) -> None:
    engine = ConceptEngine(concept.model, concept.processor, "random", CPU)
    image = pictures["square"]
    (first,) = ask(engine, image, PROMPTS["text"])
    assert len(embedded) == 1
    answers = ask(engine, image, PROMPTS["text"], PROMPTS["text"], PROMPTS["other text"])
    assert len(embedded) == 2
    assert_same(answers[0], first)
    assert_same(answers[1], first)
    # The cache spans images, and prompts with boxes only share one text.
    ask(engine, pictures["tall"], PROMPTS["text"], PROMPTS["box"], PROMPTS["boxes"])
    assert len(embedded) == 3


def test_a_text_is_embedded_anew_for_another_tenant(
    concept: Concept, pictures: dict[str, Picture], embedded: list[list[int]]
) -> None:
    """Or the time would tell what others have asked; also of concepts without words."""
    engine = ConceptEngine(concept.model, concept.processor, "random", CPU)
    embedding = embed(engine, pictures["wide"])
    prompts = [placed(PROMPTS[name], embedding.size) for name in ("text", "text and box", "box")]
    expected = replies(engine, embedding, *prompts)
    counts = [len(embedded)]
    for tenant in ("ann", "bob", "ann", "bob"):
        found = engine.decode(queries(embedding, prompts, tenant=tenant))
        counts.append(len(embedded))
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    assert counts == [3, 6, 9, 9, 9]
    # In one batch, too.
    text = prompts[:1]
    both = [*queries(embedding, text, tenant="eve"), *queries(embedding, text, tenant="dan")]
    engine.decode(both)
    assert len(embedded) == 11


def test_a_text_that_several_threads_want_is_embedded_once(
    concept: Concept, pictures: dict[str, Picture], embedded: list[list[int]]
) -> None:
    engine = ConceptEngine(concept.model, concept.processor, "random", CPU)
    query = Query(embed(concept.engine, pictures["wide"]), PROMPTS["text"])
    (expected,) = concept.engine.decode([query])
    embedded.clear()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: engine.decode([query]), range(8)))
    assert len(embedded) == 1
    for (found,) in answers:
        assert_same(found, expected)


def test_a_text_that_could_not_be_embedded_is_tried_again(
    concept: Concept, pictures: dict[str, Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ConceptEngine(concept.model, concept.processor, "random", CPU)
    query = Query(embed(concept.engine, pictures["wide"]), PROMPTS["text"])

    def get_text_features(**inputs: Any) -> Any:
        raise MemoryError("no memory for words")

    with monkeypatch.context() as patch:
        patch.setattr(concept.model, "get_text_features", get_text_features)
        with pytest.raises(MemoryError, match="words"):
            engine.decode([query])
    (found,) = engine.decode([query])
    assert_same(found, concept.engine.decode([query])[0])


@pytest.mark.parametrize("entries", [0, 1])
def test_the_texts_kept_are_bounded(
    concept: Concept, pictures: dict[str, Picture], embedded: list[list[int]], entries: int
) -> None:
    engine = ConceptEngine(concept.model, concept.processor, "random", CPU, text_cache=entries)
    for text in ("circle", "star", "circle", "circle"):
        ask(engine, pictures["square"], concept_prompt(text))
    assert len(embedded) == 3
    assert len(engine._texts) == 1


def test_an_embedding_counts_its_own_tensors_only(
    concept: Concept, pictures: dict[str, Picture]
) -> None:
    """The coarsest level twice (before and after self-attention) and the finer ones once, without
    tensors that are the same for every image and without the unused level."""
    engine = ConceptEngine(concept.model, concept.processor, "random", CPU)
    several = [engine.prepare(pictures[name]) for name in ("square", "wide", "tall")]
    one, *others = engine.encode(several)
    config: Any = concept.model.config.vision_config
    sizes, channels = config.backbone_feature_sizes, config.fpn_hidden_size
    expected = sum(4 * channels * height * width for height, width in [*sizes, sizes[-1]])
    for embedding in (one, *others, *engine.encode([engine.prepare(pictures["large"])])):
        assert embedding.nbytes == expected
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors_in(embedding)
        }
        assert sum(storage.nbytes() for storage in storages.values()) == expected


def tensors_in(embedding: Embedding) -> list[torch.Tensor]:
    """All tensors that an embedding's features refer to."""
    found: list[torch.Tensor] = []

    def walk(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item)
        else:
            for name in getattr(value, "__dataclass_fields__", ()):
                walk(getattr(value, name))

    walk(embedding.features)
    return found


def test_an_embedding_outlives_the_engine_that_made_it(
    concept: Concept, pictures: dict[str, Picture]
) -> None:
    """Embeddings stay cached while a model is unloaded and loaded again."""
    embedding = embed(concept.engine, pictures["wide"])
    reloaded = ConceptEngine(concept.model, concept.processor, "random", CPU)
    prompts = [placed(prompt, embedding.size) for prompt in PROMPTS.values()]
    for found, expected in zip(
        replies(reloaded, embedding, *prompts),
        replies(concept.engine, embedding, *prompts),
        strict=True,
    ):
        assert_same(found, expected)


@pytest.mark.parametrize(
    "text",
    [
        "zzyzx quux",
        "красный круг 红色圆圈 🔴",
        "red " * 500,
        "x" * 5000,
        " ",
        "\n\t",
        ".",
        "\x00",
        "a",
        "<|endoftext|>",
        "RED CIRCLE",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_any_text_is_answered(concept: Concept, pictures: dict[str, Picture], text: str) -> None:
    answers = ask(
        concept.engine,
        pictures["square"],
        concept_prompt(text),
        concept_prompt(text, (0.1, 0.1, 0.5, 0.5, 1)),
        concept_prompt("circle"),
    )
    for answer in answers:
        assert len(answer.scores) == QUERIES
        assert np.isfinite(answer.scores).all()
        assert np.isfinite(answer.planes).all()
    # The other prompts of the batch are not affected.
    (alone,) = ask(concept.engine, pictures["square"], concept_prompt("circle"))
    assert_same(answers[2], alone)


def test_a_long_text_is_cut_at_the_models_length(
    concept: Concept, pictures: dict[str, Picture], embedded: list[list[int]]
) -> None:
    ask(concept.engine, pictures["square"], concept_prompt("circle star " * 100))
    (tokens,) = embedded
    assert len(tokens) == 32
    config: Any = concept.model.config.text_config
    assert tokens[-1] == config.eos_token_id


@pytest.mark.parametrize(
    "box",
    [(0, 0, 1, 1), (0.5, 0.5, 0.5, 0.5), (0.999, 0.999, 1, 1), (0, 0.5, 1, 0.5)],
    ids=["everything", "a point", "a corner", "a line"],
)
def test_boxes_of_any_size_are_answered(
    concept: Concept, pictures: dict[str, Picture], box: tuple[float, float, float, float]
) -> None:
    prompt = concept_prompt(None, (*box, 1))
    (answer,) = ask(concept.engine, pictures["wide"], prompt)
    assert np.isfinite(answer.scores).all()
    assert np.isfinite(answer.planes).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 3), (3, 50), (3, 1), (1, 3)])
def test_tiny_images_are_images(concept: Concept, size: tuple[int, int]) -> None:
    """Three rows must not be mistaken for channels, as a processor that guesses the layout does."""
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    embedding = embed(concept.engine, image)
    assert embedding.size == size
    processor: Any = concept.processor
    pixels = processor.image_processor(images=Image.fromarray(image), return_tensors="pt")
    with torch.inference_mode():
        expected = concept.model.get_vision_features(pixels["pixel_values"]).fpn_hidden_states
    assert torch.allclose(embedding.features.coarse, expected[-2], atol=1e-4)
    (found,) = replies(concept.engine, embedding, concept_prompt("circle"))
    assert [mask.size for mask in masks_of(found, image)] == [size] * QUERIES


def test_bfloat16_gives_nearly_the_same_masks(
    concept: Concept, pictures: dict[str, Picture]
) -> None:
    """The geometry encoder stays in float32, because `roi_align` has no bfloat16 on a CPU."""
    image = pictures["wide"]
    precise = ask(concept.engine, image, *PROMPTS.values())
    fast = ConceptEngine(concept.model, concept.processor, "random", CPU_BFLOAT16)
    assert embed(fast, image).nbytes == embed(concept.engine, image).nbytes / 2
    found = ask(fast, image, *PROMPTS.values())
    for one, expected in zip(found, precise, strict=True):
        assert one.scores.dtype == one.planes.dtype == np.float32
        assert len(one.scores) == len(expected.scores)
        assert np.abs(np.sort(one.scores) - np.sort(expected.scores)).max() < 0.05
        # Nearly equal scores may change their order, so each mask is compared with its best match.
        likes = masks_of(expected, image)
        best = [max(iou(mask, like) for like in likes) for mask in masks_of(one, image)]
        assert np.mean(best) > 0.9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embeddings_kept_in_half_precision_find_the_same_objects(dtype: torch.dtype) -> None:
    """With the demo weights, because a trained model's masks have sharp edges."""
    model, processor = load_sam3(str(WEIGHTS / "sam3"), "demo", CPU)
    engine = ConceptEngine(model, processor, "demo", CPU)
    half = ConceptEngine(model, processor, "demo", replace(CPU, cache_dtype=dtype))
    worst = 1.0
    for seed in range(3):
        scene = make_scene(seed, (256, 192))
        full, halved = embed(engine, scene.image), embed(half, scene.image)
        assert halved.nbytes == full.nbytes / 2
        for text in ("circle", "shape", "red shape"):
            prompt = concept_prompt(text, threshold=0.5)
            (expected,) = replies(engine, full, prompt)
            (found,) = replies(half, halved, prompt)
            assert len(found.scores) == len(expected.scores)
            masks = masks_of(found, scene.image)
            for like in masks_of(expected, scene.image):
                worst = min(worst, max(iou(mask, like) for mask in masks))
    assert worst > 0.97


def test_the_image_encoders_output_gives_the_same_embedding(
    concept: Concept, pictures: dict[str, Picture]
) -> None:
    """So that one encoding serves concepts and clicks."""
    trunk = TrunkEngine(concept.model, concept.processor, "random", CPU)
    for image in pictures.values():
        (direct,) = concept.engine.encode([concept.engine.prepare(image)])
        (encoded,) = trunk.encode([trunk.prepare(image)])
        (derived,) = concept.engine.encode([Prepared(encoded.features, encoded.size)])
        assert derived.size == direct.size == image.shape[:2]
        tensors = zip(derived.features.tensors, direct.features.tensors, strict=True)
        assert all(torch.equal(found, like) for found, like in tensors)
