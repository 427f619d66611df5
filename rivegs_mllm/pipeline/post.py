"""A post with a system's prediction, to be read, shown and saved."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from rivegs_mllm.data.masks import decode
from rivegs_mllm.data.written import as_written
from rivegs_mllm.pipeline.pictures import Picture, in_memory
from rivegs_mllm.types import Entity, Prediction, UserError

COLORS = {"PER": "#d62728", "LOC": "#1f77b4", "ORG": "#2ca02c"}
OTHER_COLOR = "#ff7f0e"
_OPACITY = 110  # of 255, so that what lies below a mask is still seen


@dataclass(frozen=True)
class Post:
    """A post with its named entities.

    ``tokens`` are those of ``text``, and ``starts`` where in it each begins, in characters. Boxes and masks of
    ``entities`` are in pixels of the picture, upright: `Box` is xyxy, right and lower edge exclusive. The object shows
    itself in a notebook.
    """

    text: str
    tokens: tuple[str, ...]
    starts: tuple[int, ...]
    picture: Picture
    prediction: Prediction

    @property
    def entities(self) -> tuple[Entity, ...]:
        """In the order in which the system named them."""
        return self.prediction.entities

    @property
    def knowledge(self) -> str:
        """What the system wrote about the post's names, "" where it writes none."""
        return self.prediction.knowledge

    @property
    def raw(self) -> str:
        """The model's whole answer as it came."""
        return self.prediction.raw

    @property
    def errors(self) -> tuple[str, ...]:
        """The parts of the answer that could not be read, and of the post that could not be given to the model."""
        return self.prediction.errors

    def characters(self, entity: Entity) -> tuple[int, int] | None:
        """The characters of ``text`` that an entity covers, (start, end), end-exclusive; None without a span."""
        if entity.span is None:
            return None
        first, last = entity.span[0], entity.span[1] - 1
        return self.starts[first], self.starts[last] + len(self.tokens[last])

    def written(self, entity: Entity) -> str:
        """An entity as ``text`` has it."""
        place = self.characters(entity)
        return as_written(entity.text) if place is None else self.text[slice(*place)]

    def show(self) -> Image.Image:
        """The picture, upright, with the boxes or masks of what it shows. Raises UserError without a picture,
        PictureError where it cannot be opened."""
        picture = in_memory(self.picture)
        if picture is None:
            raise UserError("the post has no picture to show; print .entities, or give it an image")
        return draw(picture, [(self.written(own), own) for own in self.entities])

    def save(self, path: str | Path) -> None:
        """Writes what ``show`` gives as an image file, in the format of its ending. Raises UserError."""
        try:
            self.show().save(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be written: {error}") from None

    def to_dict(self) -> dict[str, object]:
        """Everything but the picture, as JSON has it; spans in tokens, ``characters`` in those of ``text``."""
        entities = [{**dataclasses.asdict(own), "characters": self.characters(own)} for own in self.entities]
        parts = {"text": self.text, "tokens": list(self.tokens), "entities": entities}
        return {**parts, "knowledge": self.knowledge, "raw": self.raw, "errors": list(self.errors)}

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows())
        heads = "".join(f"<th>{head}</th>" for head in ROW)
        return f"<p>{html.escape(self.text)}</p>{self._image()}<table><tr>{heads}</tr>{rows}</table>"

    def _image(self) -> str:
        if self.picture is None:
            return ""
        try:
            shown = self.show()
        except UserError as error:
            return f"<p>{html.escape(str(error))}</p>"
        shown.thumbnail((800, 800))
        buffer = io.BytesIO()
        shown.save(buffer, "JPEG", quality=85)
        return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"/>'

    def rows(self) -> list[tuple[str, ...]]:
        """The entities as the texts of a table, with the columns of ``ROW``; one that the system repeats comes once."""
        first: dict[tuple[str, str, tuple[int, int] | None], Entity] = {}
        for entity in self.entities:
            first.setdefault((entity.text, entity.type, entity.span), entity)
        named = {(own.text, own.type) for own in first.values() if own.span}
        # A mention that is repeated more often than it stands in the text has no span.
        shown = [own for own in first.values() if own.span or (own.text, own.type) not in named]
        return [
            (
                self.written(entity),
                entity.type,
                {True: "yes", False: "no", None: ""}[entity.visible],
                "" if entity.visible_score is None else f"{entity.visible_score:.2f}",
                " ".join(f"({box.xmin:.0f}, {box.ymin:.0f}, {box.xmax:.0f}, {box.ymax:.0f})" for box in entity.boxes),
                entity.expression,
            )
            for entity in shown
        ]


ROW = ("entity", "type", "visible", "probability", "boxes (xyxy, pixels)", "expression")


def draw(picture: Image.Image, entities: Sequence[tuple[str, Entity]]) -> Image.Image:
    """A copy of a picture in mode RGB with masks, boxes and names laid over it. Each entity is given with its name."""
    shown = picture.convert("RGBA")
    for _, entity in entities:
        for mask in entity.masks:
            _lay(shown, decode(mask), _color(entity.type))
    pen = ImageDraw.Draw(shown)
    width = max(2, round(max(shown.size) / 300))
    font = ImageFont.load_default(max(11, round(max(shown.size) / 45)))
    for name, entity in entities:
        for box in entity.boxes:
            corner = (box.xmin, box.ymin)
            right, lower = max(box.xmin, box.xmax - 1), max(box.ymin, box.ymax - 1)
            pen.rectangle((*corner, right, lower), outline=_color(entity.type), width=width)
            label = f" {name} ({entity.type}) "
            pen.rectangle(pen.textbbox(corner, label, font=font), fill=_color(entity.type))
            pen.text(corner, label, fill="white", font=font)
    return shown.convert("RGB")


def _lay(picture: Image.Image, mask: np.ndarray, color: str) -> None:
    """A mask of (height, width) over a picture of mode RGBA, in place."""
    layer = Image.new("RGBA", picture.size, ImageColor.getrgb(color))
    layer.putalpha(Image.fromarray(mask.astype(np.uint8) * _OPACITY))
    picture.alpha_composite(layer)


def _color(kind: str) -> str:
    return COLORS.get(kind, OTHER_COLOR)
