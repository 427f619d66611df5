"""A page that shows, before any GPU time, what a model will be given for a few training samples.

Everything on it is read back from the tensors of a batch: text from the token ids, boxes from the ids of the labels,
the picture from the processor's own patches. No weights of the model are loaded.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from rivegs_mllm.answer.format import NATIVE_STEPS, AnswerFormat, AnswerFormatError
from rivegs_mllm.answer.serialization import in_text_order, parse
from rivegs_mllm.config.schema import Recipe
from rivegs_mllm.data.boxes import are_normalised
from rivegs_mllm.data.images import is_outside, picture_size
from rivegs_mllm.data.written import as_written
from rivegs_mllm.models.base_model import load_without_weights
from rivegs_mllm.models.batching import Tensors
from rivegs_mllm.pages.colours import type_colours
from rivegs_mllm.pages.labelled_picture import LabelledPicture, label_boxes
from rivegs_mllm.pages.template import page_template, shared_style
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.store.attach import read_posts
from rivegs_mllm.training.dataset.rows import IGNORED, AnswerDataset, Collator, check_lengths, dataset_of
from rivegs_mllm.training.pictures import measure_pictures
from rivegs_mllm.training.undecided import decided_posts
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

_MAX_LISTED = 20

PROMPT, PICTURE, END = "prompt", "picture", "end"
"""Kinds of token beside the answer's segments."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the page shows it, or the few that make one character. ``target``: whether the loss counts it."""

    text: str
    ids: tuple[int, ...]
    kind: str
    target: bool


@dataclass(frozen=True, slots=True)
class BoxRoundTrip:
    """A box of the entity ``name`` of a ``type``, in pixels of the original picture.

    ``gold`` is the record's, ``given`` what augmentation made of it, ``read`` what the labels decode to. ``error`` is
    how far the edges of ``read`` are from ``given``, (across, down), ``allowed`` what the answer format's rounding
    explains.
    """

    name: str
    type: str
    gold: Box
    given: Box
    read: Box
    error: tuple[float, float]
    allowed: tuple[float, float]

    @property
    def is_explained(self) -> bool:
        """Whether the rounding explains the error."""
        # The margin is for rounding of floats: the same edge comes here in two ways.
        return all(error <= allowed + 1e-6 for error, allowed in zip(self.error, self.allowed, strict=True))

    @property
    def fault(self) -> str:
        """The error in words."""
        error, allowed = (f"{across:.1f} x {down:.1f}" for across, down in (self.error, self.allowed))
        return f"a box of {self.name!r} comes back with an error of {error} pixels; rounding explains {allowed} pixels"


@dataclass(frozen=True, slots=True)
class ModelImage:
    """The picture as the model receives it: ``image``, ``size`` of the original and ``resized`` of the answer format.

    ``stretch`` is by what a box that was read is multiplied, (across, down), to lie where the model would see it.
    """

    image: Image.Image
    size: Size
    resized: Size
    stretch: tuple[float, float]

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", quality=92, subsampling=0)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True, slots=True)
class PreviewSample:
    """A sample on the page; ``why`` it was chosen. Without ``tokens`` it could not be encoded."""

    sample: Sample
    why: str
    problems: tuple[str, ...]
    tokens: tuple[Token, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    view: ModelImage | None = None
    regions: tuple[BoxRoundTrip, ...] = ()

    @property
    def labelled(self) -> LabelledPicture:
        """The names of the gold boxes on the picture; there must be a ``view``."""
        across, down = (shown / own for shown, own in zip(self.view.image.size, self.view.size, strict=True))
        named = [
            (one.name, one.type, Box(box.xmin * across, box.ymin * down, box.xmax * across, box.ymax * down))
            for one in self.regions
            for box in [one.gold]
        ]
        return label_boxes(named, self.view.image.size)


def write_preview(recipe: Recipe, out: Path, count: int = 6, image_root: Path | None = None) -> list[str]:
    """Writes the page on ``count`` samples of the recipe's training split to ``out``, completely or not at all.

    Returns the problems found, which stand on top of the page too: samples that are longer than ``max_length``,
    boxes that come back further off than the answer format's rounding, answers that cannot be read back, pictures that
    the processor does not resize as the answer format, and those that training would refuse. Raises UserError where
    nothing could be shown. Pictures from outside the dataset's folder are shown only from ``image_root``.
    """
    if count < 1:
        raise UserError(f"preview: --count {count} samples; it must be 1 or more")
    processor, answer_format = load_without_weights(recipe)
    folder = recipe.data.folder
    samples = read_posts(folder, recipe.data.train, recipe.answer.types, recipe.distilled)
    samples = decided_posts(samples, recipe.answer.segments, recipe.data.train)
    if not samples:
        raise UserError(f"{folder}: the split '{recipe.data.train}' has no sample")
    looked = measure_pictures(samples, folder, picture_size)
    faults = [fault for _, fault in looked if fault]
    samples = [sample for sample, fault in looked if not fault]
    if not samples:
        raise UserError(f"{folder}: no sample has a usable picture, the first: {faults[0]}")
    dataset = dataset_of(recipe, samples, processor, answer_format)
    lengths = check_lengths(dataset, sys.maxsize)
    refused = [(sample.id, n) for sample, n in zip(samples, lengths, strict=True) if n > recipe.max_length]
    cards = [
        examine(dataset, index, why, lengths[index], image_root)
        for index, why in choose_samples(samples, lengths, min(count, len(samples)))
    ]
    problems = [f"sample {fault}" for fault in faults[:_MAX_LISTED]]
    if faults[_MAX_LISTED:]:
        problems.append(f"and {len(faults) - _MAX_LISTED} more; `rivegs audit {folder}` lists them all")
    if are_normalised(samples):
        problems.append("no box is longer than a pixel: boxes are pixels of the picture, not shares of it")
    try:
        answer_format.check_processor(processor)
    except AnswerFormatError as error:
        problems.append(str(error))
    if refused:
        problems.append(
            f"{len(refused)} of {len(samples)} samples are longer than max_length = {recipe.max_length}, "
            "so training would refuse to start; the page lists them"
        )
    problems += [f"sample {card.sample.id}: {problem}" for card in cards for problem in card.problems]
    page = page_template(Path(__file__).with_name("preview.html.jinja")).render(
        recipe=recipe,
        style=Markup(shared_style()),
        colours=type_colours(entity.type for sample in samples for entity in sample.entities),
        answer_format=dataclasses.asdict(answer_format),
        posts=len(samples),
        lengths=np.percentile(lengths, (0, 50, 95, 100)).round().astype(int).tolist(),
        refused=refused,
        cards=cards,
        problems=problems,
    )
    write_text(out, page)
    return problems


def choose_samples(samples: Sequence[Sample], lengths: Sequence[int], count: int) -> list[tuple[int, str]]:
    """Indices of at most ``count`` unlike samples, each with why it was taken; the same for the same samples."""
    boxes = [sum(len(entity.boxes) for entity in sample.entities) for sample in samples]
    several = [max((len(entity.boxes) for entity in sample.entities), default=0) for sample in samples]
    everywhere = range(len(samples))
    chosen = {max(everywhere, key=lambda index: lengths[index]): "the longest"}

    def take(why: str, fits: Callable[[int], bool], rank: Callable[[int], float] = lambda index: 0) -> None:
        left = [index for index in everywhere if index not in chosen and fits(index)]
        if left:
            chosen[max(left, key=rank)] = why

    take("an entity with several boxes", lambda index: several[index] > 1, lambda index: several[index])
    take("one box", lambda index: boxes[index] == 1)
    take("a picture that shows no entity", lambda i: bool(samples[i].image and samples[i].entities) and not boxes[i])
    take("no picture", lambda index: not samples[index].image)
    take("no entity", lambda index: not samples[index].entities)
    take("the most boxes", lambda index: boxes[index] > 1, lambda index: boxes[index])
    for first in [place * len(samples) // count for place in range(count)]:
        take("any", lambda index: True, lambda index, first=first: index >= first)
    return list(chosen.items())[:count]


def examine(dataset: AnswerDataset, index: int, why: str, length: int, image_root: Path | None = None) -> PreviewSample:
    """What the model is given for one sample, and what is wrong with it; ``length`` is what its tokens were counted as.

    A sample that cannot be encoded is a card with this as its problem.
    """
    gold, encoder, answer_format = dataset.samples[index], dataset.encoder, dataset.answer_format
    sample = dataset.augment(gold)
    try:
        row = dataset[index]
    except UserError as error:
        return PreviewSample(sample, why, (str(error),))
    given = Collator(encoder, keep_vision=False)([row])
    kinds = token_kinds(dataset, sample, given)
    problems = []
    if len(kinds) != length:
        problems.append(f"has {len(kinds)} tokens, but was counted as {length} when lengths were checked")
    read, faults = read_labels(dataset, sample, given)
    view, regions = None, ()
    if sample.image:
        view = model_image(given, encoder.processor.image_processor, answer_format, sample.size)
        if view.image.size != view.resized:
            shown, agreed = (f"{width} x {height}" for width, height in (view.image.size, view.resized))
            problems.append(f"the processor makes its picture {shown}, the answer format {agreed}")
        if "boxes" in answer_format.segments:
            regions, lost = compare_boxes(gold, sample.entities, read.entities, answer_format)
            faults += lost
        if is_outside(sample.image, dataset.folder, image_root):  # the page may be passed on
            place = f"its picture, {sample.image!r:.200}, lies outside the dataset's folder"
            faults.append(f"{place}: not shown, unless --image-root names the folder it is in")
            view = None
        faults += [region.fault for region in regions if not region.is_explained]
    tokens = tuple(show_tokens(given, kinds, encoder.tokenizer))
    counts = tuple(Counter(kinds).items())
    return PreviewSample(sample, why, tuple(problems + faults), tokens, counts, view, regions)


def token_kinds(dataset: AnswerDataset, sample: Sample, given: Tensors) -> list[str]:
    """The kind of each input id of a batch of one row, (1, tokens): PROMPT, PICTURE, a segment's name, or END."""
    encoder = dataset.encoder
    answer = [
        piece.segment
        for piece in dataset.pieces(sample)
        for _ in range(len(encoder.answer((piece,), end=False)["answer"]))
    ]
    answer.append(END)
    ids = given["input_ids"][0].tolist()
    placeholder = encoder.processor.image_token_id
    prompt = [PICTURE if token == placeholder else PROMPT for token in ids[: len(ids) - len(answer)]]
    return prompt + answer


def read_labels(dataset: AnswerDataset, sample: Sample, given: Tensors) -> tuple[Prediction, list[str]]:
    """The record that the labels decode to, and the errors of what they lost."""
    tokenizer = dataset.encoder.tokenizer
    labels = given["labels"][0]
    ids = labels[labels != IGNORED].tolist()
    text = tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)], clean_up_tokenization_spaces=False)
    read = parse(sample.id, text, sample.tokens, dataset.answer_format, sample.size if sample.image else None)
    faults = [f"the labels cannot be read: {error}" for error in read.errors]
    meant = "".join(piece.text for piece in dataset.pieces(sample))
    if text != meant:
        differing = next(
            (pair for pair in zip(meant.split("\n"), text.split("\n"), strict=False) if pair[0] != pair[1]),
            (meant, text),
        )
        faults.append(f"the tokenizer changes the answer: {differing[0]!r} comes back as {differing[1]!r}")
    return read, faults


def model_image(given: Tensors, images: BaseImageProcessor, answer_format: AnswerFormat, size: Size) -> ModelImage:
    """The one picture of a batch, ``size`` = (width, height) of the original, put together from its patches."""
    pixels = reconstruct(given["pixel_values"], given["image_grid_thw"][0].tolist(), images)
    image = Image.fromarray((pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    resized = answer_format.resized(size)
    # Numbers of a grid are shares of whatever picture there is, but pixels count from the answer format's size.
    in_pixels = answer_format.encoding == "native" and NATIVE_STEPS[answer_format.family] is None
    frame = resized if in_pixels else image.size
    return ModelImage(image, size, resized, (frame[0] / size[0], frame[1] / size[1]))


def reconstruct(patches: torch.Tensor, grid: Sequence[int], images: BaseImageProcessor) -> torch.Tensor:
    """The picture (3, height, width), about 0 to 1, from the patches of a Qwen-VL image processor.

    ``patches`` is (patches, 3 * temporal * patch * patch), ordered so that those merged into one token are
    neighbours (Qwen2-VL, arXiv 2409.12191, section 2.1); ``grid`` is (frames, rows, columns) of patches.
    """
    _, rows, columns = grid
    merge, patch, temporal = images.merge_size, images.patch_size, images.temporal_patch_size
    # A still picture is repeated along time, so that the first frame is all of it.
    parts = patches.view(rows // merge, columns // merge, merge, merge, 3, temporal, patch, patch)[:, :, :, :, :, 0]
    pixels = parts.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (images.image_mean, images.image_std))
    return pixels * std + mean


def compare_boxes(
    sample: Sample, rendered: Sequence[Entity], read: Sequence[Entity], answer_format: AnswerFormat
) -> tuple[tuple[BoxRoundTrip, ...], list[str]]:
    """Each box that the answer should hold beside the one that was read, in pixels of the original picture, and the
    entities that lost or gained boxes."""
    regions, faults = [], []
    golds, written = in_text_order(sample.entities), in_text_order(rendered)
    if len(written) != len(read):
        return (), [f"{len(read)} entities come back from the labels of {len(written)}"]
    for gold, given, back in zip(golds, written, read, strict=True):
        if len(given.boxes) != len(back.boxes):
            faults.append(f"{given.text!r}: {len(back.boxes)} boxes come back from the labels of {len(given.boxes)}")
            continue
        for boxes in zip(gold.boxes, given.boxes, back.boxes, strict=True):
            regions.append(_region(given, *boxes, answer_format, sample.size))
    return tuple(regions), faults


def _region(entity: Entity, gold: Box, given: Box, read: Box, answer_format: AnswerFormat, size: Size) -> BoxRoundTrip:
    (dx, dy), (width, height) = answer_format.rounding(size), size
    # Boxes are clipped when they are written, so only what lies inside can come back.
    left, right = (min(max(edge, 0), width) for edge in (given.xmin, given.xmax))
    top, bottom = (min(max(edge, 0), height) for edge in (given.ymin, given.ymax))
    error = (
        max(abs(left - read.xmin), abs(right - read.xmax)),
        max(abs(top - read.ymin), abs(bottom - read.ymax)),
    )
    allowed = (dx if right - left >= 2 * dx else 2 * dx, dy if bottom - top >= 2 * dy else 2 * dy)
    return BoxRoundTrip(as_written(entity.text), entity.type, gold, given, read, error, allowed)


def show_tokens(given: Tensors, kinds: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[Token]:
    """The tokens of a batch's one row as text, those of the picture as one."""
    ids = given["input_ids"][0].tolist()
    before = [False] * (len(ids) - given["labels"].shape[1])
    counted = (given["labels"][0] != IGNORED) & (given["weights"][0] > 0)
    rows = zip(ids, kinds, before + counted.tolist(), strict=True)
    for (kind, target), run in groupby(rows, key=lambda row: row[1:]):
        own = [row[0] for row in run]
        if kind == PICTURE:
            yield Token(f"<picture: {len(own)} tokens>", (own[0],), kind, target)
            continue
        for together in characters(own, tokenizer):
            text = tokenizer.decode(together, clean_up_tokenization_spaces=False)
            yield Token(text.replace("\n", "↵\n"), together, kind, target)


def characters(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, ...]]:
    """The ids one by one, or together those that make one character: up to four, as UTF-8 has at most four bytes."""
    together: tuple[int, ...] = ()
    for token in ids:
        together += (token,)
        if len(together) == 4 or not tokenizer.decode(together).endswith("\ufffd"):
            yield together
            together = ()
    if together:
        yield together
