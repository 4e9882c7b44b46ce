"""A picture in the DOT language of Graphviz."""

from __future__ import annotations

from greenroom.representation.picture import Box, Line, Picture

__all__ = ["draw_dot"]

_STYLES = {
    "step": 'shape=box, style="rounded,filled", fillcolor="#dbe7fb", color="#3867b7"',
    "event": 'shape=ellipse, style=filled, fillcolor="#f1f1f3", color="#8a8f98"',
    "start": 'shape=ellipse, style=filled, fillcolor="#d6efdd", color="#2f8f4e"',
    "stop": 'shape=ellipse, style=filled, fillcolor="#e2e2e6", color="#2c2f36", penwidth=2',
    "outside": 'shape=parallelogram, style=filled, fillcolor="#fdebc8", color="#b97a10"',
    "resource": 'shape=cylinder, style=filled, fillcolor="#d3efec", color="#23807a"',
    "workflow": 'shape=box, peripheries=2, style=filled, fillcolor="#ece4f7", color="#7a52b3"',
    "other": 'shape=component, style=filled, fillcolor="#f3ead9", color="#7d6a45"',
}
_TONES = {
    "plain": "",
    "failed": ', fillcolor="#fbd9d7", color="#c0322b", penwidth=2',
    "busy": ", penwidth=2",
    "unreached": ', fillcolor="#f6f6f6", color="#c2c2c2", fontcolor="#8a8a8a"',
}


def draw_dot(picture: Picture) -> str:
    """Return the text of a digraph, the same for the same graph."""
    title = _quote(" - ".join(filter(None, (picture.title, picture.status))))
    lines = [
        f"digraph {_quote(picture.title)} {{",
        f'    graph [rankdir=TB, label={title}, labelloc=t, fontname="Helvetica"]',
        '    node [fontname="Helvetica"]',
        '    edge [fontname="Helvetica", fontsize=11]',
    ]
    lines += [f"    {_quote(box.id)} [{_looks(box)}]" for box in picture.boxes]
    lines += [f"    {_quote(line.source)} -> {_quote(line.target)} [{_line_looks(line)}]" for line in picture.lines]
    return "\n".join(lines) + "\n}\n"


def _looks(box: Box) -> str:
    return f"label={_quote(chr(10).join((box.title, *box.notes)))}, {_STYLES[box.kind]}{_TONES[box.tone]}"


def _line_looks(line: Line) -> str:
    looks = [f"label={_quote(line.label)}", f"style={'dashed' if line.is_dashed else 'solid'}"]
    if line.is_loop:
        looks.append('color="#c05f12"')
    elif line.is_unused:
        looks.append('color="#c2c2c2"')
    if line.is_both_ways:
        looks.append("dir=both")
    return ", ".join(looks)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
