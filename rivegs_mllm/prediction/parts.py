"""Where answers are kept until all are there: ``OUT.parts``, with a file for each process and the run's name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rivegs_mllm.data.jsonl import read_predictions, write_records
from rivegs_mllm.runtime.files import drop_incomplete_line, write_text
from rivegs_mllm.types import Prediction, Sample, UserError

_RUN = "run"


class Parts:
    """The part files of the predictions that are to be at ``out``. A run may be resumed by more or fewer processes.

    ``name`` says what the answers depend on: those of a run with another name are not continued.
    """

    def __init__(self, out: Path, name: str):
        self.out = out
        self.name = name
        self.folder = out.with_name(f"{out.name}.parts")

    def begin(self) -> None:
        """Makes the folder, or readies what an interrupted run left in it. By the first process, before the others.

        Raises UserError where that run was another.
        """
        run = self.folder / _RUN
        if run.exists() and run.read_text() != self.name:
            raise UserError(
                f"{self.folder} is of another run (other model, settings or posts), which was not finished; delete it, "
                "or choose another output"
            )
        if run.exists():
            for part in self._files():
                drop_incomplete_line(part)
            return
        if self.folder.exists():
            shutil.rmtree(self.folder)  # answers of which nobody knows whose they are
        self.folder.mkdir(parents=True)
        write_text(run, self.name)

    def own(self, rank: int) -> Path:
        """The file that a process appends its answers to."""
        return self.folder / f"{rank}.jsonl"

    def answers(self, samples: Sequence[Sample]) -> dict[str, Prediction]:
        """The answers that are there, by the post's id. Raises UserError for one of another post."""
        found = {answer.id: answer for part in self._files() for answer in read_predictions(part)}
        unknown = found.keys() - {sample.id for sample in samples}
        if unknown:
            raise UserError(f"{self.folder}: has an answer of post {min(unknown)!r}, which is not asked; delete it")
        return found

    def finish(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Writes the answers to ``out``, in the order of the posts, removes the folder and returns them."""
        found = self.answers(samples)
        answers = [found[sample.id] for sample in samples]
        write_records(self.out, answers)
        shutil.rmtree(self.folder)
        return answers

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))
