"""Recipe and posts to a file of predictions, resumed where it was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from eval.analysis.calibration import read_calibration
from rivegs_mllm.config.answering import Answering
from rivegs_mllm.data.jsonl import load_partial, to_line
from rivegs_mllm.models.adapter import load_trained, trained_files
from rivegs_mllm.models.base_model import load_base, prepare_for_inference
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.runtime.post_errors import check_some_answered, each_by_itself
from rivegs_mllm.runtime.progress import progress
from rivegs_mllm.types import Prediction, Sample, UserError


def predict(
    recipe: Answering, samples: Sequence[Sample], image_root: Path, out: Path, adapter: Path | None
) -> list[Prediction]:
    """Answers every sample and writes one prediction a line to ``out``, in the order of the samples.

    The samples' pictures are relative to ``image_root``; ``adapter`` is the trained folder, None for the base alone.
    Where `rivegs calibrate` has left its file in ``adapter``, scores and visibility are calibrated by it. Answers are
    appended to ``out.partial`` as they come, and the file is renamed when it is complete; started again, the run
    resumes after the last complete line. A post that cannot be answered ends no run: its ``errors`` give the reason.
    Raises UserError where that file is of another run, for a calibration that cannot be read, and where no post at all
    can be answered.
    """
    calibration = read_calibration(adapter) if adapter else None
    partial = out.with_name(f"{out.name}.partial")
    done = _resume_or_start(partial, samples, _run_name(recipe, samples, adapter))
    system = prepare_for_inference(load_base(recipe) if adapter is None else load_trained(adapter, recipe))
    generator = Generator(system, image_root, recipe.predict.max_new_tokens, recipe.max_length)
    with partial.open("ab") as file, progress() as bars:
        task = bars.add_task("answers", total=len(samples), completed=len(done))
        for batch in batches(samples[len(done) :], recipe.predict.batch_size):
            answers = each_by_itself(
                generator.answer, batch, lambda sample, note: Prediction(sample.id, errors=(note,))
            )
            if calibration:
                answers = [calibration.apply(answer) for answer in answers]
            done += answers
            check_some_answered(done, len(samples))
            file.writelines(to_line(answer) for answer in answers)
            file.flush()  # so that a killed run loses one batch at most
            bars.advance(task, len(answers))
    partial.replace(out)
    _run_file(partial).unlink()  # last: without it the complete answers in `partial` would be discarded
    return done


def _resume_or_start(partial: Path, samples: Sequence[Sample], name: str) -> list[Prediction]:
    """The predictions that an interrupted run left, its last line dropped where it is truncated."""
    run = _run_file(partial)
    if not (partial.exists() and run.exists()):
        partial.parent.mkdir(parents=True, exist_ok=True)
        write_text(run, name)  # first, so that answers never lie there without what they were made by
        partial.unlink(missing_ok=True)
        return []
    if run.read_text() != name:
        raise UserError(f"{partial} was started by another run (other model, settings or posts); delete it and {run}")
    return load_partial(partial, samples, f"delete it and {run}")


def _run_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.run")


def _run_name(recipe: Answering, samples: Sequence[Sample], adapter: Path | None) -> str:
    """A digest of what the answers depend on; the base is given by its name and revision, being too large to read."""
    posts = [(sample.id, sample.tokens, sample.image) for sample in samples]
    weights = None
    if adapter is not None:
        weights = [(file.name, _digest(file)) for file in trained_files(adapter) if file.exists()]
    parts = (
        posts,
        weights,
        recipe.model.base,
        recipe.model.revision,
        recipe.answer.__dict__,
        recipe.predict.__dict__,
        recipe.max_length,
    )
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def _digest(path: Path) -> str:
    """Read in pieces: a merged model has gigabytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
