"""The prompts: the end-to-end model's instruction, and those that ask LLMs for knowledge, expressions and captions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Protocol

from rivegs_mllm.answer.serialization import escape
from rivegs_mllm.types import Sample, UserError

_ASKED = {
    "knowledge": "what you know about the names (knowledge:)",
    "entities": "each entity with its type ({types}) (entity 1: ...)",
    "expressions": "what it looks like in plain words (expression 1: ...)",
    "visible": "whether the picture shows it (visible 1: yes or no)",
    "boxes": "its box if the picture shows it (box 1: ...)",
}


def instruction_for(segments: Sequence[str]) -> str:
    """The one prompt of the end-to-end model, for bases that can follow it: it asks for these ``segments``."""
    grounded = " and ground them in its picture" if "boxes" in segments else ""
    asked = [own for segment, own in _ASKED.items() if segment in segments]
    if "visible" in segments and "boxes" in segments:
        asked[-1] = "its box if it does (box 1: ...)"
    if len(asked) > 1:
        asked[-1] = f"and {asked[-1]}"
    return (
        f"Find the named entities in the text of this post{grounded}.\nAnswer line by line: {', '.join(asked)}.\n"
        "Text: {text}"
    )


def check_instruction(instruction: str) -> None:
    """Raises UserError unless the instruction has a place for the text and no other field than {types} beside it."""
    try:
        fields = [field for field in Formatter().parse(instruction) if field[1] is not None]
    except ValueError as error:
        raise UserError(f"answer.instruction: {error}; a brace that is none of a field's is written twice") from None
    for _, name, form, conversion in fields:
        if name not in ("text", "types") or form or conversion:
            written = f"{name}{'!' * bool(conversion)}{conversion or ''}{':' * bool(form)}{form}"
            raise UserError(f"answer.instruction: {{{written:.80}}} is no field; it may hold {{text}} and {{types}}")
    if "text" not in [name for _, name, _, _ in fields]:
        raise UserError("answer.instruction: has no {text}, so the model would never see the post")


def describe_types(instruction: str, types: Collection[str]) -> str:
    """The instruction with the types' descriptions beside their names; unchanged where ``types`` are names alone."""
    if not isinstance(types, Mapping):
        return instruction
    named = ", ".join(f"{name} ({text})" if text else name for name, text in types.items())
    return instruction.replace("{types}", named.replace("{", "{{").replace("}", "}}"))


def messages(sample: Sample, instruction: str, types: tuple[str, ...]) -> list[dict]:
    """One user turn in the chat format of transformers: the picture, if the post has one, then the instruction.

    Control tokens that stand in a post are escaped, so that a post cannot end its own turn.
    """
    text = instruction.format(text=escape(sample.text), types=", ".join(types))
    picture = [{"type": "image"}] if sample.image else []
    return [{"role": "user", "content": [*picture, {"type": "text", "text": text}]}]


KNOWLEDGE_HEAD = """\
These are posts of social media, each a text with a picture. Text and picture may or may not belong together: judge \
for yourself. Say which named entities the text of the last post holds and of which type each is: person, location, \
organization or miscellaneous. Explain each in a sentence with what you know about it, say whether the picture is \
likely to show it, and how picture and text are related. Keep to the form of the examples."""
"""The head of the knowledge prompt (PLIM), in front of the examples."""

KNOWLEDGE_HEAD_ALONE = (
    KNOWLEDGE_HEAD.removesuffix(" Keep to the form of the examples.")
    + ' Begin with a line "Named entities: name (type); name (type)", or "Named entities: none".'
)
"""The head where no examples follow, as in the ablation without them: the form is described instead of shown."""

KNOWLEDGE_QUESTION = (
    "Which named entities and their types does the Text hold, taken together with the picture? Explain your answer."
)

EXPANSION_HEAD = """\
You answer briefly. Each question is about a name in the Text of a post; the Background says what the post's picture \
shows. Answer with one short phrase that says what the name stands for, as one would describe it to somebody who has \
to find it in the picture, and with nothing else."""
"""The head of the expansion prompt (RiVEG's entity expansion)."""

EXPANSION_EXAMPLES = (
    (
        "Two men in suits shake hands on a stage in front of blue flags.",
        "Macron receives the new ambassador of Chile in Paris",
        "Macron",
        "a man in a suit who is the president of France",
    ),
    (
        "A crowd in red scarves cheers in the stands of a large stadium.",
        "Anfield is shaking tonight ! # YNWA",
        "Anfield",
        "a football stadium in Liverpool with red seats",
    ),
    (
        "A screenshot of a phone with a map and a car on it.",
        "RT @ rideblog : Uber just raised its prices again",
        "Uber",
        "a company whose app calls a car with a driver",
    ),
)
"""Background, Text, name and answer: the fixed examples of the expansion prompt."""

CAPTION_QUESTION = (
    "Describe this picture in a few sentences: who and what is to be seen, what people look like and wear, "
    "and any writing that can be read."
)


class Shown(Protocol):
    """An annotated post as the knowledge prompt shows it: ``rivegs_mllm.llm.few_shot.Example`` is one."""

    @property
    def text(self) -> str:
        """Its text."""

    @property
    def caption(self) -> str:
        """What its picture shows, "" where unknown."""

    @property
    def answer(self) -> str:
        """The annotation, written as an answer should be."""


_FOUR_TYPES = ("person", "location", "organization", "miscellaneous")


def knowledge_messages(
    sample: Sample,
    examples: Sequence[Shown] = (),
    caption: str = "",
    picture: Path | None = None,
    types: Sequence[str] = _FOUR_TYPES,
) -> list[dict]:
    """The knowledge prompt (RiVEG section III-A, PLIM): a head, the examples, the post with its answer left open.

    Of the sample only its text is used, never its gold. ``picture`` is shown to teachers that see. ``types`` are the
    entity types in plain words.
    """
    head = KNOWLEDGE_HEAD if examples else KNOWLEDGE_HEAD_ALONE
    blocks = [head.replace(_either(_FOUR_TYPES), _either(types))]
    blocks += [f"{_post(shown.text, shown.caption)}\nAnswer: {shown.answer}" for shown in examples]
    blocks.append(f"{_post(sample.text, caption)}\nAnswer:")
    return _one_turn("\n\n".join(blocks), picture)


def expansion_messages(sample: Sample, mention: str, background: str = "", picture: Path | None = None) -> list[dict]:
    """The expansion prompt (RiVEG section III-B): a head, fixed examples, then what ``mention`` is in the text.

    ``background`` is a caption of the picture, or knowledge about the post. Of the sample only its text is used.
    """
    shown = [f"{_question(*example[:3])}\nAnswer: {example[3]}" for example in EXPANSION_EXAMPLES]
    asked = f"{_question(background, sample.text, mention)}\nAnswer:"
    return _one_turn("\n\n".join([EXPANSION_HEAD, *shown, asked]), picture)


def caption_messages(picture: Path, question: str = CAPTION_QUESTION) -> list[dict]:
    """The prompt of a captioner. BLIP-2 and other models without a chat template want an empty question."""
    return _one_turn(question, picture)


def _either(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _post(text: str, caption: str) -> str:
    description = f"Image description: {_line(caption)}\n" if caption else ""
    return f"Text: {_line(text)}\n{description}Question: {KNOWLEDGE_QUESTION}"


def _question(background: str, text: str, mention: str) -> str:
    return (
        f"Background: {_line(background) or 'nothing is known about the picture.'}\n"
        f"Text: {_line(text)}\n"
        f"Question: In the light of the Background, what is the {_line(mention)} in the Text?"
    )


def _one_turn(text: str, picture: Path | None) -> list[dict]:
    if picture is None:
        return [{"role": "user", "content": text}]
    image = {"type": "image", "path": str(picture)}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


def _line(text: str) -> str:
    """A text from outside on one line, without the control tokens that end a turn."""
    return " ".join(text.split()).replace("<|", "< |")
