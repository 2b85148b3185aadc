"""The demo's words."""

import numpy as np
import pytest
from transformers import CLIPTokenizer

from inference_server.demo import WEIGHTS
from inference_server.demo.shapes import COLORS, SHAPES
from training.prompts import BOX_PADDING, VISUAL_TEXT, sample_box_prompt, sample_text_prompt
from training.vocabulary import COLOR_NAMES, Concept, build_tokenizer, phrase, plural

COLOR = np.array([0, 1, 0, -1, -1, -1, -1, -1])
SHAPE = np.array([0, 0, 2, -1, -1, -1, -1, -1])
BOXES = np.tile(np.array([0.2, 0.2, 0.5, 0.6], np.float32), (8, 1))


@pytest.mark.parametrize("word", [*COLORS, *SHAPES, *map(plural, SHAPES), "shape", "visual", "a"])
def test_known_words_are_few_tokens(word: str) -> None:
    # Most words are one token; merges of words with a common prefix may split one or two.
    tokens = build_tokenizer().tokenize(word)
    assert "".join(tokens) == word + "</w>"
    assert len(tokens) <= 4


def test_the_checkpoint_that_ships_has_these_words() -> None:
    shipped = CLIPTokenizer.from_pretrained(WEIGHTS / "sam3")
    assert shipped.get_vocab() == build_tokenizer().get_vocab()


def test_tokenizer_survives_words_it_has_never_seen(tmp_path: object) -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("Zebra ünïcødé 🙂 \x00 𝔘")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert max(ids) < len(tokenizer)
    assert tokenizer("RED Circle")["input_ids"] == tokenizer("red circle")["input_ids"]


@pytest.mark.parametrize(
    ("concept", "expected"),
    [
        (Concept(), [True, True, True]),
        (Concept(color=0), [True, False, True]),
        (Concept(shape=0), [True, True, False]),
        (Concept(0, 2), [False, False, True]),
        (Concept(nothing=True), [False, False, False]),
    ],
)
def test_concept_selects(concept: Concept, expected: list[bool]) -> None:
    chosen = concept.select(COLOR, SHAPE)
    assert chosen[:3].tolist() == expected
    assert not chosen[3:].any()


def test_phrases_name_the_concept() -> None:
    rng = np.random.default_rng(0)
    for color in range(len(COLOR_NAMES)):
        for shape in range(len(SHAPES)):
            words = phrase(Concept(color, shape), rng).split()
            assert COLOR_NAMES[color] in words
            assert SHAPES[shape] in words or plural(SHAPES[shape]) in words


def test_text_prompts_agree_with_their_words() -> None:
    rng = np.random.default_rng(1)
    absent = 0
    for _ in range(400):
        prompt = sample_text_prompt(rng, COLOR, SHAPE)
        named = {name for name in COLOR_NAMES if name in prompt.text.split()}
        for index in np.flatnonzero(prompt.wanted):
            assert named <= {COLOR_NAMES[COLOR[index]]}
        absent += not prompt.wanted.any()
    assert 60 < absent < 200


def test_box_prompts_agree_with_their_labels() -> None:
    rng = np.random.default_rng(2)
    kinds: dict[tuple[bool, bool, bool], int] = {}
    for _ in range(600):
        prompt = sample_box_prompt(rng, COLOR, SHAPE, BOXES)
        assert prompt.labels is not None
        assert prompt.objects is not None
        positive = prompt.objects[prompt.labels == 1]
        negative = prompt.objects[prompt.labels == 0]
        assert len(positive) + len(negative) == (prompt.labels != BOX_PADDING).sum() >= 1
        kind = (prompt.text != VISUAL_TEXT, bool(len(positive)), bool(len(negative)))
        kinds[kind] = kinds.get(kind, 0) + 1
        assert prompt.wanted[positive].all()
        assert not prompt.wanted[negative].any()
        if prompt.text == VISUAL_TEXT:  # all objects differ
            assert prompt.wanted.sum() == (1 if len(positive) else 0)
    assert min(kinds.values()) > 10
    assert len(kinds) == 6


def test_texts_with_a_negative_box_keep_other_kinds() -> None:
    rng = np.random.default_rng(3)
    prompts = [sample_box_prompt(rng, COLOR, SHAPE, BOXES) for _ in range(300)]
    kept = [
        prompt.wanted.any()
        for prompt in prompts
        if prompt.text != VISUAL_TEXT and prompt.labels is not None and 1 not in prompt.labels
    ]
    assert 0.4 < np.mean(kept) < 0.95


def test_empty_scenes_have_box_prompts() -> None:
    nothing = np.full(8, -1)
    prompt = sample_box_prompt(np.random.default_rng(0), nothing, nothing, BOXES)
    assert not prompt.wanted.any()
