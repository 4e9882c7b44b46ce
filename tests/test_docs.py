"""The code of every page in docs/ is run as it stands; that of the pages that only print is in test_readme.py."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# A program, and the next block of text, which is what it prints.
PROGRAMS = re.findall(
    r"^```python\n(.*?)^```$.*?^```text\n(.*?)^```$",
    (DOCS / "observability.md").read_text(),
    re.DOTALL | re.MULTILINE,
)

# What the tests of docs/testing.md are about.
TESTED = """
import contextlib
from greenroom import Context, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from greenroom import WorkflowRuntimeError
from greenroom.testing import SeededRuntime


class Approved(HumanResponseEvent):
    approved: bool = True


class Pay(Workflow):
    @step
    def pay(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = ctx.ask(InputRequiredEvent(prefix=f"Pay {ev.amount}?"), Approved)
        return StopEvent(result="paid" if answer.approved else "refused")


class Approval(Workflow):
    @step
    def approve(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.wait_for_event(Approved).approved)


class Orders(Workflow):
    @step
    def ship(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="shipped")


class Shop(Workflow):
    def __init__(self):
        super().__init__()
        self.charges = []

    @step
    def charge(self, ev: StartEvent) -> StopEvent:
        self.charges.append(ev.order)
        return StopEvent()


class Report(Workflow):
    @step
    def count(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=3)

"""


# What the code of docs/deploy.md stands in: a run waits in a store for a step that new code does not have.
DEPLOYED = """
from greenroom import *
from greenroom.codec import TypeRegistry, decode, encode, global_registry
from greenroom.stores import SQLiteStore


class Orders(Workflow):
    @step
    def ship(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.ask(InputRequiredEvent(), HumanResponseEvent).response)


class Returns(Workflow):
    @step
    def take(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


with Runtime(store=SQLiteStore("runs.db")):
    handler = Orders().run(run_id="order-17")
    next(event for event in handler.stream_events() if isinstance(event, InputRequiredEvent))


class Orders(Workflow):
    @step
    def send(self, ev: StartEvent) -> StopEvent:
        return StopEvent()


{checked}
print([run.run_id for run in report.broken])


class Bill(Event):
    price: float


{invoice}
{receipt}
registry, today = TypeRegistry(), TypeRegistry()
registry.register(Bill, name="shop:Invoice")
today.register(Invoice, name="shop:Invoice")
print(decode(encode(Bill(price=1.5), registry), today))
named = TypeRegistry()
named.register(Bill, name="shop.models:Bill")
print(type(decode(encode(Bill(price=1.5), named), global_registry)).__name__)
"""


def blocks(page: str) -> list[str]:
    return BLOCK.findall((DOCS / page).read_text())


@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=["opentelemetry", "logging", "observer"])
def test_a_program_prints_what_the_page_says(program: str, printed: str) -> None:
    """A program of docs/observability.md, run in a process of its own, prints the text that follows."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (printed, "")


def test_the_resources_of_the_page_are_opened_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/resources.md: the step finds a row in the configured database, and in a test in that of the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.toml").write_text('database = "people.db"\n')
    with sqlite3.connect("people.db") as file:
        file.execute("create table people as select 1 as id, 'Ada' as name")
    file.close()
    with sqlite3.connect(":memory:", check_same_thread=False) as memory:
        memory.execute("create table people as select 1 as id, 'Fake' as name")
    page, in_tests = blocks("resources.md")
    names = {"__name__": "page", "fake_connection": memory, "connect_to_memory": lambda: memory}
    exec(compile(page, "resources.md", "exec", dont_inherit=True), names)
    assert names["Find"]().run(id=1).result(timeout=30) == ("Ada",)  # type: ignore[operator]
    exec(compile(in_tests, "resources.md", "exec", dont_inherit=True), names)
    assert names["handler"].result(timeout=30) == ("Fake",)  # type: ignore[attr-defined]
    memory.close()


def test_the_deploy_of_the_page_is_checked(tmp_path: Path) -> None:
    """docs/deploy.md: a run that new code would break is told, and instances of older classes are read."""
    checked, invoice, receipt = blocks("deploy.md")
    program = DEPLOYED.replace("{checked}", checked).replace("{invoice}", invoice).replace("{receipt}", receipt)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=50
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "order-17 invocation 0 None ship StartEvent None step 'ship' is gone, and has StartEvent in hand",
        "['order-17']",
        "cents=150 currency='EUR'",
        "Receipt",
    ]


def test_the_tests_of_the_page_pass(pytester: pytest.Pytester) -> None:
    """docs/testing.md: each test as it stands; the lines without a function around them in the block that they need."""
    code = []
    for block in blocks("testing.md"):
        is_whole = "def test_" in block
        lines = "".join(f"        {line}" for line in block.splitlines(keepends=True))
        two_at_once = (
            f"def test_two_at_once():\n  for seed in range(20):\n    with SeededRuntime(seed) as runtime:\n{lines}"
        )
        code.append(block if is_whole else two_at_once)
    pytester.makepyfile(TESTED + "\n\n".join(code))
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error").assert_outcomes(passed=len(code))


def test_an_order_outlives_its_process(tmp_path: Path) -> None:
    """docs/durability.md: the program is killed, and its second run goes on; each prints what the page says."""
    page = (DOCS / "durability.md").read_text()
    program, *_ = BLOCK.findall(page)
    killed, went_on = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for printed, code in ((killed, -signal.SIGKILL), (went_on, 0)):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (done.stdout, done.stderr, done.returncode) == (printed, "", code)


def test_a_run_of_another_process_is_answered(tmp_path: Path) -> None:
    """docs/processes.md: the program prints what the page says."""
    page = (DOCS / "processes.md").read_text()
    (program,) = BLOCK.findall(page)
    (printed,) = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    program = program.replace("shop.db", str(tmp_path / "shop.db"))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (printed, "")


def test_no_page_has_code_that_no_test_runs() -> None:
    """Each page with code is named by the test that runs it."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    pages = [page.name for page in DOCS.glob("*.md") if "```python" in page.read_text()]
    assert len(pages) > 5
    assert [page for page in pages if f"{page}" not in tests] == []
