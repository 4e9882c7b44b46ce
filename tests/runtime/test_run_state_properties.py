"""Random workflows on random schedules, against a small reference model.

The machine plays the actors: it keeps what the run starts and draws what happens next. The model is written for
plainness, not for speed: it looks at everything again at each fact. `GREENROOM_DEEP=1` searches a hundred times longer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from greenroom.effects import Answer, Effect, StartInvocation
from greenroom.errors import RuntimeShutdownError, StepCancelled, WorkflowStuckError
from greenroom.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from greenroom.facts import (
    Caller,
    CancelAsked,
    CollectAsked,
    Crashed,
    DrainAsked,
    EventArrived,
    Fact,
    RunResumed,
    TimerFired,
)
from greenroom.graph import Graph
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.run_state import RunState
from greenroom.state import StoreCall
from greenroom.steps import StepSpec
from tests.support.core import WALL, Play, make_spec

DEEP = bool(os.environ.get("GREENROOM_DEEP"))


class A(Event):
    uid: int = 0


class LowerA(A):
    pass


class LowestA(LowerA):
    pass


class B(Event):
    uid: int = 0


class Both(LowerA, B):
    pass


class Question(InputRequiredEvent):
    uid: int = 0


class Reply(HumanResponseEvent):
    uid: int = 0


class Start(StartEvent):
    uid: int = 0


class Stop(StopEvent):
    uid: int = 0


TAKEN: list[type[Event]] = [Event, A, LowerA, LowestA, B, Both, Question, Reply]
SENT: list[type[Event]] = [A, LowerA, LowestA, B, Both]
BUFFERS = ["default", "x"]


# -- the reference model -----------------------------------------------------------------------------------------------


class Job:
    """One event on its way through one step."""

    def __init__(self, event: Any, step: str) -> None:
        self.event = event
        self.step = step
        self.attempt = 1
        self.failures = 0
        self.due = 0.0  # when its delay is over
        self.number = -1  # of the invocation, once it has started
        self.where = "queue"  # "queue", "running", "delay" or "ready": its delay is over
        self.counted: set[str] = set()
        # What its body has done, and how much of that the present attempt has come by again.
        self.collects: list[Any] = []
        self.done = Counter[str]()
        self.again = Counter[str]()

    def begin_again(self) -> None:
        self.attempt += 1
        self.again = Counter()

    def repeats(self, what: str) -> bool:
        """Whether the body does again what an earlier attempt, which was cut off, had done."""
        self.again[what] += 1
        if self.again[what] <= self.done[what]:
            return True
        self.done[what] += 1
        return False


class Model:
    """What a run ought to do. Each method notes in `started` and `answered` what must follow from it."""

    def __init__(self, specs: Sequence[StepSpec]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.jobs: list[Job] = []
        self.lines: dict[str, list[Job]] = {name: [] for name in self.specs}  # who waits for a worker, in order
        self.collections: dict[tuple[str, str], list[Any]] = {}
        self.delayed: dict[int, tuple[Any, str | None]] = {}
        self.held: list[Any] = []
        self.dead: list[int] = []
        self.published: list[Any] = []
        self.questions: list[Any] = []
        self.ended: str | None = None
        self.draining = False
        self.sends = 0
        self.value: Any = "unset"
        self.editor: Any = None
        self.writers: list[tuple[Any, Any, str, Any]] = []
        self.started: dict[str, list[tuple[int, int]]] = {}
        self.answered: dict[Any, Any] = {}

    # events

    def takers(self, event: Any) -> list[str]:
        for base in type(event).__mro__:
            names = sorted(name for name, spec in self.specs.items() if base in spec.accepts)
            if names:
                return names
        return []

    def deliver(self, event: Any, step: str | None) -> bool:
        if self.questions and isinstance(event, HumanResponseEvent):
            del self.questions[0]
        names = self.takers(event) if step is None else [step]
        for name in names:
            job = Job(event, name)
            self.jobs.append(job)
            self.lines[name].append(job)
            self.serve(name)
        return bool(names)

    def deliver_inside(self, event: Any, step: str | None) -> None:
        if not self.deliver(event, step):
            self.dead.append(event.uid)

    def running(self, step: str) -> list[Job]:
        return [job for job in self.jobs if job.step == step and job.where == "running"]

    def serve(self, step: str) -> None:
        line = self.lines[step]
        while line and len(self.running(step)) < self.specs[step].options.num_workers:
            ready = [job for job in line if job.where == "ready"]
            job = (ready or line)[0]
            line.remove(job)
            job.where = "running"
            self.started.setdefault(step, []).append((job.event.uid, job.attempt))

    def arrive(self, event: Any, step: str | None, asker: Any) -> None:
        if self.ended:
            self.dead.append(event.uid)
            self.answered[asker] = "refused"
            return
        if not self.deliver(event, step):
            self.held.append(event)
        self.answered[asker] = None

    def send(self, job: Job, event: Any, step: str | None, delay: float | None) -> None:
        if job.where != "running" or self.ended:
            self.dead.append(event.uid)
        elif job.repeats("send"):
            return
        elif delay:
            self.delayed[self.sends] = (event, step)
            self.sends += 1
        else:
            self.deliver_inside(event, step)

    def write(self, job: Job, event: Any) -> None:
        if job.where != "running" or self.ended:
            self.dead.append(event.uid)
            return
        if job.repeats("write"):
            return
        self.published.append(event)
        if isinstance(event, InputRequiredEvent):
            self.questions.append(event)

    # invocations

    def leave(self, job: Job, caller: Any) -> None:
        job.where = "gone"
        self.drop(caller)

    def finish(self, job: Job, caller: Any, event: Any) -> None:
        self.leave(job, caller)
        self.jobs.remove(job)
        if isinstance(event, StopEvent):
            self.end("completed", event)
            return
        self.serve(job.step)
        if isinstance(event, InputRequiredEvent):
            self.published.append(event)
            self.questions.append(event)
            self.deliver(event, None)
        elif event is not None:
            self.deliver_inside(event, None)

    def fail(self, job: Job, caller: Any, retries: bool) -> None:
        self.leave(job, caller)
        if not retries:
            self.jobs.remove(job)
            self.end("failed")
            return
        job.where = "delay"
        job.failures += 1
        job.begin_again()
        job.done["send"] = job.done["write"] = 0  # A retry does these again.
        self.serve(job.step)

    def retry(self, job: Job) -> None:
        job.where = "ready"
        self.lines[job.step].append(job)
        self.serve(job.step)

    def collect(self, job: Job, event: Any, expected: Any, buffer: str, asker: Any) -> None:
        if job.where != "running" or self.ended:
            self.answered[asker] = "given up"
            return
        if job.repeats("collect"):
            self.answered[asker] = job.collects[job.again["collect"] - 1]
            return
        job.collects.append(None)
        classes = list(expected) if isinstance(expected, list) else list(Counter(expected).elements())
        waiting = self.collections.setdefault((job.step, buffer), [])
        own = event.uid == job.event.uid
        if not (own and buffer in job.counted) and any(base in classes for base in type(event).__mro__) and classes:
            waiting.append(event)
        if own:
            job.counted.add(buffer)
        places: list[Any] = [None] * len(classes)
        for one in waiting:
            fits = [i for base in type(one).__mro__ for i, cls in enumerate(classes) if cls is base and not places[i]]
            if fits:
                places[fits[0]] = one
        if None in places:
            self.answered[asker] = None
            return
        for one in places:
            waiting[:] = [other for other in waiting if other is not one]
        job.collects[-1] = places
        self.answered[asker] = places

    # the state

    def store(self, owner: Any, method: str, value: Any, asker: Any) -> None:
        if method == "get":
            self.answered[asker] = self.value
        elif method == "abort_edit":
            self.drop(owner)
            self.answered[asker] = None
        elif method == "commit_edit":
            if self.editor == owner:
                self.editor, self.value = None, value
                self.answered[asker] = None
                self.serve_writers()
            else:
                self.answered[asker] = "error"
        elif self.editor == owner:
            self.answered[asker] = "error"
        else:
            self.writers.append((asker, owner, method, value))
            self.serve_writers()

    def serve_writers(self) -> None:
        while self.writers and self.editor is None:
            asker, owner, method, value = self.writers.pop(0)
            if method == "begin_edit":
                self.editor = owner
                self.answered[asker] = "draft"
            else:
                self.value = value
                self.answered[asker] = None

    def drop(self, owner: Any) -> None:
        for writer in [writer for writer in self.writers if writer[1] == owner]:
            self.writers.remove(writer)
            self.answered[writer[0]] = "given up"
        if self.editor == owner:
            self.editor = None
            self.serve_writers()

    # the end

    def end(self, status: str, event: Any = None) -> None:
        self.ended = status
        self.published.append(event if event is not None else status)
        for job in self.jobs:
            if job.where == "running":
                self.drop(Caller(job.number, job.attempt))
        if status == "cancelled":
            return
        self.dead += [job.event.uid for job in self.jobs if job.where != "running"]
        self.dead += [event.uid for events in self.collections.values() for event in events]
        self.dead += [event.uid for event, _ in self.delayed.values()]
        self.dead += [event.uid for event in self.held]
        self.collections.clear()
        self.delayed.clear()
        self.held.clear()
        self.questions.clear()
        for job in self.jobs:
            job.where = "gone"
        self.jobs.clear()

    def resume(self, now: float) -> None:
        self.ended, self.draining = None, False
        queued = [job for line in self.lines.values() for job in line if job.where == "queue"]
        ready = [job for line in self.lines.values() for job in line if job.where == "ready"]
        running = [job for job in self.jobs if job.where == "running"]
        delay = [job for job in self.jobs if job.where == "delay"]
        self.jobs = [*running, *ready, *delay, *queued]
        self.lines = {name: [] for name in self.specs}
        for job in self.jobs:
            job.begin_again()
            if job.where != "delay" or job.due <= now:
                job.where = "queue"
                self.lines[job.step].append(job)
        for name in self.specs:
            self.serve(name)

    def may_go_on(self) -> bool:
        asks = any(issubclass(cls, HumanResponseEvent) for spec in self.specs.values() for cls in spec.accepts)
        return bool(asks or self.questions or self.delayed)


# -- two runs that are told the same -----------------------------------------------------------------------------------


def plain(effect: Effect) -> tuple[Any, ...]:
    """Return what can be compared of an effect."""
    match effect:
        case StartInvocation(invocation=invocation):
            return (
                "start",
                invocation.number,
                invocation.spec.name,
                effect.attempt,
                invocation.worker,
                invocation.event,
            )
        case Answer():
            return ("answer", effect.asker, repr(effect.value), repr(effect.error))
    return (type(effect).__name__, *(repr(getattr(effect, name)) for name in effect.__slots__ if name != "outcome"))


class Twins(Play):
    """A run, and a second one that is told the same facts and must order the same."""

    def __init__(self, state: RunState, twin: RunState) -> None:
        super().__init__(state=state)
        self.twin = twin

    def apply(self, fact: Fact) -> list[Effect]:
        effects = super().apply(fact)
        # A start is compared as it was ordered; what its invocation is by then may have changed with later effects.
        assert [plain(effect) for effect in effects] == [plain(effect) for effect in self.twin.apply(fact, self.now)]
        return effects


@st.composite
def workflows(draw: st.DrawFn) -> list[StepSpec]:
    specs = []
    for index in range(draw(st.integers(2, 6))):
        accepts = draw(st.lists(st.sampled_from([*SENT, *TAKEN]), min_size=1, max_size=3, unique=True))
        attempts = draw(st.sampled_from([0, 0, 2, 3]))
        delay = draw(st.sampled_from([0.0, 1.0, 3.0]))
        policy = retry_policy(wait=wait_fixed(delay), stop=stop_after_attempt(attempts)) if attempts else None
        specs.append(
            make_spec(
                f"s{index}",
                *([Start, *accepts] if index == 0 else accepts),
                returns=[Stop],
                num_workers=draw(st.sampled_from([1, 1, 2, 3])),
                retry_policy=policy,
                timeout=draw(st.sampled_from([None, None, 4.0])),
            )
        )
    return specs


pick = st.integers(0, 30)
# What ends a run is tried now and then, or few runs would grow old.
rarely = st.sampled_from([False] * 9 + [True])
expectations = st.one_of(
    st.lists(st.sampled_from(SENT), max_size=3),
    st.dictionaries(st.sampled_from(SENT), st.integers(1, 3), min_size=1, max_size=2),
)


class RunMachine(RuleBasedStateMachine):
    """Draws what happens to a run, and holds it against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.uids = 0
        self.askers = 0
        self.asked: set[Any] = set()
        self.answers: dict[Any, Any] = {}
        self.offsets: list[int] = []
        self.handed: dict[tuple[int, str, str], int] = {}
        self.drafts: dict[Any, Any] = {}

    @initialize(
        specs=workflows(), timeout=st.sampled_from([None, None, 10.0]), on_stuck=st.sampled_from(["fail", "wait"])
    )
    def begin(self, specs: list[StepSpec], timeout: float | None, on_stuck: Any) -> None:
        self.specs = specs
        self.timeout, self.on_stuck = timeout, on_stuck
        graph = Graph("Drawn", specs)
        first, second = (RunState(graph, "run-1", timeout=timeout, on_stuck=on_stuck) for _ in range(2))
        self.model = Model(specs)
        self.jobs: dict[int, Job] = {}  # by the invocation's number, as far as it has started
        self.worked = 0.0
        self.enter(Twins(first, second))
        event = self.event(Start)
        self.model.deliver(event, None)
        self.play.start(event)
        self.check()

    def enter(self, play: Twins) -> None:
        self.play = play
        self.seen_stream = 0
        self.seen_starts = 0
        self.starts: list[StartInvocation] = []

    # -- helpers -------------------------------------------------------------------------------------------------------

    def event(self, cls: type[Any]) -> Any:
        self.uids += 1
        return cls(uid=self.uids)

    def asker(self) -> int:
        self.askers += 1
        self.asked.add(self.askers)
        return self.askers

    def body(self, number: int) -> tuple[StartInvocation, Job, Caller]:
        """Return a body in flight, or one that was given up and goes on all the same."""
        bodies = self.play.in_flight + self.play.cancelled
        start = bodies[number % len(bodies)]
        job = self.jobs[start.invocation.number]
        if start in self.play.cancelled and not (self.model.ended):
            job = Job(job.event, job.step)  # that attempt is no concern of the model any more
            job.where = "gone"
        return start, job, Caller(start.invocation.number, start.attempt)

    def has_body(self) -> bool:
        return bool(self.play.in_flight or self.play.cancelled)

    def is_going(self) -> bool:
        return self.model.ended is None

    def check(self) -> None:
        """Compare what was started, published and answered with what the model says must have been."""
        model, play = self.model, self.play
        started: dict[str, list[tuple[int, int]]] = {}
        known = {id(start) for start in self.starts}
        for start in play.in_flight + play.cancelled:
            if id(start) in known:
                continue
            self.starts.append(start)
            invocation: Any = start.invocation
            started.setdefault(invocation.spec.name, []).append((invocation.event.uid, start.attempt))
            job = next(j for j in model.jobs if j.step == invocation.spec.name and j.event.uid == invocation.event.uid)
            job.number = invocation.number
            self.jobs[job.number] = job
        if model.ended in (None, "cancelled"):
            assert started == model.started
        model.started = {}
        for offset, event in play.stream[self.seen_stream :]:
            self.offsets.append(offset)
            expected = model.published.pop(0)
            asks = isinstance(event, InputRequiredEvent) and event.uid == expected.uid  # a copy, with an id
            assert event is expected or asks or (isinstance(expected, str) and isinstance(event, StopEvent))
        self.seen_stream = len(play.stream)
        assert model.published == []
        answers = {}
        for asker, given in play.answers.items():
            assert len(given) == 1, "an asker is answered once"
            value, error = given[0]
            answers[asker] = self.plain_answer(value, error)
        play.answers.clear()
        assert answers == model.answered
        assert not set(answers) & set(self.answers)
        self.answers |= answers
        model.answered = {}
        assert (play.outcome.status if play.outcome else None) == model.ended
        letters = Counter(getattr(letter.event, "uid", None) for letter in play.state.dead_letters)
        assert letters == Counter(model.dead)
        if model.ended is None:
            assert [event for event, _ in play.state.held] == model.held
            assert play.state.buffered() == {key: events for key, events in model.collections.items() if events}
            open_questions = [asked.request.uid for asked in play.state.inputs.open.values()]
            assert open_questions == [question.uid for question in model.questions]

    @staticmethod
    def plain_answer(value: Any, error: BaseException | None) -> Any:
        if isinstance(error, StepCancelled):
            return "given up"
        if isinstance(error, RuntimeError):
            return "error"
        if error is not None:
            return "refused"
        return "draft" if hasattr(value, "model_fields_set") and not isinstance(value, Event) else value

    def pass_time(self, seconds: float) -> None:
        if self.model.jobs and self.model.ended is None:
            self.worked += seconds
        self.play.now += seconds

    # -- what happens --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.has_body())
    @rule(number=pick, returned=st.sampled_from([None, None, *SENT, Question, Reply]))
    def finish(self, number: int, returned: type[Event] | None) -> None:
        self.end_body(number, None if returned is None else self.event(returned))

    @precondition(lambda self: self.has_body())
    @rule(number=pick, now=rarely)
    def stop(self, number: int, now: bool) -> None:
        if not now:
            return
        self.end_body(number, self.event(Stop))

    def end_body(self, number: int, event: Any) -> None:
        start, job, caller = self.body(number)
        if self.is_going() and job.where == "running":
            self.model.finish(job, caller, event)
        elif event is not None and not (self.model.ended and isinstance(event, StopEvent)):
            self.model.dead.append(event.uid)
        self.play.finish(start, event)
        self.check()

    @precondition(lambda self: self.has_body())
    @rule(number=pick, final=rarely, even_for_good=rarely)
    def fail(self, number: int, final: bool, even_for_good: bool) -> None:
        start, job, caller = self.body(number)
        if not even_for_good and start.invocation.spec.options.retry_policy is None:
            return
        if self.is_going() and job.where == "running":
            self.fail_in_model(job, caller, final)
        self.play.fail(start, SystemExit() if final else ValueError())
        self.check()

    def fail_in_model(self, job: Job, caller: Caller, final: bool) -> None:
        policy: Any = self.model.specs[job.step].options.retry_policy
        delay = None if final or policy is None else policy.next(0.0, job.failures + 1, ValueError())
        job.due = self.play.now + (delay or 0.0)
        self.model.fail(job, caller, delay is not None)

    @precondition(lambda self: self.has_body())
    @rule(
        number=pick,
        cls=st.sampled_from(SENT),
        to=st.none() | pick,
        delay=st.sampled_from([None, None, 0, 2.0]),
        count=st.sampled_from([1, 1, 4]),
    )
    def send(self, number: int, cls: type[Event], to: int | None, delay: float | None, count: int) -> None:
        start, job, _ = self.body(number)
        step = self.target(cls, to)
        for _ in range(count):
            event = self.event(cls)
            self.model.send(job, event, step, delay)
            self.play.send(start, event, step, delay)
            self.check()

    def target(self, cls: type[Event], number: int | None) -> str | None:
        names = [spec.name for spec in self.specs if issubclass(cls, spec.accepts)]
        return None if number is None or not names else names[number % len(names)]

    @precondition(lambda self: self.has_body())
    @rule(number=pick, cls=st.sampled_from([A, Question]))
    def write(self, number: int, cls: type[Event]) -> None:
        start, job, _ = self.body(number)
        event = self.event(cls)
        self.model.write(job, event)
        self.play.write(start, event)
        self.check()

    @precondition(lambda self: self.has_body())
    @rule(number=pick, expected=expectations, buffer=st.sampled_from(BUFFERS), own=st.sampled_from([True, True, False]))
    def collect(self, number: int, expected: Any, buffer: str, own: bool) -> None:
        start, job, _ = self.body(number)
        invocation = start.invocation
        event = invocation.event if own else self.event(A)
        asker = self.asker()
        self.model.collect(job, event, expected, buffer, asker)
        fact = CollectAsked(invocation.number, start.attempt, event, own, expected, buffer)
        fact.asker = asker
        self.play.apply(fact)
        self.check()
        batch = self.answers[asker]
        if isinstance(batch, list):
            for one in batch:
                place = (one.uid, invocation.spec.name, buffer)
                assert self.handed.setdefault(place, invocation.number) == invocation.number, "handed to two"

    @rule(
        number=st.none() | pick,
        method=st.sampled_from(["get", "set", "set", "begin_edit", "begin_edit", "commit_edit", "abort_edit"]),
    )
    def use_state(self, number: int | None, method: str) -> None:
        owner: Any = "outside"
        given_up = False
        if number is not None and self.has_body():
            _, job, owner = self.body(number)
            given_up = job.where != "running" or not self.is_going()
        if method == "commit_edit" and owner not in self.drafts:
            return
        if (
            method == "begin_edit"
            and owner == "outside"
            and self.model.editor is not None
            and owner != self.model.editor
        ):
            return  # Outside, one owner is one thread: it could not do anything else while it waits.
        asker = self.asker()
        value = asker
        arguments: tuple[Any, ...] = ()
        if method == "get":
            arguments = ("value", "unset")
        elif method == "set":
            arguments = ("value", value)
        elif method == "commit_edit":
            draft = self.drafts.pop(owner)
            draft["value"] = value
            arguments = (draft,)
        if given_up:
            self.model.answered[asker] = "given up"
        else:
            self.model.store(owner, method, value, asker)
        call = StoreCall(method, arguments, owner, asker)
        effects = self.play.apply(call)
        for effect in effects:
            if (
                method == "begin_edit"
                and isinstance(effect, Answer)
                and effect.asker == asker
                and effect.value is not None
            ):
                self.drafts[owner] = effect.value
        self.check()

    @rule(cls=st.sampled_from([*SENT, Reply]), to=st.none() | pick)
    def arrive(self, cls: type[Event], to: int | None) -> None:
        event, step, asker = self.event(cls), self.target(cls, to), self.asker()
        self.model.arrive(event, step, asker)
        fact = EventArrived(event, step)
        fact.asker = asker
        self.play.apply(fact)
        self.check()

    @precondition(lambda self: self.play.timers)
    @rule()
    def next_timer(self) -> None:
        play, model = self.play, self.model
        key, at = min(play.timers.items(), key=lambda item: item[1])
        del play.timers[key]
        self.pass_time(max(0.0, at - play.now))
        match key:
            case ("run",):
                assert self.worked == pytest.approx(10.0)
                model.end("timed_out")
            case ("retry", number):
                model.retry(self.jobs[number])
            case ("delayed", number):
                model.deliver_inside(*model.delayed.pop(number))
            case ("step", number, attempt):
                job = self.jobs[number]
                assert (job.where, job.attempt) == ("running", attempt)
                self.fail_in_model(job, Caller(number, attempt), False)
        play.apply(TimerFired(key, WALL))
        self.check()

    @rule(seconds=st.sampled_from([0.25, 0.5]))
    def wait(self, seconds: float) -> None:
        soonest = min(self.play.timers.values(), default=self.play.now + seconds)
        self.pass_time(max(0.0, min(seconds, soonest - self.play.now)))

    @precondition(lambda self: self.play.state.is_quiet)
    @rule()
    def rest(self) -> None:
        model = self.model
        assert not model.jobs
        if model.draining:
            model.end("cancelled")
        elif self.on_stuck == "fail" and not model.may_go_on() and not self.play.state.idle_noted:
            model.end("failed")
        self.play.rest()
        if model.ended == "failed":
            assert self.play.outcome is not None
            assert isinstance(self.play.outcome.error, WorkflowStuckError)
        self.check()

    @precondition(lambda self: self.is_going())
    @rule(now=st.sampled_from([False, False, False, True]))
    def cancel(self, now: bool) -> None:
        if now:
            self.end_from_outside(CancelAsked(), "cancelled")

    @precondition(lambda self: self.is_going())
    @rule(now=rarely)
    def crash(self, now: bool) -> None:
        if now:
            self.end_from_outside(Crashed(RuntimeError()), "failed")

    def end_from_outside(self, fact: Fact, status: str) -> None:
        self.model.end(status)
        self.play.apply(fact)
        self.check()

    @precondition(lambda self: self.is_going())
    @rule(now=rarely)
    def drain(self, now: bool) -> None:
        if not now:
            return
        self.model.draining = True
        if not self.model.jobs:
            self.model.end("cancelled")
        self.play.apply(DrainAsked(RuntimeShutdownError("down")))
        self.check()

    @precondition(
        lambda self: (
            self.model.ended == "cancelled" and self.model.editor is None and self.play.state.has_unfinished_work
        )
    )
    @rule()
    def resume(self) -> None:
        old = self.play
        states = [state.reopen("run-2", self.timeout, self.on_stuck) for state in (old.state, old.twin)]
        self.worked = 0.0
        self.enter(Twins(*states))
        self.play.now = old.now
        self.model.dead = [letter.event.uid for letter in states[0].dead_letters]  # type: ignore[attr-defined]
        self.model.resume(old.now)
        self.play.apply(RunResumed())
        self.check()

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def workers_are_within_their_number(self) -> None:
        by_step: dict[str, list[int | None]] = {}
        for start in self.play.in_flight:
            by_step.setdefault(start.invocation.spec.name, []).append(start.invocation.worker)
        for spec in self.specs:
            workers = by_step.get(spec.name, [])
            assert len(set(workers)) == len(workers) <= spec.options.num_workers
            assert set(workers) <= set(range(spec.options.num_workers))

    @invariant()
    def offsets_have_no_gap_and_the_end_comes_last(self) -> None:
        assert self.offsets == list(range(len(self.offsets)))
        ends = [isinstance(event, StopEvent) for event in self.play.published]
        assert not any(ends[:-1])
        assert bool(ends and ends[-1]) == (self.model.ended is not None)

    @invariant()
    def an_invocation_is_started_once_an_attempt(self) -> None:
        starts = [(start.invocation.number, start.attempt) for start in self.starts]
        assert len(set(starts)) == len(starts)

    @invariant()
    def every_asker_was_answered_or_waits_to_write(self) -> None:
        assert self.asked - set(self.answers) == {writer[0] for writer in self.model.writers}

    @invariant()
    def the_time_at_work_is_within_the_timeout(self) -> None:
        if self.timeout is not None and self.model.ended is None:
            assert self.worked <= self.timeout


RunMachine.TestCase.settings = settings(
    max_examples=10_000 if DEEP else 150,
    stateful_step_count=60 if DEEP else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not DEEP,
)
# A failing run is made small first, which may take longer than the run.
TestRunState = pytest.mark.timeout(3600 if DEEP else 300)(RunMachine.TestCase)
