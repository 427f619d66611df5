"""Whatever a model would like to write, the mentions it writes are words of the post."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_base import LEARNED, make_recipe
from transformers import AutoProcessor

from rivegs_mllm.answer.serialization import parse
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.models.base_model import TINY_BASE, load_base
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.models.generation.mention_constraint import (
    MAX_MENTION_WORDS,
    MentionConstraint,
    TokenBytes,
)
from rivegs_mllm.tiny.architecture import build_answer_format
from rivegs_mllm.types import TYPES

TOKENIZER = AutoProcessor.from_pretrained(TINY_BASE).tokenizer
SPELLING = TokenBytes(TOKENIZER)
ANSWER_FORMAT = replace(build_answer_format(), segments=("entities",))


def write(words: list[str], seed: int, begun: str = "entity 1:", steps: int = 400) -> str:
    """What a model that likes everything equally goes on to write until the type of the entity is said."""
    generator = torch.Generator().manual_seed(seed)
    mentions = MentionConstraint(SPELLING, [words], TYPES)
    ids = [TOKENIZER.eos_token_id]
    mentions(torch.tensor([ids]), torch.zeros(1, len(TOKENIZER)))
    for token in TOKENIZER(begun, add_special_tokens=False).input_ids:
        ids.append(token)
        scores = mentions(torch.tensor([ids]), torch.zeros(1, len(TOKENIZER)))
    for _ in range(steps):
        if torch.isfinite(scores).all():
            break
        ids.append(int(torch.multinomial(scores[0].softmax(-1), 1, generator=generator)))
        scores = mentions(torch.tensor([ids]), torch.zeros(1, len(TOKENIZER)))
    return TOKENIZER.decode(ids[1:], clean_up_tokenization_spaces=False)


WORD = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=6)


@settings(max_examples=60)
@given(
    words=st.lists(WORD | st.sampled_from(["(", "(PER)", "\\", "<|im_end|>", "🙏", "يلا"]), min_size=1, max_size=9),
    seed=st.integers(0, 99),
)
def test_every_mention_is_of_the_post(words, seed):
    text = write(words, seed)
    assert text.startswith("entity 1: ")
    assert text[-1] in "\n,"
    answer = parse("1", text if text[-1] == "\n" else f"{text} 1)\n", words, ANSWER_FORMAT, None)
    assert [entity.type in TYPES for entity in answer.entities] == [True]
    assert [entity.text for entity in answer.entities if entity.span] == [entity.text for entity in answer.entities]
    assert len(answer.entities) == 1


def test_every_run_of_words_can_be_written():
    written = {write(["Ann", "Lee", "wins"], seed) for seed in range(400)}
    runs = {"Ann", "Lee", "wins", "Ann Lee", "Lee wins", "Ann Lee wins"}
    mentions, types = ({text.rpartition(" (")[place] for text in written} for place in (0, 2))
    assert mentions == {f"entity 1: {run}" for run in runs}
    assert types == {f"{kind}{mark}" for kind in TYPES for mark in (")\n", ",")}


@pytest.mark.parametrize("line", ["knowledge: Ann", "expression 1:", "entity", "entity: none", "visible 1:"])
def test_other_lines_are_free(line):
    assert write(["Ann"], 0, line) == line


def test_a_mention_has_a_longest_length():
    mentions = MentionConstraint(SPELLING, [[str(number) for number in range(500)]], TYPES).mentions[0]
    assert max(mention.count(b" ") for mention in mentions) == MAX_MENTION_WORDS + 1


def test_the_bytes_of_tokens_are_those_of_their_text():
    assert {spelled for spelled in SPELLING.tokens if len(spelled) == 1} == {bytes([byte]) for byte in range(256)}
    for token, spelled in SPELLING.bytes.items():
        text = TOKENIZER.decode([token], clean_up_tokenization_spaces=False)
        assert "\ufffd" in text or text.encode() == spelled
    assert SPELLING.bytes[TOKENIZER(" ä", add_special_tokens=False).input_ids[0]][:1] == b" "


def test_names_learned_by_heart_are_not_written_into_other_posts(tmp_path, learned):
    """The base of the tests knows its posts by heart; here they have other words, of the same number."""
    system = load_base(make_recipe(tmp_path, learned / "base", learned / "data", LEARNED))
    system.model.eval()
    posts = [
        replace(post, tokens=tuple(f"word{index}" for index in range(len(post.tokens))), entities=())
        for post in read_split(learned / "data", "dev")
    ]
    answers = Generator(system, learned / "data", 60).answer(posts)
    mentions = [mention for answer in answers for mention in re.findall(r"entity \d+: (.*?) \(", answer.raw)]
    assert mentions
    assert all(re.fullmatch(r"word\d+( word\d+)*", mention) for mention in mentions)
