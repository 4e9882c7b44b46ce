"""Random workflows of lists, joins, collections, recoveries, waits and cuts, against a small reference model.

The machine plays the actors, as in test_run_state_properties. The model looks at everything again after each fact: a
fan-out is open as long as a search finds something of it. `GREENROOM_DEEP=1` searches a hundred times longer.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from greenroom.collect import All, Collect, Join, Take
from greenroom.document import read_document, take_document
from greenroom.effects import StartInvocation
from greenroom.events import (
    CollectionReleaseEvent,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from greenroom.facts import CancelAsked, PassivateAsked, Responded, RunResumed, WaitAsked
from greenroom.graph import Graph
from greenroom.invocation import Invocation
from greenroom.lineage import Lineage
from greenroom.named import registry_for
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.run_state import RunState
from greenroom.snapshot import dump_snapshot, load_snapshot
from greenroom.steps import Catch, StepSpec
from tests.support.core import Play, make_spec

DEEP = bool(os.environ.get("GREENROOM_DEEP"))


class A(Event):
    uid: int = 0


class B(Event):
    uid: int = 0


class C(Event):
    uid: int = 0


class D(Event):
    uid: int = 0


class Awaited(Event):
    uid: int = 0


class Question(InputRequiredEvent):
    uid: int = 0


class Reply(HumanResponseEvent):
    uid: int = 0


class Start(StartEvent):
    uid: int = 0


class Stop(StopEvent):
    uid: int = 0


SENT: list[type[Event]] = [A, B, C, D]
ONE_RETRY = retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(2))
Scope = tuple[int | None, dict[str, int]]  # the fan-out that something belongs to, and what it has used up


def label(event: Any) -> Any:
    """What tells an event from others, also after it was written and read again."""
    if isinstance(event, CollectionReleaseEvent):
        return ("list", *map(label, event.events))
    if isinstance(event, StepFailedEvent):
        return ("failed", event.step_name, label(event.input_event))
    return event.uid


def used(*scopes: Scope) -> dict[str, int]:
    """What things that have come together have used up."""
    names = {name for _, budget in scopes for name in budget}
    return {name: max(budget.get(name, 0) for _, budget in scopes) for name in names}


# -- the reference model -----------------------------------------------------------------------------------------------


class Job:
    """One event, or several, on the way through one step."""

    def __init__(self, step: str, event: Any, scope: Scope) -> None:
        self.step = step
        self.event = event  # as labelled
        self.scope = scope
        self.failures = 0
        self.wait = "none"  # "open" or "answered" once it was asked for
        self.counted = False
        self.collects: list[Any] = []
        self.asked = 0

    @property
    def key(self) -> Any:
        return (self.step, self.event, self.scope[0], tuple(sorted(self.scope[1].items())), self.failures)


class Fan:
    """A list that was returned, and what has come of it."""

    def __init__(self, producer: str, scope: Scope) -> None:
        self.producer = producer
        self.scope = scope  # of the list itself
        self.gathered: dict[str, list[tuple[int, Scope]]] = {}
        self.served: set[str] = set()


class Model:
    """What a run ought to do with the events that it is told of."""

    def __init__(self, specs: list[StepSpec]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.jobs: list[Job] = []
        self.fans: dict[int, Fan] = {}
        self.opened = 0
        self.delayed: list[tuple[Any, Scope, float]] = []
        self.questions: list[tuple[str, int, Scope]] = []
        self.waiting: dict[Any, list[tuple[Any, Scope]]] = {}  # in joins and collections
        self.held: list[Any] = []
        self.dead: Counter[Any] = Counter()
        self.given: Counter[Any] = Counter()  # how often a step was given a list of a fan-out
        self.ended = False
        self.collectors: dict[str, set[str]] = {name: set() for name in self.specs}
        self.find_collectors()

    def find_collectors(self) -> None:
        """Walk the graph with the stack of the lists that each place lies in, three deep."""
        seen: set[tuple[str, tuple[str, ...]]] = set()
        arrived: dict[tuple[str, type[Event]], set[tuple[str, ...]]] = {}
        todo: list[tuple[str, tuple[str, ...]]] = []

        come: set[tuple[type[Event], tuple[str, ...]]] = set()

        def arrive(cls: type[Event], stack: tuple[str, ...]) -> None:
            if (cls, stack) in come:
                return
            come.add((cls, stack))
            for spec in self.specs.values():
                if cls not in spec.accepts:
                    continue
                if isinstance(spec.gather, Collect):
                    if stack:
                        self.collectors[stack[-1]].add(spec.name)
                        reach(spec.name, stack[:-1])
                elif isinstance(spec.gather, Join):
                    arrived.setdefault((spec.name, cls), set()).add(stack)
                    for meeting in set.intersection(*(arrived.get((spec.name, c), set()) for c in spec.gather.classes)):
                        reach(spec.name, meeting)
                else:
                    reach(spec.name, stack)

        def reach(step: str, stack: tuple[str, ...]) -> None:
            if (step, stack) not in seen and len(stack) <= 3:
                seen.add((step, stack))
                todo.append((step, stack))

        for entry in (Start, Reply):
            arrive(entry, ())
        for final in (False, True):
            if final:
                reached = {step for step, _ in seen}
                for spec in self.specs.values():
                    if spec.gather is None and spec.name not in reached:
                        reach(spec.name, ())
            while todo:
                step, stack = todo.pop()
                spec = self.specs[step]
                for cls in spec.returns:
                    arrive(cls, stack)
                    if cls is Question:
                        arrive(Reply, stack)
                for cls in spec.returns_lists_of:
                    arrive(cls, (*stack, step))
                    if cls is Question:
                        arrive(Reply, (*stack, step))
                handler = self.handler(step)
                if handler is not None:
                    reach(handler, stack)

    def handler(self, step: str) -> str | None:
        if self.specs[step].options.catches is not None:
            return None
        for spec in self.specs.values():
            if spec.options.catches is not None and step in (spec.options.catches.for_steps or ()):
                return spec.name
        return next(
            (s.name for s in self.specs.values() if s.options.catches and not s.options.catches.for_steps), None
        )

    # events

    def deliver(self, event: Any, scope: Scope) -> bool:
        if isinstance(event, Awaited):
            waiting = [job for job in self.jobs if job.wait == "open"]
            for job in waiting:
                job.wait = "answered"
            return bool(waiting)
        taken = False
        for spec in self.specs.values():
            if type(event) not in spec.accepts:
                continue
            if isinstance(spec.gather, Join):
                self.join(spec, event, scope)
            elif isinstance(spec.gather, Collect):
                if scope[0] is None:
                    continue
                self.gather(spec, event, scope)
            else:
                self.jobs.append(Job(spec.name, event.uid, scope))
            taken = True
        return taken

    def deliver_inside(self, event: Any, scope: Scope) -> None:
        if not self.deliver(event, scope):
            self.dead[event.uid] += 1

    def join(self, spec: StepSpec, event: Any, scope: Scope) -> None:
        assert isinstance(spec.gather, Join)
        key = (spec.name, scope[0])
        waiting = [*self.waiting.get(key, []), (event, scope)]
        batch = []
        for cls in spec.gather.classes:
            found = next((item for item in waiting if type(item[0]) is cls and item not in batch), None)
            if found is None:
                self.waiting[key] = waiting
                return
            batch.append(found)
        self.waiting[key] = [item for item in waiting if item not in batch]
        events = ("list", *(one.uid for one, _ in batch))
        self.jobs.append(Job(spec.name, events, (scope[0], used(*(s for _, s in batch)))))

    def gather(self, spec: StepSpec, event: Any, scope: Scope) -> None:
        assert isinstance(spec.gather, Collect)
        assert scope[0] is not None
        fan = self.fans[scope[0]]
        if spec.name in fan.served:
            self.dead[event.uid] += 1
            return
        fan.gathered.setdefault(spec.name, []).append((event.uid, scope))
        if isinstance(spec.gather.cardinality, Take) and len(fan.gathered[spec.name]) == spec.gather.cardinality.n:
            self.release(spec.name, scope[0])

    def release(self, step: str, number: int) -> None:
        fan = self.fans[number]
        members = fan.gathered.pop(step, [])
        fan.served.add(step)
        self.given[step, number] += 1
        outer, budget = fan.scope
        scope = (outer, used((None, budget), *(s for _, s in members)))
        self.jobs.append(Job(step, ("list", *(uid for uid, _ in members)), scope))

    def live(self, number: int) -> int:
        """How much there is of a fan-out."""
        scopes = [job.scope for job in self.jobs] + [scope for _, scope, _ in self.delayed]
        scopes += [scope for _, _, scope in self.questions] + [fan.scope for fan in self.fans.values()]
        return sum(scope[0] == number for scope in scopes)

    def close(self) -> None:
        """Close each fan-out of which nothing is left."""
        while over := [number for number in self.fans if not self.live(number)]:
            for number in over:
                fan = self.fans[number]
                for step in sorted({*self.collectors[fan.producer], *fan.gathered} - fan.served):
                    self.release(step, number)
                del self.fans[number]
                for key in [key for key in self.waiting if key[1] == number]:
                    self.dead.update(event.uid for event, _ in self.waiting.pop(key))

    # invocations

    def finish(self, job: Job, returned: Any, question_id: Any) -> None:
        self.jobs.remove(job)
        if isinstance(returned, Stop):
            self.end()
            return
        scope = job.scope
        events = [returned]
        if isinstance(returned, list):
            number, self.opened = self.opened, self.opened + 1
            self.fans[number] = Fan(job.step, scope)
            scope, events = (number, scope[1]), returned
        for event in events:
            if isinstance(event, Question):
                self.questions.append((question_id(), event.uid, scope))
                self.deliver(event, scope)
            elif event is not None:
                self.deliver_inside(event, scope)

    def fail(self, job: Job) -> bool:
        """Return whether it is tried again."""
        if self.specs[job.step].options.retry_policy is not None and not job.failures:
            job.failures, job.asked = 1, 0
            return True
        self.jobs.remove(job)
        handler = self.handler(job.step)
        catches = self.specs[handler].options.catches if handler else None
        if handler is None or catches is None or job.scope[1].get(handler, 0) == catches.max_recoveries:
            self.end()
            return False
        budget = {**job.scope[1], handler: job.scope[1].get(handler, 0) + 1}
        self.jobs.append(Job(handler, ("failed", job.step, job.event), (job.scope[0], budget)))
        return False

    def collect(self, job: Job, event: Any) -> Any:
        job.asked += 1
        if job.asked <= len(job.collects):
            return job.collects[job.asked - 1]
        waiting = self.waiting.setdefault((job.step, "default"), [])
        if not job.counted:
            job.counted = True
            waiting.append((event, job.scope))
        batch = waiting[:2] if len(waiting) >= 2 else None
        if batch is not None:
            del waiting[:2]
            job.scope = (job.scope[0], used(job.scope, *(scope for _, scope in batch)))
        job.collects.append(None if batch is None else [one.uid for one, _ in batch])
        return job.collects[-1]

    def end(self) -> None:
        self.ended = True
        for waiting in self.waiting.values():
            self.dead.update(event.uid for event, _ in waiting)
        for fan in self.fans.values():
            self.dead.update(uid for members in fan.gathered.values() for uid, _ in members)
        self.dead.update(event.uid for event, *_ in self.delayed)
        self.dead.update(event.uid for event in self.held)


# -- the machine -------------------------------------------------------------------------------------------------------


@st.composite
def workflows(draw: st.DrawFn) -> list[StepSpec]:
    specs = []
    for index in range(draw(st.integers(3, 7))):
        how = draw(st.sampled_from(["plain", "plain", "all", "all", "take", "join"])) if index else "plain"
        accepts = draw(st.lists(st.sampled_from(SENT), min_size=1, max_size=2, unique=True))
        gather: Any = None
        if how == "join":
            classes = draw(st.lists(st.sampled_from(SENT), min_size=2, max_size=3))
            gather, accepts = (
                Join(tuple(f"e{n}" for n in range(len(classes))), tuple(classes)),
                [*dict.fromkeys(classes)],
            )
        elif how != "plain":
            gather = Collect(All() if how == "all" else Take(draw(st.integers(1, 3))))
        elif draw(st.booleans()):
            accepts.append(Reply)
        specs.append(
            make_spec(
                f"s{index}",
                *([Start, *accepts] if index == 0 else accepts),
                returns=[Stop, Question, Awaited, *SENT],
                lists=draw(st.sampled_from([(), (), tuple(SENT), (*SENT, Question)])),
                num_workers=draw(st.sampled_from([1, 2, 50])),
                retry_policy=draw(
                    st.sampled_from([None, retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(2))])
                ),
                gather=gather,
            )
        )
    budgets = st.integers(1, 2)
    for name, names in (("h0", (specs[0].name, specs[-1].name)), ("h1", None)):
        if draw(st.booleans()):
            catches = Catch(names, draw(budgets))
            specs.append(make_spec(name, StepFailedEvent, returns=[*SENT], lists=SENT, num_workers=1, catches=catches))
    return specs


pick = st.integers(0, 30)
rarely = st.sampled_from([False] * 9 + [True])


class FanOutMachine(RuleBasedStateMachine):
    """Draws what happens to a run, and holds it against the model."""

    @initialize(specs=workflows())
    def begin(self, specs: list[StepSpec]) -> None:
        self.uids = 0
        self.specs = specs
        self.model = Model(specs)
        self.graph = Graph("Drawn", specs)
        self.play = Play(state=RunState(self.graph, "run-0", on_stuck="wait"))
        self.runs = 0
        self.jobs: dict[int, Job] = {}
        self.parked: set[int] = set()
        event = self.event(Start)
        self.model.deliver(event, (None, {}))
        self.play.start(event)
        self.check()

    def event(self, cls: type[Any]) -> Any:
        self.uids += 1
        return cls(uid=self.uids)

    def bodies(self) -> list[StartInvocation]:
        return [start for start in self.play.in_flight if start.invocation.worker is not None]

    def body(self, number: int) -> tuple[StartInvocation, Job]:
        bodies = self.bodies()
        start = bodies[number % len(bodies)]
        return start, self.jobs[start.invocation.number]

    def scope(self, lineage: Lineage | None) -> Scope:
        if lineage is None:
            return None, {}
        return None if lineage.fan_out is None else lineage.fan_out.number, dict(lineage.recoveries)

    def key(self, invocation: Invocation) -> Any:
        number, budget = self.scope(invocation.lineage)
        event = label(invocation.event)
        return (invocation.spec.name, event, number, tuple(sorted(budget.items())), invocation.failures)

    def check(self) -> None:
        """Compare what there is of each fan-out, and of everything else, with what the model says must be."""
        model, state = self.model, self.play.state
        if not model.ended:
            model.close()
        assert (self.play.outcome is not None) == model.ended
        if model.ended:
            return
        self.jobs = {number: job for number, job in self.jobs.items() if number in state.invocations}
        known = {id(job) for job in self.jobs.values()}
        fresh = [job for job in model.jobs if id(job) not in known]
        for number, invocation in state.invocations.items():
            if number not in self.jobs:
                found = next((job for job in fresh if job.key == self.key(invocation)), None)
                assert found is not None, f"{self.key(invocation)} among {[job.key for job in fresh]}"
                fresh.remove(found)
                self.jobs[number] = found
        assert fresh == []
        assert {n: self.jobs[n].key for n in state.invocations} == {
            n: self.key(i) for n, i in state.invocations.items()
        }
        assert len(model.jobs) == len(state.invocations)
        assert {number: model.live(number) for number in model.fans} == {
            number: fan_out.live for number, fan_out in state.fan_outs.items()
        }
        for number, fan in model.fans.items():
            fan_out = state.fan_outs[number]
            assert (fan_out.producer, fan_out.served) == (fan.producer, fan.served)
            assert self.scope(fan_out.outer) == fan.scope
            gathered = {step: [event.uid for event in g.events] for step, g in fan_out.gathered.items()}
            assert gathered == {step: [uid for uid, _ in members] for step, members in fan.gathered.items()}
        waiting = {key: [event.uid for event in events] for key, events in state.buffered().items()}
        assert waiting == {key: [event.uid for event, _ in items] for key, items in model.waiting.items() if items}
        assert [event.uid for event, _ in state.held] == [event.uid for event in model.held]
        assert list(state.inputs.open) == [input_id for input_id, *_ in model.questions]
        assert Counter(label(letter.event) for letter in state.dead_letters) == model.dead
        assert max(model.given.values(), default=1) == 1, "a list was given twice"

    # -- what happens --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.bodies())
    @rule(number=pick, returned=st.sampled_from([None, *SENT, Question]))
    def finish(self, number: int, returned: Any) -> None:
        self.end_body(number, None if returned is None else self.event(returned))

    @precondition(lambda self: self.bodies())
    @rule(number=pick, classes=st.lists(st.sampled_from([*SENT, *SENT, Question]), max_size=4))
    def finish_with_list(self, number: int, classes: list[Any]) -> None:
        self.end_body(number, [self.event(cls) for cls in classes])

    @precondition(lambda self: self.bodies())
    @rule(number=pick, now=rarely)
    def stop(self, number: int, now: bool) -> None:
        if now:
            self.end_body(number, self.event(Stop))
            self.check_end()

    def end_body(self, number: int, returned: Any) -> None:
        start, job = self.body(number)
        next_input = iter(range(self.play.state.next_input, 1 << 30))
        self.model.finish(job, returned, lambda: f"{self.play.state.origin}:{next(next_input)}")
        self.play.finish(start, returned)
        self.check()

    @precondition(lambda self: self.bodies())
    @rule(number=pick, for_good=rarely)
    def fail(self, number: int, for_good: bool) -> None:
        start, job = self.body(number)
        retries = start.invocation.spec.options.retry_policy is not None and not job.failures
        if not (for_good or retries or self.model.handler(job.step)):
            return
        self.model.fail(job)
        self.play.fail(start, ValueError("drawn"))
        self.check()
        if self.model.ended:
            self.check_end()

    @precondition(lambda self: self.bodies())
    @rule(number=pick, cls=st.sampled_from(SENT), delay=st.sampled_from([None, None, 2.0]))
    def send(self, number: int, cls: type[Event], delay: float | None) -> None:
        start, job = self.body(number)
        if start.invocation.skips_sends:
            return  # A replay comes by what it has sent; here it sends nothing new until then.
        event = self.event(cls)
        if delay:
            self.model.delayed.append((event, job.scope, self.play.now + delay))
        else:
            self.model.deliver_inside(event, job.scope)
        self.play.send(start, event, None, delay)
        self.check()

    @precondition(lambda self: self.bodies())
    @rule(number=pick)
    def collect(self, number: int) -> None:
        start, job = self.body(number)
        event = start.invocation.event
        if start.invocation.spec.gather is None and type(event) in SENT:
            answer = self.play.collect(start, {Event: 2})
            expected = self.model.collect(job, event)
            assert (None if answer is None else [label(one) for one in answer]) == expected
            self.check()

    @precondition(lambda self: self.bodies())
    @rule(number=pick)
    def wait(self, number: int) -> None:
        start, job = self.body(number)
        invocation = start.invocation
        fact = WaitAsked(invocation.number, start.attempt, "key", Awaited, {}, None, None, False)
        fact.asker = object()
        if job.wait == "none":
            job.wait = "open"
        held = next((event for event in self.model.held if isinstance(event, Awaited)), None)
        if job.wait == "open" and held is not None:
            self.model.held = [event for event in self.model.held if event is not held]
            job.wait = "answered"
        self.play.apply(fact)
        assert (fact.asker in self.play.answers) == (job.wait == "answered")
        self.check()

    @rule(number=pick)
    def passivate(self, number: int) -> None:
        """A body that waits is unwound, and begins again when its wait has ended."""
        waiting = [s for s in self.play.in_flight if s.invocation.worker is None and s.invocation.is_live]
        waiting = [s for s in waiting if s.invocation.ready is None]
        if waiting:
            start = waiting[number % len(waiting)]
            self.play.apply(PassivateAsked(start.invocation.number, start.attempt))
            self.jobs[start.invocation.number].asked = 0
            self.check()

    @precondition(lambda self: not self.model.ended)
    @rule(cls=st.sampled_from([*SENT, Awaited, Awaited, Reply]))
    def arrive(self, cls: type[Event]) -> None:
        event = self.event(cls)
        scope: Scope = (None, {})
        question = self.model.questions[0] if cls is Reply and self.model.questions else None
        if not self.model.deliver(event, question[2] if question else scope):
            self.model.held.append(event)
        if question:
            self.model.questions.remove(question)
        self.play.arrive(event)
        self.check()

    @precondition(lambda self: not self.model.ended and self.model.questions)
    @rule(number=pick)
    def respond(self, number: int) -> None:
        question = self.model.questions[number % len(self.model.questions)]
        event = self.event(Reply)
        if not self.model.deliver(event, question[2]):
            self.model.held.append(event)
        self.model.questions.remove(question)
        self.play.apply(Responded(question[0], event))
        self.check()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def pass_time(self, seconds: float) -> None:
        if self.model.ended:
            return
        until = self.play.now + seconds
        for item in sorted(self.model.delayed, key=lambda item: item[2]):
            if item[2] <= until:
                self.model.delayed.remove(item)
                self.model.deliver_inside(*item[:2])
                self.model.close()
        self.play.advance(seconds)
        self.check()

    @precondition(lambda self: not self.model.ended)
    @rule(how=st.sampled_from(["cancel", "bytes", "bytes"]))
    def cut(self, how: str) -> None:
        """Cancel and go on with the live context, or from what was written."""
        now = self.play.now
        registry = registry_for(self.graph).child([Awaited, Reply, *SENT])
        document = take_document(self.play.state, now)
        data = dump_snapshot(document, registry)
        self.play.apply(CancelAsked())
        self.runs += 1
        if how == "bytes":
            state = read_document(self.graph, load_snapshot(self.graph, data, registry), registry)
            state.shift_clock(now)
        else:
            state = self.play.state
        state = state.reopen(f"run-{self.runs}", None, "wait")
        if not state.next_invocation:  # Nothing was left to be done: it begins anew.
            self.jobs.clear()
            self.model.opened = 0
            self.model.given.clear()
        for number in state.invocations:
            self.jobs[number].asked = 0
        self.play = Play(state=state)
        self.play.now = now
        self.model.dead = Counter(label(letter.event) for letter in state.dead_letters)
        self.play.apply(RunResumed())
        self.check()

    def check_end(self) -> None:
        """All that was left is accounted for, and nothing is left."""
        state = self.play.state
        letters = Counter(label(letter.event) for letter in state.dead_letters)
        assert not self.model.dead - letters
        queued = Counter(job.event for job in self.model.jobs)
        assert not letters - self.model.dead - queued
        left = [state.fan_outs, state.buffers, state.delayed, state.invocations, state.inputs.open, state.held]
        assert not any(left)

    @invariant()
    def no_budget_is_exceeded(self) -> None:
        for spec in self.specs:
            catches = spec.options.catches
            for job in self.model.jobs if catches is not None else ():
                assert catches is not None
                assert job.scope[1].get(spec.name, 0) <= catches.max_recoveries


FanOutMachine.TestCase.settings = settings(
    max_examples=10_000 if DEEP else 25,
    stateful_step_count=60 if DEEP else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not DEEP,
)
TestFanOuts = pytest.mark.timeout(3600 if DEEP else 300)(FanOutMachine.TestCase)
