"""A graph as Mermaid, DOT, SVG and HTML."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from examples.approval import PaymentWorkflow
from examples.invoices.workflow import InvoiceWorkflow
from greenroom import Event, StartEvent, StopEvent, Workflow, step
from greenroom.representation import (
    WorkflowGenericNode,
    WorkflowGraph,
    WorkflowGraphEdge,
    draw_all_possible_flows,
    draw_all_possible_flows_mermaid,
    draw_most_recent_execution,
    draw_most_recent_execution_mermaid,
)
from tests.support import drawn_flows as flows

ALL = [flows.Linear, flows.Loop, flows.Fan, flows.ListFan, flows.People, flows.Caught, flows.Fails, flows.Faulty]
ALL += [flows.Needs, flows.Parent]
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SVG = "{http://www.w3.org/2000/svg}"

LOOP = """\
flowchart TD
    n0(["StartEvent"])
    n1["write"]
    n2(["Draft"])
    n3["judge"]
    n4(["Feedback"])
    n5(["Good"])
    n6["publish"]
    n7(["StopEvent"])
    n0 --> n1
    n1 --> n2
    n2 --> n3
    n3 --> n4
    n3 --> n5
    n4 -->|"loop"| n1
    n5 --> n6
    n6 --> n7
"""


def hostile(name: str) -> WorkflowGraph:
    nodes = [WorkflowGenericNode(id=f"{name}{n}", label=name, node_type="tool", description=name) for n in range(2)]
    edge = WorkflowGraphEdge(source=nodes[0].id, target=nodes[1].id, label=name)
    return WorkflowGraph(name=name, nodes=nodes, edges=[edge], description=name, faults=[name])


HOSTILE = [
    '</script><script>alert("x")</script>',
    "<!-- & &amp; ]]> --> ' \" ` ; # %%{init}%%",
    'a"] --> b["\\',
    "line one\nline two\r\n\ttabbed",
    "\x00\x1b[31m\ud800 \ufffe",
    "工作流 العربية 🎭",
    "",
]


class Page(HTMLParser):
    """Collects the elements of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def test_mermaid_of_a_loop() -> None:
    """The flowchart has a line a node and a line an edge, and the way back says so."""
    text = flows.Loop.graph().to_mermaid()
    assert text.startswith(LOOP)
    assert set(re.findall(r"^    class (\S+) (\w+)$", text, re.M)) == {
        ("n1,n3,n6", "step"),
        ("n2,n4,n5", "event"),
        ("n0", "start"),
        ("n7", "stop"),
    }


def test_mermaid_shows_people_and_fan_out() -> None:
    """A person beside a step has an arrow with two heads; what sends many says so."""
    people = flows.People.graph().to_mermaid()
    assert '[/"a person<br/>asked: Question<br/>answers: Approval"/]' in people
    assert len(re.findall(r"n\d+ <--> n\d+", people)) == 1
    assert '-->|"many"|' in flows.Fan.graph().to_mermaid()
    assert '-->|"many"|' in flows.ListFan.graph().to_mermaid()


def test_mermaid_shows_resources_and_other_workflows() -> None:
    """A resource is a cylinder with its factory and scope, another workflow a box with two lines."""
    text = flows.Needs.graph().to_mermaid()
    assert '[("Database<br/>connect, one a run")]' in text
    assert '[("settings<br/>app.toml, db")]' in text
    assert '-->|"db"|' in text
    text = flows.Parent.graph().to_mermaid()
    assert '[["Child<br/>a workflow of 2 steps"]]' in text
    assert "-.-> " in text


@pytest.mark.parametrize("name", HOSTILE)
def test_mermaid_keeps_odd_names_inside_their_quotes(name: str) -> None:
    """Whatever a name holds, each line is one of the few forms that the flowchart consists of."""
    label = r'"(?:[^"\[\]{}<>`&]|<br/>)*"'
    node, edge, style = rf"    n\d\{{\{{{label}\}}\}}", rf"    n0 -->(\|{label}\|)? n1", r"    class(Def)? \S+ \S+"
    forms = f"flowchart TD|{node}|{edge}|{style}"
    for line in hostile(name).to_mermaid().removesuffix("\n").split("\n"):
        assert re.fullmatch(forms, line), line


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize(
    "graph", [*(flow.graph() for flow in ALL), *map(hostile, HOSTILE)], ids=lambda graph: repr(graph.name)[:20]
)
def test_graphviz_reads_the_dot_text(graph: WorkflowGraph) -> None:
    """`dot` takes the text without a word, and draws every node and edge."""
    done = subprocess.run(["dot", "-Tjson0"], input=graph.to_graphviz().encode(), capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    drawn = json.loads(done.stdout)
    assert len(drawn["objects"]) == len(graph.nodes)


@pytest.mark.parametrize(
    "graph", [*(flow.graph() for flow in ALL), *map(hostile, HOSTILE)], ids=lambda graph: repr(graph.name)[:20]
)
def test_svg_is_well_formed_and_complete(graph: WorkflowGraph) -> None:
    """The picture is XML with a box a node, whatever names and docstrings hold, and nothing in it runs."""
    root = ET.fromstring(graph.to_svg())
    boxes = [element for element in root.iter(f"{SVG}g") if "data-box" in element.attrib]
    assert len(boxes) == len(graph.nodes)
    assert not list(root.iter(f"{SVG}script"))
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    for rect in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        assert left <= x
        assert top <= y
        assert x + w <= left + width
        assert y + h <= top + height


def test_svg_tells_the_docstring_of_a_step() -> None:
    """A box has its signature and docstring as a tooltip, as they were written."""
    root = ET.fromstring(flows.Linear.graph().to_svg())
    told = ["".join(title.itertext()) for title in root.iter(f"{SVG}title")]
    assert any("def write(ev: StartEvent) -> Draft" in text and '<script>alert("1 & 2")' in text for text in told)


def test_a_long_name_is_cut_in_pictures() -> None:
    """A name of 300 letters takes 40 in the picture; the whole of it is in the tooltip."""
    name = "a" * 300
    svg = hostile(name).to_svg()
    assert max(len(text) for text in re.findall(r'gr-title"[^>]*>([^<]*)<', svg)) == 40
    assert name in svg


@pytest.mark.parametrize(
    "graph", [*(flow.graph() for flow in ALL), *map(hostile, HOSTILE)], ids=lambda graph: repr(graph.name)[:20]
)
def test_the_page_stands_alone(graph: WorkflowGraph) -> None:
    """The page refers to nothing outside it, forbids the browser to load anything, and no text escapes into it."""
    text = graph.to_html()
    text.encode()
    page = Page(text)
    policy = next(attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not [attrs for _, attrs in page.elements if attrs.keys() & {"src", "href", "srcset", "xlink:href", "action"}]
    assert not [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object", "embed", "base")]
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert re.findall(r"url\((?!#)|@import", text) == []
    assert len(page.scripts) == 2
    data = json.loads(page.scripts[0])
    assert len(data["boxes"]) == len(graph.nodes)


def test_the_page_holds_what_is_told_of_a_step() -> None:
    """The data of the page has the docstring as it was written, but for what no text may hold."""
    data = json.loads(Page(flows.Linear.graph().to_html()).scripts[0])
    told = dict(map(tuple, data["boxes"][1]))
    assert told["signature"] == "def write(ev: StartEvent) -> Draft"
    assert told["timeout"] == "5 seconds"
    assert '<script>alert("1 & 2")</script></script> \ufffd[5m ?' in told[""]


def test_the_page_shows_faults_and_the_run() -> None:
    """A workflow that would be refused says why; a run its id and how it stands."""
    assert "produced but never consumed: Good" in flows.Faulty.graph().to_html()
    handler = flows.Loop().run(run_id="run-7")
    handler.result(timeout=30)
    assert "run run-7: completed" in handler.graph().to_html()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_opens_in_a_browser(tmp_path: Path) -> None:
    """A browser without a network runs the page to its end, and shows the docstring of the workflow."""
    (tmp_path / "page.html").write_text(flows.People.graph().to_html(), encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True,
        timeout=50,
        text=True,
    )
    assert 'data-ready="yes"' in done.stdout, done.stderr
    assert "<p>Asks from step to step, asks in place, and waits for a delivery.</p>" in done.stdout
    assert "scale(" in done.stdout


def test_a_notebook_shows_the_page_in_a_frame() -> None:
    """In a notebook the graph shows the page, walled off, and a picture where frames are not shown."""
    graph = flows.Loop.graph()
    frame = Page(graph._repr_html_()).elements
    assert [tag for tag, _ in frame] == ["iframe"]
    assert (frame[0][1]["sandbox"], frame[0][1]["srcdoc"]) == ("allow-scripts", graph.to_html())
    assert graph._repr_svg_() == graph.to_svg()
    assert repr(graph) == "<WorkflowGraph of Loop: 5 events, 3 steps>"


@pytest.mark.parametrize("form", ["to_mermaid", "to_graphviz", "to_svg", "to_html"])
def test_drawings_repeat(form: str) -> None:
    """The same workflow gives the same text each time, so that it can be committed."""
    assert getattr(flows.People.graph(), form)() == getattr(flows.People.graph(), form)()


@pytest.mark.parametrize(("name", "flow"), [("payment", PaymentWorkflow), ("invoices", InvoiceWorkflow)])
def test_the_committed_pictures_are_of_today(name: str, flow: type[Workflow]) -> None:
    """The pictures in docs/ show the examples as they are."""
    assert (PICTURES / f"{name}.svg").read_text(encoding="utf-8") == flow.graph().to_svg()


def test_the_examples_of_the_documentation_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of docs/drawing.md, run as it stands from the checkout, prints the counts of each step."""
    root = PICTURES.parents[1]
    monkeypatch.chdir(root)
    blocks = re.findall(r"^```python\n(.*?)^```$", (root / "docs/drawing.md").read_text(), re.DOTALL | re.MULTILINE)
    exec(compile("\n".join(blocks), "drawing.md", "exec"), {"__name__": "drawing"})
    files = len(list((root / "examples/invoices/data/inbox").iterdir()))
    assert capsys.readouterr().out.startswith(f"[('open_inbox', 1), ('check', {files}), ('gather', {files})")


def test_the_functions_of_the_peer_write_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four functions write what the methods return, under their old names for files."""
    monkeypatch.chdir(tmp_path)
    handler = flows.Loop().run()
    handler.result(timeout=30)
    draw_all_possible_flows(flows.Loop)
    assert draw_all_possible_flows_mermaid(flows.Loop()) == flows.Loop.graph().to_mermaid()
    draw_most_recent_execution(handler)
    text = draw_most_recent_execution_mermaid(handler)
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert written == {
        "workflow_all_flows.html": flows.Loop.graph().to_html(None),
        "workflow_all_flows.mermaid": flows.Loop.graph().to_mermaid(),
        "workflow_recent_execution.html": handler.graph().to_html(None),
        "workflow_recent_execution.mermaid": text,
    }
    assert "3 done" in text


def test_child_workflows_may_be_left_out(tmp_path: Path) -> None:
    """The functions of the peer show the workflows that steps run, unless told not to."""
    assert "Grandchild" in draw_all_possible_flows_mermaid(flows.Parent, filename=None)
    assert "Grandchild" not in draw_all_possible_flows_mermaid(flows.Parent, None, include_child_workflows=False)
    for shown in (True, False):
        draw_all_possible_flows(flows.Parent, tmp_path / "page.html", include_child_workflows=shown)
        assert ("Grandchild" in (tmp_path / "page.html").read_text(encoding="utf-8")) == shown


def test_a_large_workflow_is_drawn() -> None:
    """A hundred steps that may all end the run are drawn, each box in its place."""
    events = [StartEvent, *(type(f"E{n}", (Event,), {}) for n in range(100))]
    body: dict[str, object] = {}
    for n in range(100):

        def work(self: Workflow, ev: Event) -> Event:
            raise AssertionError

        work.__name__ = f"step{n}"
        work.__qualname__ = f"Large.step{n}"
        nothing_more = n == 99
        work.__annotations__ = {"ev": events[n], "return": StopEvent if nothing_more else events[n + 1] | StopEvent}
        body[f"step{n}"] = step(work)
    large = type("Large", (Workflow,), body)
    assert large.graph().to_svg().count("data-box=") == 201  # type: ignore[attr-defined]
