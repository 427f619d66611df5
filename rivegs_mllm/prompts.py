"""What a model is asked."""

from __future__ import annotations

from rivegs_mllm.answer import escape
from rivegs_mllm.types import Sample, UserError

INSTRUCTION = """\
Find the named entities in the text of this post and ground them in its picture.
Answer line by line: what you know about the names (knowledge:), each entity with its type ({types}) (entity 1: ...), \
what it looks like in plain words (expression 1: ...), whether the picture shows it (visible 1: yes or no), \
and its box if it does (box 1: ...).
Text: {text}"""
"""The one prompt of the end-to-end model, for bases that can follow it."""


def check_instruction(instruction: str) -> None:
    """Raises UserError unless the instruction has a place for the text and no other field than {types} beside it."""
    try:
        filled = instruction.format(text="\0", types="")
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"answer.instruction: {error} is no field; it may hold {{text}} and {{types}}") from None
    if "\0" not in filled:
        raise UserError("answer.instruction: has no {text}, so the model would never see the post")


def messages(sample: Sample, instruction: str, types: tuple[str, ...]) -> list[dict]:
    """One user turn in the chat format of transformers: the picture, if the post has one, then the instruction.

    Control tokens that stand in a post are escaped, so that a post cannot end its own turn.
    """
    text = instruction.format(text=escape(sample.text), types=", ".join(types))
    picture = [{"type": "image"}] if sample.image else []
    return [{"role": "user", "content": [*picture, {"type": "text", "text": text}]}]
