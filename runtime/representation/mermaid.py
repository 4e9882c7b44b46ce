"""A picture as a Mermaid flowchart."""

from __future__ import annotations

import re

from greenroom.representation.picture import Box, Line, Picture

__all__ = ["draw_mermaid"]

_SHAPES = {
    "step": ('["', '"]'),
    "event": ('(["', '"])'),
    "start": ('(["', '"])'),
    "stop": ('(["', '"])'),
    "outside": ('[/"', '"/]'),
    "resource": ('[("', '")]'),
    "workflow": ('[["', '"]]'),
    "other": ('{{"', '"}}'),
}
# Fill, border and letters; chosen to be read on a light page and on a dark one.
_STYLES = {
    "step": "fill:#dbe7fb,stroke:#3867b7,color:#12233f",
    "event": "fill:#f1f1f3,stroke:#8a8f98,color:#25282d",
    "start": "fill:#d6efdd,stroke:#2f8f4e,color:#10331c",
    "stop": "fill:#e2e2e6,stroke:#2c2f36,color:#16181c,stroke-width:3px",
    "outside": "fill:#fdebc8,stroke:#b97a10,color:#402b06",
    "resource": "fill:#d3efec,stroke:#23807a,color:#0c302d",
    "workflow": "fill:#ece4f7,stroke:#7a52b3,color:#2a1a44",
    "other": "fill:#f3ead9,stroke:#7d6a45,color:#2f2718",
    "failed": "fill:#fbd9d7,stroke:#c0322b,color:#4a0f0c,stroke-width:3px",
    "busy": "stroke-width:3px",
    "unreached": "fill:#f6f6f6,stroke:#c2c2c2,color:#8a8a8a",
}


def draw_mermaid(picture: Picture) -> str:
    """Return the text of a flowchart, the same for the same graph."""
    numbers = {box.id: f"n{number}" for number, box in enumerate(picture.boxes)}
    lines = ["flowchart TD"]
    if picture.status:
        lines.append(f"    %% {' '.join(picture.status.split())}")
    lines += [f"    {numbers[box.id]}{_shape(box)}" for box in picture.boxes]
    lines += [f"    {numbers[line.source]} {_arrow(line)} {numbers[line.target]}" for line in picture.lines]
    classes: dict[str, list[str]] = {}
    for box in picture.boxes:
        for style in (box.kind, box.tone):
            classes.setdefault(style, []).append(numbers[box.id])
    for name in _STYLES:  # in this order: a later class wins
        if name in classes:
            lines += [f"    classDef {name} {_STYLES[name]}", f"    class {','.join(classes[name])} {name}"]
    return "\n".join(lines) + "\n"


def _shape(box: Box) -> str:
    opening, closing = _SHAPES[box.kind]
    return opening + "<br/>".join(map(_escape, (box.title, *box.notes))) + closing


def _arrow(line: Line) -> str:
    arrow = "-.->" if line.is_dashed else "-->"
    if line.is_both_ways:
        arrow = f"<{arrow}"
    label = " ".join(filter(None, (line.label, "loop" if line.is_loop else "")))
    return f'{arrow}|"{_escape(label)}"|' if label else arrow


def _escape(text: str) -> str:
    """Write as numbers what has a meaning in Mermaid or in HTML."""
    return re.sub(r"[^\w .,:·\u00d7*()?!/+=-]", lambda found: f"#{ord(found[0])};", " ".join(text.split()))
