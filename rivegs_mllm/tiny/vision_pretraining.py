"""Vision pre-training of the tiny base: every cell predicts the emblem that covers it, part by part, and its box.

A vision tower trained from scratch through a language model's loss alone gets one gradient a word. Here each
28-pixel cell of each picture is supervised, with heads that are thrown away afterwards. What stays is a tower
whose tokens already hold what the language model will have to read from them: also, as sums of the very embeddings that
the language model starts with, the words that describe the emblem. To describe is then to copy, and to compare a text
with a cell a product of the two (as in CLIP, arXiv 2103.00020, here word by word and cell by cell).
"""

from __future__ import annotations

import random
import re

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import IterableDataset, get_worker_info
from torchvision.ops import generalized_box_iou_loss
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor, Trainer, TrainingArguments

from data_builders.emblems.looks import PARTS, Look
from data_builders.emblems.scene import Scene
from rivegs_mllm.tiny.scenes import random_scene
from rivegs_mllm.training.dataset.rows import IGNORED
from rivegs_mllm.types import TYPES

PART_SLOTS = tuple((kind, name, values) for kind in TYPES for name, values in PARTS[kind])
BACKGROUND = len(TYPES)
FUNCTION_WORDS = {"a", "an", "and", "hair", "shirt", "stripes", "with"}
WORD_LOSS_WEIGHT = 2.0  # weight of the loss of words
MAX_LOOK_TOKENS = 12  # tokens of the words of one look, at most
COVERED, BARE = 0.3, 0.05  # a cell between the two is neither emblem nor background


class SceneDataset(IterableDataset):
    """Endless scenes, each worker its own stream: pixel values, the grid and the targets of each cell."""

    def __init__(self, processor: Qwen2_5_VLProcessor, seed: int):
        self.processor = processor
        self.seed = seed

    def __iter__(self):
        worker = get_worker_info()
        rng = random.Random(f"{self.seed}/{worker.id if worker else 0}")
        while True:
            scene = random_scene(rng)
            pixels = self.processor.image_processor(scene.image, return_tensors="pt")
            yield {**pixels, **cell_targets(scene, pixels["image_grid_thw"][0], self.processor)}


def cell_targets(scene: Scene, grid: torch.Tensor, processor: Qwen2_5_VLProcessor) -> dict[str, torch.Tensor]:
    """The targets of each merged cell, row by row.

    ``kind`` (cells,) is the entity type, BACKGROUND or IGNORED; ``parts`` (cells, slots) the value of each part or
    IGNORED; ``words`` (cells, MAX_LOOK_TOKENS) the tokens of the words that describe it, padded with IGNORED; ``boxes``
    (cells, 4) the visible box in [0, 1] of the picture; ``centres`` (cells, 2) where the cell is.
    """
    merge = processor.image_processor.merge_size
    rows, columns = int(grid[1]) // merge, int(grid[2]) // merge
    width, height = scene.image.size
    cells = rows * columns
    owner, share = cell_owners(scene, rows, columns)

    kind = np.full(cells, BACKGROUND)
    kind[(share > BARE) & (share < COVERED)] = IGNORED
    parts = np.full((cells, len(PART_SLOTS)), IGNORED)
    words = np.full((cells, MAX_LOOK_TOKENS), IGNORED)
    boxes = np.zeros((cells, 4), dtype=np.float32)
    for index, placement in enumerate(scene.placements):
        mine = (owner == index) & (share >= COVERED)
        look = placement.look
        kind[mine] = TYPES.index(look.type)
        slots = [number for number, (slot_type, _, _) in enumerate(PART_SLOTS) if slot_type == look.type]
        for slot, part in zip(slots, look.parts, strict=True):
            parts[mine, slot] = PART_SLOTS[slot][2].index(part)
        tokens = word_tokens(look, processor.tokenizer)
        words[mine, : len(tokens)] = tokens
        box = placement.box
        boxes[mine] = (box.xmin / width, box.ymin / height, box.xmax / width, box.ymax / height)
    y, x = np.mgrid[0:rows, 0:columns]
    centres = np.stack([(x.reshape(-1) + 0.5) / columns, (y.reshape(-1) + 0.5) / rows], 1).astype(np.float32)
    targets = {"kind": kind, "parts": parts, "words": words, "boxes": boxes, "centres": centres}
    return {name: torch.from_numpy(value) for name, value in targets.items()}


def word_tokens(look: Look, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens of the words of a look's expression that tell it from others, as they stand within a text."""
    words = [word for word in re.findall(r"[\w-]+", look.expression) if word not in FUNCTION_WORDS]
    return tokenizer(" " + " ".join(words), add_special_tokens=False).input_ids


def cell_owners(scene: Scene, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of a picture's cells, row by row, the index of the placement that covers most of it, and the share.

    The index of a cell without any emblem is ``len(scene.placements)``.
    """
    shares = np.zeros((len(scene.placements) + 1, rows * columns), dtype=np.float32)
    for index, placement in enumerate(scene.placements):
        covered = Image.fromarray(placement.mask.view(np.uint8) * 255).resize((columns, rows), Image.Resampling.BOX)
        shares[index] = np.asarray(covered, dtype=np.float32).reshape(-1) / 255
    share = shares.max(0)
    return np.where(share > 0, shares.argmax(0), len(scene.placements)), share


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Cells and patches of all pictures, one after the other."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


class VisionPretrainingModel(nn.Module):
    """The vision tower with heads that read every cell: type, parts, words, box and the cell's own place.

    ``embedding`` (tokens, width) is the language model's. Of a cell's token and of it only the dimensions count that
    the embedding fills: the others belong to what heads write there (induction_init.py).
    """

    def __init__(self, visual: nn.Module, embedding: torch.Tensor):
        super().__init__()
        width = embedding.shape[1]
        self.visual = visual
        self.register_buffer("embedding", directions(embedding))
        self.filled = self.embedding.shape[1]
        self.sharpness = nn.Parameter(torch.tensor(2.5))  # a logarithm, as CLIP's temperature
        self.norm = nn.LayerNorm(width)
        self.kind = nn.Linear(width, len(TYPES) + 1)
        self.parts = nn.ModuleList(nn.Linear(width, len(values)) for _, _, values in PART_SLOTS)
        self.boxes = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))
        self.centres = nn.Linear(width, 2)
        self.right: dict[str, float] = {}

    def forward(self, pixel_values, image_grid_thw, kind, parts, words, boxes, centres) -> dict[str, torch.Tensor]:
        """The loss over the cells of all pictures; targets as ``cell_targets`` gives them."""
        raw = self.visual(pixel_values, grid_thw=image_grid_thw).pooler_output
        tokens = self.norm(raw).float()
        on = kind.ge(0) & kind.ne(BACKGROUND)
        loss = F.cross_entropy(self.kind(tokens), kind, ignore_index=IGNORED)
        own = tokens[on]
        for slot, head in enumerate(self.parts):
            target = parts[on, slot]
            used = target.ne(IGNORED)
            # summed over the slots of one emblem, averaged over cells
            loss = loss + F.cross_entropy(head(own[used]), target[used], reduction="sum") / max(len(own), 1)
        filled = raw[on].float()[:, : self.filled]
        loss = loss + WORD_LOSS_WEIGHT * unlike_words(filled, words[on], self.embedding, self.sharpness.exp())
        predicted = corners(self.boxes(own))
        # 5 and 2 are DETR's weights (arXiv 2005.12872).
        loss = loss + 5 * F.l1_loss(predicted, boxes[on]) + 2 * generalized_box_iou_loss(predicted, boxes[on]).mean()
        loss = loss + F.mse_loss(self.centres(tokens), centres)
        self._measure(tokens, predicted, kind, parts, boxes, on)
        return {"loss": loss}

    @torch.no_grad()
    def _measure(self, tokens, predicted, kind, parts, boxes, on) -> None:
        """Keeps ``right``: the share of cells of the right type, and of emblem cells with all parts, or IoU > 0.5."""
        wrong = torch.zeros(len(predicted), dtype=torch.bool, device=predicted.device)
        for slot, head in enumerate(self.parts):
            target = parts[on, slot]
            wrong |= target.ne(IGNORED) & head(tokens[on]).argmax(-1).ne(target)
        gold = boxes[on]
        sides = torch.minimum(predicted[:, 2:], gold[:, 2:]) - torch.maximum(predicted[:, :2], gold[:, :2])
        inter = sides.clamp(min=0).prod(-1)
        union = (predicted[:, 2:] - predicted[:, :2]).prod(-1) + (gold[:, 2:] - gold[:, :2]).prod(-1) - inter
        counted = kind.ge(0)
        self.right = {
            "type": self.kind(tokens).argmax(-1).eq(kind)[counted].float().mean().item(),
            "parts": (~wrong).float().mean().item(),
            "box": (inter / union).gt(0.5).float().mean().item(),
        }


class VisionTrainer(Trainer):
    """transformers' Trainer, which also logs what the model measured in the last batch."""

    def __init__(self, model: VisionPretrainingModel, args: TrainingArguments, scenes: SceneDataset):
        super().__init__(model, args, train_dataset=scenes, data_collator=collate)

    def log(self, logs, *arguments):
        """What is logged, with the shares of the last batch."""
        super().log({**logs, **self.model.right}, *arguments)


def directions(embedding: torch.Tensor) -> torch.Tensor:
    """Each token's embedding at length 1, (tokens, width), without the dimensions that no token fills."""
    filled = int(embedding.detach().abs().sum(0).gt(0).sum())
    return F.normalize(embedding.detach()[:, :filled].float(), dim=-1)


def unlike_words(
    vectors: torch.Tensor, words: torch.Tensor, embedding: torch.Tensor, sharpness: torch.Tensor | float
) -> torch.Tensor:
    """The mean negative log-likelihood of each vector's words, by its cosine to their embeddings.

    ``vectors`` (N, width), ``words`` (N, MAX_LOOK_TOKENS) token ids and IGNORED, ``embedding`` that of ``directions``.
    """
    chances = (sharpness * F.normalize(vectors, dim=-1) @ embedding.T).log_softmax(-1)
    return -chances.gather(1, words.clamp(min=0))[words.ne(IGNORED)].mean()


def corners(raw: torch.Tensor) -> torch.Tensor:
    """(N, 4) raw outputs to boxes in [0, 1], xyxy: a centre and a size, each through a sigmoid."""
    centre, size = raw.sigmoid().split(2, -1)
    return torch.cat([centre - size / 2, centre + size / 2], -1)
