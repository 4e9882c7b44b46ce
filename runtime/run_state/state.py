"""The state of a run, and the one way in.

`RunState.apply(fact, now)` takes what has happened and returns what is to be done. The rules, one a fact, are functions
of the other modules of this package; they alone write what is here.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, cast

from greenroom.buffers import BufferKey, CollectBuffer
from greenroom.effects import Effect, Publish
from greenroom.errors import ContextStateError, WorkflowCancelledByUser
from greenroom.events import Event, StopEvent
from greenroom.facts import Caller, Fact
from greenroom.graph import Graph
from greenroom.invocation import Invocation
from greenroom.lanes import Lane
from greenroom.lineage import FanOut, Lineage
from greenroom.outcome import DeadLetter, Outcome
from greenroom.run_state.answers import answer_into
from greenroom.run_state.child import Child
from greenroom.run_state.ending import apply_after_end, mind_clock
from greenroom.run_state.notes import Note, unhandled
from greenroom.run_state.rules import RULES
from greenroom.state import StateStore
from greenroom.steps import StepSpec
from greenroom.tally import Tally
from greenroom.waits import InputBook, WaitBook

MAX_DEAD_LETTERS = 10_000
MAX_NOTES = 1_000

OnStuck = Literal["fail", "wait"]


class RunState:
    """All that a run is, between two facts.

    Attributes:
        graph: The workflow's graph.
        run_id: The run's id.
        timeout: Seconds at work that the run may take, or None.
        store: The state that the steps share.
        invocations: Those that wait, run, or are in the delay before a retry, by number.
        dead_letters: The newest events that nobody will take.
        held: Events from outside that no step takes, in order; a wait may claim them.
        inputs: The questions to people.
        waits: The waits that are open.
        parked: How many invocations stand at a wait that nothing has ended.
        retrying: How many are in the delay before a retry.
        place: How many events the run has published, and how many its children have.
        notes: The newest internal events, not yet built: each with the place at which it belongs.
        outcome: How the run ended, or None.
        children: The runs that steps have begun within this one, by name; those that have ended as long as the log of
            their step may ask for them.
        busy: How many children are at work.
        dozing: How many of those only wait for retries, of theirs or of runs within them.
        touched: The children to which something has happened since the last rest.
        depth: How many runs this one is within.
        began_at: When it began, in the clock's seconds, or None. With a store that may be in another process.
        carried: What observers have kept with it.
        tally: How often what has happened.
    """

    def __init__(
        self,
        graph: Graph,
        run_id: str,
        *,
        timeout: float | None = None,
        on_stuck: OnStuck = "fail",
        store: StateStore | None = None,
    ) -> None:
        self.graph = graph
        self.run_id = run_id
        self.timeout = timeout
        self.on_stuck = on_stuck
        self.store = store if store is not None else StateStore(graph.state_type)
        self.invocations: dict[int, Invocation] = {}
        self.dead_letters: list[DeadLetter] = []
        self.held: list[tuple[Event, str | None]] = []
        self.inputs = InputBook()
        self.waits = WaitBook()
        self.parked = self.retrying = 0
        self.place: tuple[int, int] = (0, 0)
        self.notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self.outcome: Outcome | None = None
        self.children: dict[str, Child] = {}
        self.busy = self.dozing = 0
        self.touched: dict[str, None] = {}
        self.depth = 0
        self.began_at: float | None = None
        self.carried: dict[str, str] = {}
        self.lanes: dict[str, Lane] = {}
        self.buffers: dict[BufferKey, CollectBuffer] = {}
        self.delayed: dict[int, tuple[Event, str | None, float, Lineage | None]] = {}
        self.fan_outs: dict[int, FanOut] = {}
        self.next_invocation = 0
        self.next_delayed = 0
        self.next_fan_out = 0
        self.dedup_keys: set[str] = set()
        self.next_wait = 0
        self.next_input = 1
        self.origin = run_id  # where the ids of questions come from: they outlive the run's own id
        self.worked = 0.0
        self.at_work_since: float | None = None
        self.idle_noted = False
        self.drain_error: BaseException | None = None
        self.successor: str | None = None
        self.tally = Tally()

    @property
    def published(self) -> int:
        """How many events the stream has: the next offset."""
        return self.place[0]

    @property
    def active_steps(self) -> list[str]:
        """The names of the steps that have an invocation running, in alphabetical order; those of children after it."""
        own = sorted({inv.spec.name for inv in self.invocations.values() if inv.worker is not None})
        inside = {
            step if "." in step else f"{child.graph.name}.{step}"
            for child in self.children.values()
            if child.run is not None and not child.is_at_rest
            for step in child.run.active_steps
        }
        return own + sorted(inside)

    @property
    def is_at_work(self) -> bool:
        """Whether something is queued or in flight, here or in a child."""
        return len(self.invocations) > self.parked or self.busy > 0

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is queued or in flight, so that only the outside or a timer can go on."""
        return not self.is_at_work and self.outcome is None

    @property
    def only_waits(self) -> bool:
        """Whether only the outside or a timer can go on, that of a retry included: here, and in all children."""
        going = len(self.invocations) - self.parked - self.retrying
        return not going and self.busy == self.dozing and self.outcome is None

    @property
    def spends_time(self) -> bool:
        """Whether a timeout counts the time that goes by, of the run or of one within it."""
        return self.at_work_since is not None or any(
            child.run is not None and child.is_busy and child.run.spends_time for child in self.children.values()
        )

    @property
    def has_unfinished_work(self) -> bool:
        """Whether a run that was put away left something to resume."""
        return bool(self.invocations or self.delayed or self.inputs.open or self.held or self.buffers)

    def check_reopen(self) -> bool:
        """Return whether a run that goes on from this one has unfinished work to resume.

        Raises:
            ContextStateError: If this run has not ended, another went on from it, or somebody edits its state.
        """
        if self.outcome is None:
            raise ContextStateError(f"this context is in use by run '{self.run_id}', which has not ended")
        if self.successor is not None:
            raise ContextStateError(f"this context is in use by run '{self.successor}', which went on from it")
        if self.store.is_contended:
            raise ContextStateError("this context has an edit_state() open; let it end before run(ctx=...)")
        return self.has_unfinished_work

    def reopen(self, run_id: str, timeout: float | None, on_stuck: OnStuck) -> RunState:
        """Return the state of a run that goes on from this one, which has ended, with its store and unfinished work.

        Where nothing is unfinished it begins anew, with its stream at offset 0. This state stays ended, so that what
        bodies of the old run still tell is turned away and cannot pass for a fact of the new one.

        Raises:
            ContextStateError: If this run has not ended, another went on from it, or somebody edits its state.
        """
        unfinished = self.check_reopen()
        self.successor = run_id
        state = RunState(self.graph, run_id, timeout=timeout, on_stuck=on_stuck, store=self.store)
        if unfinished:
            state.place = (self.published, 0)
            state.dead_letters.extend(self.dead_letters)
            state.tally = self.tally.copy()
            state.invocations, self.invocations = self.invocations, {}
            state.parked = sum(inv.parked_at is not None for inv in state.invocations.values())
            state.held, self.held = self.held, []
            state.inputs, self.inputs = self.inputs, InputBook()
            state.waits, self.waits = self.waits, WaitBook()
            state.next_wait, state.next_input = self.next_wait, self.next_input
            state.origin = self.origin
            state.buffers, self.buffers = self.buffers, {}
            state.delayed, self.delayed = self.delayed, {}
            state.fan_outs, self.fan_outs = self.fan_outs, {}
            state.next_fan_out = self.next_fan_out
            state.dedup_keys = set(self.dedup_keys)
            state.next_invocation, state.next_delayed = self.next_invocation, self.next_delayed
            state.children, self.children = {name: child.aside() for name, child in self.children.items()}, {}
        return state

    def within(self, graph: Graph, run_id: str, timeout: float | None, on_stuck: OnStuck) -> RunState:
        """Return the state of a run within this one."""
        state = RunState(graph, run_id, timeout=timeout, on_stuck=on_stuck)
        state.depth = self.depth + 1
        return state

    def put_away_as(self, status: str) -> None:
        """Mark a run that was read from a snapshot as ended there: cut off, or as it had ended."""
        error = WorkflowCancelledByUser("the run was put away in a snapshot")
        self.outcome = Outcome("cancelled" if status == "running" else cast("Any", status), StopEvent(), error)

    def shift_clock(self, seconds: float) -> None:
        """Move all times of a run that rests from a clock that stood at 0 to one that stands at `seconds`."""
        for invocation in self.invocations.values():
            if invocation.first_started_at is not None:
                invocation.first_started_at += seconds
            if invocation.retry_at is not None:
                invocation.retry_at += seconds
            for wait in (invocation.waits or {}).values():
                if wait.deadline is not None:
                    wait.deadline += seconds
        for question in self.inputs.open.values():
            question.asked_at += seconds
            if question.expires_at is not None:
                question.expires_at += seconds
        self.delayed = {
            number: (event, step, due + seconds, lineage)
            for number, (event, step, due, lineage) in self.delayed.items()
        }
        for child in self.children.values():
            if child.run is not None:
                child.run.shift_clock(seconds)

    def next_due(self) -> float | None:
        """Return when the first timer of a run that rests is due, or of one within it, by its clock; None without any.

        A child whose step has to begin again first, and is not there yet, goes on with that.
        """
        dues = [due for _, _, due, _ in self.delayed.values()]
        dues += [wait.deadline for wait in self.waits.by_number.values() if wait.deadline is not None]
        dues += [inv.retry_at for inv in self.invocations.values() if inv.retry_at is not None]
        for child in self.children.values():
            if child.run is not None and not child.is_at_rest and self.invocations[child.invocation].retry_at is None:
                due = child.run.next_due()
                dues += [] if due is None else [due]
        return min(dues, default=None)

    def buffered(self) -> dict[BufferKey, list[Event]]:
        """Return the events that wait in each collection and join."""
        return {key: buffer.events for key, buffer in self.buffers.items()}

    def apply(self, fact: Fact, now: float) -> list[Effect]:
        """Take a fact in.

        Args:
            fact: What has happened.
            now: When, in seconds of a clock that does not go back.

        Returns:
            What is to be done, in order.
        """
        # Pyright reads this file by its folder and the rules through the installation, as two modules of two classes.
        effects: list[Effect] = []
        if self.outcome is not None:
            apply_after_end(self, fact, effects)  # pyright: ignore[reportArgumentType]
            return effects
        RULES[type(fact)](self, fact, now, effects)  # pyright: ignore[reportArgumentType]
        if self.timeout is not None and self.outcome is None:
            mind_clock(self, now, effects)  # pyright: ignore[reportArgumentType]
        return effects

    def publish(self, event: Event, effects: list[Effect]) -> None:
        """Publish an event at the next offset."""
        offset, others = self.place
        effects.append(Publish(event, offset))
        self.place = (offset + 1, others)

    def bury(self, event: Event, reason: str, step: str | None) -> None:
        """Account for an event that nobody will take."""
        self.dead_letters.append(DeadLetter(event, reason, step))
        if len(self.dead_letters) > MAX_DEAD_LETTERS:
            del self.dead_letters[0]

    def note_unhandled(self, event: Event, step: str | None) -> None:
        """Note that no step takes an event."""
        self.notes.append((self.place, unhandled, type(event), step, self.is_quiet))

    def current(self, number: int, attempt: int) -> Invocation | None:
        """Return the invocation if this attempt at it is the one that counts."""
        invocation = self.invocations.get(number)
        if invocation is None or invocation.attempt != attempt:
            return None
        return invocation if invocation.worker is not None or invocation.parked_at is not None else None

    def new_invocation(self, spec: StepSpec, event: Event, lineage: Lineage | None) -> Invocation:
        """Enter an event on its way through a step."""
        number = self.next_invocation
        self.next_invocation = number + 1
        invocation = self.invocations[number] = Invocation(number, spec, event, lineage)
        if lineage is not None and lineage.fan_out is not None:
            lineage.fan_out.live += 1
        return invocation

    def release_store(self, invocation: Invocation, effects: list[Effect]) -> None:
        """Let go of what an attempt that has ended holds of the shared state."""
        if self.store.is_contended:
            self.store.release(Caller(invocation.number, invocation.attempt), answer_into(effects))
