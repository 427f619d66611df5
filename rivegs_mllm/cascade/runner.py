"""Stages run one after the other over all posts, with the partial predictions on disk and what each stage cost.

A work folder holds ``1-tagger.jsonl`` and so on, the partial predictions after each stage, and is resumed when the run
was interrupted; ``run.json``, what the run was started with; and ``stages.json``, what each stage cost.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from rivegs_mllm.cascade.base import CountsParameters, Stage, StageError, check_stage, without_labels
from rivegs_mllm.config.reading.former_names import current
from rivegs_mllm.data.jsonl import load_partial, read_predictions, to_line
from rivegs_mllm.models.profiling import peak_bytes, reset_peak
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.runtime.files import drop_incomplete_line, write_json
from rivegs_mllm.runtime.foreign import read_object
from rivegs_mllm.runtime.post_errors import check_some_answered, each_by_itself, with_error
from rivegs_mllm.runtime.progress import progress
from rivegs_mllm.types import Prediction, Sample, UserError

LoadedModels = dict[Hashable, object]
"""The loaded models that stages share, by their key."""


@dataclass(frozen=True)
class Step:
    """A stage to run: the slot that it fills, its type, how it is loaded, and whether it is shown the gold.

    ``load`` is given the models that are loaded, and adds the one it shares with other steps, whose key is ``model``;
    None where it shares none.
    """

    slot: str
    kind: str
    load: Callable[[LoadedModels], Stage]
    sees_gold: bool = False
    model: Hashable | None = None


@dataclass(frozen=True)
class StageReport:
    """What a stage cost. ``seconds`` are those of ``posts`` posts, without loading. ``parameters`` is None where
    unknown. ``peak_memory`` is in bytes, of the GPU or else of the whole process, with a model that is held
    for a later slot; None where unknown."""

    slot: str
    kind: str
    posts: int
    seconds: float
    parameters: int | None
    peak_memory: int | None


def run_steps(
    steps: Sequence[Step],
    samples: Sequence[Sample],
    out: Path,
    batch_size: int,
    settings: Mapping[str, object],
    types: Sequence[str],
) -> tuple[list[Prediction], list[StageReport]]:
    """The predictions for all samples, in order, and what each step cost.

    ``out`` is the work folder, ``settings`` what the answers depend on beside the samples, ``types`` what a tagger may
    name. Raises StageError where a stage breaks the contract, UserError where ``out`` holds another run.
    """
    _claim(out, {**settings, "posts": _digest(samples)})
    partials = [Prediction(sample.id) for sample in samples]
    models: LoadedModels = {}
    with progress() as bars:
        for number, step in enumerate(steps, 1):
            path = out / f"{number}-{step.slot}.jsonl"
            if path.exists():
                partials = _finished(path, samples)
                continue
            reset_peak()
            partials = _fill(step, step.load(models), samples, partials, path, batch_size, types, bars)
            later = {other.model for other in steps[number:]}
            models = {key: model for key, model in models.items() if key in later}  # frees their memory
    reports = _reports(steps, out)
    write_json(out / "stages.json", [dataclasses.asdict(report) for report in reports])
    return partials, reports


def _fill(
    step: Step,
    stage: Stage,
    samples: Sequence[Sample],
    partials: Sequence[Prediction],
    path: Path,
    batch_size: int,
    types: Sequence[str],
    bars: Progress,
) -> list[Prediction]:
    """The partial predictions with the step's field filled, written to ``path`` when all are."""
    unfinished = path.with_name(f"{path.name}.partial")
    done = load_partial(unfinished, samples, f"delete {path.parent}")
    task = bars.add_task(f"{step.slot} ({step.kind})", total=len(samples), completed=len(done))
    with unfinished.open("ab") as file:
        for batch in batches(samples[len(done) :], batch_size):
            start = time.perf_counter()
            after = apply_stage(step, stage, batch, partials[len(done) : len(done) + len(batch)], types)
            seconds = time.perf_counter() - start
            done += after
            check_some_answered(done, len(samples))
            file.writelines(to_line(partial) for partial in after)
            file.flush()
            _note(path.parent, step, stage, len(batch), seconds)  # batch by batch, for runs that are interrupted
            bars.advance(task, len(batch))
    unfinished.replace(path)
    return done


def apply_stage(
    step: Step, stage: Stage, samples: Sequence[Sample], partials: Sequence[Prediction], types: Sequence[str]
) -> list[Prediction]:
    """The partial predictions with the step's field filled by its loaded stage; what fails at one post alone is that
    post's error.

    Raises StageError where the stage breaks the contract.
    """
    shown = samples if step.sees_gold else [without_labels(sample) for sample in samples]
    after = each_by_itself(
        lambda pairs: stage([sample for sample, _ in pairs], [partial for _, partial in pairs]),
        list(zip(shown, partials, strict=True)),
        lambda pair, note: with_error(pair[1], f"{step.slot} ({step.kind}): {note}"),
    )
    check_stage(step.slot, step.kind, samples, partials, after)
    if step.slot == "tagger":
        _check_types(step, after, types)
    return after


def _finished(path: Path, samples: Sequence[Sample]) -> list[Prediction]:
    partials = read_predictions(path)
    if [partial.id for partial in partials] != [sample.id for sample in samples]:
        raise UserError(f"{path} does not hold these posts in this order; delete {path.parent}")
    return partials


def _check_types(step: Step, partials: Sequence[Prediction], types: Sequence[str]) -> None:
    """A tagger with other entity types is an error, unless the post's own ``errors`` say that its answer is invalid."""
    for partial in partials:
        unknown = next((entity for entity in partial.entities if entity.type not in types), None)
        if unknown is not None and not partial.errors:
            raise StageError(
                f"{step.slot} ({step.kind}): gave {unknown.text!r} of post {partial.id!r} the type {unknown.type!r}, "
                f"which is none of {', '.join(types)}; take a tagger of these types, or set the recipe's `types`"
            )


_COSTS = "costs.jsonl"


def _note(out: Path, step: Step, stage: Stage, posts: int, seconds: float) -> None:
    """Appends what a batch cost."""
    parameters = stage.num_parameters if isinstance(stage, CountsParameters) else None
    line = dataclasses.asdict(StageReport(step.slot, step.kind, posts, seconds, parameters, peak_bytes()))
    with (out / _COSTS).open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(line)}\n")


def _reports(steps: Sequence[Step], out: Path) -> list[StageReport]:
    """The cost of each step, summed over its batches and over all starts of the run."""
    path = out / _COSTS
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else []
    costs = [cost for line in lines if line and (cost := _cost(line)) is not None]
    reports = []
    for step in steps:
        own = [cost for cost in costs if cost.slot == step.slot]
        peaks = [cost.peak_memory for cost in own if cost.peak_memory is not None]
        posts, seconds = sum(cost.posts for cost in own), sum(cost.seconds for cost in own)
        parameters = own[-1].parameters if own else None
        reports.append(StageReport(step.slot, step.kind, posts, seconds, parameters, max(peaks, default=None)))
    return reports


def _cost(line: str) -> StageReport | None:
    """A line of the costs, None where it was damaged: a report of costs is no reason to end a run."""
    try:
        cost = StageReport(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = (cost.posts, cost.seconds, cost.parameters or 0, cost.peak_memory or 0)
    texts = (cost.slot, cost.kind)
    fits = all(type(one) is str for one in texts) and all(type(one) in (int, float) and one >= 0 for one in numbers)
    return cost if fits and all(map(math.isfinite, numbers)) else None


def _claim(out: Path, settings: Mapping[str, object]) -> None:
    """Makes ``out`` the folder of this run. Raises UserError where it is another's."""
    settings = json.loads(json.dumps(settings, default=str, sort_keys=True))
    path = out / "run.json"
    if path.exists():
        before = current(read_object(path, f"delete {out} to start again"))
        changed = sorted(key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key))
        if changed:
            raise UserError(
                f"{out} holds partial predictions of another run ({', '.join(changed)} differ); "
                "choose another folder, or delete it"
            )
        if (out / _COSTS).exists():
            drop_incomplete_line(out / _COSTS)
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _digest(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(to_line(sample))
    return digest.hexdigest()


def file_fingerprints(paths: Iterable[Path]) -> dict[str, list]:
    """Size and modification time of the files at or below each path, by path, to detect a changed file."""
    found = {}
    for path in paths:
        if path.exists():
            files = [path] if path.is_file() else sorted(own for own in path.rglob("*") if own.is_file())
            found[str(path)] = [[str(own), own.stat().st_size, own.stat().st_mtime_ns] for own in files]
    return found
