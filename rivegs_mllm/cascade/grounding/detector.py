"""The grounder ``zero_shot``: open-vocabulary detectors of transformers, asked for one referring expression at a time.

Grounding DINO (arXiv 2303.05499) and MM Grounding DINO, OWL-ViT and OWLv2 (arXiv 2306.09683), each of which can be
fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss, sigmoid_focal_loss
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, PreTrainedModel, ProcessorMixin

from rivegs_mllm.cascade.base import Stage, referring_expression
from rivegs_mllm.cascade.expressions import ExpressionVariants
from rivegs_mllm.cascade.grounding.base import Grounder, GroundingStage, Localization, grounding_metrics, pictured_rows
from rivegs_mllm.cascade.referring import all_parts, check_parts, slots_required_by
from rivegs_mllm.cascade.rows import GroundingRow
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.data.images import OVERVIEW_SIDE, open_for_model
from rivegs_mllm.models.device import best_device, count_parameters
from rivegs_mllm.models.plain_text import ignore_special_tokens
from rivegs_mllm.models.pretrained import load_pretrained, own_files
from rivegs_mllm.training.dataset.sampling import MultiVariantDataset
from rivegs_mllm.types import Box

STAGE = "grounder (zero_shot)"


@dataclass(frozen=True)
class DetectorFamily:
    """The input and output conventions of a family of detectors.

    ``phrases``: its text is phrases that end in a full stop, each word with a score of its own, and it has a loss;
    else it takes plain texts, with one score each. ``squared``: its boxes are shares of the longer side of the
    picture, which it pads to a square; else of width and height.
    """

    phrases: bool
    squared: bool


FAMILIES = {
    "grounding-dino": DetectorFamily(phrases=True, squared=False),
    "mm-grounding-dino": DetectorFamily(phrases=True, squared=False),
    "owlvit": DetectorFamily(phrases=False, squared=False),
    "owlv2": DetectorFamily(phrases=False, squared=True),
}
"""By the ``model_type`` of the config."""

_NO_STOPS = str.maketrans(".?", "  ")


class Detector(nn.Module):
    """A detector with its processor, to be trained or asked."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        super().__init__()
        self.model = model
        self.processor = processor
        self.family = FAMILIES[model.config.model_type]
        text = model.config if self.family.phrases else model.config.text_config
        self.max_tokens = text.max_text_len if self.family.phrases else text.max_position_embeddings
        self.ties = _ties(self)
        self.register_state_dict_post_hook(_drop_ties)
        self.register_load_state_dict_pre_hook(_add_ties)

    def forward(self, rows: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """The mean loss of rows that each are the tensors of one picture and text, and the ``box`` to be found.

        One after the other: in a batch the loss of Grounding DINO in transformers (5.23) takes the words of the
        second row for those of all later ones.
        """
        loss = self._phrase_loss if self.family.phrases else self._plain_loss
        return {"loss": torch.stack([loss(**row) for row in rows]).mean()}

    def _phrase_loss(self, inputs: Mapping[str, torch.Tensor], box: torch.Tensor) -> torch.Tensor:
        labels = [{"class_labels": torch.zeros(1, dtype=torch.long, device=box.device), "boxes": box[None]}]
        return self.model(**inputs, labels=labels).loss

    def _plain_loss(self, inputs: Mapping[str, torch.Tensor], box: torch.Tensor) -> torch.Tensor:
        """The set prediction loss of OWL-ViT (arXiv 2205.06230, section 3.2) with a single box to be matched.

        Its weights are DETR's (arXiv 2005.12872): 5 for the distance of the edges, 2 for the generalized IoU; 2 for the
        focal loss, as in Deformable DETR (arXiv 2010.04159).
        """
        found = self.model(**inputs)
        logits, boxes = found.logits[0, :, 0], found.pred_boxes[0]
        corners, wanted = box_convert(boxes, "cxcywh", "xyxy"), box_convert(box[None], "cxcywh", "xyxy")
        with torch.no_grad():
            yes, no = torch.ones_like(logits), torch.zeros_like(logits)
            cost = 2 * (sigmoid_focal_loss(logits, yes) - sigmoid_focal_loss(logits, no))
            cost += 5 * (boxes - box).abs().sum(-1) - 2 * generalized_box_iou(corners, wanted)[:, 0]
            best = int(cost.argmin())
        target = F.one_hot(torch.tensor(best, device=logits.device), len(logits)).to(logits)
        named = sigmoid_focal_loss(logits, target, reduction="sum")
        return 2 * named + 5 * (boxes[best] - box).abs().sum() + 2 * generalized_box_iou_loss(corners[best], wanted[0])

    @torch.inference_mode()
    def locate(self, image: Image.Image, texts: Sequence[str]) -> list[Localization]:
        """The best box of each text, clipped to the picture: a ``Locate`` of ``rivegs_mllm.cascade.grounding.base``."""
        pixels, (tokens, notes) = self.encode_image(image), self.tokenize(texts)
        if self.family.phrases:
            pixels = {name: value.expand(len(texts), *value.shape[1:]) for name, value in pixels.items()}
        inputs = {name: value.to(self.model.device) for name, value in {**pixels, **tokens}.items()}
        found = self.model(**inputs)
        if self.family.phrases:
            scores, boxes = found.logits.max(-1).values, found.pred_boxes
        else:
            scores, boxes = found.logits[0].T, found.pred_boxes.expand(len(texts), -1, -1)
        corners = box_convert(boxes.float(), "cxcywh", "xyxy").cpu() * self.box_scale(image.size)
        limits = torch.tensor(image.size * 2)
        corners = corners.clamp(min=torch.zeros(4), max=limits)
        there = (corners[..., 2:] > corners[..., :2]).all(-1)
        best = scores.float().cpu().masked_fill(~there, -torch.inf).argmax(-1)
        return [
            Localization((Box(*own[index].tolist()),) if real[index] else (), note)
            for own, real, index, note in zip(corners, there, best, notes, strict=True)
        ]

    def encode_image(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """The image processor's tensors of a picture, among them ``pixel_values`` (1, 3, height, width)."""
        if self.family.squared:  # the processor pads a picture to a square before it resizes it
            image = (
                ImageOps.contain(image, (OVERVIEW_SIDE, OVERVIEW_SIDE)) if max(image.size) > OVERVIEW_SIDE else image
            )
        return dict(self.processor.image_processor(image, return_tensors="pt"))

    def tokenize(self, texts: Sequence[str]) -> tuple[dict[str, torch.Tensor], list[tuple[str, ...]]]:
        """The tokenizer's tensors of texts, each (texts, longest), truncated to ``max_tokens``; and notes on each text
        that was cut."""
        if self.family.phrases:  # a full stop or question mark would begin another phrase
            texts = [(" ".join(text.translate(_NO_STOPS).lower().split()) or "object") + "." for text in texts]
        tokenizer = self.processor.tokenizer
        lengths = [len(ids) for ids in tokenizer(list(texts)).input_ids]
        limit = self.max_tokens
        notes = [(f"cut to {limit} of {length} tokens",) if length > limit else () for length in lengths]
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        return dict(tokens), notes

    def training_row(self, image: Image.Image, text: str, box: Box) -> dict:
        """A row of ``forward``: ``box`` in pixels of the picture."""
        corners = torch.tensor([box.xmin, box.ymin, box.xmax, box.ymax])
        target = box_convert((corners / self.box_scale(image.size)).clamp(0, 1), "xyxy", "cxcywh")
        return {"inputs": {**self.encode_image(image), **self.tokenize([text])[0]}, "box": target}

    def box_scale(self, size: tuple[int, int]) -> torch.Tensor:
        """(4,): what to multiply a predicted box by, xyxy, for pixels of a picture of ``size`` = (width, height)."""
        return torch.tensor([max(size)] * 4 if self.family.squared else size * 2, dtype=torch.float32)


def _ties(module: nn.Module) -> dict[str, str]:
    """The further names of weights that have several, each with their first: safetensors takes every weight once."""
    first: dict[int, str] = {}
    named = module.named_parameters(remove_duplicate=False)
    return {name: known for name, value in named if (known := first.setdefault(id(value), name)) != name}


def _drop_ties(detector: Detector, state: dict, prefix: str, _: dict) -> None:
    for name in detector.ties:
        del state[prefix + name]


def _add_ties(detector: Detector, state: dict, prefix: str, *_: object) -> None:
    for name, first in detector.ties.items():
        state[prefix + name] = state[prefix + first]


def load_detector(name: str, revision: str | None) -> Detector:
    """A detector by hub id or folder. Raises UserError where it is none of FAMILIES, or lacks weights."""
    families = dict.fromkeys(FAMILIES, AutoProcessor)
    model, processor = load_pretrained(AutoModelForZeroShotObjectDetection, name, revision, families, STAGE)
    ignore_special_tokens(processor.tokenizer)
    return Detector(model, processor)


# The stage of a cascade


@Grounder.register_subclass("zero_shot")
@dataclass
class ZeroShotGrounder(Grounder):
    """``model`` is a hub id, a folder, or what ``rivegs train`` wrote; ``query_fields`` the parts of the expression."""

    model: str
    revision: str | None = None
    query_fields: list[str] = field(default_factory=all_parts)
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_parts(self.query_fields)

    def requires(self) -> Sequence[str]:
        """The expressions, where the queries contain them."""
        return slots_required_by(self.query_fields)

    def files(self) -> Sequence[Path]:
        """The model's, where it is a folder."""
        return own_files(self.model)

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one."""
        detector = load_detector(self.model, self.revision).eval()
        detector.to(best_device())
        num_parameters = count_parameters(detector)
        return GroundingStage("zero_shot", detector.locate, self.query_fields, folder, num_parameters)


# Its training


@TrainableStage.register_subclass("zero_shot")
@dataclass
class ZeroShotTraining(TrainableStage):
    """How a detector is fine-tuned: all its weights, on each visible entity's largest box.

    ``model`` is a hub id or a folder, ``query_fields`` the parts of the referring expression.
    """

    model: str
    revision: str | None = None
    query_fields: list[str] = field(default_factory=all_parts)
    expressions: ExpressionVariants = field(default_factory=ExpressionVariants)

    def __post_init__(self) -> None:
        check_parts(self.query_fields)
        self.expressions.check(self.query_fields)

    def prepare(self, data: StageData) -> Trainable:
        """The detector and its rows; pictures are opened when their batch is made."""
        data = data.with_checked_pictures()
        detector = load_detector(self.model, self.revision)
        rows = MultiVariantDataset(self._rows(data, detector), self.expressions.strategy, data.seed)
        stage = GroundingStage("zero_shot", detector.locate, self.query_fields, data.folder, 0)

        def collate(batch: Sequence[tuple[GroundingRow, str]]) -> dict:
            opened = [(open_for_model(data.folder / view.image), text, view.target) for view, text in batch]
            return {"rows": [detector.training_row(*row) for row in opened]}

        def save(folder: Path) -> None:
            detector.model.save_pretrained(folder)
            detector.processor.save_pretrained(folder)

        return Trainable(
            model=detector,
            train=rows,
            lengths=rows.lengths(lambda row: len(row[1])),
            collate=collate,
            evaluate=lambda samples: grounding_metrics(stage, self.expressions.first(samples)),
            save=save,
        )

    def _rows(self, data: StageData, detector: Detector) -> list[list[tuple[GroundingRow, str]]]:
        """A row a visible entity, a variant each of its expressions. Prints how many texts are cut."""
        views = pictured_rows(data.train, data.folder)
        rows = [
            [(view, referring_expression(entity, self.query_fields) or entity.text) for entity in entities]
            for view, entities in zip(views, self.expressions.variants(views, self.query_fields), strict=True)
        ]
        texts = [text for row in rows for _, text in row]
        cut = [(text, notes[0]) for text, notes in zip(texts, detector.tokenize(texts)[1], strict=True) if notes]
        if cut:
            print(f"{STAGE}: {len(cut)} of {len(texts)} texts are too long, such as {cut[0][0]!r}: {cut[0][1]}")
        return rows
