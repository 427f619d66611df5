"""Two steps of the real training on a small base: python -m rivegs_mllm.rehearsal.steps PLAN, by a launcher.

It runs twice. The first time it trains from the start, with a checkpoint and an evaluation after each step; the second
time it resumes from the first checkpoint, compares, and loads what was trained. What it finds is written beside the
plan by the main process, also where it ends by an error.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from transformers import set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from rivegs_mllm.answer.format import FILE_NAME
from rivegs_mllm.config.schema import Recipe, read_recipe
from rivegs_mllm.models.adapter import load_trained
from rivegs_mllm.models.base_model import new_token_ids
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.rehearsal.check import FAULT, OK, WARNING, Check
from rivegs_mllm.rehearsal.watch import Watch, added_rows, check_added_tokens
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.runtime.logs import quiet_transformers
from rivegs_mllm.store.attach import read_posts
from rivegs_mllm.train import AnswerTrainer, Posts, make_trainer, run_settings
from rivegs_mllm.training.run.folder import on_main, record_start, resume_point, run_training
from rivegs_mllm.types import UserError

STEPS = 2
FIRST = "first.safetensors"
"""The adapter of the first time, in the run's folder."""
SAME = 1e-3
"""The greatest difference of a weight, to the greatest weight of its kind, of a run and the same one resumed."""


@dataclass(frozen=True)
class Plan:
    """What a launched process rehearses: a recipe with overrides, and the posts to train on and evaluate by their ids.

    ``path`` is where it is written, in the run's own folder.
    """

    path: Path
    recipe: Path
    overrides: Sequence[str]
    train: Sequence[str]
    dev: Sequence[str]

    def save(self) -> None:
        """Writes it for the launched processes."""
        content = {
            key: str(value) if key == "recipe" else value for key, value in asdict(self).items() if key != "path"
        }
        write_json(self.path, content)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """What ``save`` wrote."""
        content = json.loads(path.read_text())
        return cls(path, Path(content.pop("recipe")), **content)

    @property
    def found(self) -> Path:
        """Where what is found is written."""
        return self.path.with_name("found.json")


def rehearse(plan: Plan) -> list[Check]:
    """All that the plan's run shows, in the first time or, where there has been one, in the second."""
    checks: list[Check] = []
    recipe = read_recipe(plan.recipe, plan.overrides)
    again = (Path(recipe.train.output_dir) / FIRST).exists()
    try:
        for check in (resume if again else begin)(recipe, _posts(recipe, plan)):
            checks.append(check)
    except Exception as error:  # whatever it is, it would have ended the real run
        what = "resuming" if again else "training"
        told = str(error) if isinstance(error, UserError) else one_line(error)
        checks.append(Check(FAULT, "steps", f"{what} ended: {' '.join(told.split())}", _where(error)))
    return checks


def _where(error: Exception) -> str:
    """For what is no mistake of the user's the line that it comes from."""
    if isinstance(error, UserError) or error.__traceback__ is None:
        return ""
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    return f"in {last.tb_frame.f_code.co_filename}, line {last.tb_lineno}"


def _posts(recipe: Recipe, plan: Plan) -> Posts:
    read = read_posts(recipe.data.folder, recipe.data.train, recipe.answer.types, recipe.distilled)
    samples = {sample.id: sample for sample in read}
    return Posts([samples[own] for own in plan.train], [samples[own] for own in plan.dev], [])


def begin(recipe: Recipe, posts: Posts) -> Iterator[Check]:
    """Trains from the start, watched, and saves."""
    out = Path(recipe.train.output_dir)
    set_seed(recipe.train.seed)
    trainer = make_trainer(recipe, posts, fused=False)  # the layers that GPUs have
    system = trainer.system
    ids = new_token_ids(system, recipe.model)
    divided = is_deepspeed_zero3_enabled()  # each process then has a part of each weight
    before = None if divided or not ids else added_rows(system, ids)
    watch = None if divided else Watch(system)
    on_main(lambda: record_start(out, run_settings(recipe, posts)))
    made = run_training(trainer, None)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    shown = ", ".join(f"{loss:.3f}" for loss in losses)
    processes = PartialState().num_processes
    yield Check(OK, "steps", f"{made} in {processes} process{'es' * (processes > 1)}, loss {shown}")
    if watch is None:
        yield Check(
            WARNING, "gradient", "ZeRO-3 divides the weights, so nothing was watched", "rehearse with fewer --gpus"
        )
    else:
        yield from watch.checks(recipe)
        yield check_added_tokens(system, recipe, before)
    yield _check_evaluation(trainer, posts)
    trainer.save_model(str(out))
    trainer.accelerator.wait_for_everyone()
    on_main(lambda: _keep_first(out))


def _keep_first(out: Path) -> None:
    """Leaves the run as one that was interrupted after its first step."""
    (out / SAFETENSORS_WEIGHTS_NAME).rename(out / FIRST)
    (out / FILE_NAME).unlink()
    shutil.rmtree(out / f"checkpoint-{STEPS}", ignore_errors=True)


def _check_evaluation(trainer: AnswerTrainer, posts: Posts) -> Check:
    scored = [entry["eval_gmner_f1"] for entry in trainer.state.log_history if "eval_gmner_f1" in entry]
    if len(scored) != STEPS:
        return Check(FAULT, "evaluation", f"{len(scored)} of {STEPS} evaluations gave a score")
    return Check(OK, "evaluation", f"{len(posts.dev)} posts are answered and scored after each step")


def resume(recipe: Recipe, posts: Posts) -> Iterator[Check]:
    """Resumes from the first checkpoint, compares, loads and answers."""
    out = Path(recipe.train.output_dir)
    settings = run_settings(recipe, posts)
    checkpoint = on_main(lambda: resume_point(out, settings, out / FILE_NAME, recipe.train))
    if checkpoint is None:
        yield Check(FAULT, "checkpoint", "the first step left none that is complete")
        return
    set_seed(recipe.train.seed)
    trainer = make_trainer(recipe, posts, fused=False)
    run_training(trainer, checkpoint)
    trainer.save_model(str(out))
    trainer.accelerator.wait_for_everyone()
    if PartialState().is_main_process:
        yield compare(out)
    if is_deepspeed_zero3_enabled():
        yield Check(
            WARNING, "generation", "not tried: ZeRO-3 would divide what is loaded", "rehearse with fewer --gpus"
        )
    elif PartialState().is_main_process:
        yield _answer(recipe, posts, out)


def compare(out: Path) -> Check:
    """Whether the adapter of a resumed run in ``out`` is that of the run without a break."""
    first, resumed = load_file(out / FIRST), load_file(out / SAFETENSORS_WEIGHTS_NAME)
    if first.keys() != resumed.keys():
        return Check(FAULT, "checkpoint", "a resumed run saves other weights than one without a break")
    apart = max(_apart(own, resumed[name]) for name, own in first.items())
    if apart > SAME:
        return Check(FAULT, "checkpoint", f"a resumed run ends elsewhere than one without a break, by {apart:.1%}")
    size = sum(path.stat().st_size for path in (out / "checkpoint-1").rglob("*"))
    return Check(
        OK, "checkpoint", "saved and resumed, with the weights of a run without a break", figures={"bytes": size}
    )


def _apart(first: torch.Tensor, second: torch.Tensor) -> float:
    greatest = first.abs().max().item()
    return (first.float() - second.float()).abs().max().item() / greatest if greatest else 0.0


def _answer(recipe: Recipe, posts: Posts, out: Path) -> Check:
    system = load_trained(out, recipe)
    system.model.eval()
    settings = recipe.predict
    generator = Generator(
        system, recipe.data.folder, settings.max_new_tokens, recipe.max_length, constrain=settings.constrain
    )
    answers = generator.answer(posts.dev)
    read = sum(len(answer.entities) for answer in answers)
    words = f"the adapter is loaded, {len(answers)} answers are generated and parsed: {read} entities"
    return Check(OK, "generation", f"{words}, of weights that have learned nothing")


def main(path: Path) -> int:
    """The command of each process. Returns 0."""
    quiet_transformers()
    plan = Plan.load(path)
    checks = rehearse(plan)
    if PartialState().is_main_process:
        write_json(plan.found, [check.to_json() for check in checks])
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
