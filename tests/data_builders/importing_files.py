"""Small data in many formats, and the import of it, for the tests of importing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson
from PIL import Image

from data_builders.importing.run import Imported, Request, import_dataset
from rivegs_mllm.data.jsonl import SPLITS, read_samples
from rivegs_mllm.types import Sample


def picture(path: Path, size: tuple[int, int] = (80, 60), orientation: int = 1, color: int | None = None) -> Path:
    """A picture file of ``size`` (width, height) as stored, of its own colour unless one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (sum(map(ord, path.stem)) % 256 if color is None else color, 0, 0)).save(path, exif=exif)
    return path


def json_file(path: Path, content: object) -> Path:
    path.write_bytes(orjson.dumps(content))
    return path


def imported(name: str, path: Path | Iterable[Path], out: Path, **given: object) -> tuple[list[Sample], Imported]:
    """All samples of an import, in the order of their ids, and what it says. One split unless the test wants others."""
    paths = [path] if isinstance(path, Path) else list(path)
    for before in (*(f"{split}.jsonl" for split in SPLITS), "dataset.json"):
        (out / before).unlink(missing_ok=True)
    done = import_dataset(Request(name, paths, out, **{"split": "100/0/0", **given}), lambda _: None)
    files = [path for split in SPLITS if (path := out / f"{split}.jsonl").exists()]
    samples = [sample for file in files for sample in read_samples(file)]
    tally = done.tally
    for what in ("posts", "mentions", "regions"):
        assert tally.read[what] == tally.kept[what] + tally.merged[what] + tally.dropped[what], what
    return sorted(samples, key=lambda sample: sample.id), done


def kinds(done: Imported) -> list[str]:
    """The kinds of findings, in their order."""
    return [finding.kind for finding in done.report.findings]
