"""H-Index with its tokenizer and the pictures' regions: from posts to entities with their boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from transformers import PreTrainedTokenizerFast

from rivegs_mllm.cascade.tagging.base import Tagged
from rivegs_mllm.models.device import count_parameters, device_of
from rivegs_mllm.published.hindex.model import HIndex
from rivegs_mllm.published.hindex.regions import Regions, pad_regions, read_regions
from rivegs_mllm.published.hindex.sizes import NO_REGION
from rivegs_mllm.published.hindex.text import TokenizedPost, pad_posts, tokenize_post
from rivegs_mllm.published.hindex.writing import Mention, generate, parse_sequence
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.types import Box, Entity, Sample

STAGE = "tagger (hindex)"


@dataclass(frozen=True)
class RegionFolder:
    """The files of pictures' regions, ``<picture's file name>.npz`` as published, or without the picture's ending.

    ``max_regions`` regions of a picture are seen, of features ``width`` wide, ``normalise``d or not. Without a folder
    pictures are not used.
    """

    folder: Path | None
    max_regions: int
    width: int
    normalise: bool = True

    def of(self, image: str) -> tuple[Regions, bool]:
        """The regions of a picture, and whether there is a file; zeros without one. Raises UserError."""
        if self.folder is None:
            return pad_regions(None, self.max_regions, self.width), True
        path = region_file(self.folder, image)
        found = None if path is None else read_regions(path)
        return pad_regions(found, self.max_regions, self.width, self.normalise), found is not None


def region_file(folder: Path, image: str) -> Path | None:
    """The file of a picture's regions, None where there is none."""
    name = PurePosixPath(image)
    known = (folder / f"{own}.npz" for own in dict.fromkeys((name.name, name.stem)))
    return next((path for path in known if path.is_file()), None) if name.name else None


@dataclass(frozen=True)
class HIndexPredictor:
    """A model with its tokenizer and the pictures' regions; ``types`` in the order of their indices."""

    model: HIndex
    tokenizer: PreTrainedTokenizerFast
    regions: RegionFolder
    types: tuple[str, ...]
    batch_size: int
    max_tokens: int

    @property
    def num_parameters(self) -> int:
        """How many the model has."""
        return count_parameters(self.model)

    def tokenize(self, sample: Sample) -> TokenizedPost:
        """A post as the model's input."""
        return tokenize_post(sample.tokens, self.tokenizer, self.max_tokens)

    @torch.no_grad()
    def tag(self, samples: Sequence[Sample]) -> list[Tagged]:
        """The entities of each post, in the order of the text, and notes; where pictures are used also ``visible``
        and ``boxes``, in pixels of the original picture. Raises UserError for a damaged file of regions."""
        tagged: list[Tagged] = []
        device = device_of(self.model)
        for batch in batches(list(samples), self.batch_size):
            posts = [self.tokenize(sample) for sample in batch]
            regions_of_posts = [self.regions.of(sample.image) for sample in batch]
            features = torch.stack([torch.from_numpy(regions.features) for regions, _ in regions_of_posts])
            memory = self.model.encode(pad_posts(posts).to(device), features.to(device))
            found = generate(self.model, memory)
            rows = zip(found.indices.tolist(), found.boxes.tolist(), strict=True)
            for sample, post, found_regions, row in zip(batch, posts, regions_of_posts, rows, strict=True):
                tagged.append(self._tagged(sample, post, found_regions, row))
        return tagged

    def _tagged(
        self, sample: Sample, post: TokenizedPost, found_regions: tuple[Regions, bool], row: tuple[list[int], list[int]]
    ) -> Tagged:
        regions, there = found_regions
        answer = parse_sequence(*row, self.model.sizes.words, self.model.as_published)
        entities = [self._entity(sample, post, regions, mention) for mention in answer.mentions]
        kept = sorted((own for own in entities if own is not None), key=lambda own: own.span)
        return tuple(kept), tuple(self._notes(sample, post, there, answer.unreadable + entities.count(None), kept))

    def _notes(
        self, sample: Sample, post: TokenizedPost, there: bool, unread: int, kept: Sequence[Entity]
    ) -> Iterator[str]:
        left = len(sample.tokens) - len(post.first)
        if sample.image and not there:
            yield f"{STAGE}: no file of regions for {sample.image}"
        if left:
            yield f"{STAGE}: the last {left} words did not fit into {self.max_tokens} tokens"
        if unread:
            yield f"{STAGE}: {unread} parts of the answer cannot be read"
        for entity in kept:
            if entity.visible and not entity.boxes:
                yield f"{STAGE}: {entity.text!r}: the region that was chosen has no area"

    def _entity(self, sample: Sample, post: TokenizedPost, regions: Regions, mention: Mention) -> Entity | None:
        """The entity of a mention, None where its places are not consecutive words, or its type is none."""
        words = [post.first.index(index) for index in mention.places if index in post.first]
        kind = mention.type - NO_REGION - 1
        following = words == list(range(words[0], words[0] + len(mention.places))) if words else False
        if not following or not 0 <= kind < len(self.types):
            return None
        span = (words[0], words[-1] + 1)
        boxes = () if mention.box is None else _box(regions.boxes[mention.box].tolist(), sample.size)
        text = " ".join(sample.tokens[slice(*span)])
        visible = None if self.regions.folder is None else mention.box is not None
        return Entity(text, self.types[kind], span, visible=visible, boxes=boxes)


def _box(edges: Sequence[float], size: tuple[int, int] | None) -> tuple[Box, ...]:
    """The box clipped to the picture, none without area."""
    if size is not None:
        edges = [min(max(0.0, edge), float(limit)) for edge, limit in zip(edges, size * 2, strict=True)]
    return (Box(*edges),) if edges[0] < edges[2] and edges[1] < edges[3] else ()
