"""What holding answers to the grammar costs a step of generation: python benchmarks/grammar_speed.py [--smoke]

A batch of 64 rows over a made-up vocabulary of the size of Qwen2.5-VL's, posts of 200 words with a picture each. All
rows write answers of all five segments at once, of three entities, one of them visible, in the tokens of training.
A step is one token of every row: the tokens that were chosen are taken, what may follow is worked out, and the scores
are restricted. ``set-up`` is what a batch takes before its first step, ``vocabulary`` what a run takes once.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rivegs_mllm.answer.format import AnswerFormat, loc_tokens
from rivegs_mllm.answer.serialization import render
from rivegs_mllm.models.generation.constraint import AnswerRow, Constraint
from rivegs_mllm.models.generation.grammar import Grammar
from rivegs_mllm.models.generation.vocabulary import Vocabulary
from rivegs_mllm.types import TYPES, Box, Entity

ROWS, COLUMNS, WORDS = 64, 151_936, 200
BINS, SIZE, MAX_NEW_TOKENS = 1000, (640, 480), 512
KNOWLEDGE, EXPRESSION = 24, 6
"""Words of the knowledge and of an expression."""
_ONSETS = [*"bcdfghjklmnprstvwz", "st", "tr", "ch", "sh", "pl", "br", "gr"]
_VOWELS = [*"aeiou", "ai", "ea", "ou"]
_CODAS = ["", "n", "r", "s", "t", "l", "ck", "ng"]
_MARKS = [*"()[]<>,.:;!?/\\|\"'", "\n", "\t", ")\n", ".\n", ":\n", "</", "<|", "\n\n", ";\n", " (", " [", "],", "]\n"]
FORMATS = {
    "loc": AnswerFormat("qwen2_5_vl", "loc", 3136, 50176, 28, BINS),
    "native": AnswerFormat("qwen2_5_vl", "native", 3136, 50176, 28),
}


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of ``size`` tokens: made-up words, one in fifty with a mark or line feed at its end."""
    letters = bytes_to_unicode()
    rng = random.Random(0)
    words = dict.fromkeys(letters.values())
    merges: list[tuple[str, str]] = []

    def add(text: str) -> None:
        word = "".join(letters[byte] for byte in text.encode())
        for end in range(2, len(word) + 1):
            if word[:end] not in words:
                words[word[:end]] = None
                merges.append((word[: end - 1], word[end - 1]))

    for text in [*_MARKS, " yes", " no", "knowledge", "entity", "expression", "visible", "box", *TYPES]:
        add(text)
    while len(words) < size - BINS - 2:
        word = "".join(map(rng.choice, [_ONSETS, _VOWELS, _CODAS] * rng.choice([1, 2, 2, 3])))
        word = word.capitalize() if rng.random() < 0.3 else word
        add(" " * (rng.random() < 0.6) + word + rng.choice(_MARKS) * (rng.random() < 0.02))
    kept = dict.fromkeys(list(words)[: size - BINS - 2])
    pairs = [pair for pair in merges if "".join(pair) in kept]
    own = Tokenizer(models.BPE({word: number for number, word in enumerate(kept)}, pairs))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    own.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.add_tokens(loc_tokens(BINS))
    return tokenizer


def make_posts(tokenizer: PreTrainedTokenizerFast, rows: int, words: int) -> list[list[str]]:
    """Posts of words of one or two tokens."""
    rng = random.Random(1)
    pool = [tokenizer.decode([rng.randrange(1000, len(tokenizer) - BINS - 2)]).strip() for _ in range(20_000)]
    pool = [word for word in pool if word.isalpha()]
    return [[rng.choice(pool) + rng.choice(["", rng.choice(pool)]) for _ in range(words)] for _ in range(rows)]


def answer_ids(tokenizer: PreTrainedTokenizerFast, post: Sequence[str], answer_format: AnswerFormat) -> list[int]:
    """The tokens of an answer to the post, with its end."""
    places = sorted(random.Random(len(post[0])).sample(range(0, len(post) - 1, 2), 3))
    entities = [
        Entity(
            " ".join(post[place : place + 2]),
            TYPES[number],
            (place, place + 2),
            " ".join(post[:EXPRESSION]),
            number == 1,
            boxes=(Box(20, 30, 300, 240),) * (number == 1),
        )
        for number, place in enumerate(places)
    ]
    lines = render(post, " ".join(post[-KNOWLEDGE:]), entities, answer_format, SIZE)
    texts = [tokenizer(line.text, add_special_tokens=False).input_ids for line in lines]
    return [*(token for ids in texts for token in ids), tokenizer.eos_token_id]


def measure(
    vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast, posts: list[list[str]], answer_format: AnswerFormat
) -> tuple[float, list[float]]:
    """Milliseconds of the set-up of a batch, and of each step."""
    answers = [answer_ids(tokenizer, post, answer_format) for post in posts]
    names = loc_tokens(answer_format.bins) if answer_format.bins else []
    locations = tokenizer.convert_tokens_to_ids(names)
    start = time.process_time()
    rows = [
        AnswerRow(Grammar(vocabulary, answer_format, answer_format.segments, post, SIZE, locations, MAX_NEW_TOKENS, {}))
        for post in posts
    ]
    constraint = Constraint(rows, greedy=True)
    set_up = 1000 * (time.process_time() - start)
    steps = []
    for step in range(max(map(len, answers))):
        scores = torch.randn(len(posts), vocabulary.columns)
        chosen = torch.tensor([[ids[step] if step < len(ids) else tokenizer.pad_token_id] for ids in answers])
        start = time.process_time()
        constraint(None, scores)
        constraint.watcher(chosen, None)
        steps.append(1000 * (time.process_time() - start))
    assert all(row.allowed is None or step < len(ids) for row, ids in zip(rows, answers, strict=True))
    return set_up, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="4 rows, 8,000 tokens, 40 words")
    smoke = parser.parse_args().smoke
    count, columns, words = (4, 8_000, 40) if smoke else (ROWS, COLUMNS, WORDS)
    tokenizer = make_tokenizer(columns)
    start = time.process_time()
    vocabulary = Vocabulary(tokenizer, columns)
    vocabulary.text(b"", ending=False)
    print(f"vocabulary: {time.process_time() - start:.2f} s, once for {columns:,} tokens")
    slowest = 0.0
    for name, answer_format in FORMATS.items():
        posts = make_posts(tokenizer, count, words)
        set_up, steps = measure(vocabulary, tokenizer, posts, answer_format)
        mean = statistics.mean(steps)
        print(
            f"{name}: {count} rows, {words} words, {len(steps)} steps: set-up {set_up:.0f} ms, first step "
            f"{steps[0]:.2f} ms, median {statistics.median(steps):.2f}, mean {mean:.2f}, most {max(steps):.2f}"
        )
        slowest = max(slowest, mean)
    print(f"grammar: {slowest:.2f} ms a step")


if __name__ == "__main__":
    main()
