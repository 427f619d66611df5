"""The plan of a run: every question of a task against what the store holds, and what it will cost."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from rivegs_mllm.data.images import PictureError, is_outside
from rivegs_mllm.distill.config import DistillData, DistillRecipe
from rivegs_mllm.distill.tasks import Questions
from rivegs_mllm.llm.client import Messages, answer_key, picture_paths, question_digest
from rivegs_mllm.store.answer_store import ANSWERED, MANIFEST, read_rows
from rivegs_mllm.types import Sample

# For the estimate of a dry run, before any answer has said how many tokens a question has.
_BYTES_A_TOKEN = 4
_PICTURE_TOKENS = 1000
# For the budget, which must not be passed: more than a question can well have.
_FEWEST_BYTES_A_TOKEN = 2
_MOST_PICTURE_TOKENS = 3000

DONE, FAILED_BEFORE, LEFT_ALONE = "done", "failed before", "left alone"
"""What earlier runs left of a question: it is answered, it failed, or it is not among those to be asked again."""


@dataclass(frozen=True, slots=True)
class PlannedQuestion:
    """A question about ``mention`` of the post at ``index``. ``size`` is its text in bytes."""

    index: int
    mention: str
    key: str
    digest: str
    size: int
    pictures: int

    @property
    def most_prompt_tokens(self) -> int:
        """More tokens than the prompt can well have: what is set aside of a budget before it is asked."""
        return self.size // _FEWEST_BYTES_A_TOKEN + self.pictures * _MOST_PICTURE_TOKENS


@dataclass(frozen=True, slots=True)
class Measured:
    """Tokens of earlier answers: their sum, and the number of answers that report them."""

    tokens: int = 0
    answers: int = 0

    def plus(self, tokens: int | None) -> Measured:
        """With those of another answer, None where it does not say."""
        return self if tokens is None else Measured(self.tokens + tokens, self.answers + 1)

    @property
    def mean(self) -> float | None:
        """Tokens an answer, None where nothing is known."""
        return self.tokens / self.answers if self.answers else None


@dataclass(frozen=True, slots=True)
class Known:
    """The content of the store: ``answered`` keys, and by (sample, mention) the last key and status of this teacher."""

    answered: frozenset[str] = frozenset()
    last: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    cost: float = 0.0
    prompt_tokens: Measured = Measured()
    completion_tokens: Measured = Measured()


@dataclass(frozen=True, slots=True)
class Plan:
    """``ask`` has one question a key; ``same`` the further posts it is the answer for, by key.

    ``reused`` are questions answered for another post before, ``broken`` those that cannot even be asked, with the
    reason. ``done`` and ``failed`` count what earlier runs answered, and what failed in them and is left alone.
    """

    ask: Sequence[PlannedQuestion]
    same: Mapping[str, Sequence[PlannedQuestion]]
    reused: Sequence[PlannedQuestion]
    broken: Sequence[tuple[PlannedQuestion, str]]
    done: int
    failed: int


def what_is_known(store: Path, kind: str, teacher: str) -> Known:
    """One pass over the store; nothing where there is none yet."""
    if not ((store / MANIFEST).is_file() or any(store.glob("shard-*.parquet")) or any(store.glob("journal-*.jsonl"))):
        return Known()
    answered: set[str] = set()
    last: dict[tuple[str, str], tuple[str, str]] = {}
    cost = 0.0
    prompts, completions = Measured(), Measured()
    for row in read_rows(store):
        cost += row.cost
        if row.status == ANSWERED:
            answered.add(row.key)
        if (row.kind, row.teacher) == (kind, teacher):
            last[row.sample, row.mention] = row.key, row.status
            prompts = prompts.plus(row.prompt_tokens)
            completions = completions.plus(row.completion_tokens)
    return Known(frozenset(answered), last, cost, prompts, completions)


def make_plan(recipe: DistillRecipe, questions: Questions, known: Known, retry_failed: bool) -> Plan:
    """Every question of the task in its place of the plan. With ``retry_failed`` only those that failed are asked."""
    identity = recipe.teacher.identity
    found = [
        _question(recipe, identity, questions, index, mention)
        for index, mentions in enumerate(questions.mentions)
        for mention in mentions
    ]
    places = [(questions.samples[question.index].id, question.mention) for question, _ in found]
    settled = [
        settled_before(known.last.get(place), question.key, retry_failed)
        for place, (question, _) in zip(places, found, strict=True)
    ]
    left = [one for one, before in zip(found, settled, strict=True) if before is None]
    askable = [question for question, fault in left if not fault]
    new: dict[str, list[PlannedQuestion]] = defaultdict(list)
    for question in askable:
        if question.key not in known.answered:
            new[question.key].append(question)
    return Plan(
        ask=[same[0] for same in new.values()],
        same={key: same[1:] for key, same in new.items() if len(same) > 1},
        reused=[question for question in askable if question.key in known.answered],
        broken=[(question, fault) for question, fault in left if fault],
        done=settled.count(DONE),
        failed=settled.count(FAILED_BEFORE),
    )


def settled_before(last: tuple[str, str] | None, key: str, retry_failed: bool) -> str | None:
    """Why a question is not asked, by the key and status of what was last asked in its place; None where it is."""
    if last is None:
        return LEFT_ALONE if retry_failed else None
    is_same, is_answered = last[0] == key, last[1] == ANSWERED
    if is_answered and is_same:
        return DONE
    if retry_failed:
        return LEFT_ALONE if is_answered else None
    return FAILED_BEFORE if is_same else None


def _question(
    recipe: DistillRecipe, identity: dict, questions: Questions, index: int, mention: str
) -> tuple[PlannedQuestion, str]:
    """A question, and why it cannot be asked, "" where it can."""
    messages, fault = questions.messages(index, mention), ""
    try:
        _check_place(questions.samples[index], messages, recipe.data)
        digest = question_digest(messages)
    except PictureError as error:
        # A stand-in: with the picture, once it can be read, the question is another one.
        digest, fault = hashlib.sha256(orjson.dumps(messages)).hexdigest(), str(error)
    key = answer_key(identity, recipe.sampling, digest)
    return PlannedQuestion(index, mention, key, digest, _size(messages), len(picture_paths(messages))), fault


def _check_place(sample: Sample, messages: Messages, data: DistillData) -> None:
    """Raises PictureError for a question with a picture that the recipe does not say may be sent."""
    if picture_paths(messages) and is_outside(sample.image, data.folder, data.image_root):
        place = f"{sample.image!r:.200} lies outside the dataset's folder"
        raise PictureError(f"{place}: not sent, unless data.image_root names the folder it is in")


def describe(recipe: DistillRecipe, questions: Questions, known: Known, plan: Plan) -> str:
    """The output of ``--dry-run``: how much is to be asked, what it will cost, and three prompts."""
    measured = known.prompt_tokens.mean
    guessed = sum(one.size / _BYTES_A_TOKEN + one.pictures * _PICTURE_TOKENS for one in plan.ask)
    prompt = guessed if measured is None else len(plan.ask) * measured
    written = known.completion_tokens.mean
    completion = len(plan.ask) * (recipe.sampling.max_tokens if written is None else written)
    cost = recipe.prices.cost(prompt, completion)
    prompts_by = "4 bytes a token" if measured is None else "by earlier answers"
    answers_by = "the longest that are allowed" if written is None else "by earlier answers"
    same = sum(map(len, plan.same.values()))
    lines = [
        f"{len(questions.samples):,} posts, {sum(map(len, questions.mentions)):,} questions of kind {questions.kind} "
        f"to {recipe.teacher.identity['teacher']}",
        f"unique prompts to ask: {len(plan.ask):,}",
        f"answered before: {plan.done:,}; the same question for another post: {len(plan.reused):,} answered, "
        f"{same:,} to be asked once",
        f"failed before: {plan.failed:,} (--retry-failed asks only these); cannot be asked: {len(plan.broken):,}",
        f"tokens expected: {prompt:,.0f} of prompts ({prompts_by}), {completion:,.0f} of answers ({answers_by})",
        f"cost expected: {cost:,.2f}; the store has cost {known.cost:,.2f}",
    ]
    for one in plan.ask[:: max(1, len(plan.ask) // 3)][:3]:
        lines += ["", f"--- {questions.samples[one.index].id} {one.mention}".rstrip(), shown(questions, one)]
    return "\n".join(lines)


def shown(questions: Questions, question: PlannedQuestion) -> str:
    """A question as people can read it."""
    parts = _parts(questions.messages(question.index, question.mention))
    return "\n".join(part["text"] if part["type"] == "text" else f"[picture {part['path']}]" for part in parts)


def _size(messages: Messages) -> int:
    """Bytes of text."""
    return sum(len(part["text"].encode()) for part in _parts(messages) if part["type"] == "text")


def _parts(messages: Messages) -> list[dict]:
    """Texts and pictures of a question, in order."""
    contents = [message["content"] for message in messages]
    return [
        part
        for content in contents
        for part in ([{"type": "text", "text": content}] if isinstance(content, str) else content)
    ]
