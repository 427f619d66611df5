"""The grounder ``patches``: the patch of the picture that fits the referring expression best, and the box read from it.

A small grounder over the frozen vision tower of any Qwen-VL base. A text learns to prefer the patches in
its box to the others of the picture and to those of the batch's other pictures; a head predicts the box of the object
at a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert, generalized_box_iou_loss

from rivegs_mllm.cascade.base import Stage, named_errors
from rivegs_mllm.cascade.checkpoint import VISION_FOLDER, WEIGHTS, load_weights, read_metadata
from rivegs_mllm.cascade.encoding import encode_pictures
from rivegs_mllm.cascade.expressions import ExpressionVariants
from rivegs_mllm.cascade.grounding.base import Grounder, GroundingStage, Localization, grounding_metrics, pictured_rows
from rivegs_mllm.cascade.referring import all_parts, check_parts, entity_names, slots_required_by, training_texts
from rivegs_mllm.cascade.rows import GroundingRow
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import Bounds, Side
from rivegs_mllm.models.device import best_device, count_parameters, device_of
from rivegs_mllm.models.late_interaction import (
    MASKED_SCORE,
    LateInteractionScorer,
    PatchFeatures,
    VisionEncoder,
    pad_pairs,
)
from rivegs_mllm.published.weights import save_weights
from rivegs_mllm.training.dataset.sampling import MultiVariantDataset
from rivegs_mllm.types import Box

STAGE = "grounder (patches)"


class PatchGroundingModel(nn.Module):
    """The match of text and patches, and the head that predicts the box of the object at a patch."""

    def __init__(self, words: torch.Tensor, width: int, layers: int):
        super().__init__()
        seen = words.shape[1]
        self.match = LateInteractionScorer(words, width, layers)
        self.box = nn.Sequential(nn.Linear(seen, seen), nn.GELU(), nn.Linear(seen, 4))

    def forward(
        self,
        patches: torch.Tensor,
        patch_mask: torch.Tensor,
        words: torch.Tensor,
        word_mask: torch.Tensor,
        inside: torch.Tensor,
        boxes: torch.Tensor,
        negative_mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch of pairs of a picture and a text; the first four arguments are of ``pad_pairs``.

        ``inside`` (B, C) is which patches lie in the box, ``boxes`` (B, 4) the box in [0, 1] of the picture, xyxy;
        ``negative_mask`` (B, B) which pictures do not show a text's entity.
        """
        every = self.match.all_pairs(patches, patch_mask, words, word_mask)
        own = every.diagonal(dim1=0, dim2=1).T
        others = every.masked_fill(~negative_mask[..., None], MASKED_SCORE).flatten(1)
        right = own.masked_fill(~inside, MASKED_SCORE).logsumexp(1)
        among_own = own.logsumexp(1)
        among_all = torch.cat([own, others], 1).logsumexp(1)
        loss = (among_own + among_all - 2 * right).mean()

        # The box is learned at the patches that fit best; detached, so that its error does not move the match. The
        # weights 5 and 2 are DETR's (arXiv 2005.12872).
        share = own.detach().masked_fill(~inside, MASKED_SCORE).softmax(1)
        read, wanted = self.read_boxes(patches), boxes[:, None].expand(-1, patches.shape[1], -1)
        off = 5 * F.l1_loss(read, wanted, reduction="none").mean(-1) + 2 * generalized_box_iou_loss(read, wanted)
        return {"loss": loss + (share * off).sum(1).mean()}

    def read_boxes(self, patches: torch.Tensor) -> torch.Tensor:
        """The box predicted at each patch, (..., 4) in [0, 1] of the picture, xyxy."""
        return box_convert(self.box(self.match.norm(patches)).sigmoid(), "cxcywh", "xyxy").clamp(0, 1)

    def locate(self, **pairs: torch.Tensor) -> torch.Tensor:
        """The box at the patch that fits each text best, (B, 4); ``pairs`` is what ``pad_pairs`` gives."""
        best = self.match(**pairs).argmax(1)
        return self.read_boxes(pairs["patches"][torch.arange(len(best)), best])


@dataclass(frozen=True)
class PatchLocator:
    """A trained or untrained grounder with its vision encoder: a ``Locate`` of
    ``rivegs_mllm.cascade.grounding.base``."""

    model: PatchGroundingModel
    vision_encoder: VisionEncoder

    @torch.inference_mode()
    def __call__(self, image: Image.Image, texts: Sequence[str]) -> list[Localization]:
        """One box a text, clipped to the picture; a text that is too long is truncated."""
        device, most = device_of(self.model), LateInteractionScorer.MAX_WORDS
        words = self.vision_encoder.tokenize(texts)
        notes = [(f"cut to {most} of {len(ids)} tokens",) if len(ids) > most else () for ids in words]
        pairs = pad_pairs(self.vision_encoder.encode_images([image]) * len(texts), [ids[:most] for ids in words])
        boxes = self.model.locate(**{name: value.to(device) for name, value in pairs.items()}).cpu()
        boxes = boxes * torch.tensor(image.size * 2)
        return [
            Localization((Box(*box.tolist()),) if (box[2:] > box[:2]).all() else (), note)
            for box, note in zip(boxes, notes, strict=True)
        ]


# The stage of a cascade


@Grounder.register_subclass("patches")
@dataclass
class PatchGrounder(Grounder):
    """A trained grounder. ``checkpoint`` is the folder that ``rivegs train`` wrote, ``types`` what it must know.

    ``query_fields`` is the parts of the referring expression, null for those that it was trained with.
    """

    checkpoint: Path
    query_fields: list[str] | None = None
    types: list[str] | None = None
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.query_fields is not None:
            check_parts(self.query_fields)

    def requires(self) -> Sequence[str]:
        """The expressions, where the queries contain them."""
        return slots_required_by(self._parts())

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one. Raises StageError for a folder that is incomplete."""
        metadata = read_metadata(self.checkpoint, STAGE, "patches", self.types, PatchGrounderTraining)
        with named_errors(STAGE):
            vision_encoder = VisionEncoder.load(self.checkpoint / VISION_FOLDER)
        model = PatchGroundingModel(vision_encoder.words, metadata.settings["width"], metadata.settings["layers"])
        load_weights(model, self.checkpoint, STAGE)
        device = best_device()
        vision_encoder.tower.to(device)
        num_parameters = count_parameters(model, vision_encoder.tower)
        return GroundingStage(
            "patches", PatchLocator(model.to(device).eval(), vision_encoder), self._parts(), folder, num_parameters
        )

    def _parts(self) -> Sequence[str]:
        return (
            self.query_fields
            or read_metadata(self.checkpoint, STAGE, "patches", self.types, PatchGrounderTraining).settings[
                "query_fields"
            ]
        )


# Its training


@dataclass(frozen=True)
class GroundingExample:
    """A picture and a text, the box in [0, 1] of the picture, the entity's ``names``, and all names of its ``post``."""

    patches: PatchFeatures
    text: torch.Tensor
    box: torch.Tensor
    names: frozenset[str]
    post: frozenset[str]


@TrainableStage.register_subclass("patches")
@dataclass
class PatchGrounderTraining(TrainableStage):
    """How the grounder is trained.

    ``base`` is the Qwen-VL whose vision tower encodes pictures: a hub id, a folder, or ``tiny``. All training
    pictures' patch features are held in memory. ``query_fields`` is the parts of the referring expression.
    ``drop_mentions``: every other time, by chance, the mention is left out, so that expressions are used even where
    names have been memorised.
    """

    base: str
    query_fields: list[str] = field(default_factory=all_parts)
    expressions: ExpressionVariants = field(default_factory=ExpressionVariants)
    drop_mentions: bool = True
    width: Side = 128
    layers: Annotated[int, Bounds(1, 100)] = 2

    def __post_init__(self) -> None:
        check_parts(self.query_fields)
        self.expressions.check(self.query_fields)

    def prepare(self, data: StageData) -> Trainable:
        """The grounder, untrained, and its rows: visible entities, each with its largest box."""
        data = data.with_checked_pictures()
        vision_encoder = VisionEncoder.of_base(self.base)
        vision_encoder.tower.to(best_device())
        model = PatchGroundingModel(vision_encoder.words, self.width, self.layers)
        rows = MultiVariantDataset(self._rows(data, vision_encoder), self.expressions.strategy, data.seed)
        stage = GroundingStage("patches", PatchLocator(model, vision_encoder), self.query_fields, data.folder, 0)

        def save(folder: Path) -> None:
            vision_encoder.save(folder / VISION_FOLDER)
            save_weights(model, folder / WEIGHTS)

        return Trainable(
            model=model,
            train=rows,
            lengths=rows.lengths(lambda row: len(row.patches.tokens)),
            collate=collate,
            evaluate=lambda samples: grounding_metrics(stage, self.expressions.first(samples)),
            save=save,
        )

    def _rows(self, data: StageData, vision_encoder: VisionEncoder) -> list[list[GroundingExample]]:
        views = pictured_rows(data.train, data.folder)
        patches = encode_pictures({view.id: data.folder / view.image for view in views}, vision_encoder.encode_images)
        posts = {sample.id: frozenset().union(*map(entity_names, sample.entities)) for sample in data.train}
        return [
            [
                GroundingExample(patches[view.id], text, _target(view), entity_names(view.entity), posts[view.id])
                for text in vision_encoder.tokenize(training_texts(entities, self.query_fields, self.drop_mentions))
            ]
            for view, entities in zip(views, self.expressions.variants(views, self.query_fields), strict=True)
        ]


def collate(rows: Sequence[GroundingExample]) -> dict[str, torch.Tensor]:
    """The arguments of ``PatchGroundingModel.forward`` by name."""
    boxes = torch.stack([row.box for row in rows])
    return {
        **pad_pairs([row.patches for row in rows], [row.text for row in rows]),
        "inside": pad_sequence([patches_inside(row.patches, row.box) for row in rows], batch_first=True),
        "boxes": boxes,
        "negative_mask": torch.tensor([[not row.names & other.post for other in rows] for row in rows]),
    }


def patches_inside(patches: PatchFeatures, box: torch.Tensor) -> torch.Tensor:
    """(rows * columns,): which patches have their centre in the box; where none has, the one nearest to its middle."""
    centres = patches.centres()
    inside = ((centres > box[:2]) & (centres < box[2:])).all(1)
    if not inside.any():
        inside[(centres - (box[:2] + box[2:]) / 2).norm(dim=1).argmin()] = True
    return inside


def _target(view: GroundingRow) -> torch.Tensor:
    """The box to be found, in [0, 1] of the picture."""
    box, (width, height) = view.target, view.size
    return torch.tensor([box.xmin / width, box.ymin / height, box.xmax / width, box.ymax / height]).clamp(0, 1)
