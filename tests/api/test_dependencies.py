"""Limits on the depth and the number of values of JSON bodies."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.api.json_body import _check_depth, _check_structure
from inference_server.auth import key_from_request
from inference_server.errors import PromptError
from inference_server.settings import Settings

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30,
)
objects = st.dictionaries(st.text(max_size=3), trees, max_size=4)


@cache
def bounded(depth: int = 32, values: int = 200_000) -> Settings:
    return Settings(max_json_depth=depth, max_json_values=values)


def depth(node: Any) -> int:
    if not isinstance(node, dict | list):
        return 0
    return 1 + max(map(depth, node.values() if isinstance(node, dict) else node), default=0)


def values(node: Any) -> int:
    if not isinstance(node, dict | list):
        return 1
    return 1 + sum(map(values, node.values() if isinstance(node, dict) else node))


@given(objects, st.integers(4, 8))
def test_depth(data: dict[str, Any], most: int) -> None:
    settings = bounded(depth=most)
    if depth(data) <= most:
        _check_depth(data, settings)
    else:
        with pytest.raises(PromptError, match="INFERENCE_MAX_JSON_DEPTH"):
            _check_depth(data, settings)


@given(objects, st.integers(1, 40))
def test_never_more_values_than_allowed(data: dict[str, Any], most: int) -> None:
    raw = json.dumps(data).encode()
    try:
        _check_structure(raw, bounded(values=most))
    except PromptError as error:
        assert "INFERENCE_MAX_JSON_VALUES" in error.message  # noqa: PT017
    else:
        # Each list or object has a bracket, and each further value in it a comma.
        assert values(data) <= 2 * most + 1


@given(
    st.dictionaries(st.sampled_from(["api_key", "key"]), st.text(max_size=9)),
    st.dictionaries(st.sampled_from(["authorization", "x-api-key"]), st.text(max_size=20)),
    st.none() | st.dictionaries(st.sampled_from(["api_key", "image"]), trees),
)
def test_any_headers_are_searched_for_a_key(
    query: dict[str, str], headers: dict[str, str], body: Any
) -> None:
    key = key_from_request(query, headers, body)
    assert key is None or (isinstance(key, str) and key)
