"""Whatever a model would like to write, its answer can be read, or at least its mentions are words of the post."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_base import LEARNED, make_recipe, texts
from tiny_families import save_family
from tiny_tokenizers import TOKENIZERS
from transformers import GenerationConfig

from rivegs_mllm.answer.format import NATIVE_STEPS, loc_tokens
from rivegs_mllm.answer.serialization import parse, render
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.models.base_model import load_base
from rivegs_mllm.models.generation.constraint import AnswerRow, Constraint, MentionsRow, _restrict
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.models.generation.grammar import Grammar
from rivegs_mllm.models.generation.mentions import Mentions
from rivegs_mllm.models.generation.vocabulary import Vocabulary
from rivegs_mllm.models.generation.writing import AllBut
from rivegs_mllm.runtime.post_errors import TRUNCATED
from rivegs_mllm.tiny.architecture import build_answer_format
from rivegs_mllm.types import TYPES

ANSWER_FORMAT = build_answer_format()
NATIVE = replace(ANSWER_FORMAT, encoding="native", bins=None)
SIZE = (640, 480)
TINY = TOKENIZERS["tiny base"]
VOCABULARIES = {name: Vocabulary(own, len(own) + 3) for name, own in TOKENIZERS.items()}


def write(name: str, row: AnswerRow | MentionsRow, seed: int, most: int, forced: str = "") -> str | None:
    """What a model that likes everything equally writes after what is ``forced``, until it is free; None if it does not
    end in ``most`` tokens."""
    vocabulary, tokenizer = VOCABULARIES[name], TOKENIZERS[name]
    generator = torch.Generator().manual_seed(seed)
    constraint = Constraint([row], greedy=False)
    begun, ids = list(vocabulary.spell(forced)), []
    for _ in range(most):
        scores = constraint(None, torch.zeros(1, vocabulary.columns))[0]
        if isinstance(row, MentionsRow) and not begun and row.allowed is None:
            return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        token = begun.pop(0) if begun else int(torch.multinomial(scores.softmax(-1), 1, generator=generator))
        if token == tokenizer.eos_token_id:
            return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        ids.append(token)
        constraint.watcher(torch.tensor([[token]]), None)
    return None


def held(name: str, answer_format, words, size, most: int, given=()) -> AnswerRow:
    """A row that is held to the whole answer."""
    ids = TOKENIZERS[name].convert_tokens_to_ids(loc_tokens(answer_format.bins)) if answer_format.bins else []
    segments = answer_format.segments[2:] if given else answer_format.segments
    return AnswerRow(Grammar(VOCABULARIES[name], answer_format, segments, words, size, ids, most, dict(given)))


WORD = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=6)
CONTROL = ["<|im_end|>", "<loc_3>", "<s>", "</s>", "<unk>", "<0x41>"]
DECOMPOSED = "e\u0301"
ODD = st.sampled_from(["(", "(PER)", "(PER,", "\\", "▁", "🙏🏽", "يلا", "a\nb", "Ann", "Ann", "", DECOMPOSED, *CONTROL])
WORDS = st.lists(WORD | ODD, max_size=9)
FORMATS = st.sampled_from(
    [replace(own, family=family) for own in (ANSWER_FORMAT, NATIVE) for family in NATIVE_STEPS]
    + [replace(ANSWER_FORMAT, segments=("entities", "boxes")), replace(ANSWER_FORMAT, segments=("knowledge",))]
)
SIZES = st.none() | st.tuples(st.integers(20, 900), st.integers(20, 900)).filter(lambda own: max(own) < 9 * min(own))


def check(prediction, size) -> None:
    """Every line was read, and every box is in the picture."""
    assert prediction.errors == (), prediction
    assert all(entity.type in TYPES for entity in prediction.entities)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", prediction.raw)
    for box in [box for entity in prediction.entities for box in entity.boxes]:
        assert 0 <= box.xmin < box.xmax <= size[0]
        assert 0 <= box.ymin < box.ymax <= size[1]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(
    answer_format=FORMATS, words=WORDS, size=SIZES, most=st.integers(80, 500) | st.just(3000), seed=st.integers(0, 9999)
)
def test_every_answer_ends_and_is_read_without_an_error(name, answer_format, words, size, most, seed):
    text = write(name, held(name, answer_format, words, size, most), seed, most)
    assert text is not None
    prediction = parse("1", text, words, answer_format, size)
    check(prediction, size)
    assert all(entity.span for entity in prediction.entities)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(TOKENIZERS)),
    answer_format=FORMATS.filter(lambda own: "visible" in own.segments),
    known=st.lists(st.booleans() | st.none(), min_size=1, max_size=4),
    size=SIZES,
    seed=st.integers(0, 9999),
)
def test_a_forced_prefix_is_continued_without_an_error(name, answer_format, known, size, seed):
    words = [f"w{number}" for number in range(1, len(known) + 1)]
    prefix = "knowledge:\n" + "".join(f"entity {number}: {word} (PER)\n" for number, word in enumerate(words, 1))
    text = write(name, held(name, answer_format, words, size, 600, enumerate(known, 1)), seed, 600)
    assert text is not None
    check(parse("1", prefix + text, words, answer_format, size), size)


@pytest.mark.parametrize("answer_format", [ANSWER_FORMAT, NATIVE], ids=["loc", "native"])
def test_every_answer_of_the_data_can_be_written(emblems, answer_format):
    """What people annotated is allowed token by token, as training has it, with its end."""
    for sample in read_split(emblems, "train")[:40]:
        size = sample.size if sample.image else None
        lines = render(sample.tokens, "what is known", sample.entities, answer_format, size)
        row = held("tiny base", answer_format, sample.tokens, size, 1000)
        for line in lines:
            for token in TINY(line.text, add_special_tokens=False).input_ids:
                row.consume(token)  # raises where it is not allowed
        row.consume(TINY.eos_token_id)
        assert row.allowed is None


def test_a_token_that_is_not_allowed_is_an_error():
    row = held("tiny base", ANSWER_FORMAT, ["Ann"], SIZE, 100)
    with pytest.raises(RuntimeError, match=rf"token {TINY.eos_token_id} was chosen, which the grammar"):
        row.consume(TINY.eos_token_id)
    text = MentionsRow(VOCABULARIES["tiny base"], Mentions(VOCABULARIES["tiny base"], ["Ann"], TYPES))
    for token in VOCABULARIES["tiny base"].spell("entity 1:"):
        text.consume(token)
    with pytest.raises(RuntimeError, match="the grammar of answers"):
        text.consume(TINY.eos_token_id)


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_that_ran_out_of_tokens_says_so(seed):
    row = held("tiny base", replace(ANSWER_FORMAT, segments=("knowledge", "entities")), ["Ann"] * 30, None, 60)
    assert write("tiny base", row, seed, 60)
    assert row.room.short  # a text of random tokens reaches its limit, and of thirty entities not all have room


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=30, deadline=None)
@given(words=st.lists(WORD | ODD.filter(bool), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_mentions_alone_are_of_the_post(name, words, seed):
    row = MentionsRow(VOCABULARIES[name], Mentions(VOCABULARIES[name], words, TYPES))
    if all(ids == () for ids in row.mentions.ids):
        return  # a tokenizer without bytes cannot write every word
    text = write(name, row, seed, 400, "entity 1:")
    answer = parse("1", text, words, replace(ANSWER_FORMAT, segments=("entities",)), None)
    assert answer.errors == (), text
    assert [(entity.span is not None, entity.type in TYPES) for entity in answer.entities] == [(True, True)]


def test_every_run_of_words_can_be_written():
    own = VOCABULARIES["tiny base"]
    written = {
        write("tiny base", MentionsRow(own, Mentions(own, ["Ann", "Lee", "wins"], TYPES)), seed, 400, "entity 1:")
        for seed in range(400)
    }
    runs = {"Ann", "Lee", "wins", "Ann Lee", "Lee wins", "Ann Lee wins"}
    assert written == {f"entity 1: {run} ({kind})\n" for run in runs for kind in TYPES}


@pytest.mark.parametrize("line", ["knowledge: Ann", "expression 1:", "entity", "entity: none", "visible 1:"])
def test_other_lines_are_free_where_mentions_are_held(line):
    own = VOCABULARIES["tiny base"]
    row = MentionsRow(own, Mentions(own, ["Ann"], TYPES))
    for token in own.spell(line):
        row.consume(token)
        assert row.allowed is None


def test_a_mention_begun_in_the_token_of_its_label_is_held_too():
    own = VOCABULARIES["merged blanks"]
    row = MentionsRow(own, Mentions(own, ["Ann"], TYPES))
    for token in (*own.spell("entity 1"), own.tokens[b": A"]):
        row.consume(token)
    assert [own.bytes[token] for token in row.allowed] == [b"nn"]


def test_a_mention_is_written_as_often_as_it_occurs():
    answer_format = replace(ANSWER_FORMAT, segments=("entities",))
    answers = [write("tiny base", held("tiny base", answer_format, ["Ann"] * 2, None, 900), s, 900) for s in range(60)]
    assert max(answer.count("entity ") for answer in answers) == 2


@pytest.mark.parametrize("greedy", [False, True])
def test_scores_are_restricted_alike_in_arrays_and_tensors(greedy):
    table = np.zeros(9, dtype=bool)
    table[[1, 4]] = True
    allowed = [None, (3,), np.array([2, 5]), AllBut(table, np.flatnonzero(table))]
    scores = torch.randn(4, 9)
    array, tensor = scores.numpy().copy(), scores.clone()
    _restrict(array, allowed, greedy, np.asarray)
    _restrict(tensor, allowed, greedy, torch.as_tensor)
    assert np.array_equal(array, tensor.numpy())
    assert np.array_equal(array[0], scores[0])
    assert array[1].argmax() == 3
    assert array[2].argmax() == (2 if scores[2, 2] > scores[2, 5] else 5)
    assert greedy or np.flatnonzero(np.isfinite(array[2])).tolist() == [2, 5]
    assert np.flatnonzero(np.isinf(array[3])).tolist() == [1, 4]


@pytest.mark.parametrize("family", NATIVE_STEPS)
def test_an_untrained_model_answers_without_an_error(tmp_path, emblems, family):
    recipe = make_recipe(tmp_path, save_family(tmp_path / "base", family, texts(emblems)), emblems)
    system = load_base(recipe)
    torch.manual_seed(0)
    for weights in system.model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    system.model.eval()
    generator = Generator(system, emblems, 400, constrain="all")
    generator.settings = GenerationConfig(**{**generator.settings.to_diff_dict(), "do_sample": True, "top_k": 0})
    samples = read_split(emblems, "dev")[:4]
    samples[1] = replace(samples[1], tokens=("<|im_end|>", "🙏", "يلا"), entities=())
    samples[2] = replace(samples[2], tokens=(), entities=())
    answers = generator.answer(samples)
    firsts = [replace(answer, raw="") for answer in answers]
    rest = generator.continue_answers(samples, firsts, "entities")
    for answer, sample in zip([*answers, *rest], samples * 2, strict=True):
        assert all(error.startswith(TRUNCATED) for error in answer.errors)
        check(replace(answer, errors=()), sample.size)
    assert [len(answer.entities) for answer in rest] == [len(answer.entities) for answer in answers]


def test_names_learned_by_heart_are_not_written_into_other_posts(tmp_path, learned):
    """The base of the tests knows its posts by heart; here they have other words, of the same number."""
    system = load_base(make_recipe(tmp_path, learned / "base", learned / "data", LEARNED))
    system.model.eval()
    posts = [
        replace(post, tokens=tuple(f"word{index}" for index in range(len(post.tokens))), entities=())
        for post in read_split(learned / "data", "dev")
    ]
    for constrain in ("mentions", "all"):
        answers = Generator(system, learned / "data", 60, constrain=constrain).answer(posts)
        mentions = [mention for answer in answers for mention in re.findall(r"entity \d+: (.*?) \(", answer.raw)]
        assert mentions
        assert all(re.fullmatch(r"word\d+( word\d+)*", mention) for mention in mentions)
