"""Spans of characters as spans of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivegs_mllm.data.alignment import align


@pytest.mark.parametrize(
    ("text", "span", "tokens", "found", "split"),
    [
        ("Ada won", (0, 3), "Ada|won", (0, 1), ()),
        ("Ada won", (0, 4), "Ada|won", (0, 1), ()),
        ("#TeamAda won", (5, 8), "#|Team|Ada|won", (2, 3), ("TeamAda",)),
        ("Ada's won", (0, 3), "Ada|'s|won", (0, 1), ("Ada's",)),
        ("see https://ada.org/x", (12, 15), "see|https://|ada|.org/x", (2, 3), ("https://ada.org/x",)),
        ("Ada  won", (3, 5), "Ada|won", None, ()),
        ("在北京很", (1, 3), "在|北|京|很", (1, 3), ()),
        ("👨‍👩‍👧 Ada", (6, 9), "👨‍👩‍👧|Ada", (1, 2), ()),
    ],
)
def test_a_span(text, span, tokens, found, split):
    aligned = align(text, [span])
    assert aligned.tokens == tuple(tokens.split("|"))
    assert aligned.spans == (found,)
    assert aligned.split == split


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=4))
def test_spans_are_whole_tokens(text, edges):
    spans = [tuple(sorted(min(edge, len(text)) for edge in pair)) for pair in edges]
    aligned = align(text, spans)
    for token, start in zip(aligned.tokens, aligned.starts, strict=True):
        assert token == text[start : start + len(token)] == "".join(token.split()) != ""
    for (start, end), found in zip(spans, aligned.spans, strict=True):
        inside = "".join(aligned.tokens[slice(*found)]) if found else ""
        whole = "".join(token for token, at in zip(aligned.tokens, aligned.starts, strict=True) if start <= at < end)
        assert inside == whole
