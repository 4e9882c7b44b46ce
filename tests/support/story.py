"""What a test is told by children that work through durable runs and die, and what must hold of it.

See `tests.support.crash_child` for the children, and `tests.crash.test_kill` for the guarantee.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import time
from collections import Counter
from contextlib import closing
from typing import Any

from greenroom.checkpoint import load_checkpoint
from greenroom.codec import decode
from greenroom.errors import RunEndedError
from greenroom.inbox import post_event
from greenroom.journal import replay, unpack_record
from greenroom.named import graphs_named_by, registry_of
from greenroom.past_graph import PastGraphs
from greenroom.run_state import RunState
from tests.support.crash_child import EFFECTS, CrashFlow, Poke, describe, persist, result_of
from tests.support.ledger import Ledger

FLOW = CrashFlow(disable_validation=True)
REGISTRY = registry_of(FLOW)
WITHIN = PastGraphs(graphs_named_by(FLOW), REGISTRY)
NAMES = ["a", "b", "c"]
STRAYS = ["one", "two"]  # events that no run waits for
PATIENCE = 30.0  # Seconds in which a child that is not killed must have brought all runs to their end.

Fault = dict[str, Any]  # as `tests.support.crash_child.Fault` takes it

REFUSALS = ("InputAnsweredError", "WorkflowRuntimeError", "RuntimeShutdownError", "LeaseLostError")


class Story:
    """What the test was told by all children."""

    def __init__(self, ledger: Ledger, options: dict[str, Any], seed: int) -> None:
        self.ledger = ledger
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
        self.resumed: set[socket.socket] = set()
        self.posted: set[str] = set()
        self.ready: set[socket.socket] = set()
        self.rest: dict[socket.socket, bytes] = {}
        self.intended: set[tuple[socket.socket, str]] = set()
        self.suspended: set[str] = set()

    def live(self, zygote: socket.socket, fault: Fault, seconds: float | None) -> bool:
        """Let a child live until it dies, of a fault or after some seconds; return whether all runs have ended."""
        pid, ours = self.begin(zygote, fault)
        try:
            return self.follow(pid, ours, seconds)
        finally:
            ours.close()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def begin(self, zygote: socket.socket, fault: Fault, **options: Any) -> tuple[int, socket.socket]:
        """Begin a child, with some options of its own; return its process id and the way to it."""
        ours, theirs = socket.socketpair()
        ledger, options = self.ledger, self.options | options
        request = {"kind": ledger.kind, "where": ledger.where, "options": options, "runs": NAMES, "fault": fault}
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
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # If it was killed just now, it had told of all ends before.
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
            # What one that had lost the run has posted is in the run's inbox, until whoever has the run looks there.
            is_posted = message["asked"] in self.posted
            assert answered_by is ours or ours in self.stopped or is_posted, "an answer was lost"
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
                if ours in self.resumed:
                    self.posted.add(done["answer"])
            self.acknowledged.add(("answer", done["answer"]) if "answer" in done else (done["run"], done["poke"]))
        elif "refused" in message:
            # One that was suspended may have asked, and lost its run before the question was committed.
            unknown = message["error"] == "UnknownInputError"
            is_gone = unknown and ours in self.stopped and self.options["durability"] == "async"
            assert is_gone or message["error"] in REFUSALS, message
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
        with closing(self.ledger.store()) as store:
            persist(store.open)
            for name in NAMES:
                with contextlib.suppress(RunEndedError):
                    post_event(store, name, Poke(key="posted"), REGISTRY, "posted")
                    self.acknowledged.add((name, "posted"))

    def last_state(self, name: str) -> RunState:
        """A run as it ended."""
        seq, data = self.ledger.last_snapshot(name)
        state, _ = load_checkpoint(FLOW._graph, data, REGISTRY, timeout=None, on_stuck="fail", within=WITHIN)
        state.run_id = name
        replay(state, self.ledger.records(name)[seq:], REGISTRY, WITHIN)
        assert state.outcome is not None
        return state

    def recorded(self) -> Counter[str]:
        """What `ctx.once` has recorded, and how often."""
        facts = [unpack_record(record)[1] for name in NAMES for record in self.ledger.records(name)]
        return Counter(values[3] for kind, *values in map(_own_fact, facts) if kind == "OnceDone")

    def check(self) -> None:
        """All that must hold when all runs have ended."""
        assert self.results == {name: result_of(name) for name in NAMES}
        assert set(self.effects) == {f"{name} {text}" for name in NAMES for text in EFFECTS}
        assert set(self.recorded().values()) == {1}
        with closing(self.ledger.store()) as store:
            store.open()
            for name in NAMES:
                row = store.row(name)
                assert row is not None
                assert (row.status, row.owner) == ("completed", None)
                events = store.events(name)
                assert [offset for offset, _ in events] == list(range(row.next_offset))
                for offset, data in events:
                    told = self.streams.get((name, offset))
                    assert told in (None, describe(decode(data, REGISTRY))), "a reader was told something else"
                assert (name, row.next_offset) not in self.streams
                assert store.inputs(name) == []
                letters = [letter.event for letter in self.last_state(name).dead_letters]
                strays = Counter(event.key for event in letters if isinstance(event, Poke))
                left = Counter(decode(entry.payload, REGISTRY)[2] for entry in store.inbox(run_id=name))
                accounted = strays + left
                assert max(accounted.values(), default=1) == 1, "an event with a key counted twice"
                assert {key for run, key in self.acknowledged if run == name} <= {*accounted, "wanted"}
            assert store.due([FLOW.workflow_name], 1e12) == []
            assert store.orphans([FLOW.workflow_name]) == []
            store.sweep(0.0, time.time() + 1)
        assert self.ledger.left_over() == {"journal": 0, "snapshots": 0}
        self.ledger.assert_whole()


def _own_fact(data: bytes) -> list[Any]:
    """Return a fact as the run sees it that it is about, which may be one within the run."""
    fact: list[Any] = decode(data, REGISTRY)
    return _own_fact(fact[2]) if fact[0] == "ForChild" else fact


def receive(ours: socket.socket) -> bytes:
    """Receive something from a child, nothing if it has died."""
    try:
        return ours.recv(65536)
    except ConnectionResetError:
        return b""  # with something from us that it had not read
