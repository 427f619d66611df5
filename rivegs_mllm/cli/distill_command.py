"""The command ``rivegs distill``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rivegs_mllm.config.reading.yaml_loader import read_yaml
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.distill.config import read_distill
from rivegs_mllm.distill.pseudo_labels import is_pseudo_label_recipe, make_pseudo_labels, read_pseudo_label_recipe
from rivegs_mllm.distill.runner import distill, dry_run
from rivegs_mllm.distill.tasks import captions_of
from rivegs_mllm.llm.few_shot import draft_examples, write_examples
from rivegs_mllm.runtime.lock import lock_file
from rivegs_mllm.runtime.logs import LOG, log_to
from rivegs_mllm.types import UserError


def run(path: Path, overrides: Sequence[str], only_plan: bool, retry_failed: bool) -> int:
    """Runs a recipe of a teacher or of a cascade. Returns 1 where questions are left without an answer, else 0."""
    if is_pseudo_label_recipe(read_yaml(path, overrides)):
        if only_plan or retry_failed:
            raise UserError(
                f"{path}: makes training data from a cascade; --dry-run and --retry-failed are for teachers"
            )
        recipe = read_pseudo_label_recipe(path, overrides)
        with log_to(recipe.out / LOG):
            made = make_pseudo_labels(recipe)
        for split, counts in made.items():
            print(f"{split}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
        return 0
    recipe = read_distill(path, overrides)
    if only_plan:
        print(dry_run(recipe, retry_failed))
        return 0
    with log_to(recipe.store / LOG):
        report = distill(recipe, retry_failed)
    print(report)
    return int(bool(report.stopped or report.failed or report.failed_before))


def start(folder: Path, split: str, count: int, seed: int, captions: Sequence[Path], out: Path) -> None:
    """Drafts a file of examples from a labelled split, for people to correct. Raises UserError where ``out`` exists."""
    if out.exists():
        raise UserError(f"{out} exists and is not overwritten, since it may hold corrections; name another file")
    with lock_file(out):
        samples = read_split(folder, split)
        examples = draft_examples(samples, folder, count, seed, captions_of(samples, captions))
        write_examples(out, examples)
    empty = sum(not entity.explanation for example in examples for entity in example.entities)
    print(
        f"wrote {out}: {len(examples)} posts; {empty} explanations are still to be written, and all are to be checked"
    )
