"""The export of a dataset, or of a split with what systems say of it, in one of the formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_builders.exporting.coco import write_coco
from data_builders.exporting.conll import write_conll
from data_builders.exporting.fiftyone import write_fiftyone
from data_builders.exporting.hf_datasets import write_datasets
from data_builders.exporting.label_studio import write_label_studio
from data_builders.exporting.riveg import write_riveg
from data_builders.exporting.sharegpt import write_sharegpt
from data_builders.exporting.sides import Side, Write, check_regions, side_of
from data_builders.exporting.table import write_csv
from rivegs_mllm.data.jsonl import SPLITS, read_predictions, read_samples, read_split
from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import UserError


@dataclass(frozen=True, slots=True)
class Format:
    """``write`` writes its files; ``lost`` says of the posts whose ids it gives what is left out of them."""

    write: Write
    lost: str = ""


_NO_PICTURE = "have no picture of known size and are left out"

FORMATS: Mapping[str, Format] = {
    "coco": Format(write_coco, _NO_PICTURE),
    "label-studio": Format(write_label_studio),
    "csv": Format(write_csv),
    "conll": Format(write_conll, "have an entity without a span, or over another, that is left out"),
    "sharegpt": Format(write_sharegpt, "have masks, which have no place"),
    "datasets": Format(write_datasets),
    "fiftyone": Format(write_fiftyone, _NO_PICTURE),
    "riveg": Format(write_riveg, "have an entity with several boxes, of which a row holds the first"),
}


def read_sides(
    gold: Path, split: str, predictions: Sequence[Path], image_root: Path | None = None
) -> tuple[list[Side], list[Side]]:
    """The splits of a dataset, or one file, and what systems say of one split.

    ``split`` is "" for all splits that there are; with predictions, "" is test. ``image_root`` is that of ``Side``.
    Raises UserError.
    """
    if gold.is_file():
        sides = [Side(gold.stem, read_samples(gold), gold.parent, image_root)]
    else:
        there = [own for own in SPLITS if (gold / f"{own}.jsonl").is_file()]
        wanted = [split] if split else ["test"] if predictions or not there else there
        sides = [Side(own, read_split(gold, own), gold, image_root) for own in wanted]
    names = [path.stem for path in predictions]
    if len(set(names)) < len(names):
        raise UserError("export: two files of predictions have the same name; what is written is called after it")
    if clash := next((name for name in names if name in {side.name for side in sides}), None):
        raise UserError(f"export: a system cannot be called {clash!r}, as the split is; rename its file")
    systems = [side_of(path.stem, sides[0], read_predictions(path)) for path in predictions]
    return sides, systems


def export_dataset(name: str, gold: Sequence[Side], systems: Sequence[Side], out: Path) -> list[str]:
    """Writes the files of a format into ``out``, which the caller has locked, and says in lines what is left out.

    Raises UserError, before anything is written, for regions that are none.
    """
    for side in [*gold, *systems]:
        check_regions(side)
    lost = FORMATS[name].write(out, gold, systems)
    posts = sum(len(side.samples) for side in gold)
    lines = [f"wrote {out}: {plural(posts, 'post')} of {', '.join(side.name for side in gold)} as {name}"]
    if lost:
        shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        lines.append(f"{plural(len(lost), 'post')} {FORMATS[name].lost}: {shown}")
    return lines
