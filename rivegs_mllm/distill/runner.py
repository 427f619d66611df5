"""The run: the teacher answers the questions of the plan, a fixed number at a time, and every answer is stored."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from rivegs_mllm.cascade.base import without_labels
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.distill.config import DistillRecipe
from rivegs_mllm.distill.dataset_card import record_run, write_card
from rivegs_mllm.distill.planner import Plan, PlannedQuestion, describe, make_plan, shown, what_is_known
from rivegs_mllm.distill.tasks import ExpressionTask, Questions
from rivegs_mllm.llm.client import Answer, Teacher, TeacherError, ask
from rivegs_mllm.runtime.progress import ProgressReporter
from rivegs_mllm.store.answer_store import ANSWERED, FAILED, Store, StoredAnswer, not_written, read_rows
from rivegs_mllm.types import Sample, UserError

_FULL = "the store cannot be written"


@dataclass
class Report:
    """The outcome of a run. ``left`` counts the questions without an answer, ``stopped`` is why it ended early, or "".

    ``lost`` counts answers that came and could not be written; ``faults`` those of the answers, by name.
    """

    answered: int = 0
    reused: int = 0
    failed: int = 0
    failed_before: int = 0
    done_before: int = 0
    left: int = 0
    lost: int = 0
    requests: int = 0
    cost: float = 0.0
    stopped: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    error: Exception | None = None
    notes: list[str] = field(default_factory=list)
    """Damage to the store, and how it was repaired."""

    def stop(self, why: str, error: Exception | None = None) -> None:
        """Notes why the run ends early; of several reasons the first."""
        if not self.stopped:
            self.stopped, self.error = why, error

    def __str__(self) -> str:
        lines = [
            f"answered {self.answered:,}, reused {self.reused:,}, failed {self.failed:,}, "
            f"answered before {self.done_before:,}, failed before {self.failed_before:,}, not asked {self.left:,}",
            f"{self.requests:,} requests, cost {self.cost:,.4f}",
        ]
        if self.faults:
            lines.append("flagged: " + ", ".join(f"{name} {count:,}" for name, count in self.faults.most_common()))
        if self.lost:
            lines.append(f"{self.lost:,} answers came and could not be written; their questions will be asked again")
        if self.failed or self.failed_before:
            lines.append("--retry-failed asks the failed questions again")
        if self.stopped and not self.error:
            lines.append(f"stopped: {self.stopped}; the same command resumes")
        return "\n".join([*lines, *self.notes])


def distill(recipe: DistillRecipe, retry_failed: bool = False) -> Report:
    """Asks whatever the store has no answer to yet, and writes the dataset card.

    Raises UserError before anything is asked for data, examples or a teacher that cannot be had; TeacherError, after
    all answers under way have been kept, where the teacher can answer nothing; StoreError where the store cannot be
    written.
    """
    questions = prepare(recipe)
    with Store(recipe.store) as store:
        known = what_is_known(recipe.store, questions.kind, recipe.teacher.identity["teacher"])
        plan = make_plan(recipe, questions, known, retry_failed)
        report = Report(failed_before=plan.failed, done_before=plan.done, left=len(plan.ask))
        writer = _Writer(recipe, store, questions, plan, report)
        try:
            writer.write_known()
        except OSError as error:
            report.stop(_FULL, not_written(recipe.store, error))
        if plan.ask and not report.error:
            teacher = recipe.teacher.open(recipe.sampling)
            asyncio.run(_Run(recipe, teacher, writer, known.cost).ask_all())
        if report.error:
            report.notes += store.notes
            print(report)
            raise report.error
        prompt = shown(questions, plan.ask[0]) if plan.ask else ""
        figures = {name: value for name, value in vars(report).items() if name not in ("error", "notes")}
        report.notes += record_run(recipe, questions.kind, prompt, figures)
        write_card(recipe)
    report.notes = [*store.notes, *report.notes]  # closing it may have added one
    return report


def dry_run(recipe: DistillRecipe, retry_failed: bool = False) -> str:
    """What a run would ask, and what it would cost. Asks nothing."""
    questions = prepare(recipe)
    known = what_is_known(recipe.store, questions.kind, recipe.teacher.identity["teacher"])
    return describe(recipe, questions, known, make_plan(recipe, questions, known, retry_failed))


def prepare(recipe: DistillRecipe) -> Questions:
    """The questions about the dataset's posts. Raises UserError."""
    samples: dict[str, Sample] = {}
    for split in recipe.data.splits:
        for sample in read_split(recipe.data.folder, split)[: recipe.data.posts]:
            if sample.id in samples:
                raise UserError(f"{recipe.data.folder}: {sample.id!r} is in two of the splits; give each its own store")
            samples[sample.id] = sample
    posts = list(samples.values())
    if not (isinstance(recipe.task, ExpressionTask) and recipe.task.mentions == "gold"):
        posts = [without_labels(sample) for sample in posts]
    return recipe.task.prepare(posts, recipe.data.folder, recipe.store)


class _Writer:
    """Keeps answers in the store, for their own posts and for those with the same question, and counts them."""

    def __init__(self, recipe: DistillRecipe, store: Store, questions: Questions, plan: Plan, report: Report):
        self.recipe = recipe
        self.store = store
        self.questions = questions
        self.plan = plan
        self.report = report

    def write_known(self) -> None:
        """Writes what needs no teacher: questions that cannot be asked, and answers that other posts have."""
        for question, fault in self.plan.broken:
            self.write(question, Answer(error=fault, attempts=0))
        if self.plan.reused:
            wanted = {question.key for question in self.plan.reused}
            rows = {
                row.key: row for row in read_rows(self.recipe.store) if row.key in wanted and row.status == ANSWERED
            }
            for question in self.plan.reused:
                self._reuse(rows[question.key], question)

    def write(self, question: PlannedQuestion, answer: Answer) -> None:
        """Writes an answer, for its own post and for those with the same question. Raises OSError."""
        sample = self.questions.samples[question.index]
        found, faults = ({}, []) if answer.error else self.questions.check(sample, answer)
        cost = self.recipe.prices.cost(answer.prompt_tokens or 0, answer.completion_tokens or 0)
        identity = self.recipe.teacher.identity
        row = StoredAnswer(
            sample=sample.id,
            kind=self.questions.kind,
            mention=question.mention,
            key=question.key,
            question=question.digest,
            teacher=identity["teacher"],
            revision=identity["revision"] or answer.model,
            text=answer.text,
            fields=orjson.dumps(found).decode(),
            faults=tuple(faults),
            status=FAILED if answer.error else ANSWERED,
            error=answer.error,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost=cost,
            latency=answer.latency,
            tries=answer.attempts,
        )
        self.store.append(row)
        self.report.cost += cost
        self.report.faults.update(faults)
        if answer.error:
            self.report.failed += 1
        else:
            self.report.answered += 1
        for other in self.plan.same.get(question.key, ()):
            self._reuse(row, other)

    def _reuse(self, row: StoredAnswer, question: PlannedQuestion) -> None:
        """The row of another post for this one, whose question is the same, checked again: the posts may differ."""
        sample = self.questions.samples[question.index]
        found, faults = {}, []
        if row.status == ANSWERED:
            found, faults = self.questions.check(sample, Answer(row.text, finish_reason=row.finish_reason))
        made = {"sample": sample.id, "kind": self.questions.kind, "mention": question.mention}
        free = {"prompt_tokens": None, "completion_tokens": None, "cost": 0.0, "latency": 0.0, "tries": 0}
        read = {"fields": orjson.dumps(found).decode(), "faults": tuple(faults)}
        self.store.append(dataclasses.replace(row, **made, **free, **read))
        self.report.reused += 1


class _Run:
    """Asks the teacher. All of it runs in one thread, so that nothing needs a lock.

    ``spent_before`` is what the store has cost in earlier runs.
    """

    def __init__(self, recipe: DistillRecipe, teacher: Teacher, writer: _Writer, spent_before: float):
        self.recipe = recipe
        self.limits = recipe.limits
        self.teacher = teacher
        self.writer = writer
        self.report = writer.report
        self.spent_before = spent_before
        self.reserved = 0.0  # the most that the questions under way can cost
        self.consecutive_failures = 0
        self.stopping = asyncio.Event()

    async def ask_all(self) -> None:
        """Asks everything, ``max_concurrency`` at a time, until done or stopped; what is under way is waited for."""
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, self._interrupt)
        ask = self.writer.plan.ask
        left = iter(ask)
        try:
            with ProgressReporter(len(ask)) as progress:
                workers = [self._work(left, progress) for _ in range(min(self.limits.max_concurrency, len(ask)))]
                await asyncio.gather(*workers)
        finally:
            for sign in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(sign)
            await self.teacher.close()

    async def _work(self, left: Iterator[PlannedQuestion], progress: ProgressReporter) -> None:
        """Asks one question after the other, of those that no other worker has taken."""
        for question in left:
            if self.stopping.is_set():
                return
            answer = await self._ask(question)
            if answer is not None:
                self._keep(question, answer)
                progress.advance(self.spent, self.report.failed)

    @property
    def spent(self) -> float:
        """The cost of the store in all its runs."""
        return self.spent_before + self.report.cost

    async def _ask(self, question: PlannedQuestion) -> Answer | None:
        """The answer to a question; None where there is none to be kept, as it may be answered another time."""
        most = self.recipe.prices.cost(question.most_prompt_tokens, self.recipe.sampling.max_tokens)
        limit = self.limits.max_cost
        if limit is not None and self.spent + self.reserved + most > limit:
            self._stop(f"the next question could take the store's cost past {limit:g}")
            return None
        self.reserved += most
        try:
            messages = self.writer.questions.messages(question.index, question.mention)
            answer = await ask(self.teacher, messages, self.limits.retry, self._may_try, self._pause)
        except TeacherError as error:
            self._stop(str(error), error)
            return None
        except Exception as error:  # a fault of ours: the answers under way are kept all the same
            self._stop(repr(error), error)
            return None
        finally:
            self.reserved -= most
        return None if answer is None or (answer.retryable and self.stopping.is_set()) else answer

    def _keep(self, question: PlannedQuestion, answer: Answer) -> None:
        try:
            self.writer.write(question, answer)
            self.report.left -= 1
        except OSError as error:
            self.report.lost += 1
            self._stop(_FULL, not_written(self.recipe.store, error))
        self.consecutive_failures = self.consecutive_failures + 1 if answer.error else 0
        if self.consecutive_failures >= self.limits.max_consecutive_failures:
            self._stop(f"{self.consecutive_failures} questions in a row failed, the last with: {answer.error}")

    def _may_try(self) -> bool:
        limit = self.limits.max_requests
        if limit is not None and self.report.requests >= limit:
            self._stop(f"{limit:,} requests are sent")
        if self.stopping.is_set():
            return False
        self.report.requests += 1
        return True

    async def _pause(self, seconds: float) -> None:
        """Waits before another try, but not when the run is to stop."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    def _stop(self, why: str, error: Exception | None = None) -> None:
        self.report.stop(why, error)
        self.stopping.set()

    def _interrupt(self) -> None:
        if self.stopping.is_set():  # asked a second time: do not wait for what is under way
            raise KeyboardInterrupt
        self._stop("interrupted")
