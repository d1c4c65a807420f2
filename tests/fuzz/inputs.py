"""What people, programs and accidents put where something else belongs; the strategies of all tests in this folder."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# What must not be told, wherever it stands in what comes in.
PASSWORD = "made-up-c0rrect-h0rse-battery"
# Half a surrogate pair has a JSON escape, and no UTF-8.
any_character = st.characters(exclude_categories=())
any_text = st.text(any_character, max_size=40)
# What JSON, URIs, shells, SQL, libpq and logs each take for something of their own.
odd_text = st.one_of(
    any_text,
    st.text(
        st.sampled_from("\0\a\t\n\r\x1b \"'\\%&?#@:/,;=[]{}()<>*$`|~\u00a0\u2028\ud800\udfff\u00e9\u4e00"), max_size=12
    ),
    st.builds(lambda text, times: text * times, st.text(any_character, min_size=1, max_size=3), st.integers(1, 300)),
    st.sampled_from(
        ["", " ", "null", "true", "0", "-1", "NaN", "1e999", "9" * 5000, "../..", "%00", "\u0663", "\u00b2"]
    ),
)
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 10**400])
any_json: st.SearchStrategy[Any] = st.recursive(  # Any: JSON
    st.none() | st.booleans() | numbers | odd_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3),
    max_leaves=6,
)
# Deeper than any reader goes.
deep_json = st.builds(
    lambda opening, closing, times: opening * times + closing * times,
    st.sampled_from(["[", '{"a":', '{"conn_type":', '[{"":']),
    st.sampled_from(["]", "}", ""]),
    st.integers(1, 5000),
)


def examples(most: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return Hypothesis' settings for a test that tries `most` inputs, and in a soak fifty times as many.

    The fixtures of a test serve all its examples.
    """
    times = max(1, settings().max_examples // 100)
    return settings(max_examples=most * times, suppress_health_check=list(HealthCheck))


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[str]) -> str:
    """What was right before somebody cut, doubled, moved or typed over pieces of it."""
    text = draw(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        piece = draw(st.one_of(st.just(""), st.just(text[start:end] * 2), odd_text))
        text = text[:start] + piece + text[end:]
    return text


def near(*right: str) -> st.SearchStrategy[str]:
    """Right, nearly right, or nothing of the kind."""
    return st.one_of(st.sampled_from(right), damaged(st.sampled_from(right)), odd_text)


def as_json(value: Any) -> str:  # Any: JSON
    """As Python writes it, NaN and halves of surrogate pairs included."""
    return json.dumps(value)


def attempt[T, E: Exception](refusal: type[E], call: Callable[[], T]) -> T | E:
    """Return what the call returns, or its refusal; any other error is a finding."""
    try:
        return call()
    except refusal as error:
        return error


def assert_tells_nothing(*texts: str) -> None:
    """No password, and no traceback."""
    for text in texts:
        # A piece that a cut has left is a leak too.
        assert not any(PASSWORD[at : at + 8] in text for at in range(len(PASSWORD) - 7)), text
        assert "Traceback (most recent call last)" not in text
