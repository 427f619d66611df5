"""The plots of the page: matplotlib's SVG, inline, in the page's own colours so that it follows light and dark.

What has a style attribute becomes plain attributes, since the page's security policy forbids inline styles.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib understands; the page's CSS variables take their places.
INK, FAINT, RULE = "#000001", "#000002", "#000003"
SYSTEMS = ("#000004", "#000005")
GAIN, CARD = "#000006", "#000007"
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    RULE: "var(--rule)",
    SYSTEMS[0]: "var(--a)",
    SYSTEMS[1]: "var(--b)",
    GAIN: "var(--bad)",
    CARD: "var(--card)",
}
_MARKERS = ("o", "s")
_WIDTH = 4.4  # inches of 100 units: as wide as a phone, so that letters are not shrunk there
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"


def waterfall(budget: Mapping, system: int, least: float) -> Markup:
    """The error analysis as a waterfall, percent: today's F1, what correcting each type of error gives, the rest.

    ``budget`` is as `eval.analysis.errors.error_budget` gives it, ``least`` where the axis begins.
    """
    # Without those that would read 0.00.
    gains = {name: 100 * row["gain"] for name, row in budget["corrected"].items() if abs(row["gain"]) >= 0.00005}
    steps = sorted(gains.items(), key=lambda step: -step[1])
    now = 100 * budget["f1"]
    together = 100 - now - sum(gains.values())
    figure, axes = _axes(0.6 + 0.25 * (len(steps) + 3))
    rows = [("F1 now", now, 0.0, SYSTEMS[system])]
    start = now
    for name, gain in steps:
        rows.append((name.replace("_", " "), gain, start, GAIN))
        start += gain
    rows += [("in combination", together, start, FAINT), ("all corrected", 100.0, 0.0, RULE)]
    for place, (_, width, left, colour) in enumerate(rows):
        axes.barh(place, width, left=left, height=0.66, color=colour, linewidth=0)
        words = f"{width:.2f}" if colour in (SYSTEMS[system], RULE) else f"{width:+.2f}".replace("-", "−")
        axes.text(max(left, left + width) + (100 - least) / 60, place, words, va="center", color=INK)
    for place, (_, width, left, _) in enumerate(rows[:-2]):
        axes.plot([left + width] * 2, [place, place + 1], color=FAINT, linewidth=0.6)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], color=INK)
    axes.invert_yaxis()
    axes.set_xlim(least, max(100, axes.dataLim.xmax) + (100 - least) / 7)
    axes.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    words = ", ".join(f"{name} {width:+.2f}" for name, width, *_ in rows[1:-1])
    return _inline(figure, f"waterfall-{budget['task']}-{system}", f"{budget['task']} F1 {now:.2f}; {words}")


def iou_curve(sweeps: Sequence[Mapping], names: Sequence[str]) -> Markup:
    """F1 in percent by the IoU threshold, one line a system and task; the second task is dashed.

    ``sweeps`` are, for each system, ``{task: {threshold: row}}`` of one protocol.
    """
    figure, axes = _axes(3.2)
    words, ends = [], []
    for system, by_task in enumerate(sweeps):
        for place, (task, by_iou) in enumerate(by_task.items()):
            points = [100 * row["f1"] for row in by_iou.values()]
            label = task if len(sweeps) == 1 else f"{'AB'[system]} {task}"
            axes.plot(
                [float(iou) for iou in by_iou],
                points,
                color=SYSTEMS[system],
                marker=_MARKERS[system],
                markersize=4,
                linewidth=1.6,
                linestyle=("-", (0, (4, 2)))[place % 2],
            )
            ends.append((points[-1], label, SYSTEMS[system]))
            words.append(f"{names[system]} {task} from {points[0]:.1f} to {points[-1]:.1f}")
    axes.set_xlabel("IoU threshold", color=FAINT)
    axes.set_title("F1", loc="left", color=FAINT)
    axes.set_ylim(0, max(1.0, 1.08 * axes.dataLim.ymax))
    _label_ends(axes, ends)
    return _inline(figure, "iou", "F1 by IoU threshold: " + "; ".join(words))


def calibration_curve(curves: Sequence[Mapping | None], names: Sequence[str]) -> Markup:
    """Share of visible entities by predicted probability; below, the number of entities.

    ``curves`` are, for each system, as `eval.analysis.calibration.reliability` gives them, None where it has no score.
    """
    figure, axes = _axes(3.6, heights=(3, 1))
    upper, lower = axes
    upper.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
    words, ends = [], [(1.0, "calibrated", FAINT)]
    for system, curve in enumerate(curves):
        if curve is None:
            continue
        rows = [row for row in curve["bins"] if row["count"]]
        upper.plot(
            [row["score"] for row in rows],
            [row["visible"] for row in rows],
            color=SYSTEMS[system],
            marker=_MARKERS[system],
            markersize=4,
            linewidth=1.6,
        )
        name = f"{'AB'[system] + ' ' if len(curves) > 1 else ''}ECE {100 * curve['ece']:.2f}"
        ends.append((rows[-1]["visible"], name, SYSTEMS[system]))
        each = 1 / len(curves)
        lower.bar(
            [row["low"] + 0.1 * each * (system + 0.5) for row in curve["bins"]],
            [row["count"] for row in curve["bins"]],
            width=0.085 * each,
            color=SYSTEMS[system],
            linewidth=0,
        )
        words.append(f"{names[system]} has an expected calibration error of {100 * curve['ece']:.2f}")
    upper.set_ylim(-0.03, 1.03)
    upper.set_title("share visible", loc="left", color=FAINT)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("predicted probability", color=FAINT)
    lower.set_title("entities", loc="left", color=FAINT)
    lower.locator_params(axis="y", nbins=3)
    _label_ends(upper, ends)
    return _inline(figure, "calibration", "Reliability of the visibility: " + "; ".join(words))


def _axes(height: float, heights: Sequence[int] = (1,)) -> tuple[Figure, Axes | Sequence[Axes]]:
    """A figure of the page's width, and its axes one above the other, one alone as it is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=100, layout="constrained")
    figure.patch.set_visible(False)
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes in grid:
        axes.patch.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.spines["bottom"].set(visible=True, color=RULE)
        axes.grid(True, color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=FAINT, length=0, labelsize=10)
    return figure, grid[0] if len(grid) == 1 else grid


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """The name of each curve in its colour to the right of the axes, at the height where it ends; ``ends`` are the
    height, the name and the colour. Of names that would meet the upper one is moved up."""
    low, high = axes.get_ylim()
    line = (high - low) * 0.065  # of these figures' axes one line of text
    free = low
    for height, name, colour in sorted(ends):
        free = max(height, free)
        axes.text(1.02, free, name, color=colour, va="center", transform=axes.get_yaxis_transform())
        free += line


def _inline(figure: Figure, name: str, words: str) -> Markup:
    """The figure as an <svg> element for the page: ``words`` say it to those who cannot see it."""
    import matplotlib

    for text in figure.findobj(matplotlib.text.Text):
        text.set_fontsize(10)
    buffer = io.StringIO()
    # Text stays text; salt and date are fixed, so that the same results make the same page to the byte.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", buffer.getvalue()))
    for parent in list(root.iter()):
        for child in [one for one in parent if one.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")]:
            parent.remove(child)
    _plain(root, name)
    del root.attrib["width"], root.attrib["height"]
    root.attrib.update({"role": "img", "aria-label": words, "class": "figure"})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _plain(root: ElementTree.Element, name: str) -> None:
    """Style attributes as presentation attributes, colours as the page's variables, ids that are of this figure."""
    links = " ".join(value for one in root.iter() for key, value in one.items() if key in ("clip-path", _LINK))
    used = set(re.findall(r"#([\w-]+)", links))
    for element in root.iter():
        for part in filter(None, element.attrib.pop("style", "").split(";")):
            key, value = (one.strip() for one in part.split(":", 1))
            if key == "font":
                key, value = "font-size", re.search(r"[\d.]+px", value).group()
            element.set(key, value)
        element.attrib.pop("font-family", None)
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        for key, value in list(element.items()):
            element.set(key, _VARIABLES.get(value, value))
        if "clip-path" in element.attrib:
            element.set("clip-path", element.get("clip-path").replace("#", f"#{name}-"))
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK).replace("#", f"#{name}-"))
