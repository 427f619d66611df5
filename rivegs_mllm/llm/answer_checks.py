"""Quality checks of answers. No answer is discarded for its faults: they stand in the store beside the text."""

from __future__ import annotations

import itertools
import re

from rivegs_mllm.llm.client import Answer
from rivegs_mllm.llm.few_shot import TYPE_WORDS
from rivegs_mllm.types import Sample

EMPTY = "empty"
CUT_OFF = "cut off"
REFUSAL = "refusal"
LABELS = "label words"
NO_LIST = "names cannot be read"
NOT_IN_TEXT = "names that are not in the text"
LONG = "too long"

FAULTS = (EMPTY, CUT_OFF, REFUSAL, LABELS, NO_LIST, NOT_IN_TEXT, LONG)

LONGEST_EXPRESSION = 30
"""Words of a short answer."""

_SHORT = 3
"""At most so many words of an answer that begins with "none" mean that there are no names, without a list's heading."""

# As people write them, with the typographic apostrophe too.
_REFUSAL = re.compile(
    r"^\W*(i'?m sorry|sorry,|i apologi[sz]e|i can(no|')?t|i am (not able|unable)|i'?m (not able|unable)|"
    r"as an? (ai|language model|large language model)|i (do not|don'?t) have (access|enough|any information)|"
    r"unable to (assist|help|determine))",
    re.IGNORECASE,
)
# Tags of a sequence labeller. "Other" and "per" are words, so only capitals count, and OTHER only as a tag would stand.
_TAG = re.compile(r"(?<![\w])(?:[BI]-(?:PER|LOC|ORG|OTHER|MISC)|PER|LOC|ORG|MISC)(?![\w])|\((?:OTHER)\)")
_LIST = re.compile(r"named entit(?:y|ies)[^:\n]*:", re.IGNORECASE)
_NONE = re.compile(r"\W*(?:\d\W+)?(none\b|no named entit|there are no)", re.IGNORECASE)
# An answer that says so in a sentence, before or without any list.
_NONE_SAID = re.compile(
    r"\W*(?:no named entit|there (?:are|is) no named entit|named entit(?:y|ies) (?:may|are|is|were|could) not\b)",
    re.IGNORECASE,
)
_NAMED = re.compile(r"(?:^|[;,\n]|\d[.)])\s*(?:[-*•]\s*|\d+[.)]\s*)?([^;\n()]+?)\s*\(([^()\n]+)\)")


_ITEM = re.compile(r"[-*•]|\d+[.)]")


def check_knowledge(sample: Sample, answer: Answer) -> tuple[dict, list[str]]:
    """What was read from a knowledge answer (PLIM), {"entities": [{"text", "type"}]}, and its faults, of FAULTS.

    Names are looked for in the text without regard to white space and capitals.
    """
    faults = _general(answer, sample.text)
    if EMPTY in faults:
        return {"entities": []}, faults
    entities = named_entities(answer.text)
    if entities is None:
        return {"entities": []}, [*faults, NO_LIST]
    text = _plain(sample.text)
    if any(_plain(name) not in text for name, _ in entities):
        faults.append(NOT_IN_TEXT)
    return {"entities": [{"text": name, "type": word} for name, word in entities]}, faults


def check_expression(sample: Sample, answer: Answer) -> tuple[dict, list[str]]:
    """Nothing is read from a short answer; its faults, of FAULTS."""
    faults = _general(answer, sample.text)
    if len(answer.text.split()) > LONGEST_EXPRESSION or "\n" in answer.text.strip():
        faults.append(LONG)
    return {}, faults


def check_caption(sample: Sample, answer: Answer) -> tuple[dict, list[str]]:
    """Nothing is read from a caption; its faults, of FAULTS."""
    return {}, _general(answer, sample.text)


def named_entities(text: str) -> list[tuple[str, str]] | None:
    """Names and what stands in brackets after each, from the list that an answer begins with.

    [] where the answer says that there are none, None where no list can be read.
    """
    if _NONE_SAID.match(text):
        return []
    start = _LIST.search(text)
    rest = text[start.end() :] if start else text
    if _NONE.match(rest) and (start or len(text.split()) <= _SHORT):
        return []
    lines = [line.strip() for line in rest.strip().splitlines() if line.strip()]
    listing = list(itertools.takewhile(_ITEM.match, lines))
    scope = "\n".join(listing or lines[:1])
    found = [(name.strip(" \"'-*"), word.strip()) for name, word in _NAMED.findall(scope)]
    kinds = tuple({*TYPE_WORDS.values(), "organisation", "place", "event", "product", "group", "handle", "hashtag"})
    listed = [(name, word) for name, word in found if start or word.lower().startswith(kinds)]
    return [(name, word) for name, word in listed if name] or None


def _general(answer: Answer, text: str) -> list[str]:
    faults = []
    if not answer.text.strip():
        faults.append(EMPTY)
    if answer.finish_reason == "length":
        faults.append(CUT_OFF)
    if answer.finish_reason in ("refusal", "content_filter") or _REFUSAL.match(answer.text.replace("’", "'")):
        faults.append(REFUSAL)
    if set(_TAG.findall(answer.text)) - set(_TAG.findall(text)):  # unless the post itself says it
        faults.append(LABELS)
    return faults


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()
