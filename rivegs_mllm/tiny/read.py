"""The tiny base learns to read: to repeat text, to describe scenes with boxes, and to find what an expression says.

It is never shown a name of a benchmark nor the task: no entity types, no knowledge, no mention in its answers. The
lines it writes are those of an answer (answer.py), so that fine-tuning has only the task and the names left to teach.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

from data_builders.emblems.language import invent_names, write_post
from data_builders.emblems.looks import Look, near_look, random_look
from data_builders.emblems.scene import Scene
from rivegs_mllm.answer import NO, YES, Piece, escape, line_start
from rivegs_mllm.contract import Contract, loc_tokens
from rivegs_mllm.dataset import IGNORED, Collator, Encoder, Tensors, batch
from rivegs_mllm.loss import answer_loss
from rivegs_mllm.tiny.architecture import BINS
from rivegs_mllm.tiny.english import paragraphs
from rivegs_mllm.tiny.scenes import random_scene
from rivegs_mllm.types import TYPES, Box

BATCHES_SORTED = 8
WEIGHTS = {"knowledge": 0.0, "visible": 4.0}
"""By which a token's loss is multiplied; the knowledge segment is what ``judge`` gives within an answer."""


@dataclass(frozen=True)
class Lesson:
    """What is asked, the picture, the beginning of the answer that is given, and the rest, which is to be learned."""

    question: str
    image: Image.Image | None
    given: tuple[Piece, ...]
    answer: tuple[Piece, ...]


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


def repeat(rng: random.Random) -> Lesson:
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
    return Lesson(f"Repeat: {escape(text)}", None, (), (Piece("entities", f"text: {escape(text)}\n"),))


def capitals(rng: random.Random) -> Lesson:
    """A text, of which the runs of capitalised words are to be listed, a line each."""
    words = random_post(rng).split()
    runs: list[list[str]] = []
    inside = False
    for word in words:
        capital = word[0].isupper()
        if capital and inside:
            runs[-1].append(word)
        elif capital:
            runs.append([word])
        inside = capital
    lines = [f"capital {number}: {escape(' '.join(run))}\n" for number, run in enumerate(runs, 1)]
    answer = tuple(Piece("entities", line) for line in lines or ["capital: none\n"])
    return Lesson(f"Capitals: {escape(' '.join(words))}", None, (), answer)


def describe(rng: random.Random, contract: Contract) -> Lesson:
    """A scene, every emblem of which is to be described and boxed in reading order."""
    scene = random_scene(rng)
    looks = list(dict.fromkeys(placement.look for placement in scene.placements))
    boxes = where(looks, scene)
    return Lesson("Describe.", scene.image, (), (*expressions(looks), *boxed(boxes, scene, contract)))


def judge(rng: random.Random, contract: Contract) -> Lesson:
    """A scene and expressions, each followed at once by whether it fits something there, and where.

    Six decisions a picture, each next to its expression, teach what ``find`` asks for faster than ``find`` does.
    """
    scene = random_scene(rng)
    looks = dict.fromkeys(placement.look for placement in scene.placements if rng.random() < 0.7)
    while len(looks) < 6:
        looks[_absent(rng, scene)] = None
    pieces: list[Piece] = []
    for look in rng.sample(list(looks), len(looks)):
        (own,) = where([look], scene)
        pieces += [Piece("knowledge", f"{look.expression}?"), Piece("visible", YES if own else NO)]
        pieces.append(Piece("boxes", f" {contract.encode_boxes(own, scene.image.size)}\n" if own else "\n"))
    return Lesson("Judge.", scene.image, (), tuple(pieces))


def find(rng: random.Random, contract: Contract) -> Lesson:
    """A scene and expressions, some of which fit nothing in it: which do, and where."""
    scene = random_scene(rng)
    shown = [placement.look for placement in scene.placements]
    single = rng.random() < 0.5  # learned first
    asked = dict.fromkeys(rng.sample(shown, rng.randint(0, 1 if single else min(3, len(shown)))))
    for _ in range(rng.randint(0, 3) if asked and not single else not asked):
        asked[_absent(rng, scene)] = None
    looks = rng.sample(list(asked), len(asked))
    boxes = where(looks, scene)
    decisions = tuple(
        Piece("visible", f"{line_start('visible', number)}{YES if own else NO}\n")
        for number, own in enumerate(boxes, 1)
    )
    return Lesson("Find.", scene.image, expressions(looks), (*decisions, *boxed(boxes, scene, contract)))


def _absent(rng: random.Random, scene: Scene) -> Look:
    """A look that the scene does not show, half the time one that is like a look it shows."""
    shown = [placement.look for placement in scene.placements]
    look = near_look(rng, rng.choice(shown)) if rng.random() < 0.5 else random_look(rng, rng.choice(TYPES))
    return _absent(rng, scene) if look in shown else look


def where(looks: list[Look], scene: Scene) -> list[tuple[Box, ...]]:
    """The boxes of each look, none for one that the scene does not show."""
    return [tuple(placement.box for placement in scene.placements if placement.look == look) for look in looks]


def expressions(looks: list[Look]) -> tuple[Piece, ...]:
    """The third segment of an answer."""
    return tuple(
        Piece("expressions", f"{line_start('expressions', number)} {look.expression}\n")
        for number, look in enumerate(looks, 1)
    )


def boxed(boxes: list[tuple[Box, ...]], scene: Scene, contract: Contract) -> tuple[Piece, ...]:
    """The last segment of an answer."""
    return tuple(
        Piece("boxes", f"{line_start('boxes', number)} {contract.encode_boxes(own, scene.image.size)}\n")
        for number, own in enumerate(boxes, 1)
        if own
    )


class Lessons(IterableDataset):
    """Endless lessons, each worker its own stream, in batches of ``batch_size`` of about equal length."""

    def __init__(self, encoder: Encoder, contract: Contract, seed: int, batch_size: int):
        self.encoder = encoder
        self.contract = contract
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

    def draw(self, rng: random.Random) -> Lesson:
        """One lesson: a fifth are text to repeat and capitals to list, the rest scenes."""
        kind = rng.random()
        if kind < 0.14:
            return repeat(rng)
        if kind < 0.22:
            return capitals(rng)
        return (describe if kind < 0.46 else judge if kind < 0.72 else find)(rng, self.contract)

    def encode(self, lesson: Lesson) -> Tensors:
        """A lesson as the trainer's collator takes it; what is given of the answer stands behind the prompt."""
        picture = [] if lesson.image is None else [{"type": "image"}]
        turns = [{"role": "user", "content": [*picture, {"type": "text", "text": lesson.question}]}]
        given = self.encoder.answer(lesson.given, end=False)
        prompt = batch([{**self.encoder.prompt(turns, lesson.image), **given}], self.encoder.tokenizer.pad_token_id)
        return {**prompt, **self.encoder.answer(lesson.answer)}


class ReadTrainer(Trainer):
    """transformers' Trainer with the answer's loss. Logs how often tokens were predicted rightly, by kind."""

    def __init__(self, model: PreTrainedModel, args: TrainingArguments, lessons: Lessons):
        self.kinds = token_groups(lessons.encoder.tokenizer)
        self.right: dict[str, float] = {}
        collator = Collator(lessons.encoder, keep_vision=True)
        super().__init__(model, args, train_dataset=lessons, data_collator=collator)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The answer's loss; logits are asked for in the answer's columns only."""
        labels, weights = inputs.pop("labels"), inputs.pop("weights")
        outputs = model(**inputs, logits_to_keep=labels.shape[1])
        self._measure(outputs.logits, labels[:, 1:])
        loss = answer_loss(outputs.logits, labels, weights)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _measure(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        hit = logits[:, :-1].argmax(-1).eq(targets)
        self.right = {"all": hit[targets.ne(IGNORED)].float().mean().item()}
        for name, ids in self.kinds.items():
            self.right[name] = hit[torch.isin(targets, ids)].float().mean().item()

    def log(self, logs, *arguments):
        """What is logged, with the shares of the last batch."""
        super().log({**logs, **self.right}, *arguments)


def token_groups(tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """The token ids whose predictions are logged apart: the visibility decision and the location tokens."""
    decision = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in (YES, NO)]
    return {"visible": torch.tensor(decision), "loc": torch.tensor(tokenizer.convert_tokens_to_ids(loc_tokens(BINS)))}


_PARAGRAPHS = paragraphs()
