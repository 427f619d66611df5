"""The tiny base learns to read: to repeat text, to describe scenes with boxes, and to find what an expression says.

It is never shown a name of a benchmark nor the task: no entity types, no knowledge, no mention in its answers. The
lines it writes are those of an answer (answer.py), so that fine-tuning has only the task and the names left to teach.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from data_builders.emblems.language import invent_names, write_post
from data_builders.emblems.looks import Look, near_look, random_look
from data_builders.emblems.scene import Scene
from rivegs_mllm.answer import NO, YES, Piece, escape, line_start
from rivegs_mllm.contract import Contract, loc_tokens
from rivegs_mllm.dataset import IGNORED, Collator, Encoder, Tensors
from rivegs_mllm.loss import answer_loss
from rivegs_mllm.tiny.architecture import BINS, MAX_PIXELS, MERGE, PATCH
from rivegs_mllm.tiny.english import paragraphs
from rivegs_mllm.tiny.scenes import random_scene
from rivegs_mllm.tiny.see import COVERED, cell_owners
from rivegs_mllm.types import TYPES, Box

BATCHES_SORTED = 8
CELLS = MAX_PIXELS // (PATCH * MERGE) ** 2
POINTING_LAYER = 4
WEIGHTS = {"knowledge": 0.0, "visible": 4.0}
"""By which a token's loss is multiplied; the knowledge segment is what ``judge`` gives within an answer."""


_OF_A_CAPITAL = ("{0}.", "{0} comes before {1}.", "{0}: {1} (behind it).", "Here {0} is followed by {1}.")


@dataclass(frozen=True)
class Lesson:
    """What is asked, the scene, the beginning of the answer that is given, and the rest, which is to be learned.

    ``about`` is the look that each piece of both speaks of, None where it is of none or not known yet.
    """

    question: str
    scene: Scene | None
    given: tuple[Piece, ...]
    answer: tuple[Piece, ...]
    about: tuple[Look | None, ...]


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
    return Lesson(f"Repeat: {escape(text)}", None, (), (Piece("entities", f"text: {escape(text)}\n"),), (None,))


def capitals(rng: random.Random) -> Lesson:
    """A text, of which the runs of capitalised words are to be listed with what follows each.

    A line each, or first all in one line, one sentence a run. With a scene at times, which has nothing to do with it.
    """
    words = random_post(rng).split()
    runs: list[tuple[str, str]] = []
    start = 0
    for capital, own in itertools.groupby(words, lambda word: word[0].isupper()):
        run = list(own)
        start += len(run)
        if capital:
            runs.append((escape(" ".join(run)), escape(words[start]) if start < len(words) else "the end"))
    lines = [f"capital {number}: {run} ({behind})\n" for number, (run, behind) in enumerate(runs, 1)]
    if not runs:
        lines = ["capital: none\n"]
    elif rng.random() < 0.7:
        sentence = rng.choice(_OF_A_CAPITAL)
        lines.insert(0, "capitals: " + " ".join(sentence.format(run, behind) for run, behind in runs) + "\n")
    answer = tuple(Piece("entities", line) for line in lines)
    scene = random_scene(rng) if rng.random() < 0.4 else None
    return Lesson(f"Capitals: {escape(' '.join(words))}", scene, (), answer, (None,) * len(answer))


def describe(rng: random.Random, contract: Contract) -> Lesson:
    """A scene, every emblem of which is to be described and boxed in reading order."""
    scene = random_scene(rng)
    looks = list(dict.fromkeys(placement.look for placement in scene.placements))
    boxes = where(looks, scene)
    return Lesson("Describe.", scene, (), (*expressions(looks), *boxed(boxes, scene, contract)), (*looks, *looks))


def judge(rng: random.Random, contract: Contract) -> Lesson:
    """A scene and expressions, each followed at once by whether it fits something there, and where.

    Six decisions a picture, each next to its expression, teach what ``find`` asks for faster than ``find`` does.
    """
    scene = random_scene(rng)
    looks = dict.fromkeys(placement.look for placement in scene.placements if rng.random() < 0.7)
    while len(looks) < 6:
        looks[_absent(rng, scene)] = None
    pieces: list[Piece] = []
    about: list[Look | None] = []
    for look in rng.sample(list(looks), len(looks)):
        (own,) = where([look], scene)
        about += [None, look, look]
        pieces += [Piece("knowledge", f"{look.expression}?"), Piece("visible", YES if own else NO)]
        pieces.append(Piece("boxes", f" {contract.encode_boxes(own, scene.image.size)}\n" if own else "\n"))
    return Lesson("Judge.", scene, (), tuple(pieces), tuple(about))


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
    shown = [look for look, own in zip(looks, boxes, strict=True) if own]
    answer = (*decisions, *boxed(boxes, scene, contract))
    return Lesson("Find.", scene, expressions(looks), answer, (*looks, *looks, *shown))


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
        """One lesson: two fifths are text to repeat and capitals to list, the rest scenes."""
        kind = rng.random()
        if kind < 0.1:
            return repeat(rng)
        if kind < 0.4:
            return capitals(rng)
        return (describe if kind < 0.56 else judge if kind < 0.74 else find)(rng, self.contract)

    def encode(self, lesson: Lesson) -> Tensors:
        """A lesson as the trainer's collator takes it; the tokens that are given have no weight."""
        prompt = self.prompt(lesson)
        answer = self.encoder.answer((*(Piece("knowledge", piece.text) for piece in lesson.given), *lesson.answer))
        return {**prompt, **answer, "regions": self.regions(lesson, prompt, len(answer["answer"]))}

    def prompt(self, lesson: Lesson) -> Tensors:
        """What stands before the answer."""
        picture = [] if lesson.scene is None else [{"type": "image"}]
        image = None if lesson.scene is None else lesson.scene.image
        turns = [{"role": "user", "content": [*picture, {"type": "text", "text": lesson.question}]}]
        return self.encoder.prompt(turns, image)

    def regions(self, lesson: Lesson, prompt: Tensors, tokens: int) -> torch.Tensor:
        """(tokens, 1 + CELLS), bool: the cells that each token of the answer speaks of, row by row behind the first.

        The first column is set instead for a token about a look that is not there. A token about nothing has none, and
        of a piece that is given only the last has any: by then all that it says has been read.
        """
        regions = torch.zeros(tokens, 1 + CELLS, dtype=torch.bool)
        if lesson.scene is None:
            return regions
        _, rows, columns = (prompt["image_grid_thw"][0] // torch.tensor([1, MERGE, MERGE])).tolist()
        owner, share = cell_owners(lesson.scene, rows, columns)
        start = 0
        for number, (piece, look) in enumerate(zip((*lesson.given, *lesson.answer), lesson.about, strict=True)):
            end = start + len(self.encoder.answer((piece,), end=False)["answer"])
            start = end - 1 if number < len(lesson.given) else start
            own = [index for index, placement in enumerate(lesson.scene.placements) if placement.look == look]
            if own:
                regions[start:end, 1 : 1 + len(owner)] = torch.from_numpy(np.isin(owner, own) & (share >= COVERED))
            elif look is not None:
                regions[start:end, 0] = True
            start = end
        return regions


class Pointer:
    """Has one head of the model look at what a token speaks of, so that the head need not find that out by itself.

    Its attention is supervised (arXiv 1609.04186, there for translation): on the cells of the look that is spoken of,
    or on the token before the picture where there is none. The layers behind it then have the cell's content at hand.
    """

    def __init__(self, model: PreTrainedModel):
        config = model.config.get_text_config()
        self.attention = model.model.language_model.layers[POINTING_LAYER].self_attn
        self.size = config.hidden_size // config.num_attention_heads
        self.heads = config.num_attention_heads - 1, config.num_key_value_heads - 1
        self.image_token = model.config.image_token_id
        self.attention.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: torch.nn.Module, arguments: tuple, named: dict) -> None:
        self.hidden, self.turns = named["hidden_states"], named["position_embeddings"]

    def loss(self, inputs: Tensors, labels: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """The mean of -log of the attention that falls on ``regions``, over the tokens that have any.

        ``labels`` (rows, columns) are of the last columns of ``inputs``, as the collator makes them; ``regions``
        (answer tokens of all rows, 1 + CELLS). To be called behind the model's forward.
        """
        attention = self._log_attention(labels.shape[1] - 1, inputs["attention_mask"])
        keys = self._keys(inputs["input_ids"])
        row, column = labels[:, 1:].ne(IGNORED).nonzero(as_tuple=True)
        told = regions.any(-1)
        row, column, regions = row[told], column[told], regions[told]
        on = attention[row[:, None], column[:, None], keys[row]].masked_fill(~regions, float("-inf"))
        return -on.logsumexp(-1).mean() if len(row) else attention.new_zeros(())

    def _log_attention(self, columns: int, mask: torch.Tensor) -> torch.Tensor:
        """(rows, columns, tokens): the head's, from the tokens that predict the answers."""
        query, key = self.heads
        with torch.autocast(self.hidden.device.type, enabled=False):
            hidden = self.hidden.float()
            queries = self._turned(hidden, self.attention.q_proj, query)[:, -1 - columns : -1]
            keys = self._turned(hidden, self.attention.k_proj, key)
            scores = queries @ keys.transpose(1, 2) * self.attention.scaling
        places = torch.arange(scores.shape[2])
        seen = (places <= places[-1 - columns : -1, None]) & mask[:, None].bool()
        return scores.masked_fill(~seen, -1e4).log_softmax(-1)

    def _turned(self, hidden: torch.Tensor, projection: torch.nn.Linear, head: int) -> torch.Tensor:
        """A head's queries or keys behind the rotary embedding, (rows, tokens, size)."""
        own = slice(head * self.size, (head + 1) * self.size)
        flat = torch.nn.functional.linear(hidden, projection.weight[own], projection.bias[own])[:, None]
        turned, _ = apply_rotary_pos_emb(flat, flat, *self.turns)
        return turned[:, 0]

    def _keys(self, tokens: torch.Tensor) -> torch.Tensor:
        """(rows, 1 + CELLS): where the token before the picture and the picture's cells stand; 0 behind the last."""
        places = torch.zeros(len(tokens), 1 + CELLS, dtype=torch.long)
        for index, row in enumerate(tokens.eq(self.image_token)):
            (cells,) = row.nonzero(as_tuple=True)
            if len(cells):
                places[index, 0] = cells[0] - 1
                places[index, 1 : 1 + len(cells)] = cells
        return places


class ReadTrainer(Trainer):
    """transformers' Trainer with the lessons' losses. Logs how often tokens were predicted rightly, by kind."""

    def __init__(self, model: PreTrainedModel, args: TrainingArguments, lessons: Lessons):
        self.kinds = token_groups(lessons.encoder.tokenizer)
        self.right: dict[str, float] = {}
        self.pointer = Pointer(model)
        collator = Collator(lessons.encoder, keep_vision=True)
        super().__init__(model, args, train_dataset=lessons, data_collator=collator)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The answer's loss and the pointer's; logits are asked for in the answer's columns only."""
        labels, weights, regions = (inputs.pop(name) for name in ("labels", "weights", "regions"))
        outputs = model(**inputs, logits_to_keep=labels.shape[1])
        self._measure(outputs.logits, labels[:, 1:])
        pointing = self.pointer.loss(inputs, labels, regions)
        self.right["pointing"] = pointing.item()
        loss = answer_loss(outputs.logits, labels, weights) + pointing
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
    """The token ids whose predictions are logged apart: the visibility decision and the location tokens."""
    decision = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in (YES, NO)]
    return {"visible": torch.tensor(decision), "loc": torch.tensor(tokenizer.convert_tokens_to_ids(loc_tokens(BINS)))}


_PARAGRAPHS = paragraphs()
