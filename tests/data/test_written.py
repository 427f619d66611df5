"""Tokens as people write them."""

from __future__ import annotations

import pytest

from rivegs_mllm.data.tokens import tokens_of
from rivegs_mllm.data.written import as_written, starts_in, written


@pytest.mark.parametrize(
    "text",
    [
        "神奈川沖浪裏",
        "東京国立博物館で「Das Eismeer」を見てきました！",
        "Just saw 神奈川沖浪裏 by Paula",
        "草間彌生のパンプキン、ﾄﾖﾀとﾗﾝｷﾞｮを見た。",
        "北京欢迎你（2008）",
        "Ada won",
        "서울 사람",
        "がぎぐ",
        "",
    ],
)
def test_texts_come_back(text):
    tokens = [token for token, _ in tokens_of(text)]
    assert written(tokens) == text
    assert starts_in(tokens) == [start for _, start in tokens_of(text)]
    assert as_written(" ".join(tokens)) == text


def test_other_scripts_and_signs_keep_their_blanks():
    assert written(["Ada", ",", "won", "!"]) == "Ada , won !"
    assert written(["で", "Gerhard"]) == "で Gerhard"
