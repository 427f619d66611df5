"""Tokens as a person would find them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rivegs_mllm.data.tokens import tokens_of


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Zarvik Molen scores!", "Zarvik|Molen|scores|!"),
        ("RT @KevinDurant: #CP3 is back", "RT|@|KevinDurant|:|#|CP3|is|back"),
        ("don't, Jay-Z's AT&T", "don't|,|Jay-Z's|AT&T"),
        ("U.S.A. at 12:30, 1,000.50 or 40%...", "U.S.A.|at|12:30|,|1,000.50|or|40%|..."),
        ("see https://t.co/a?b=1, nasa.gov.", "see|https://t.co/a?b=1|,|nasa.gov|."),
        ("so nice!!! :-) (really)", "so|nice|!!!|:-)|(|really|)"),
        ("😀👍🏽 👨‍👩‍👧 🇩🇪🇫🇷 ❤️", "😀|👍🏽|👨‍👩‍👧|🇩🇪|🇫🇷|❤️"),
        ("北京3月に行く", "北|京|3|月|に|行|く"),
        ("Münchenにてコーヒーを飲むらーめんｶﾞ", "München|にて|コーヒー|を|飲|むらーめん|ｶﾞ"),
        ("می\u200cخواهم 🏴\U000e0067\U000e0062\U000e007f 1️⃣", "می\u200cخواهم|🏴\U000e0067\U000e0062\U000e007f|1️⃣"),
        ("e\u0301te\u0301 Zoë O’Brien", "e\u0301te\u0301|Zoë|O’Brien"),
        ("a\u200bb\x00c\u202e d\te", "a|b|c|d|e"),
        ("snake_case_99 “quoted” — dash", "snake_case_99|“|quoted|”|—|dash"),
        ("KLEIBON 'S FUKA 3D 0A", "KLEIBON|'S|FUKA|3D|0A"),
        ("", ""),
    ],
)
def test_tokens(text, tokens):
    assert [token for token, _ in tokens_of(text)] == (tokens.split("|") if tokens else [])


@given(st.text(max_size=60))
def test_no_token_is_empty_or_holds_white_space_and_each_is_where_it_is_said(text):
    place = 0
    for token, start in tokens_of(text):
        assert text[start : start + len(token)] == token
        assert token
        assert token == "".join(token.split())
        assert start >= place
        place = start + len(token)


@given(st.lists(st.from_regex(r"[A-Za-z0-9]{1,9}", fullmatch=True), max_size=9))
def test_words_between_blanks_are_tokens(words):
    assert [token for token, _ in tokens_of(" ".join(words))] == words
