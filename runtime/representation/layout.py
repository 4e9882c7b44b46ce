"""Where the boxes of a picture stand, and which way its lines go: layers from top to bottom, after Sugiyama.

Why our own: the page shall open offline and be small, and the same picture shall do for a README, a notebook and a
page, so it is made in Python, not in the browser. `grandalf` is not kept and under the GPL; Graphviz is a program to
install, or 2 MB of WebAssembly; mermaid.js has 3 MB and elkjs 1.5 MB of script, which draw in a browser only. The
graphs are small, and the classic steps take this page: turn the edges of cycles round, put the nodes in layers, bend
long edges through the layers between, order each layer for few crossings, and choose x so that edges run straight.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Layout", "lay_out"]

Point = tuple[float, float]

_SPACE = 28.0  # between neighbours in a layer
_LANE = 14.0  # the width that a line takes on its way through a layer
_GAP = 34.0  # between layers
_GAP_WITH_LABELS = 46.0
_LOOP_WIDTH = 44.0  # beside a box, for a line from it to itself
_PORT_SPACE = 26.0
_CORNER = 14.0
_SWEEPS = 24
_WORK = 80_000  # nodes times sweeps: past that, fewer sweeps


@dataclass(frozen=True, slots=True)
class Layout:
    """A picture's geometry, in pixels, y downwards.

    Attributes:
        centers: The middle of each box.
        routes: The points of each line from its source to its target: straight through a layer, curved between two.
        label_places: Where the label of each line belongs.
        width: Of the whole.
        height: Of the whole.
    """

    centers: list[Point]
    routes: list[list[Point]]
    label_places: list[Point]
    width: float
    height: float


@dataclass(slots=True)
class _Cell:
    """A box in its layer, or the place where a line goes through."""

    width: float
    height: float
    layer: int
    box: int | None
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    x: float = 0.0


def lay_out(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], labelled: bool = False) -> Layout:
    """Choose places for boxes and ways for the lines between them. The same input gives the same result.

    Args:
        sizes: Width and height of each box, in pixels. The first are placed nearest to the top.
        edges: For each line, the indices of the boxes where it begins and ends.
        labelled: Whether lines have labels, which need room between the layers.

    Example:
        >>> layout = lay_out([(100, 30), (60, 20)], [(0, 1)])
        >>> layout.centers
        [(50.0, 15.0), (50.0, 74.0)]
        >>> layout.routes
        [[(50.0, 30.0), (50.0, 64.0)]]
    """
    turned = _find_turned(len(sizes), edges)
    ways = [(v, u) if turned[index] else (u, v) for index, (u, v) in enumerate(edges)]
    has_own_loop = {u for u, v in edges if u == v}
    layers_of = _choose_layers(len(sizes), [way for way in ways if way[0] != way[1]])
    cells = [
        _Cell(width + 2 * _LOOP_WIDTH * (box in has_own_loop), height, layers_of[box], box)
        for box, (width, height) in enumerate(sizes)
    ]
    chains = [[] if u == v else _chain(cells, u, v) for u, v in ways]
    layers: list[list[int]] = [[] for _ in range(max(layers_of, default=-1) + 1)]
    for index, cell in enumerate(cells):
        layers[cell.layer].append(index)
    sweeps = max(4, min(_SWEEPS, _WORK // max(len(cells), 1)))
    _order(cells, layers, sweeps)
    _choose_x(cells, layers, sweeps)
    _straighten(cells, layers)
    left = min((cell.x - cell.width / 2 for cell in cells), default=0.0)
    for cell in cells:
        cell.x -= left
    gap = _GAP_WITH_LABELS if labelled else _GAP
    tops, heights, height = _choose_y(cells, layers, gap)
    centers = [(cell.x, tops[cell.layer] + heights[cell.layer] / 2) for cell in cells[: len(sizes)]]
    routes, places = _route(cells, chains, sizes, centers, tops, heights)
    for index, (u, v) in enumerate(edges):
        if u == v:
            routes[index], places[index] = _own_loop(centers[u], sizes[u])
        elif turned[index]:
            routes[index].reverse()
    return Layout(centers, routes, places, max((cell.x + cell.width / 2 for cell in cells), default=0.0), height)


def _find_turned(count: int, edges: Sequence[tuple[int, int]]) -> list[bool]:
    """Return which edges lead back to where a walk, depth first, has come from."""
    leaving: list[list[int]] = [[] for _ in range(count)]
    for index, (u, v) in enumerate(edges):
        if u != v:
            leaving[u].append(index)
    turned = [False] * len(edges)
    state = [0] * count  # 1 on the way, 2 left
    for start in range(count):
        if state[start]:
            continue
        way = [(start, iter(leaving[start]))]
        state[start] = 1
        while way:
            node, rest = way[-1]
            edge = next(rest, None)
            if edge is None:
                state[node] = 2
                way.pop()
                continue
            target = edges[edge][1]
            if state[target] == 1:
                turned[edge] = True
            elif state[target] == 0:
                state[target] = 1
                way.append((target, iter(leaving[target])))
    return turned


def _choose_layers(count: int, ways: Sequence[tuple[int, int]]) -> list[int]:
    """Put each box as high as what leads to it allows, and one that nothing leads to just above what it leads to."""
    below: list[list[int]] = [[] for _ in range(count)]
    missing = [0] * count
    for u, v in ways:
        below[u].append(v)
        missing[v] += 1
    is_source = [not number for number in missing]
    layers = [0] * count
    ready = [node for node in range(count) if is_source[node]]
    for node in ready:
        for target in below[node]:
            layers[target] = max(layers[target], layers[node] + 1)
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    for node in reversed(ready):
        if is_source[node] and below[node]:
            layers[node] = min(layers[target] for target in below[node]) - 1
    return layers


def _chain(cells: list[_Cell], u: int, v: int) -> list[int]:
    """Make the cells that a line goes through, and join them."""
    chain = [u]
    for layer in range(cells[u].layer + 1, cells[v].layer):
        cells.append(_Cell(_LANE, 0.0, layer, None))
        chain.append(len(cells) - 1)
    chain.append(v)
    for upper, lower in pairwise(chain):
        cells[upper].below.append(lower)
        cells[lower].above.append(upper)
    return chain


# -- the order within the layers ---------------------------------------------------------------------------------------


def _order(cells: list[_Cell], layers: list[list[int]], sweeps: int) -> None:
    """Order each layer by where its neighbours stand, downwards and upwards in turn; keep the best that was found."""
    best, fewest = [list(layer) for layer in layers], _count_crossings(cells, layers)
    place = [0.0] * len(cells)
    for layer in layers:
        _note_places(layer, place)
    for sweep in range(sweeps):
        if not fewest:
            break
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wish = {}
            for index in layer:
                near = cells[index].above if sweep % 2 == 0 else cells[index].below
                wish[index] = sum(place[other] for other in near) / len(near) if near else place[index]
            layer.sort(key=wish.__getitem__)
            _note_places(layer, place)
        crossings = _count_crossings(cells, layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    for layer, order in zip(layers, best, strict=True):
        layer[:] = order


def _note_places(layer: list[int], place: list[float]) -> None:
    for number, index in enumerate(layer):
        place[index] = float(number)


def _count_crossings(cells: list[_Cell], layers: list[list[int]]) -> int:
    crossings = 0
    for upper, lower in pairwise(layers):
        places = {index: number for number, index in enumerate(lower)}
        seen: list[int] = []
        for index in upper:
            ends = sorted(places[other] for other in cells[index].below)
            crossings += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return crossings


# -- x and y -----------------------------------------------------------------------------------------------------------


def _choose_x(cells: list[_Cell], layers: list[list[int]], sweeps: int) -> None:
    """Move each layer to where its neighbours want it, above and below in turn, then between both."""
    for layer in layers:
        _place(cells, layer, [0.0] * len(layer), [1.0] * len(layer))
    for sweep in range(sweeps + 1):
        both = sweep == sweeps
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wishes, weights = [], []
            for index in layer:
                cell = cells[index]
                near = cell.above + cell.below if both else cell.above if sweep % 2 == 0 else cell.below
                # Lines that go through several layers must run straight, above all.
                pulls = [1.0 + 3.0 * (cell.box is None) * (1 + (cells[other].box is None)) for other in near]
                total = sum(pulls)
                wish = sum(pull * cells[other].x for pull, other in zip(pulls, near, strict=True))
                wishes.append(wish / total if near else cell.x)
                weights.append(total if near else 0.01)
            _place(cells, layer, wishes, weights)


def _place(cells: list[_Cell], layer: list[int], wishes: list[float], weights: list[float]) -> None:
    """Give each cell the x nearest to its wish that keeps order and distance: an isotonic regression."""
    offsets, offset = [], 0.0
    for number, index in enumerate(layer):
        if number:
            offset += _distance(cells[layer[number - 1]], cells[index])
        offsets.append(offset)
    blocks: list[list[float]] = []  # sum of weighted wishes, sum of weights, number of cells
    for wish, weight, offset in zip(wishes, weights, offsets, strict=True):
        blocks.append([(wish - offset) * weight, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    at = [total / weight for total, weight, count in blocks for _ in range(int(count))]
    for index, base, offset in zip(layer, at, offsets, strict=True):
        cells[index].x = base + offset


def _straighten(cells: list[_Cell], layers: list[list[int]]) -> None:
    """Put what follows one upon one at the same x, for as many layers as their neighbours leave room for."""
    place = {index: number for layer in layers for number, index in enumerate(layer)}
    for head, cell in enumerate(cells):
        if len(cell.above) == 1 and len(cells[cell.above[0]].below) == 1:
            continue  # It belongs to a run that begins further up.
        run: list[int] = []
        low, high = float("-inf"), float("inf")
        follower: int | None = head
        while follower is not None:
            index = follower
            left, right = _room(cells, layers[cells[index].layer], place[index])
            if max(low, left) > min(high, right):
                _align(cells, run, low, high)
                run, low, high = [], left, right
            run.append(index)
            low, high = max(low, left), min(high, right)
            below = cells[index].below
            follower = below[0] if len(below) == 1 and len(cells[below[0]].above) == 1 else None
        _align(cells, run, low, high)


def _room(cells: list[_Cell], layer: list[int], place: int) -> Point:
    """Return the smallest and the largest x that a cell may have where its neighbours stand."""
    cell = cells[layer[place]]
    left, right = float("-inf"), float("inf")
    if place:
        before = cells[layer[place - 1]]
        left = before.x + _distance(before, cell)
    if place < len(layer) - 1:
        after = cells[layer[place + 1]]
        right = after.x - _distance(cell, after)
    return min(left, cell.x), max(right, cell.x)


def _align(cells: list[_Cell], run: list[int], low: float, high: float) -> None:
    if run:
        middle = sorted(cells[index].x for index in run)[len(run) // 2]
        for index in run:
            cells[index].x = min(max(middle, low), high)


def _distance(left: _Cell, right: _Cell) -> float:
    """Return how far the middles of two neighbours in a layer must be apart."""
    space = _SPACE if left.box is not None or right.box is not None else 4.0
    return (left.width + right.width) / 2 + space


def _choose_y(cells: list[_Cell], layers: list[list[int]], gap: float) -> tuple[list[float], list[float], float]:
    heights = [max(cells[index].height for index in layer) for layer in layers]
    tops, y = [], 0.0
    for height in heights:
        tops.append(y)
        y += height + gap
    return tops, heights, max(y - gap, 0.0)


# -- the lines ---------------------------------------------------------------------------------------------------------


def _route(
    cells: list[_Cell],
    chains: list[list[int]],
    sizes: Sequence[tuple[float, float]],
    centers: list[Point],
    tops: list[float],
    heights: list[float],
) -> tuple[list[list[Point]], list[Point]]:
    leaves, alone = _ports(cells, sizes, [(chain[0], chain[1], n) for n, chain in enumerate(chains) if chain])
    enters, last_alone = _ports(cells, sizes, [(chain[-1], chain[-2], n) for n, chain in enumerate(chains) if chain])
    for number, chain in enumerate(chains):
        # A line that has the side of a box to itself meets it where it need not bend.
        if number in last_alone:
            before = leaves[number] if len(chain) == 2 else cells[chain[-2]].x
            enters[number] = _reach(before, cells[chain[-1]].x, sizes[chain[-1]][0])
        if number in alone:
            after = enters[number] if len(chain) == 2 else cells[chain[1]].x
            leaves[number] = _reach(after, cells[chain[0]].x, sizes[chain[0]][0])
    routes: list[list[Point]] = []
    places: list[Point] = []
    for number, chain in enumerate(chains):
        if not chain:
            routes.append([])
            places.append((0.0, 0.0))
            continue
        first, last = chain[0], chain[-1]
        x, y = leaves[number], centers[first][1] + sizes[first][1] / 2
        points = [(x, y)]
        bottom = tops[cells[first].layer] + heights[cells[first].layer]
        if bottom > y:
            points.append((x, bottom))  # clear of taller neighbours, before it bends
        for index in chain[1:-1]:
            top = tops[cells[index].layer]
            points += [(cells[index].x, top), (cells[index].x, top + heights[cells[index].layer])]
        x, y = enters[number], centers[last][1] - sizes[last][1] / 2
        top = tops[cells[last].layer]
        if top < y:
            points.append((x, top))
        points.append((x, y))
        routes.append(points)
        after = cells[chain[1]].x if len(chain) > 2 else enters[number]
        places.append(((leaves[number] + after) / 2, (bottom + tops[cells[chain[1]].layer]) / 2))
    return routes, places


def _ports(
    cells: list[_Cell], sizes: Sequence[tuple[float, float]], ends: list[tuple[int, int, int]]
) -> tuple[dict[int, float], set[int]]:
    """Return the x at which each line meets its box, side by side in the order of where they go; and who is alone."""
    at_box: dict[int, list[tuple[float, int]]] = {}
    for box, neighbour, number in ends:
        at_box.setdefault(box, []).append((cells[neighbour].x, number))
    ports: dict[int, float] = {}
    alone = {lines[0][1] for lines in at_box.values() if len(lines) == 1}
    for box, lines in at_box.items():
        lines.sort()
        space = min(_PORT_SPACE, sizes[box][0] * 0.7 / max(len(lines) - 1, 1))
        for place, (_, number) in enumerate(lines):
            ports[number] = cells[box].x + (place - (len(lines) - 1) / 2) * space
    return ports, alone


def _reach(x: float, center: float, width: float) -> float:
    """Return x if it is above or below the straight part of a box, else the middle of the box."""
    return x if abs(x - center) <= width / 2 - _CORNER else center


def _own_loop(center: Point, size: tuple[float, float]) -> tuple[list[Point], Point]:
    """Return the way of a line from a box to itself, on its right."""
    x, y = center[0] + size[0] / 2, center[1]
    return [(x, y - size[1] / 4), (x + _LOOP_WIDTH, y), (x, y + size[1] / 4)], (x + _LOOP_WIDTH / 2, y)
