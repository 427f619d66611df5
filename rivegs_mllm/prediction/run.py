"""Recipe and posts to a file of predictions, by one process or several, resumed where it was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eval.analysis.calibration import read_calibration
from rivegs_mllm.config.answering import Answering
from rivegs_mllm.data.jsonl import read_predictions, to_line
from rivegs_mllm.models.adapter import load_trained, trained_files
from rivegs_mllm.models.base_model import load_base, prepare_for_inference
from rivegs_mllm.models.generation.batch_plan import plan
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.prediction.parts import Parts
from rivegs_mllm.runtime.post_errors import check_some_answered, each_by_itself
from rivegs_mllm.runtime.progress import progress
from rivegs_mllm.runtime.ranks import is_first, join_ranks, rank, wait_for_all, world_size
from rivegs_mllm.types import Prediction, Sample


def predict(
    recipe: Answering, samples: Sequence[Sample], image_root: Path, out: Path, adapter: Path | None
) -> list[Prediction]:
    """Answers every sample and writes one prediction a line to ``out``, in the order of the samples.

    The samples' pictures are relative to ``image_root``; ``adapter`` is the trained folder, None for the base alone.
    Where `rivegs calibrate` has left its file in ``adapter``, scores and visibility are calibrated by it.

    Posts of like length are answered together, within ``predict.batch_tokens``. Processes that were launched together
    share the batches; each appends its answers to a file of its own in ``out.parts``, and the first one writes ``out``
    when all are there. Started again, by any number of processes, a run answers what is missing: as the batches are
    always the same, so are the answers. A post that cannot be answered ends no run: its ``errors`` give the reason.
    All processes return all predictions. Raises UserError where ``out.parts`` is of another run, for a calibration that
    cannot be read, and where no post at all can be answered.
    """
    join_ranks()
    calibration = read_calibration(adapter) if adapter else None
    parts = Parts(out, _run_name(recipe, samples, adapter))
    if is_first():
        parts.begin()
    wait_for_all()
    done = parts.answers(samples)
    wait_for_all()  # nobody appends before all have read
    system = prepare_for_inference(load_base(recipe) if adapter is None else load_trained(adapter, recipe))
    generator = Generator(
        system, image_root, recipe.predict.max_new_tokens, recipe.max_length, constrain=recipe.predict.constrain
    )

    def answer(batch: Sequence[Sample]) -> list[Prediction]:
        answers = each_by_itself(generator.answer, batch, lambda sample, note: Prediction(sample.id, errors=(note,)))
        return [calibration.apply(own) for own in answers] if calibration else answers

    batches = [[samples[index] for index in batch] for batch in plan(samples, generator, recipe.predict)]
    _answer(batches[rank() :: world_size()], done, answer, parts.own(rank()))
    wait_for_all()
    answers = parts.finish(samples) if is_first() else []
    wait_for_all()
    return answers or read_predictions(out)


def _answer(
    batches: Sequence[Sequence[Sample]],
    done: Mapping[str, Prediction],
    answer: Callable[[Sequence[Sample]], list[Prediction]],
    part: Path,
) -> None:
    """Appends the answers that are not ``done`` to ``part``."""
    posts = sum(map(len, batches))
    seen = [done[sample.id] for batch in batches for sample in batch if sample.id in done]
    with part.open("ab") as file, progress(quiet=not is_first()) as bars:
        task = bars.add_task("answers", total=posts, completed=len(seen))
        for batch in batches:
            missing = {sample.id for sample in batch} - done.keys()
            if not missing:
                continue
            new = [own for own in answer(batch) if own.id in missing]  # of the whole batch, so that they are the same
            seen += new
            check_some_answered(seen, posts)
            file.writelines(map(to_line, new))
            file.flush()  # so that a killed run loses one batch at most
            bars.advance(task, len(new))


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
        recipe.predict.constrain,
        recipe.predict.max_new_tokens,  # not the size of batches: whoever runs out of memory must be able to lower it
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
