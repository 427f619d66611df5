"""Language pre-training of the tiny base: copying text, describing scenes with boxes, and grounding expressions.

It is given neither names of a benchmark nor the task: no entity types, no knowledge, no mention in its answers. The
lines it writes are those of an answer (serialization.py), so that fine-tuning need teach only the task and the names.
"""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

from data_builders.emblems.language import invent_names, write_post
from data_builders.emblems.looks import Look, near_look, random_look
from data_builders.emblems.scene import Scene
from rivegs_mllm.answer.format import AnswerFormat, loc_tokens
from rivegs_mllm.answer.serialization import NO, YES, AnswerLine, escape, line_start
from rivegs_mllm.models.batching import SampleEncoder, Tensors
from rivegs_mllm.tiny.architecture import BINS, MERGE
from rivegs_mllm.tiny.attention_supervision import CELLS, AttentionSupervision
from rivegs_mllm.tiny.corpus import paragraphs
from rivegs_mllm.tiny.scenes import random_scene
from rivegs_mllm.tiny.vision_pretraining import COVERED, MAX_LOOK_TOKENS, cell_owners, word_tokens
from rivegs_mllm.training.dataset.rows import IGNORED, Collator
from rivegs_mllm.training.loss import answer_loss
from rivegs_mllm.types import TYPES, Box

BATCHES_SORTED = 8
"""So many batches are drawn at a time and sorted by length, so that each has little padding."""
LOSS_WEIGHTS = {"knowledge": 0.0, "visible": 4.0}
"""By which a token's loss is multiplied; the knowledge segment is what ``decide_task`` gives within an answer."""


_OF_A_CAPITAL = ("{0}.", "{0} comes before {1}.", "{0}: {1} (behind it).", "Here {0} is followed by {1}.")


@dataclass(frozen=True)
class CopiedSpan:
    """Characters of a piece, counted from ``start``, that stand in the question from ``source`` on."""

    piece: int
    start: int
    source: int
    length: int


@dataclass(frozen=True)
class PretrainingExample:
    """A question, its scene, the prefix of the answer that is given, and the rest, which is the target.

    ``about`` is the look that each piece of both refers to, None where there is none or it is not known yet;
    ``copied`` what the answer takes from the question.
    """

    question: str
    scene: Scene | None
    given: tuple[AnswerLine, ...]
    answer: tuple[AnswerLine, ...]
    about: tuple[Look | None, ...]
    copied: tuple[CopiedSpan, ...] = ()


def corpus(seed: int) -> Iterator[str]:
    """The texts that the tokenizer is trained on: English, posts, expressions and the lines of an answer."""
    rng = random.Random(f"{seed}/corpus")
    yield from paragraphs()
    for _ in range(20_000):
        yield random_post(rng)
    for _ in range(4_000):
        yield random_look(rng, rng.choice(TYPES)).expression
        yield "\n".join(
            f"{line_start(segment, rng.randint(1, 5))}{YES}{NO} (PER)" for segment in ("entities", "visible", "boxes")
        )


def random_post(rng: random.Random) -> str:
    """A post about names invented for it alone."""
    kinds = [rng.choice(TYPES) for _ in range(rng.randint(0, 3))]
    return " ".join(write_post(rng, list(zip(invent_names(rng, kinds), kinds, strict=True))).tokens)


def repeat_task(rng: random.Random) -> PretrainingExample:
    """A text, to be repeated word by word: names, posts, or a piece of plain English."""
    kind = rng.random()
    if kind < 0.3:
        text = " ".join(invent_names(rng, [rng.choice(TYPES) for _ in range(rng.randint(1, 4))]))
    elif kind < 0.7:
        text = random_post(rng)
    else:
        words = rng.choice(_PARAGRAPHS).split()
        start = rng.randrange(len(words))
        text = " ".join(words[start : start + rng.randint(3, 20)])
    text, question, label = escape(text), "Repeat: ", "text: "
    copied = (CopiedSpan(0, len(label), len(question), len(text)),)
    return PretrainingExample(
        f"{question}{text}", None, (), (AnswerLine("entities", f"{label}{text}\n"),), (None,), copied
    )


def capitals_task(rng: random.Random) -> PretrainingExample:
    """A text, of which the runs of capitalised words are to be listed with what follows each.

    A line each, or first all in one line, one sentence a run. With a scene at times, which has nothing to do with it.
    """
    words = [escape(word) for word in random_post(rng).split()]
    question = "Capitals: "
    places = [len(question) + sum(len(word) + 1 for word in words[:number]) for number in range(len(words))]
    runs: list[tuple[_Part, _Part]] = []
    start = 0
    for capital, own in itertools.groupby(words, lambda word: word[0].isupper()):
        run = list(own)
        end = start + len(run)
        if capital:
            behind = (words[end], places[end]) if end < len(words) else ("the end", None)
            runs.append(((" ".join(run), places[start]), behind))
        start = end
    lines = [_filled([(f"capital {number}: {{0}} ({{1}})\n", run)]) for number, run in enumerate(runs, 1)]
    if not runs:
        lines = [("capital: none\n", [])]
    elif rng.random() < 0.7:
        sentence = rng.choice(_OF_A_CAPITAL)
        lines.insert(0, _filled([("capitals:", ()), *((f" {sentence}", run) for run in runs), ("\n", ())]))
    answer = tuple(AnswerLine("entities", text) for text, _ in lines)
    copied = tuple(CopiedSpan(number, *place) for number, (_, own) in enumerate(lines) for place in own)
    scene = random_scene(rng) if rng.random() < 0.4 else None
    return PretrainingExample(f"{question}{' '.join(words)}", scene, (), answer, (None,) * len(answer), copied)


_Part = tuple[str, int | None]
"""A piece of text and where it stands in the question, None where it does not."""


def _filled(sentences: Sequence[tuple[str, Sequence[_Part]]]) -> tuple[str, list[tuple[int, int, int]]]:
    """Format strings filled with parts and joined, and for each part of the question start, source and length."""
    text, copied = "", []
    for sentence, parts in sentences:
        for literal, field, _, _ in string.Formatter().parse(sentence):
            text += literal
            if field is not None:
                part, source = parts[int(field)]
                if source is not None:
                    copied.append((len(text), source, len(part)))
                text += part
    return text, copied


def describe_task(rng: random.Random, answer_format: AnswerFormat) -> PretrainingExample:
    """A scene, every emblem of which is to be described and boxed in reading order."""
    scene = random_scene(rng)
    looks = list(dict.fromkeys(placement.look for placement in scene.placements))
    boxes = where(looks, scene)
    return PretrainingExample(
        "Describe.", scene, (), (*expressions(looks), *boxed(boxes, scene, answer_format)), (*looks, *looks)
    )


def decide_task(rng: random.Random, answer_format: AnswerFormat) -> PretrainingExample:
    """A scene and expressions, each followed at once by whether it fits something there, and where.

    Six decisions a picture, each next to its expression, teach what ``find_task`` asks for faster than that does.
    """
    scene = random_scene(rng)
    looks = dict.fromkeys(placement.look for placement in scene.placements if rng.random() < 0.7)
    while len(looks) < 6:
        looks[_absent(rng, scene)] = None
    pieces: list[AnswerLine] = []
    about: list[Look | None] = []
    for look in rng.sample(list(looks), len(looks)):
        (own,) = where([look], scene)
        about += [None, look, look]
        pieces += [AnswerLine("knowledge", f"{look.expression}?"), AnswerLine("visible", YES if own else NO)]
        pieces.append(AnswerLine("boxes", f" {answer_format.encode_boxes(own, scene.image.size)}\n" if own else "\n"))
    return PretrainingExample("Judge.", scene, (), tuple(pieces), tuple(about))


def find_task(rng: random.Random, answer_format: AnswerFormat) -> PretrainingExample:
    """A scene and expressions, some of which fit nothing in it: which do, and where. At times with a post beside it."""
    scene = random_scene(rng)
    shown = [placement.look for placement in scene.placements]
    single = rng.random() < 0.5  # learned first
    asked = dict.fromkeys(rng.sample(shown, rng.randint(0, 1 if single else min(3, len(shown)))))
    for _ in range(rng.randint(0, 3) if asked and not single else not asked):
        asked[_absent(rng, scene)] = None
    looks = rng.sample(list(asked), len(asked))
    boxes = where(looks, scene)
    decisions = tuple(
        AnswerLine("visible", f"{line_start('visible', number)}{YES if own else NO}\n")
        for number, own in enumerate(boxes, 1)
    )
    shown = [look for look, own in zip(looks, boxes, strict=True) if own]
    answer = (*decisions, *boxed(boxes, scene, answer_format))
    question = f"Find. {escape(random_post(rng))}" if rng.random() < 0.5 else "Find."
    return PretrainingExample(question, scene, expressions(looks), answer, (*looks, *looks, *shown))


def _absent(rng: random.Random, scene: Scene) -> Look:
    """A look that the scene does not show, half the time one that is like a look it shows."""
    shown = [placement.look for placement in scene.placements]
    look = near_look(rng, rng.choice(shown)) if rng.random() < 0.5 else random_look(rng, rng.choice(TYPES))
    return _absent(rng, scene) if look in shown else look


def where(looks: list[Look], scene: Scene) -> list[tuple[Box, ...]]:
    """The boxes of each look in pixels of the scene, none for one that the scene does not show."""
    return [tuple(placement.box for placement in scene.placements if placement.look == look) for look in looks]


def expressions(looks: list[Look]) -> tuple[AnswerLine, ...]:
    """The third segment of an answer."""
    return tuple(
        AnswerLine("expressions", f"{line_start('expressions', number)} {look.expression}\n")
        for number, look in enumerate(looks, 1)
    )


def boxed(boxes: list[tuple[Box, ...]], scene: Scene, answer_format: AnswerFormat) -> tuple[AnswerLine, ...]:
    """The last segment of an answer."""
    return tuple(
        AnswerLine("boxes", f"{line_start('boxes', number)} {answer_format.encode_boxes(own, scene.image.size)}\n")
        for number, own in enumerate(boxes, 1)
        if own
    )


class PretrainingDataset(IterableDataset):
    """Endless examples, each worker its own stream, in batches of ``batch_size`` of about equal length."""

    def __init__(self, encoder: SampleEncoder, answer_format: AnswerFormat, seed: int, batch_size: int):
        self.encoder = encoder
        self.answer_format = answer_format
        self.seed = seed
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Tensors]:
        worker = get_worker_info()
        rng = random.Random(f"{self.seed}/read/{worker.id if worker else 0}")
        while True:
            rows = [self.encode(self.draw(rng)) for _ in range(BATCHES_SORTED * self.batch_size)]
            rows.sort(key=lambda row: row["input_ids"].shape[1] + len(row["answer"]))
            for number in rng.sample(range(BATCHES_SORTED), BATCHES_SORTED):
                yield from rows[number * self.batch_size : (number + 1) * self.batch_size]

    def draw(self, rng: random.Random) -> PretrainingExample:
        """One example: two fifths are text to repeat and capitals to list, the rest scenes."""
        kind = rng.random()
        if kind < 0.1:
            return repeat_task(rng)
        if kind < 0.4:
            return capitals_task(rng)
        return (describe_task if kind < 0.5 else decide_task if kind < 0.7 else find_task)(rng, self.answer_format)

    def encode(self, example: PretrainingExample) -> Tensors:
        """An example as the trainer's collator takes it; the tokens that are given have no weight."""
        prompt = self.prompt(example)
        answer = self.encoder.answer(
            (*(AnswerLine("knowledge", piece.text) for piece in example.given), *example.answer)
        )
        tokens = len(answer["answer"])
        supervision = {
            "regions": self.regions(example, prompt, tokens),
            "words": self.words(example, tokens),
            "sources": self.sources(example, tokens),
        }
        return {**prompt, **answer, **supervision}

    def prompt(self, example: PretrainingExample) -> Tensors:
        """The tensors of an example's question and picture, as ``SampleEncoder.prompt`` gives them."""
        return self.encoder.prompt(messages_of(example), None if example.scene is None else example.scene.image)

    def regions(self, example: PretrainingExample, prompt: Tensors, tokens: int) -> torch.Tensor:
        """(tokens, 1 + CELLS), bool: the cells that each token of the answer refers to, row by row.

        The first column is set instead for a token about a look that is not there. A token about nothing has none, and
        of a piece that is given only the last has any: by then all that it says has been read.
        """
        regions = torch.zeros(tokens, 1 + CELLS, dtype=torch.bool)
        if example.scene is None:
            return regions
        _, rows, columns = (prompt["image_grid_thw"][0] // torch.tensor([1, MERGE, MERGE])).tolist()
        owner, share = cell_owners(example.scene, rows, columns)
        for _, look, spoken in self._pieces(example):
            own = [index for index, placement in enumerate(example.scene.placements) if placement.look == look]
            if own:
                regions[spoken, 1 : 1 + len(owner)] = torch.from_numpy(np.isin(owner, own) & (share >= COVERED))
            elif look is not None:
                regions[spoken, 0] = True
        return regions

    def words(self, example: PretrainingExample, tokens: int) -> torch.Tensor:
        """(tokens, MAX_LOOK_TOKENS): the words of the look that each token of the answer is about, padded with IGNORED.

        Of an expression that is to be written there are none: they are to be read from the picture first.
        """
        words = torch.full((tokens, MAX_LOOK_TOKENS), IGNORED)
        for piece, look, spoken in self._pieces(example):
            if look is not None and (piece.segment != "expressions" or piece in example.given):
                own = word_tokens(look, self.encoder.tokenizer)
                words[spoken, : len(own)] = torch.tensor(own)
        return words

    def sources(self, example: PretrainingExample, tokens: int) -> torch.Tensor:
        """(tokens,): how many tokens before the answer that stands which is copied, 0 for a token that is not."""
        sources = torch.zeros(tokens, dtype=torch.long)
        text = self.encoder.processor.apply_chat_template(
            messages_of(example), add_generation_prompt=True, tokenize=False
        )
        begin = text.index(example.question)
        ends = self._ends(text)
        distances = {end - begin: len(ends) - number for number, end in enumerate(ends)}
        starts = [spoken.start for _, _, spoken in self._pieces(example)]
        for copy in example.copied:
            for number, end in enumerate(self._ends(example.answer[copy.piece].text), starts[copy.piece]):
                if copy.start < end <= copy.start + copy.length:
                    sources[number] = distances.get(end - copy.start + copy.source, 0)
        return sources

    def _ends(self, text: str) -> list[int]:
        """Where each token of a text ends, in characters."""
        encoded = self.encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [end for _, end in encoded.offset_mapping]

    def _pieces(self, example: PretrainingExample) -> Iterator[tuple[AnswerLine, Look | None, slice]]:
        """Each piece, the look it refers to, and its tokens; of one that is given its last."""
        start = 0
        for number, (piece, look) in enumerate(zip((*example.given, *example.answer), example.about, strict=True)):
            end = start + len(self.encoder.answer((piece,), end=False)["answer"])
            yield piece, look, slice(end - 1 if number < len(example.given) else start, end)
            start = end


def messages_of(example: PretrainingExample) -> list[dict]:
    """An example's question, after its picture where it has one."""
    picture = [] if example.scene is None else [{"type": "image"}]
    return [{"role": "user", "content": [*picture, {"type": "text", "text": example.question}]}]


class LanguageTrainer(Trainer):
    """transformers' Trainer with the losses of the examples. Logs the accuracy of the tokens, by kind."""

    def __init__(self, model: PreTrainedModel, args: TrainingArguments, examples: PretrainingDataset):
        self.kinds = token_groups(examples.encoder.tokenizer)
        self.right: dict[str, float] = {}
        self.supervision = AttentionSupervision(model)
        collator = Collator(examples.encoder, keep_vision=True)
        super().__init__(model, args, train_dataset=examples, data_collator=collator)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The answer's loss and the attention's; logits are computed in the answer's columns only."""
        labels, weights = inputs.pop("labels"), inputs.pop("weights")
        targets = {name: inputs.pop(name) for name in ("regions", "words", "sources")}
        outputs = model(**inputs, logits_to_keep=labels.shape[1])
        self._measure(outputs.logits, labels[:, 1:])
        losses = {
            "pointing": self.supervision.loss(inputs, labels, targets["regions"]),
            "recalling": self.supervision.words_loss(labels, targets["words"]),
            "copying": self.supervision.source_loss(inputs, labels, targets["sources"]),
        }
        self.right |= {name: loss.item() for name, loss in losses.items()}
        loss = answer_loss(outputs.logits, labels, weights) + sum(losses.values())
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _measure(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        hit = logits[:, :-1].argmax(-1).eq(targets)
        self.right["all"] = hit[targets.ne(IGNORED)].float().mean().item()
        for name, ids in self.kinds.items():
            self.right[name] = hit[torch.isin(targets, ids)].float().mean().item()

    def log(self, logs, *arguments):
        """What is logged, with the shares of the last batch."""
        super().log({**logs, **self.right}, *arguments)


def token_groups(tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """The token ids whose accuracy is logged separately: the visibility decision and the location tokens."""
    decision = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in (YES, NO)]
    return {"visible": torch.tensor(decision), "loc": torch.tensor(tokenizer.convert_tokens_to_ids(loc_tokens(BINS)))}


_PARAGRAPHS = paragraphs()
