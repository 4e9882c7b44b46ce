"""Where boxes stand, and which way lines go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from greenroom.representation.layout import lay_out

sizes = st.tuples(st.floats(40, 300), st.floats(20, 90))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    boxes = draw(st.lists(sizes, max_size=14))
    ends = st.integers(0, len(boxes) - 1)
    return boxes, draw(st.lists(st.tuples(ends, ends), max_size=25)) if boxes else []


@given(graphs(), st.booleans())
def test_boxes_never_overlap(graph: tuple[list[tuple[float, float]], list[tuple[int, int]]], labelled: bool) -> None:
    """In any graph, loops and all, no two boxes touch, and all stand within the picture."""
    boxes, edges = graph
    layout = lay_out(boxes, edges, labelled)
    places = [
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(layout.centers, boxes, strict=True)
    ]
    for number, (left, top, right, bottom) in enumerate(places):
        assert left >= -0.01
        assert top >= -0.01
        assert right <= layout.width + 0.01
        assert bottom <= layout.height + 0.01
        for other_left, other_top, other_right, other_bottom in places[:number]:
            apart = right + 1 < other_left or other_right + 1 < left or bottom + 1 < other_top or other_bottom + 1 < top
            assert apart


@given(graphs())
def test_lines_begin_and_end_at_their_boxes(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    """Each line begins on the border of its source and ends on that of its target, whichever way it was laid."""
    boxes, edges = graph
    layout = lay_out(boxes, edges)
    for (source, target), route in zip(edges, layout.routes, strict=True):
        for box, (x, y) in ((source, route[0]), (target, route[-1])):
            (center_x, center_y), (width, height) = layout.centers[box], boxes[box]
            assert abs(x - center_x) <= width / 2 + 0.01
            assert abs(y - center_y) <= height / 2 + 0.01


@given(graphs())
def test_lines_keep_clear_of_other_boxes(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    """Where a line goes straight through a layer, it goes between the boxes."""
    boxes, edges = graph
    layout = lay_out(boxes, edges)
    for (source, target), route in zip(edges, layout.routes, strict=True):
        for x, y in route[1:-1] if source != target else ():
            for box, ((center_x, center_y), (width, height)) in enumerate(zip(layout.centers, boxes, strict=True)):
                if box not in (source, target):
                    is_inside = abs(x - center_x) < width / 2 and abs(y - center_y) < height / 2
                    assert not is_inside


def test_a_chain_is_straight() -> None:
    """Boxes that follow one upon one stand in a column, whatever their widths."""
    layout = lay_out([(100, 30), (40, 20), (300, 60), (80, 30)], [(0, 1), (1, 2), (2, 3)])
    assert len({round(x, 3) for x, _ in layout.centers}) == 1
    assert all(len({round(x, 3) for x, _ in route}) == 1 for route in layout.routes)


def test_crossings_are_untangled() -> None:
    """Two pairs whose lines cross in the order given change places."""
    layout = lay_out([(50, 20)] * 4, [(0, 3), (1, 2)])
    assert (layout.centers[0][0] < layout.centers[1][0]) == (layout.centers[3][0] < layout.centers[2][0])


def test_nothing_is_drawn_of_nothing() -> None:
    """A graph without nodes has a layout without size."""
    layout = lay_out([], [])
    assert (layout.centers, layout.routes, layout.width, layout.height) == ([], [], 0.0, 0.0)
