"""What is left to ask: every question of a task against what the store holds, and what it will cost."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from rivegs_mllm.data.images import PictureError, is_outside
from rivegs_mllm.distill.config import DistillData, DistillRecipe
from rivegs_mllm.distill.tasks import Questions
from rivegs_mllm.llm.client import Messages, answer_key, picture_paths, question_digest
from rivegs_mllm.store.answer_store import ANSWERED, MANIFEST, read_rows
from rivegs_mllm.types import Sample

_BYTES_A_TOKEN = 4
_FEWEST_BYTES_A_TOKEN = 2
_PICTURE_TOKENS = 1000
_MOST_PICTURE_TOKENS = 3000


@dataclass(frozen=True, slots=True)
class Item:
    """A question: about ``mention`` of the post at ``index``. ``size`` is its text in bytes."""

    index: int
    mention: str
    key: str
    question: str
    size: int
    pictures: int

    @property
    def most_prompt_tokens(self) -> int:
        """More tokens than the prompt can well have: what is set aside of a budget before it is asked."""
        return self.size // _FEWEST_BYTES_A_TOKEN + self.pictures * _MOST_PICTURE_TOKENS


@dataclass
class Known:
    """What the store holds: ``answered`` keys, and by (sample, mention) the last key and status of this teacher."""

    answered: set[str] = field(default_factory=set)
    last: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    cost: float = 0.0
    prompt_tokens: list[int] = field(default_factory=lambda: [0, 0])
    completion_tokens: list[int] = field(default_factory=lambda: [0, 0])


@dataclass
class Plan:
    """``ask`` has one question a key; ``same`` the further posts it is the answer for, by key.

    ``take_over`` are questions answered for another post before, ``broken`` those that cannot even be asked, with the
    reason. ``done`` and ``failed`` count what earlier runs answered, and what failed in them and is left alone.
    """

    ask: list[Item] = field(default_factory=list)
    same: dict[str, list[Item]] = field(default_factory=dict)
    take_over: list[Item] = field(default_factory=list)
    broken: list[tuple[Item, str]] = field(default_factory=list)
    done: int = 0
    failed: int = 0


def what_is_known(store: Path, kind: str, teacher: str) -> Known:
    """One pass over the store; nothing where there is none yet."""
    known = Known()
    if not ((store / MANIFEST).is_file() or any(store.glob("shard-*.parquet")) or any(store.glob("journal-*.jsonl"))):
        return known
    for row in read_rows(store):
        known.cost += row.cost
        if row.status == ANSWERED:
            known.answered.add(row.key)
        if (row.kind, row.teacher) == (kind, teacher):
            known.last[row.sample, row.mention] = row.key, row.status
            for sums, tokens in (
                (known.prompt_tokens, row.prompt_tokens),
                (known.completion_tokens, row.completion_tokens),
            ):
                if tokens is not None:
                    sums[0] += tokens
                    sums[1] += 1
    return known


def make_plan(recipe: DistillRecipe, questions: Questions, known: Known, retry_failed: bool) -> Plan:
    """Every question of the task in its place of the plan. With ``retry_failed`` those that failed, and no others."""
    plan = Plan()
    planned: set[str] = set()
    identity = recipe.teacher.identity
    for index, mentions in enumerate(questions.mentions):
        for mention in mentions:
            turns = questions.turns(index, mention)
            fault = ""
            try:
                _check_place(questions.samples[index], turns, recipe.data)
                question = question_digest(turns)
            except PictureError as error:
                question, fault = _digest_by_name(turns), str(error)
            item = Item(
                index,
                mention,
                answer_key(identity, recipe.sampling, question),
                question,
                _size(turns),
                len(picture_paths(turns)),
            )
            key, status = known.last.get((questions.samples[index].id, mention), ("", ""))
            failed_before = key != "" and status != ANSWERED
            if retry_failed and not failed_before:
                plan.done += key == item.key
            elif not retry_failed and failed_before and key == item.key:
                plan.failed += 1
            elif key == item.key and status == ANSWERED:
                plan.done += 1
            elif fault:
                plan.broken.append((item, fault))
            elif item.key in known.answered:
                plan.take_over.append(item)
            elif item.key in planned:
                plan.same.setdefault(item.key, []).append(item)
            else:
                planned.add(item.key)
                plan.ask.append(item)
    return plan


def _check_place(sample: Sample, turns: Messages, data: DistillData) -> None:
    """Raises PictureError for a question with a picture that the recipe does not say may be sent."""
    if picture_paths(turns) and is_outside(sample.image, data.folder, data.image_root):
        place = f"{sample.image!r:.200} lies outside the dataset's folder"
        raise PictureError(f"{place}: not sent, unless data.image_root names the folder it is in")


def describe(recipe: DistillRecipe, questions: Questions, known: Known, plan: Plan) -> str:
    """What ``--dry-run`` says: how much is to be asked, what it will take, and three prompts."""
    prompt, measured = _expected_prompt_tokens(known, plan.ask)
    written, count = known.completion_tokens
    completion = len(plan.ask) * (written / count if count else recipe.sampling.max_tokens)
    cost = (prompt * recipe.prices.prompt + completion * recipe.prices.completion) / 1e6
    same = sum(map(len, plan.same.values()))
    lines = [
        f"{len(questions.samples):,} posts, {sum(map(len, questions.mentions)):,} questions of kind {questions.kind} "
        f"to {recipe.teacher.identity['teacher']}",
        f"unique prompts to ask: {len(plan.ask):,}",
        f"answered before: {plan.done:,}; the same question for another post: {len(plan.take_over):,} answered, "
        f"{same:,} to be asked once",
        f"failed before: {plan.failed:,} (--retry-failed takes up these alone); cannot be asked: {len(plan.broken):,}",
        f"tokens expected: {prompt:,.0f} of prompts ({'by earlier answers' if measured else '4 bytes a token'}), "
        f"{completion:,.0f} of answers ({'by earlier answers' if count else 'the longest that are allowed'})",
        f"cost expected: {cost:,.2f}; the store has cost {known.cost:,.2f}",
    ]
    for item in plan.ask[:: max(1, len(plan.ask) // 3)][:3]:
        lines += ["", f"--- {questions.samples[item.index].id} {item.mention}".rstrip(), shown(questions, item)]
    return "\n".join(lines)


def shown(questions: Questions, item: Item) -> str:
    """A question as people can read it."""
    parts = []
    for turn in questions.turns(item.index, item.mention):
        content = turn["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            parts.append(part["text"] if part["type"] == "text" else f"[picture {part['path']}]")
    return "\n".join(parts)


def _expected_prompt_tokens(known: Known, items: Sequence[Item]) -> tuple[float, bool]:
    read, count = known.prompt_tokens
    if count:
        return len(items) * read / count, True
    return sum(item.size / _BYTES_A_TOKEN + item.pictures * _PICTURE_TOKENS for item in items), False


def _size(turns: Messages) -> int:
    parts = [
        part
        for turn in turns
        for part in ([{"text": turn["content"]}] if isinstance(turn["content"], str) else turn["content"])
    ]
    return sum(len(part["text"].encode()) for part in parts if "text" in part)


def _digest_by_name(turns: Messages) -> str:
    """A stand-in for the digest of a question whose picture cannot be read: with the picture it is another one."""
    return hashlib.sha256(orjson.dumps(turns)).hexdigest()
