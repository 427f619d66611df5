"""A look as a picture: flat, bold shapes that stay readable at some fifty pixels."""

from __future__ import annotations

from functools import lru_cache
from math import cos, pi, sin

from PIL import Image, ImageDraw

from data_builders.emblems.looks import Look

RGB = tuple[int, int, int]
Points = list[tuple[float, float]]

PALETTE: dict[str, RGB] = {
    "red": (220, 25, 35),
    "orange": (255, 135, 0),
    "yellow": (255, 228, 25),
    "green": (20, 155, 50),
    "blue": (25, 75, 225),
    "purple": (145, 35, 185),
    "pink": (250, 110, 190),
    "gray": (125, 125, 130),
    "white": (250, 250, 250),
    "black": (20, 20, 22),
}
HAIR: dict[str, RGB] = {
    "black": (20, 20, 22),
    "brown": (112, 62, 22),
    "blond": (255, 222, 70),
    "red": (225, 70, 15),
    "gray": (165, 165, 170),
}
SKIN: RGB = (240, 190, 150)
DARK: RGB = (25, 25, 28)
LIGHT: RGB = (225, 225, 228)
GLASS: RGB = (215, 240, 255)

SCALE = 2  # pixels of the master drawing for one drawing unit; an emblem is about 100 units high
MARGIN = 10  # units around a drawing, for outlines and corners that reach beyond it


class Pen:
    """Draws outlined shapes in drawing units on a transparent canvas."""

    def __init__(self, width: float, height: float) -> None:
        size = (int((width + 2 * MARGIN) * SCALE), int((height + 2 * MARGIN) * SCALE))
        self.image = Image.new("RGBA", size)
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Points, fill: RGB, line: RGB | None = DARK, width: float = 3) -> None:
        """A closed polygon."""
        scaled = [((x + MARGIN) * SCALE, (y + MARGIN) * SCALE) for x, y in points]
        self.draw.polygon(scaled, fill=fill)
        if line is not None:
            self.draw.line([*scaled, *scaled[:2]], fill=line, width=round(width * SCALE), joint="curve")

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: RGB | None, line: RGB | None = DARK) -> None:
        """An ellipse around (x, y)."""
        box = self._box(x - rx, y - ry, x + rx, y + ry)
        self.draw.ellipse(box, fill=fill, outline=line, width=3 * SCALE)

    def ring(self, x: float, y: float, radius: float, colour: RGB, width: float) -> None:
        """A circle's line, ``width`` wide."""
        box = self._box(x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse(box, outline=colour, width=round(width * SCALE))

    def rect(
        self, x0: float, y0: float, x1: float, y1: float, fill: RGB, line: RGB | None = DARK, radius: float = 0
    ) -> None:
        """A rectangle, its corners rounded by ``radius``."""
        box = self._box(x0, y0, x1, y1)
        self.draw.rounded_rectangle(box, radius * SCALE, fill=fill, outline=line, width=3 * SCALE)

    def arc(self, x: float, y: float, rx: float, ry: float, span: tuple[int, int], colour: RGB, width: float) -> None:
        """Part of an ellipse's line, ``span`` in degrees clockwise from three o'clock."""
        self.draw.arc(self._box(x - rx, y - ry, x + rx, y + ry), *span, fill=colour, width=round(width * SCALE))

    def slice(self, x: float, y: float, rx: float, ry: float, span: tuple[int, int], fill: RGB, line: RGB) -> None:
        """A segment of an ellipse, closed by its chord."""
        self.draw.chord(self._box(x - rx, y - ry, x + rx, y + ry), *span, fill=fill, outline=line, width=3 * SCALE)

    def line(self, points: Points, colour: RGB, width: float) -> None:
        """An open line."""
        scaled = [((x + MARGIN) * SCALE, (y + MARGIN) * SCALE) for x, y in points]
        self.draw.line(scaled, fill=colour, width=round(width * SCALE), joint="curve")

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        return (x0 + MARGIN) * SCALE, (y0 + MARGIN) * SCALE, (x1 + MARGIN) * SCALE, (y1 + MARGIN) * SCALE


def draw_look(look: Look, side: int) -> Image.Image:
    """The emblem as an RGBA sprite whose longer side is ``side`` pixels, give or take one.

    Alpha is 0 or 255, and opaque pixels touch all four edges, so the sprite's alpha is the exact mask.
    """
    master = _master(look)
    scale = side / max(master.size)
    size = (max(1, round(master.width * scale)), max(1, round(master.height * scale)))
    sprite = master.resize(size, Image.Resampling.BOX).convert("RGBA")
    alpha = sprite.getchannel("A").point(_HARD)
    sprite.putalpha(alpha)
    return sprite.crop(alpha.getbbox())


_HARD = [0] * 128 + [255] * 128
"""The opacity for each opacity after resizing: softened edges become exact."""


@lru_cache(maxsize=512)
def _master(look: Look) -> Image.Image:
    """The large drawing that all sizes are made from, cut to its opaque part, premultiplied so that it resizes fast."""
    image = _DRAW[look.type](*look.parts)
    return image.crop(image.getbbox()).convert("RGBa")


def _person(hair: str, style: str, glasses: str, shirt: str) -> Image.Image:
    pen, colour = Pen(100, 116), HAIR[hair]
    cloth, edge = _paint(shirt)
    pen.polygon([(2, 116), (5, 96), (22, 84), (78, 84), (95, 96), (98, 116)], cloth, edge, 4)
    if style == "long":
        pen.rect(14, 2, 86, 100, colour, radius=34)
    elif style == "curly":
        for turn in range(11):
            angle = pi * (0.82 + turn * 1.36 / 10)
            pen.ellipse(50 + 32 * cos(angle), 38 + 30 * sin(angle), 15, 15, colour)
        pen.ellipse(50, 36, 32, 30, colour, None)
    pen.rect(40, 66, 60, 90, SKIN)
    pen.ellipse(50, 48, 25, 30, SKIN)
    if style == "short":
        pen.slice(50, 42, 30, 36, (190, 350), colour, DARK)
    else:
        pen.slice(50, 44, 27, 30, (205, 335), colour, colour)
    if glasses == "with":
        for x in (37, 63):
            pen.ellipse(x, 48, 13, 12, GLASS, None)
            pen.ring(x, 48, 13, DARK, 5)
    else:
        for x in (40, 60):
            pen.ellipse(x, 48, 3.5, 4.5, DARK)
    pen.arc(50, 60, 9, 9, (20, 160), (170, 40, 40), 4)
    return pen.image


def _flag(stripes: str, first: str, second: str, third: str, charge: str) -> Image.Image:
    pen = Pen(110, 76)
    colours = [PALETTE[name] for name in (first, second, third) if name != "none"]
    for index, colour in enumerate(colours):
        low, high = index / len(colours), (index + 1) / len(colours)
        if stripes == "horizontal":
            pen.rect(0, 76 * low, 110, 76 * high, colour, None)
        else:
            pen.rect(110 * low, 0, 110 * high, 76, colour, None)
    if charge == "star":
        pen.polygon(_star(55, 40, 25), PALETTE["white"])
    elif charge == "disc":
        pen.ellipse(55, 38, 20, 20, PALETTE["white"])
    elif charge == "cross":
        pen.polygon(_cross(55, 38, 23, 8), PALETTE["white"])
    pen.line([(0, 0), (110, 0), (110, 76), (0, 76), (0, 0)], DARK, 3)
    return pen.image


def _logo(outline: str, colour: str, symbol: str, symbol_colour: str) -> Image.Image:
    pen, fill = Pen(100, 100), PALETTE[colour]
    x, y, size = 50.0, 50.0, 31.0
    if outline == "round":
        pen.ellipse(50, 50, 50, 50, fill)
    elif outline == "square":
        pen.rect(3, 3, 97, 97, fill)
    elif outline == "triangular":
        pen.polygon([(50, 0), (107, 98), (-7, 98)], fill)
        y, size = 66, 25
    elif outline == "diamond-shaped":
        pen.polygon([(50, -7), (107, 50), (50, 107), (-7, 50)], fill)
    else:
        left = [(50 - 46 * cos(t * pi / 16), 50 + 52 * sin(t * pi / 16)) for t in range(17)]
        pen.polygon([(96, 0), (4, 0), *left], fill)
        y = 44
    _symbol(pen, symbol, x, y, size, PALETTE[symbol_colour])
    return pen.image


def _symbol(pen: Pen, symbol: str, x: float, y: float, size: float, colour: RGB) -> None:
    """A symbol of about twice ``size`` units around (x, y), in one colour."""
    if symbol == "star":
        pen.polygon(_star(x, y + 2, size * 1.1), colour, None)
    elif symbol == "ring":
        pen.ring(x, y, size * 0.9, colour, size * 0.36)
    elif symbol == "cross":
        pen.polygon(_cross(x, y, size * 0.95, size * 0.3), colour, None)
    elif symbol == "bolt":
        zigzag = [(0.35, -1.1), (-0.65, 0.2), (-0.05, 0.2), (-0.35, 1.1), (0.65, -0.25), (0.05, -0.25)]
        pen.polygon([(x + a * size, y + b * size) for a, b in zigzag], colour, None)
    else:
        arrow = [(-1, -0.28), (0.1, -0.28), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.28), (-1, 0.28)]
        pen.polygon([(x + a * size, y + b * size) for a, b in arrow], colour, None)


def _star(x: float, y: float, radius: float) -> Points:
    points = []
    for corner in range(10):
        reach = radius if corner % 2 == 0 else radius * 0.42
        angle = corner * pi / 5
        points.append((x + reach * sin(angle), y - reach * cos(angle)))
    return points


def _cross(x: float, y: float, reach: float, half: float) -> Points:
    corners = [(half, reach), (half, half), (reach, half)]
    turned = [*corners, *[(a, -b) for a, b in corners[::-1]]]
    return [(x + a, y + b) for a, b in [*turned, *[(-a, b) for a, b in turned[::-1]]]]


def _paint(colour: str) -> tuple[RGB, RGB]:
    """A colour and the line that sets it off."""
    return PALETTE[colour], LIGHT if colour == "black" else DARK


def _thing(name: str, colour: str) -> Image.Image:
    pen = Pen(120, 120)
    _THINGS[name](pen, *_paint(colour))
    return pen.image


def _car(pen: Pen, fill: RGB, line: RGB) -> None:
    body = [(0, 66), (0, 40), (20, 34), (32, 4), (80, 4), (94, 36), (110, 42), (110, 66)]
    pen.polygon(body, fill, line, 4)
    pen.polygon([(30, 34), (39, 12), (53, 12), (53, 34)], GLASS, line)
    pen.polygon([(61, 34), (61, 12), (75, 12), (85, 34)], GLASS, line)
    for x in (26, 84):
        pen.ellipse(x, 66, 16, 16, DARK, LIGHT)


def _cup(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.arc(76, 50, 27, 24, (0, 360), line, 17)
    pen.arc(76, 50, 24, 21, (0, 360), fill, 10)
    pen.polygon([(4, 10), (78, 10), (72, 94), (10, 94)], fill, line, 4)


def _guitar(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.rect(38, -4, 62, 12, DARK, LIGHT)
    pen.rect(43, 10, 57, 50, (120, 80, 40), line)
    pen.ellipse(50, 52, 27, 21, fill, line)
    pen.ellipse(50, 85, 37, 30, fill, line)
    pen.ellipse(50, 55, 24, 18, fill, None)
    pen.ellipse(50, 68, 11, 11, DARK, LIGHT)
    pen.rect(34, 92, 66, 100, DARK, None)


def _ball(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.ellipse(50, 50, 48, 48, fill, line)
    pen.arc(-6, 50, 38, 48, (-57, 57), line, 5)
    pen.arc(106, 50, 38, 48, (123, 237), line, 5)
    pen.line([(50, 2), (50, 98)], line, 5)


def _boat(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.line([(50, 0), (50, 74)], DARK, 6)
    pen.polygon([(56, 4), (100, 62), (56, 62)], LIGHT)
    pen.polygon([(44, 16), (44, 62), (10, 62)], LIGHT)
    pen.polygon([(0, 70), (110, 70), (90, 100), (20, 100)], fill, line, 4)


def _house(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.rect(10, 46, 90, 100, fill, line)
    pen.polygon([(50, 0), (102, 50), (-2, 50)], fill, line, 5)
    pen.rect(20, 62, 42, 82, GLASS, line)
    pen.rect(56, 62, 78, 100, DARK, line)


def _key(pen: Pen, fill: RGB, line: RGB) -> None:
    bow, shaft = (28, 36), [(50, 26), (114, 26), (114, 74), (98, 74), (98, 46), (90, 46), (90, 68), (76, 68), (76, 46)]
    pen.polygon([*shaft, (50, 46)], fill, line)
    pen.ring(*bow, 36, line, 24)
    pen.ring(*bow, 33, fill, 18)


def _book(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.rect(4, 0, 82, 100, fill, line, 5)
    pen.polygon([(12, 84), (80, 84), (80, 96), (12, 96)], PALETTE["white"], line)
    pen.line([(18, 0), (18, 84)], line, 4)
    pen.rect(32, 18, 68, 40, LIGHT, line)


def _phone(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.rect(0, 0, 68, 108, fill, line, 12)
    pen.rect(12, 16, 56, 80, GLASS, line)
    pen.ellipse(34, 93, 7, 7, DARK, LIGHT)


def _hat(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.ellipse(50, 74, 50, 16, fill, line)
    pen.polygon([(20, 74), (24, 0), (76, 0), (80, 74)], fill, line, 4)
    pen.polygon([(22, 66), (23, 48), (77, 48), (78, 66)], line, None)


def _fish(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.polygon([(74, 36), (114, 6), (106, 36), (114, 66)], fill, line, 4)
    pen.ellipse(44, 36, 44, 30, fill, line)
    pen.ellipse(22, 29, 8, 8, PALETTE["white"], DARK)
    pen.arc(36, 36, 10, 22, (-70, 70), line, 5)


def _umbrella(pen: Pen, fill: RGB, line: RGB) -> None:
    pen.line([(55, 0), (55, 94)], DARK, 7)
    pen.arc(44, 94, 14, 14, (0, 180), DARK, 7)
    pen.slice(55, 58, 54, 54, (180, 360), fill, line)
    pen.line([(37, 56), (55, 5), (73, 56)], line, 3)


_THINGS = {
    "car": _car,
    "cup": _cup,
    "guitar": _guitar,
    "ball": _ball,
    "boat": _boat,
    "house": _house,
    "key": _key,
    "book": _book,
    "phone": _phone,
    "hat": _hat,
    "fish": _fish,
    "umbrella": _umbrella,
}
_DRAW = {"PER": _person, "LOC": _flag, "ORG": _logo, "OTHER": _thing}
