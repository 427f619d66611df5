"""Posts to compare a merged model's answers with the adapter's on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from data_builders.emblems.build import build_emblems
from rivegs_mllm.config.reading.layers import read_layers, word
from rivegs_mllm.config.trained import FILE_NAME as RECIPE
from rivegs_mllm.data.images import PictureError, open_for_model, with_size
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.types import Sample, UserError


@dataclass(frozen=True)
class Posts:
    """Posts, and the folder that their pictures are relative to; ``words`` says whose they are."""

    samples: Sequence[Sample]
    folder: Path
    words: str


@contextmanager
def some_posts(trained: Path, data: Path | None, count: int) -> Iterator[Posts]:
    """``count`` posts of the dev split of ``data``, where that is None of the data that the model in ``trained`` was
    trained on, and where that is not here of Emblems, drawn for the purpose. Posts whose picture cannot be opened are
    passed over. Raises UserError where no post is left."""
    folder, split = (data, "dev") if data else _of_training(trained)
    if folder is not None:
        yield Posts(_readable(folder, split, count), folder, f"{folder}, {split}")
        return
    with TemporaryDirectory() as drawn:
        build_emblems(Path(drawn), 0, train=1, dev=count, test=0)
        yield Posts(_readable(Path(drawn), "dev", count), Path(drawn), "Emblems, drawn for it")


def _of_training(trained: Path) -> tuple[Path | None, str]:
    """The dataset and the split that the model's training was evaluated on; no dataset where it is not here."""
    if (trained / RECIPE).is_file():
        data = read_layers(trained / RECIPE).sections.get("data")
        folder = word(data, "folder") if isinstance(data, dict) else None
        split = (word(data, "dev") if isinstance(data, dict) else None) or "dev"
        if folder and (Path(folder) / f"{split}.jsonl").is_file():
            return Path(folder), split
    return None, ""


def _readable(folder: Path, split: str, count: int) -> list[Sample]:
    found: list[Sample] = []
    for sample in read_split(folder, split):
        if len(found) == count:
            break
        try:
            if sample.image:
                sample = with_size(sample, folder)
                open_for_model(folder / sample.image)
        except PictureError:
            continue
        if sample.tokens:
            found.append(sample)
    if not found:
        raise UserError(f"{folder}: {split}: has no post to compare answers on; name another dataset: --data DIR")
    return found
