"""A picture as a page that stands alone: the SVG, a style sheet and a small script, and nothing to load."""

from __future__ import annotations

import json
from functools import cache
from html import escape
from importlib.resources import files

from greenroom.representation.picture import Picture
from greenroom.representation.svg import COLOURS, draw_svg

__all__ = ["draw_frame", "draw_page"]

# The browser itself refuses whatever is not in the page.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_FRAME_HEIGHT = 560
_HELP = (
    "Point at a box to read about it, click to keep it. Drag or scroll to move; Ctrl and the wheel, or pinch, to zoom."
)

_LEGEND = (
    ("step", "a step", ""),
    ("event", "an event", "round"),
    ("start", "begins the run", "round"),
    ("stop", "ends the run", "round"),
    ("outside", "somebody outside", "dashed"),
    ("resource", "a resource", ""),
    ("workflow", "another workflow", ""),
)
_RUN_LEGEND = (("failed", "has failed in the run", ""), ("unreached", "not reached in the run", ""))


def draw_page(picture: Picture) -> str:
    """Return the text of an HTML document, the same for the same graph."""
    faults = "".join(f"<li>{escape(fault)}</li>" for fault in picture.faults)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(picture.title)}</title>
<style>
{_resource("page.css")}{_legend_style()}</style>
</head>
<body>
<header>
<h1>{escape(picture.title)}</h1>
<span class="status">{escape(picture.status)}</span>
<span class="tools">
<button id="out" title="smaller (-)">&minus;</button>
<button id="fit" title="fit (0)">fit</button>
<button id="in" title="larger (+)">+</button>
</span>
{f'<ul class="faults" title="Building the workflow would refuse this">{faults}</ul>' if faults else ""}
</header>
<main id="stage">
{draw_svg(picture, tooltips=False)}</main>
<aside>
<div id="details"></div>
<div class="legend">{_legend(picture)}</div>
</aside>
<script type="application/json" id="data">{_data(picture)}</script>
<script>
{_resource("page.js")}</script>
</body>
</html>
"""


def draw_frame(picture: Picture) -> str:
    """Return an `<iframe>` that holds the page, so that nothing of it meets the page of a notebook."""
    return (
        f'<iframe srcdoc="{escape(draw_page(picture))}" sandbox="allow-scripts" title="{escape(picture.title)}"'
        f' style="width:100%;height:{_FRAME_HEIGHT}px;border:0"></iframe>'
    )


def _data(picture: Picture) -> str:
    """Return what the script reads. Nothing in it can end the element that holds it."""
    numbers = {box.id: number for number, box in enumerate(picture.boxes)}
    about = [("", picture.title)]
    if picture.description:
        about.append(("", picture.description))
    about.append(("", _HELP))
    data = {
        "about": about,
        "boxes": [box.details for box in picture.boxes],
        "lines": [(numbers[line.source], numbers[line.target]) for line in picture.lines],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _legend(picture: Picture) -> str:
    kinds = {box.kind for box in picture.boxes} | {box.tone for box in picture.boxes}
    rows = [
        f'<div><span class="swatch {shape} of-{kind}"></span>{text}</div>'
        for kind, text, shape in (*_LEGEND, *_RUN_LEGEND)
        if kind in kinds
    ]
    if any(line.is_loop for line in picture.lines):
        rows.append('<div><span class="swatch line of-loop"></span>leads back: a loop</div>')
    if any(line.is_dashed for line in picture.lines):
        rows.append('<div><span class="swatch line dashed of-line"></span>not in the annotations</div>')
    return "".join(rows)


def _legend_style() -> str:
    grounds = [
        "".join(
            f".of-{kind}{{background:{of[ground][0]};border-color:{of[ground][1]}}}" for kind, of in COLOURS.items()
        )
        for ground in (0, 1)
    ]
    return f"{grounds[0]}.of-loop{{border-color:#c05f12}}@media (prefers-color-scheme:dark){{{grounds[1]}}}\n"


@cache
def _resource(name: str) -> str:
    return files("greenroom.representation").joinpath(name).read_text(encoding="utf-8")
