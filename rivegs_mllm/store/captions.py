"""Captions of the posts' pictures that were written before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_builders.formats.riveg_text import read_captions
from rivegs_mllm.store.answer_store import read_store
from rivegs_mllm.types import Sample


class Captions:
    """Captions from stores of ``rivegs distill`` (folders) and files as RiVEG publishes them, the earlier first.

    Stores know posts by their ids; files by the name of the picture, or by what stands before a "#" in the id.
    """

    def __init__(self, sources: Sequence[Path]):
        """Reads the sources. Raises UserError where one cannot be read."""
        self.texts = [
            {sample: rows[0].text for (sample, _), rows in read_store(source, "caption").items()}
            if source.is_dir()
            else read_captions(source)
            for source in sources
        ]

    def of(self, sample: Sample) -> str:
        """The caption of the post's picture, "" where there is none."""
        names = (sample.id, Path(sample.image).stem, sample.id.partition("#")[0])
        return next((texts[name] for texts in self.texts for name in names if texts.get(name)), "")
