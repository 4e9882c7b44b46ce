"""A picture as SVG, that stands alone: in a README, in a notebook, and in the page."""

from __future__ import annotations

import unicodedata
from html import escape
from itertools import pairwise

from greenroom.representation.layout import Point, lay_out
from greenroom.representation.picture import Box, Line, Picture

__all__ = ["COLOURS", "draw_svg"]

# Fill, border and letters of each kind of box, on a light ground and on a dark one.
COLOURS: dict[str, tuple[tuple[str, str, str], tuple[str, str, str]]] = {
    "step": (("#e3edfc", "#3867b7", "#12233f"), ("#1c2c48", "#6d9be8", "#e4edfb")),
    "event": (("#f4f4f6", "#9499a3", "#2b2f36"), ("#2a2d33", "#7d8390", "#d9dce2")),
    "start": (("#dcf2e2", "#2f8f4e", "#10331c"), ("#173322", "#58b878", "#d9f2e1")),
    "stop": (("#e6e6ea", "#2c2f36", "#16181c"), ("#33363d", "#d5d8de", "#f3f4f6")),
    "outside": (("#fdf0d5", "#b97a10", "#402b06"), ("#3a2d12", "#dda63f", "#f8ebcd")),
    "resource": (("#dbf2ef", "#23807a", "#0c302d"), ("#12332f", "#4fb5ab", "#d8f3ef")),
    "workflow": (("#efe8f9", "#7a52b3", "#2a1a44"), ("#2e2342", "#a884dd", "#ebe2f8")),
    "other": (("#f6efe1", "#7d6a45", "#2f2718"), ("#332b1b", "#bba573", "#f3ead9")),
    "failed": (("#fbdcda", "#c0322b", "#4a0f0c"), ("#47191a", "#ee7a73", "#fbdcda")),
    "unreached": (("#fafafa", "#cdcfd4", "#8d9199"), ("#1b1d21", "#42464e", "#787d87")),
}
# The ground, and lines, lines that lead back, lines that were not used.
_GROUNDS = (("#ffffff", "#6a707b", "#c05f12", "#cdcfd4"), ("#16181c", "#a0a6b1", "#f0985a", "#42464e"))

_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
_SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"
_TITLE_WIDTH = 7.9  # of a letter, at 13 px: all these fonts are at most 0.602 em wide
_NOTE_WIDTH = 6.1  # about, at 11 px
_MARGIN = 16.0


def draw_svg(picture: Picture, *, tooltips: bool = True) -> str:
    """Return the text of an `<svg>` element, the same for the same graph.

    Args:
        picture: What to draw.
        tooltips: Whether each box tells its details when the mouse rests on it.
    """
    numbers = {box.id: number for number, box in enumerate(picture.boxes)}
    sizes = [_size(box) for box in picture.boxes]
    edges = [(numbers[line.source], numbers[line.target]) for line in picture.lines]
    labels = [_line_label(line) for line in picture.lines]
    layout = lay_out(sizes, edges, labelled=any(labels))
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="gr" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="{-_MARGIN:.0f} {-_MARGIN:.0f} {width:.0f} {height:.0f}" role="img"'
        f' aria-label="{escape(f"The graph of {picture.title}")}">',
        f"<style>{_STYLE}</style>",
        _MARKERS,
        f'<rect class="gr-ground" x="{-_MARGIN:.0f}" y="{-_MARGIN:.0f}" width="{width:.0f}" height="{height:.0f}"/>',
    ]
    for number, (line, route) in enumerate(zip(picture.lines, layout.routes, strict=True)):
        parts.append(_draw_line(number, line, route))
    for number, box in enumerate(picture.boxes):
        parts.append(_draw_box(box, number, layout.centers[number], sizes[number], tooltips))
    for number, (line, (x, y)) in enumerate(zip(picture.lines, layout.label_places, strict=True)):
        if labels[number]:
            parts.append(
                f'<text class="gr-label {_line_class(line)}" data-line="{number}" x="{x:.1f}" y="{y + 4:.1f}">'
                f"{escape(labels[number])}</text>"
            )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _size(box: Box) -> tuple[float, float]:
    title = _cells(box.title) * _TITLE_WIDTH + 28 + 14 * (box.kind == "outside")
    notes = max((_cells(note) * _NOTE_WIDTH + 24 for note in box.notes), default=0.0)
    return max(title, notes, 64.0), (26.0 if box.kind in ("event", "start", "stop") else 34.0) + 15 * len(box.notes)


def _cells(text: str) -> int:
    """Return how many columns a text takes; letters of East Asia take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _line_label(line: Line) -> str:
    return " ".join(filter(None, (line.label, "loop" if line.is_loop else "")))


def _line_class(line: Line) -> str:
    return "gr-loop" if line.is_loop and not line.is_unused else "gr-unused" if line.is_unused else "gr-way"


def _draw_line(number: int, line: Line, route: list[Point]) -> str:
    name = _line_class(line)
    start = f' marker-start="url(#{name}-tip)"' if line.is_both_ways else ""
    dashes = ' stroke-dasharray="5 4"' if line.is_dashed else ""
    way = _curve_beside(route) if line.source == line.target else _curve(route)
    return f'<path class="gr-line {name}" data-line="{number}" d="{way}"{start} marker-end="url(#{name}-tip)"{dashes}/>'


def _curve(route: list[Point]) -> str:
    way = [f"M{route[0][0]:.1f} {route[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(route):
        middle = (y0 + y1) / 2
        way.append(
            f"V{y1:.1f}" if abs(x0 - x1) < 0.05 else f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
        )
    return "".join(way)


def _curve_beside(route: list[Point]) -> str:
    (x0, y0), (x, _), (x1, y1) = route
    return f"M{x0:.1f} {y0:.1f}C{x:.1f} {y0 - 8:.1f} {x:.1f} {y1 + 8:.1f} {x1:.1f} {y1:.1f}"


def _draw_box(box: Box, number: int, center: Point, size: tuple[float, float], tooltips: bool) -> str:
    (x, y), (width, height) = center, size
    left, top = x - width / 2, y - height / 2
    shape = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
    round_ends = box.kind in ("event", "start", "stop")
    parts = [f'<g class="gr-box gr-{box.kind} gr-{box.tone}" data-box="{number}">']
    if tooltips:
        parts.append(f"<title>{escape(_tooltip(box))}</title>")
    parts.append(f'<rect {shape} rx="{height / 2 if round_ends else 7:.0f}"/>')
    baseline = top + (17.5 if round_ends else 21.5)
    shift = 0.0
    if box.kind == "outside":
        shift = 8.0
        head = x + shift - _cells(box.title) * _TITLE_WIDTH / 2 - 11
        parts.append(
            f'<circle class="gr-person" cx="{head:.1f}" cy="{baseline - 8:.1f}" r="3"/>'
            f'<path class="gr-person" d="M{head - 5.5:.1f} {baseline + 2:.1f}a5.5 6 0 0 1 11 0z"/>'
        )
    parts.append(f'<text class="gr-title" x="{x + shift:.1f}" y="{baseline:.1f}">{escape(box.title)}</text>')
    for line, note in enumerate(box.notes, start=1):
        parts.append(f'<text class="gr-note" x="{x:.1f}" y="{baseline + 15 * line:.1f}">{escape(note)}</text>')
    return "".join(parts) + "</g>"


def _tooltip(box: Box) -> str:
    return "\n\n".join(f"{heading}: {text}" if heading else text for heading, text in box.details)


def _rules(ground: int) -> str:
    page, way, loop, unused = _GROUNDS[ground]
    rules = [f".gr-ground{{fill:{page}}}.gr-label{{stroke:{page}}}"]
    for name, colour in (("way", way), ("loop", loop), ("unused", unused)):
        rules.append(f".gr-line.gr-{name}{{stroke:{colour}}}.gr-tip-{name},.gr-label.gr-{name}{{fill:{colour}}}")
    for kind, colours in COLOURS.items():
        fill, border, letters = colours[ground]
        rules.append(
            f".gr-{kind} rect{{fill:{fill};stroke:{border}}}.gr-{kind} text{{fill:{letters}}}"
            f".gr-{kind} .gr-person{{fill:{border}}}"
        )
    return "".join(rules)


_STYLE = (
    f".gr-title{{font:600 13px {_MONO};text-anchor:middle}}.gr-note{{font:11px {_SANS};text-anchor:middle;opacity:.8}}"
    f".gr-label{{font:11px {_SANS};text-anchor:middle;paint-order:stroke;stroke-width:4px;stroke-linejoin:round}}"
    ".gr-line{fill:none;stroke-width:1.4}.gr-box rect{stroke-width:1.3}.gr-stop rect{stroke-width:3}"
    ".gr-outside rect{stroke-dasharray:5 3}.gr-failed rect,.gr-busy rect{stroke-width:2.6}"
    + _rules(0)
    + f"@media (prefers-color-scheme:dark){{{_rules(1)}}}"
)
_MARKERS = (
    "<defs>"
    + "".join(
        f'<marker id="gr-{name}-tip" viewBox="0 0 8 8" refX="7.2" refY="4" markerWidth="8" markerHeight="8"'
        f' markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path class="gr-tip-{name}" d="M0 .6 8 4 0 7.4z"/>'
        "</marker>"
        for name in ("way", "loop", "unused")
    )
    + "</defs>"
)
