"""The grounder ``cells``: the cell of the picture that fits the referring expression best, and the box read from it.

A small grounder over the vision tower of any Qwen-VL base, which stays as it is. A text learns to prefer the cells in
its box to the others of the picture and to those of the batch's other pictures; a head reads the box of what stands
at a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert, generalized_box_iou_loss

from rivegs_mllm.cascade.base import Stage, StageError, refer
from rivegs_mllm.cascade.checkpoint import read_card
from rivegs_mllm.cascade.expressions import Wordings
from rivegs_mllm.cascade.grounding.base import Found, Grounder, GroundingStage, grounding_figures
from rivegs_mllm.cascade.referring import all_parts, check_parts, needed
from rivegs_mllm.cascade.rows import GroundingRow, grounding_view
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import Bounds, Side
from rivegs_mllm.data.batching import batches
from rivegs_mllm.data.images import open_for_model
from rivegs_mllm.data.progress import track
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.late_interaction import (
    MASKED_SCORE,
    LateInteractionScorer,
    PatchFeatures,
    VisionEncoder,
    pad_pairs,
)
from rivegs_mllm.training.sampling import MultiVariantDataset
from rivegs_mllm.types import TYPES, Box, Entity, UserError

STAGE = "grounder (cells)"
EYES = "eyes"
WEIGHTS = "model.safetensors"
AT_ONCE = 32
"""How many pictures go through the tower together."""


class CellGrounder(nn.Module):
    """The matching of text and cells, and the head that reads the box of what stands at a cell."""

    def __init__(self, words: torch.Tensor, width: int, layers: int):
        super().__init__()
        seen = words.shape[1]
        self.match = LateInteractionScorer(words, width, layers)
        self.box = nn.Sequential(nn.Linear(seen, seen), nn.GELU(), nn.Linear(seen, 4))

    def forward(
        self,
        cells: torch.Tensor,
        cell_mask: torch.Tensor,
        words: torch.Tensor,
        word_mask: torch.Tensor,
        inside: torch.Tensor,
        boxes: torch.Tensor,
        rivals: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch of pairs of a picture and a text; the first four arguments are of ``pad_pairs``.

        ``inside`` (B, C) is which cells lie in the box, ``boxes`` (B, 4) the box in [0, 1] of the picture, xyxy;
        ``rivals`` (B, B) which pictures do not show what a text speaks of.
        """
        every = self.match.all_pairs(cells, cell_mask, words, word_mask)
        own = every.diagonal(dim1=0, dim2=1).T
        others = every.masked_fill(~rivals[..., None], MASKED_SCORE).flatten(1)
        right = own.masked_fill(~inside, MASKED_SCORE).logsumexp(1)
        among_own = own.logsumexp(1)
        among_all = torch.cat([own, others], 1).logsumexp(1)
        loss = (among_own + among_all - 2 * right).mean()

        share = own.detach().masked_fill(~inside, MASKED_SCORE).softmax(1)
        read, wanted = self.read_boxes(cells), boxes[:, None].expand(-1, cells.shape[1], -1)
        off = 5 * F.l1_loss(read, wanted, reduction="none").mean(-1) + 2 * generalized_box_iou_loss(read, wanted)
        return {"loss": loss + (share * off).sum(1).mean()}

    def read_boxes(self, cells: torch.Tensor) -> torch.Tensor:
        """The box that each cell tells of, (..., 4) in [0, 1] of the picture, xyxy."""
        return box_convert(self.box(self.match.norm(cells)).sigmoid(), "cxcywh", "xyxy").clamp(0, 1)

    def locate(self, **pairs: torch.Tensor) -> torch.Tensor:
        """The box at the cell that fits each text best, (B, 4); ``pairs`` is what ``pad_pairs`` gives."""
        best = self.match(**pairs).argmax(1)
        return self.read_boxes(pairs["cells"][torch.arange(len(best)), best])


@dataclass(frozen=True)
class Looker:
    """A trained or untrained grounder with its eyes: a ``Locate`` of ``rivegs_mllm.cascade.grounding.base``."""

    model: CellGrounder
    eyes: VisionEncoder

    @torch.inference_mode()
    def __call__(self, image: Image.Image, texts: Sequence[str]) -> list[Found]:
        """One box a text, cut to the picture; of a text that is too long the beginning is looked for."""
        device, most = next(self.model.parameters()).device, LateInteractionScorer.MAX_WORDS
        words = self.eyes.read(texts)
        notes = [(f"cut to {most} of {len(ids)} tokens",) if len(ids) > most else () for ids in words]
        pairs = pad_pairs(self.eyes.look([image]) * len(texts), [ids[:most] for ids in words])
        boxes = self.model.locate(**{name: value.to(device) for name, value in pairs.items()}).cpu()
        boxes = boxes * torch.tensor(image.size * 2)
        return [
            Found((Box(*box.tolist()),) if (box[2:] > box[:2]).all() else (), note)
            for box, note in zip(boxes, notes, strict=True)
        ]


# The stage of a cascade


@Grounder.register_subclass("cells")
@dataclass
class CellsGrounder(Grounder):
    """A trained grounder. ``checkpoint`` is the folder that ``rivegs train`` wrote, ``types`` what it must know.

    ``refer`` is the parts of the referring expression, null for those that it was trained with.
    """

    checkpoint: Path
    refer: list[str] | None = None
    types: list[str] = field(default_factory=lambda: list(TYPES))
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.refer is not None:
            check_parts(self.refer)

    def needs(self) -> Sequence[str]:
        """Expressions, where they are referred by."""
        return needed(self._parts())

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one. Raises StageError for a folder that is not whole."""
        card = read_card(self.checkpoint, STAGE, "cells", self.types, CellsTraining)
        path = self.checkpoint / WEIGHTS
        try:
            eyes = VisionEncoder.load(self.checkpoint / EYES)
            model = CellGrounder(eyes.words, card.settings["width"], card.settings["layers"])
            model.load_state_dict(load_file(path))
        except UserError as error:
            raise StageError(f"{STAGE}: {error}") from None
        except (RuntimeError, OSError, SafetensorError) as error:
            raise StageError(f"{STAGE}: {path}: {error}; train the stage again") from None
        device = best_device()
        eyes.tower.to(device)
        parameters = sum(value.numel() for part in (model, eyes.tower) for value in part.parameters())
        return GroundingStage("cells", Looker(model.to(device).eval(), eyes), self._parts(), folder, parameters)

    def _parts(self) -> Sequence[str]:
        return self.refer or read_card(self.checkpoint, STAGE, "cells", self.types, CellsTraining).settings["refer"]


# Its training


@dataclass(frozen=True)
class Row:
    """A picture and a text, the box in [0, 1] of the picture, and all that the picture's post speaks of."""

    cells: PatchFeatures
    text: torch.Tensor
    box: torch.Tensor
    names: frozenset[str]
    post: frozenset[str]


@TrainableStage.register_subclass("cells")
@dataclass
class CellsTraining(TrainableStage):
    """How the grounder is trained.

    ``base`` is the Qwen-VL whose vision tower it looks through: a hub id, a folder, or ``tiny``. All training
    pictures' cells are held in memory. ``refer`` is the parts of the referring expression. ``unnamed``: every other
    time, by chance, the mention is left out, so that expressions are read also where names are known by heart.
    """

    base: str
    refer: list[str] = field(default_factory=all_parts)
    expressions: Wordings = field(default_factory=Wordings)
    unnamed: bool = True
    width: Side = 128
    layers: Annotated[int, Bounds(1, 100)] = 2

    def __post_init__(self) -> None:
        check_parts(self.refer)
        self.expressions.check(self.refer)

    def prepare(self, data: StageData) -> Trainable:
        """The grounder, untrained, and its rows: visible entities, each with its largest box."""
        data = data.with_checked_pictures()
        eyes = VisionEncoder.of_base(self.base)
        eyes.tower.to(best_device())
        model = CellGrounder(eyes.words, self.width, self.layers)
        rows = MultiVariantDataset(self._rows(data, eyes), self.expressions.how, data.seed)
        stage = GroundingStage("cells", Looker(model, eyes), self.refer, data.folder, 0)

        def save(folder: Path) -> None:
            eyes.save(folder / EYES)
            save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)

        return Trainable(
            model=model,
            train=rows,
            lengths=rows.lengths(lambda row: len(row.cells.tokens)),
            collate=collate,
            evaluate=lambda samples: grounding_figures(stage, self.expressions.first(samples)),
            save=save,
        )

    def _rows(self, data: StageData, eyes: VisionEncoder) -> list[list[Row]]:
        views = [view for view in grounding_view(data.train) if view.image]
        if not views:
            raise UserError(
                f"{data.folder}: no entity is visible in a picture, so there is nothing to learn grounding from"
            )
        cells = see({view.id: data.folder / view.image for view in views}, eyes)
        posts = {sample.id: frozenset().union(*map(_names, sample.entities)) for sample in data.train}
        return [
            [
                Row(cells[view.id], text, _target(view), _names(view.entity), posts[view.id])
                for text in eyes.read(self._texts(entities))
            ]
            for view, entities in zip(views, self.expressions.variants(views, self.refer), strict=True)
        ]

    def _texts(self, variants: Sequence[Entity]) -> list[str]:
        """The referring expressions that an entity is learned by, at least one."""
        parts = [self.refer, [part for part in self.refer if part != "mention"]] if self.unnamed else [self.refer]
        texts = dict.fromkeys(refer(entity, own) for entity in variants for own in parts)
        return [text for text in texts if text] or [variants[0].text]


def see(pictures: Mapping[str, Path], eyes: VisionEncoder) -> dict[str, PatchFeatures]:
    """The cells of each picture, by the name it is given under."""
    cells: dict[str, PatchFeatures] = {}
    for names in track(list(batches(list(pictures), AT_ONCE)), "pictures"):
        cells.update(zip(names, eyes.look([open_for_model(pictures[name]) for name in names]), strict=True))
    return cells


def collate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """The arguments of ``CellGrounder.forward`` by name."""
    boxes = torch.stack([row.box for row in rows])
    return {
        **pad_pairs([row.cells for row in rows], [row.text for row in rows]),
        "inside": pad_sequence([cells_inside(row.cells, row.box) for row in rows], batch_first=True),
        "boxes": boxes,
        "rivals": torch.tensor([[not row.names & other.post for other in rows] for row in rows]),
    }


def cells_inside(cells: PatchFeatures, box: torch.Tensor) -> torch.Tensor:
    """(rows * columns,): which cells have their centre in the box, or where none has the one nearest to its middle."""
    centres = cells.centres()
    inside = ((centres > box[:2]) & (centres < box[2:])).all(1)
    if not inside.any():
        inside[(centres - (box[:2] + box[2:]) / 2).norm(dim=1).argmin()] = True
    return inside


def _target(view: GroundingRow) -> torch.Tensor:
    """The box to be found, in [0, 1] of the picture."""
    box, (width, height) = view.target, view.size
    return torch.tensor([box.xmin / width, box.ymin / height, box.xmax / width, box.ymax / height]).clamp(0, 1)


def _names(entity: Entity) -> frozenset[str]:
    """What tells that two entities are one."""
    return frozenset({entity.text.lower(), entity.expression} - {""})
