"""Durable runs whose process is killed, again and again, with SIGKILL.

A child works through a few runs (tests/support/crash_child.py) and reports each effect as it happens. It is killed just
before a commit, just after one of which nobody was told, at an effect, or at any moment; another recovers the runs, and
so on until they have ended. The guarantee, in the words of docs/durability.md: every run ends, with its result; what
was acknowledged is taken, held or a dead letter, once; what `ctx.once` has recorded is not done again, and what it has
not recorded is done again only if the process died between the effect and its record; the stream has no gap.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from greenroom.checkpoint import load_checkpoint
from greenroom.codec import decode
from greenroom.errors import RunEndedError
from greenroom.inbox import post_event
from greenroom.journal import replay, unpack_record
from greenroom.named import registry_for
from greenroom.run_state import RunState
from greenroom.stores import SQLiteStore
from tests.support.crash_child import EFFECTS, CrashFlow, Poke, describe, result_of

ROOT = Path(__file__).resolve().parent.parent.parent
STORIES = int(os.environ.get("GREENROOM_SOAK", "1"))
FLOW = CrashFlow(disable_validation=True)
NAMES = ["a", "b", "c"]
STRAYS = ["one", "two"]  # events that no run waits for
PATIENCE = 30.0  # Seconds in which a child that is not killed must have brought all runs to their end.


@pytest.fixture(scope="module")
def zygote() -> Iterator[socket.socket]:
    """Forks children in milliseconds."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.support.crash_child", str(theirs.fileno())]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        with ours:
            yield ours
        assert process.wait(10) == 0


REFUSALS = ("InputAnsweredError", "WorkflowRuntimeError", "RuntimeShutdownError", "LeaseLostError")


class Story:
    """What the test was told by all children."""

    def __init__(self, where: Path, options: dict[str, Any], seed: int) -> None:
        self.where = where
        self.options = options
        self.random = random.Random(seed)
        self.kills = 0
        self.effects: Counter[str] = Counter()
        self.unrecorded: Counter[str] = Counter()
        self.streams: dict[tuple[str, int], str] = {}
        self.acknowledged: set[tuple[str, str]] = set()
        self.results: dict[str, Any] = {}
        self.ended: dict[socket.socket, set[str]] = {}
        self.answered: dict[str, socket.socket] = {}
        self.stopped: set[socket.socket] = set()
        self.ready: set[socket.socket] = set()
        self.rest: dict[socket.socket, bytes] = {}
        self.intended: set[tuple[socket.socket, str]] = set()
        self.suspended: set[str] = set()
        with closing(SQLiteStore(where)) as store:
            store.open()
        with closing(sqlite3.connect(where)) as db:
            # All that was ever committed, whatever becomes of it.
            db.execute("CREATE TABLE kept (run INTEGER, seq INTEGER, data BLOB)")
            db.execute(
                "CREATE TRIGGER keep AFTER INSERT ON journal"
                " BEGIN INSERT INTO kept VALUES (NEW.run, NEW.seq, NEW.data); END"
            )
            db.execute("CREATE TABLE kept_snapshots (run INTEGER, seq INTEGER, data BLOB)")
            db.execute(
                "CREATE TRIGGER keep_snapshots AFTER INSERT ON snapshots"
                " BEGIN INSERT INTO kept_snapshots VALUES (NEW.run, NEW.seq, NEW.data); END"
            )
            db.commit()

    def live(self, zygote: socket.socket, fault: dict[str, int], seconds: float | None) -> bool:
        """Let a child live until it dies, of a fault or after some seconds; return whether all runs have ended."""
        pid, ours = self.begin(zygote, fault)
        try:
            return self.follow(pid, ours, seconds)
        finally:
            ours.close()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def begin(self, zygote: socket.socket, fault: dict[str, int]) -> tuple[int, socket.socket]:
        """Begin a child; return its process id and the way to it."""
        ours, theirs = socket.socketpair()
        request = {"kind": "sqlite", "where": str(self.where), "options": self.options, "runs": NAMES, **fault}
        socket.send_fds(zygote, [json.dumps(request).encode()], [theirs.fileno()])
        theirs.close()
        return int(zygote.recv(100)), ours

    def follow(self, pid: int, ours: socket.socket, seconds: float | None) -> bool:
        """Take what a child tells, up to its end."""
        now = time.monotonic()
        dies_at, limit = None if seconds is None else now + seconds, now + PATIENCE
        ended: set[str] = set()
        data = b""
        while len(ended) < len(NAMES):
            wait = (limit if dies_at is None else dies_at) - time.monotonic()
            if wait <= 0 or not select.select([ours], [], [], wait)[0]:
                assert dies_at is not None, "the runs have not ended, though nobody killed their process"
                os.kill(pid, signal.SIGKILL)
                dies_at, limit = None, time.monotonic() + PATIENCE
                continue
            received = receive(ours)
            if not received:
                break
            *lines, data = (data + received).split(b"\n")
            for line in lines:
                self.take(json.loads(line), ours, ended)
        else:
            ours.sendall(b'{"quit": true}\n')
            while receive(ours):
                pass
            return True
        self.kills += 1
        self.unrecorded = self.effects - self.recorded()
        return False

    def follow_all(self, children: list[socket.socket], seconds: float) -> bool:
        """Take what children tell, for some seconds; return whether each has told the end of all runs."""
        deadline = time.monotonic() + seconds
        while any(len(self.ended.setdefault(one, set())) < len(NAMES) for one in children):
            readable, _, _ = select.select(children, [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return False
            for ours in readable:
                received = receive(ours)
                assert received, "a child has died, and nobody killed it"
                *lines, self.rest[ours] = (self.rest.get(ours, b"") + received).split(b"\n")
                for line in lines:
                    self.take(json.loads(line), ours, self.ended[ours])
        return True

    def take(self, message: dict[str, Any], ours: socket.socket, ended: set[str]) -> None:
        """Take note of what a child tells, and do what it asks for."""
        answer: list[dict[str, Any]] = []
        if "effect" in message:
            text = message["effect"]
            self.effects[text] += 1
            self.intended.discard((ours, text))
            # Twice only if it was not recorded when its process died, or was about to be done when it was suspended.
            again = self.effects[text] > 1 and self.unrecorded[text] != self.effects[text] - 1
            assert not again or text in self.suspended, f"{text} was done again"
        elif "intended" in message:
            self.intended.add((ours, message["intended"]))
        elif "asked" in message:
            # One that was suspended may have asked before that, and tell of it now; and a child tells of each question
            # twice, as one that is asked and as one that is open.
            answered_by = self.answered.get(message["asked"], ours)
            assert answered_by is ours or ours in self.stopped, "an answer was lost"
            answer.append({"answer": message["asked"]})
        elif "ready" in message:
            self.ready.add(ours)
            self.post()
            keys = ["wanted", *STRAYS]
            answer += [{"run": name, "poke": key} for name in NAMES for key in keys for _ in range(2)]
            self.random.shuffle(answer)
        elif "acknowledged" in message:
            done = message["acknowledged"]
            if "answer" in done:
                self.answered.setdefault(done["answer"], ours)
            self.acknowledged.add(("answer", done["answer"]) if "answer" in done else (done["run"], done["poke"]))
        elif "refused" in message:
            assert message["error"] in REFUSALS, message
        elif "result" in message:
            ended.add(message["run"])
            if "LeaseLostError" not in str(message["result"]):
                self.results[message["run"]] = message["result"]
        elif "WorkflowCancelledEvent" not in message["event"]:  # the end for readers in a process that lost the run
            place = message["run"], message["offset"]
            if self.options["durability"] == "sync":
                assert self.streams.get(place, message["event"]) == message["event"], "the stream was told anew"
            self.streams[place] = message["event"]
        try:
            for one in answer:
                ours.sendall(json.dumps(one).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # It was killed; the next one is told.

    def post(self) -> None:
        """Post an event to each run, as another process does."""
        registry = registry_for(FLOW._graph)
        with closing(SQLiteStore(self.where)) as store:
            store.open()
            for name in NAMES:
                with contextlib.suppress(RunEndedError):
                    post_event(store, name, Poke(key="posted"), registry, "posted")
                    self.acknowledged.add((name, "posted"))

    def kept(self, name: str) -> list[bytes]:
        """All records of a run that were ever committed."""
        with closing(sqlite3.connect(self.where)) as db:
            rows = db.execute(
                "SELECT k.data FROM kept k JOIN runs r ON r.id = k.run WHERE r.run_id = ? ORDER BY k.seq", (name,)
            )
            return [data for (data,) in rows.fetchall()]

    def last_state(self, name: str) -> RunState:
        """A run as it ended."""
        with closing(sqlite3.connect(self.where)) as db:
            seq, data = db.execute(
                "SELECT k.seq, k.data FROM kept_snapshots k JOIN runs r ON r.id = k.run WHERE r.run_id = ?"
                " ORDER BY k.seq DESC LIMIT 1",
                (name,),
            ).fetchone()
        registry = registry_for(FLOW._graph)
        state, _ = load_checkpoint(FLOW._graph, data, registry, timeout=None, on_stuck="fail")
        state.run_id = name
        replay(state, self.kept(name)[seq:], registry)
        assert state.outcome is not None
        return state

    def recorded(self) -> Counter[str]:
        """What `ctx.once` has recorded, and how often."""
        registry = registry_for(FLOW._graph)
        facts = [decode(unpack_record(record)[1], registry) for name in NAMES for record in self.kept(name)]
        return Counter(values[3] for kind, *values in facts if kind == "OnceDone")

    def check(self) -> None:
        """All that must hold when all runs have ended."""
        registry = registry_for(FLOW._graph)
        assert self.results == {name: result_of(name) for name in NAMES}
        assert set(self.effects) == {f"{name} {text}" for name in NAMES for text in EFFECTS}
        assert set(self.recorded().values()) == {1}
        with closing(SQLiteStore(self.where)) as store:
            store.open()
            for name in NAMES:
                row = store.row(name)
                assert row is not None
                assert (row.status, row.owner) == ("completed", None)
                events = store.events(name)
                assert [offset for offset, _ in events] == list(range(row.next_offset))
                for offset, data in events:
                    told = self.streams.get((name, offset))
                    assert told in (None, describe(decode(data, registry))), "a reader was told something else"
                assert (name, row.next_offset) not in self.streams
                assert store.inputs(name) == []
                letters = [letter.event for letter in self.last_state(name).dead_letters]
                strays = Counter(event.key for event in letters if isinstance(event, Poke))
                left = Counter(decode(entry.payload, registry)[2] for entry in store.inbox(run_id=name))
                accounted = strays + left
                assert max(accounted.values(), default=1) == 1, "an event with a key counted twice"
                assert {key for run, key in self.acknowledged if run == name} <= {*accounted, "wanted"}
            assert store.due([FLOW.workflow_name], 1e12) == []
            assert store.orphans([FLOW.workflow_name]) == []
            store.sweep(0.0, time.time() + 1)
        with closing(sqlite3.connect(self.where)) as db:
            for table in ("journal", "snapshots"):
                assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def receive(ours: socket.socket) -> bytes:
    """Receive something from a child, nothing if it has died."""
    try:
        return ours.recv(65536)
    except ConnectionResetError:
        return b""  # with something from us that it had not read


FAULTS: dict[str, Callable[[int, random.Random], tuple[dict[str, int], float | None]]] = {
    "before a commit": lambda n, _: ({"before": n}, None),
    "after a commit": lambda n, _: ({"after": n}, None),
    "at an effect": lambda n, _: ({"effect": n % 4 + 1}, None),
    "at any moment": lambda n, draw: ({}, draw.uniform(0.0, 0.03 + 0.01 * n)),
}
MODES: dict[str, dict[str, Any]] = {
    "sync": {"durability": "sync"},
    "async": {"durability": "async", "flush_interval": 0.005},
    "resting": {"durability": "sync", "idle_timeout": 0.0},
    "unparked": {"durability": "sync", "max_parked": 0},
}


@pytest.mark.timeout(120 + 30 * STORIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS)
def test_runs_whose_process_is_killed_again_and_again_end_as_they_should(
    zygote: socket.socket, tmp_path: Path, fault: str, mode: str
) -> None:
    """Whenever it is killed, and however the runs are kept."""
    kills = 0
    for seed in range(STORIES):
        story = Story(tmp_path / f"runs-{seed}.db", MODES[mode], seed)
        for life in range(1, 1000):
            if story.live(zygote, *FAULTS[fault](life + seed, story.random)):
                break
        story.check()
        kills += story.kills
    assert kills >= STORIES
    print(f"{kills} kills")


def is_locked(path: Path) -> bool:
    """Whether a process stands in a transaction."""
    with closing(sqlite3.connect(path, timeout=0.0, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        db.execute("ROLLBACK")
        return False


def suspend(pid: int, path: Path) -> None:
    """Stop a process, outside of any transaction: in one, all others could only wait for it."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        threads = Path(f"/proc/{pid}/task")
        while any(one.read_text().rpartition(")")[2].split()[0] != "T" for one in threads.glob("*/stat")):
            pass
        if not is_locked(path):
            return
        os.kill(pid, signal.SIGCONT)


def wait_for_orphans(path: Path) -> None:
    """Wait until the lease of all that are suspended is over."""
    with closing(sqlite3.connect(path)) as db:
        deadline = time.monotonic() + PATIENCE
        while db.execute("SELECT count(*) FROM owners WHERE lease_until > ?", (time.time(),)).fetchone() != (0,):
            assert time.monotonic() < deadline


@pytest.mark.timeout(120 + 30 * STORIES)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether a process is stopped is read from /proc")
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_processes_that_are_suspended_past_their_lease_do_nothing_again(
    zygote: socket.socket, tmp_path: Path, mode: str
) -> None:
    """Each is taken over by the next, and goes on later: it is told that it has lost its runs, and writes nothing."""
    for seed in range(STORIES):
        story = Story(tmp_path / f"runs-{seed}.db", {**MODES[mode], "lease": 0.3}, seed)
        children: list[tuple[int, socket.socket]] = []
        try:
            for _ in range(3):
                pid, ours = story.begin(zygote, {})
                children.append((pid, ours))
                while ours not in story.ready:
                    story.follow_all([ours], 0.01)
                if story.follow_all([ours], story.random.uniform(0.0, 0.04)):
                    break
                suspend(pid, story.where)
                story.stopped.add(ours)
                story.follow_all([ours], 0.0)  # what it had told before
                story.suspended |= {text for one, text in story.intended if one is ours}
                story.unrecorded = story.effects - story.recorded()
                wait_for_orphans(story.where)
            children.append(story.begin(zygote, {}))
            # It takes all that is left to itself. One that goes on before that has its runs still, and may do things.
            while children[-1][1] not in story.ready:
                story.follow_all([children[-1][1]], 0.01)
            for pid, _ in children[:-1]:
                os.kill(pid, signal.SIGCONT)
            assert story.follow_all([ours for _, ours in children], PATIENCE), "a process did not say what became of it"
        finally:
            for pid, ours in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                ours.close()
        story.check()
