"""Posts with errors in the splits of a run: refused, or left out and listed in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import TrainingArguments

from data_builders.bad_posts import OF_PICTURES, BadPosts, find_bad_posts
from rivegs_mllm.config.schema import DataRecipe
from rivegs_mllm.data.jsonl import check_split
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.training.run.folder import on_main

LEFT_OUT = "left_out.txt"


def lines_left_out(data: DataRecipe, train: TrainingArguments, sees: bool) -> Mapping[str, frozenset[int]]:
    """The lines to leave out of each split that a run reads: dev only where it evaluates.

    ``sees``: whether pictures matter that cannot be used; where they are to be skipped, they always do.

    Raises UserError for a split that is not there and, unless ``data.skip_bad``, for the first post with an error.
    """
    splits = [data.train, *([data.dev] if train.eval_strategy != "no" else []), *([data.test] if data.test else [])]
    for split in splits:
        check_split(data.folder, split)
    return on_main(lambda: _found(data, list(dict.fromkeys(splits)), Path(train.output_dir), sees)).lines


def _found(data: DataRecipe, splits: list[str], out: Path, sees: bool) -> BadPosts:
    pictures = sees or data.skip_bad
    found = find_bad_posts(data.folder, splits, data.skip_bad, lambda kind: pictures or kind not in OF_PICTURES)
    if summary := found.summary():
        write_text(out / LEFT_OUT, "".join(f"{finding}\n" for finding in found.findings))
        print("\n".join([*summary, f"all are listed in {out / LEFT_OUT}"]))
    return found
