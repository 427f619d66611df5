"""The commands ``rivegs evaluate``, ``rivegs calibrate`` and ``rivegs export``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from rich.console import Console, Group
from rich.rule import Rule
from rich.text import Text

from eval.analysis.summary import evaluate_systems, run_files
from eval.proposals import read_candidates
from eval.protocols import Criteria
from eval.report.tables import format_comparison, format_proposals, format_scores, format_side_by_side
from eval.scores import evaluate_files
from eval.stage_metrics import proposal_scores, with_nulls
from rivegs_mllm.data.boxes import are_normalised
from rivegs_mllm.data.entity_types import gold_of_types, of_types
from rivegs_mllm.data.jsonl import read_predictions, read_samples
from rivegs_mllm.runtime.files import check_output, write_json
from rivegs_mllm.runtime.lock import lock_file
from rivegs_mllm.runtime.post_errors import nothing_read
from rivegs_mllm.types import Prediction, Sample, UserError

Systems = Mapping[str, Sequence[Sequence[Prediction]]]
"""The predictions of systems by their names: of each a run or several, its seeds."""

RIVEG_ROWS = "riveg"
TOP_N = (1, 5, 10, 20)
"""How many of a detector's boxes are looked at for Top-N-Prec."""


@dataclass(frozen=True, slots=True)
class EvaluateArgs:
    """What `rivegs evaluate` is asked; the options have the names of the fields.

    ``types`` are those that count, all where none is named.
    ``format`` is "records" or "riveg", ``boxes`` the grounding model's files for riveg rows without boxes, one a file
    of predictions. ``seeds`` takes all files for runs of one system.
    """

    gold: Path
    predictions: Sequence[Path]
    split: str = "test"
    protocol: Sequence[str] | None = None
    iou: float = 0.5
    format: str = "records"
    boxes: Sequence[Path] = ()
    candidates: Path | None = None
    seeds: bool = False
    subsets: bool = False
    stages: bool = False
    sweep: bool = False
    explain: bool = False
    types: Sequence[str] = ()
    json: Path | None = None


def evaluate(asked: EvaluateArgs) -> dict:
    """Scores systems, prints tables, writes the figures to ``asked.json`` and returns them.

    Raises UserError for input that is wrong, before anything is written.
    """
    files = system_files(asked.predictions, asked.seeds)
    if asked.json:
        read = [path for runs in files.values() for path in runs]
        more = [path for path in (asked.candidates, *asked.boxes) if path]
        check_output(asked.json, [gold_file(asked.gold, asked.split), *asked.gold.glob("*.jsonl"), *read, *more])
    if asked.boxes and asked.format != RIVEG_ROWS:
        raise UserError("--boxes goes with --format riveg; predictions that are records hold their own boxes")
    protocols = asked.protocol or (["riveg", "strict"] if asked.format == RIVEG_ROWS else ["strict"])
    criteria = Criteria(protocols, asked.iou, read_candidates(asked.candidates) if asked.candidates else None)
    more = asked.explain or asked.sweep or asked.candidates or asked.types
    in_one_pass = asked.format != RIVEG_ROWS and not more
    if in_one_pass and [len(runs) for runs in files.values()] == [1]:
        ((answers,),) = files.values()
        result = evaluate_files(gold_file(asked.gold, asked.split), answers, criteria)
    else:
        result = _in_memory(asked, files, criteria)
    tables = as_tables(result, asked.subsets or asked.explain, asked.stages or asked.explain)
    Console().print(tables, crop=False)
    if asked.format != RIVEG_ROWS and not result["stages"]["all"]["grounding"]["correct"]:
        _tell_why_nothing_is_right(
            gold_file(asked.gold, asked.split), [path for runs in files.values() for path in runs]
        )
    if asked.json:
        with lock_file(asked.json):
            write_json(asked.json, with_nulls(result))
    return result


def _tell_why_nothing_is_right(gold: Path, said: Sequence[Path]) -> None:
    """Warns, where no box was right, of boxes that look like shares of the picture, and of answers nobody can read."""
    answers = [(path, read_predictions(path)) for path in said]
    for path, predictions in answers:
        if note := nothing_read(predictions):
            print(f"warning: {path}: {note}", file=sys.stderr)
    for path, records in [(gold, read_samples(gold)), *answers]:
        if are_normalised(records):
            print(
                f"warning: {path}: no box is longer than a pixel; boxes are in pixels, not normalised to 1",
                file=sys.stderr,
            )


def system_files(paths: Sequence[Path], seeds: bool = False) -> dict[str, list[Path]]:
    """The systems by name, each the files of its runs: one a file, the .jsonl files of a folder, all with ``seeds``.

    A name is that of the file without its ending, or the path where two would be the same.
    """
    if seeds:
        return {paths[0].stem: [file for path in paths for file in run_files(path)]}
    stems = [path.stem for path in paths]
    systems: dict[str, list[Path]] = {}
    for path in paths:
        name = path.stem if stems.count(path.stem) == 1 else str(path)
        systems[f"{name} again" if name in systems else name] = run_files(path)
    return systems


def gold_file(gold: Path, split: str) -> Path:
    """The file of samples: ``gold`` itself, or the split of that folder. Raises UserError for a split it has not."""
    if not gold.is_dir():
        return gold
    path = gold / f"{split}.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in gold.glob("*.jsonl"))) or "no .jsonl file"
        raise UserError(f"{gold}: no split '{split}' (looked for {path.name}); it has {there}")
    return path


def _in_memory(asked: EvaluateArgs, files: Mapping[str, Sequence[Path]], criteria: Criteria) -> dict:
    gold, systems = _rows(asked, files) if asked.format == RIVEG_ROWS else _records(asked, files)
    if asked.types:
        gold = gold_of_types(gold, asked.types)
        systems = {name: [of_types(run, asked.types) for run in runs] for name, runs in systems.items()}
    result = evaluate_systems(gold, systems, criteria, asked.explain, asked.sweep)
    if criteria.candidates is None:
        return result
    return {**result, "proposals": proposal_scores(gold, criteria.candidates, TOP_N, asked.iou)}


def _records(asked: EvaluateArgs, files: Mapping[str, Sequence[Path]]) -> tuple[list[Sample], Systems]:
    gold = read_samples(gold_file(asked.gold, asked.split))
    return gold, {name: [read_predictions(file) for file in runs] for name, runs in files.items()}


def _rows(asked: EvaluateArgs, files: Mapping[str, Sequence[Path]]) -> tuple[list[Sample], Systems]:
    """The same from RiVEG's rows. A post that has rows on one side alone has no entity on the other."""
    from data_builders.formats.riveg_rows import read_riveg_gold, read_riveg_predictions, with_empty_posts

    places = [file for runs in files.values() for file in runs]
    if asked.boxes and len(asked.boxes) != len(places):
        raise UserError(f"--boxes: {len(asked.boxes)} files for {len(places)} of predictions; give one for each")
    boxes = dict(zip_longest(range(len(places)), asked.boxes))
    systems, number = {}, 0
    for name, runs in files.items():
        systems[name] = [read_riveg_predictions(file, boxes[number + place]) for place, file in enumerate(runs)]
        number += len(runs)
    said = [prediction for runs in systems.values() for run in runs for prediction in run]
    gold = with_empty_posts(read_riveg_gold(asked.gold), said)
    return gold, {name: [_with_silent_posts(gold, run) for run in runs] for name, runs in systems.items()}


def _with_silent_posts(gold: Sequence[Sample], run: Sequence[Prediction]) -> list[Prediction]:
    answered = {prediction.id for prediction in run}
    return [*run, *(Prediction(sample.id) for sample in gold if sample.id not in answered)]


def as_tables(result: dict, subsets: bool = False, stages: bool = False) -> Group:
    """The figures of one system; of several side by side, more of each where more is asked, and how each stands
    against the first."""
    if "against" not in result:
        parts = [format_scores(result, subsets, stages)]
    else:
        systems = {result["system"]: result, **result["against"]}
        parts = [format_side_by_side(systems)]
        if subsets or stages or "iou_sweep" in result:
            for name, figures in systems.items():
                parts += [Rule(Text(name)), format_scores(figures, subsets, stages)]
        for name, comparison in result["comparison"].items():
            parts += [Rule(), format_comparison(comparison, (result["system"], name))]
    if "proposals" in result:
        parts.append(format_proposals(result["proposals"]))
    return Group(*parts)


def calibrate(gold: Path, split: str, predictions: Path, adapter: Path) -> None:
    """Fits `eval.analysis.calibration` on predictions of a split and leaves it in the adapter's folder."""
    from eval.analysis.calibration import calibrate as fit
    from eval.analysis.calibration import check_free, write_calibration

    with lock_file(check_free(adapter)):
        calibration, figures = fit(read_samples(gold_file(gold, split)), read_predictions(predictions))
        path = write_calibration(adapter, calibration, figures)
    print(f"wrote {path}: temperature {calibration.temperature:.3f}, threshold {calibration.threshold:.3f}")
    for key, words in (("ece", "calibration error"), ("gmner_f1", "GMNER F1")):
        before, after = (f"{100 * value:.2f}" for value in figures[key])
        print(f"{words} {before} -> {after}, over {figures['entities']} entities of {figures['posts']} posts")
