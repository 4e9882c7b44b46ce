"""A run as a document of plain values, and back.

A document holds what a run is between two facts: the shared state, unfinished invocations with their logs, collections,
waits and questions, runs within it, and what is left of each time. Times are kept as seconds that are left or have
passed, since no clock outlives its process. Reading trusts nothing: whatever is not as it should be is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, get_args

from pydantic import BaseModel

from greenroom.buffers import BufferKey, CollectBuffer
from greenroom.codec import TypeRegistry
from greenroom.collect import Collect, Join
from greenroom.errors import ContextSerdeError
from greenroom.events import CollectionReleaseEvent, Event, StopEvent
from greenroom.facts import Responded
from greenroom.fingerprint import stored_name, taken_down
from greenroom.graph import Graph
from greenroom.invocation import Invocation
from greenroom.lineage import FanOut, Gathered, Lineage, Recoveries
from greenroom.outcome import DeadLetter, EndStatus, Outcome
from greenroom.retry import RetryInfo
from greenroom.run_state import Child, RunState
from greenroom.state import DictState, StateStore
from greenroom.tally import Tally
from greenroom.waits import InputEnd, OpenInput, Wait, WaitState

__all__ = ["FORMAT", "graphs_within", "read_document", "take_document"]

FORMAT = 1
_MAX_SECONDS = 1e11  # Three thousand years: dates cannot be reckoned with more.


def take_document(state: RunState, now: float) -> dict[str, Any]:
    """Return the document of a run. It shares what the run is made of: write it before the run goes on.

    Args:
        state: The run, between two facts.
        now: The time of its clock, in seconds.
    """
    graphs = graphs_within(state)
    return {
        "format": FORMAT,
        "workflow": state.graph.name,
        "graph": taken_down(state.graph),
        "within": [[graph.name, taken_down(graph)] for graph in graphs],
        **_dump_run(state, now),
        "children": list(_dump_children(state, now, graphs, ())),
    }


def graphs_within(state: RunState) -> list[Graph]:
    """Return the graphs of the runs within a run, each once."""
    found: dict[int, Graph] = {}
    pending = [state]
    while pending:
        for child in pending.pop().children.values():
            found[id(child.graph)] = child.graph
            if child.run is not None:
                pending.append(child.run)
    return list(found.values())


def _dump_run(state: RunState, now: float) -> dict[str, Any]:
    """Return what a run is, without the runs within it."""
    running = [inv for inv in state.invocations.values() if inv.worker is not None]
    others = [inv for inv in state.invocations.values() if inv.worker is None]
    return {
        "run_id": state.run_id,
        "origin": state.origin,
        "status": "running" if state.outcome is None else state.outcome.status,
        "state": state.store.state,
        "published": state.published,
        "next": [state.next_invocation, state.next_delayed, state.next_wait, state.next_input, state.next_fan_out],
        "invocations": [_dump_invocation(inv, now) for inv in (*running, *others)],
        "dedup_keys": sorted(state.dedup_keys),
        "buffers": [
            [step, buffer_id, [[event, dict(recoveries)] for event, recoveries in buffer.arrivals]]
            for (step, buffer_id), buffer in state.buffers.items()
        ],
        "held": [[event, step] for event, step in state.held],
        "delayed": [
            [number, event, step, due - now, _dump_lineage(lineage)]
            for number, (event, step, due, lineage) in state.delayed.items()
        ],
        "fan_outs": [_dump_fan_out(fan_out) for fan_out in state.fan_outs.values()],
        "inputs": [_dump_input(question, now) for question in state.inputs.open.values()],
        "closed_inputs": state.inputs.closed,
        "dead_letters": [[letter.event, letter.reason, letter.step] for letter in state.dead_letters],
        "tally": state.tally.dump(state.graph),
    }


def _dump_children(state: RunState, now: float, graphs: list[Graph], path: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Return the runs within a run, those within others after them: flat, since a document cannot nest so deep."""
    for name, child in state.children.items():
        outcome = child.outcome
        yield {
            "path": [*path, name],
            "invocation": child.invocation,
            "run_id": child.run_id,
            "graph": next(number for number, graph in enumerate(graphs) if graph is child.graph),
            "outcome": None if outcome is None else _dump_outcome(outcome),
            "run": None if child.run is None else _dump_run(child.run, now),
            "early": [[answer.input_id, answer.event] for answer in child.early],
        }
        if child.run is not None:
            yield from _dump_children(child.run, now, graphs, (*path, name))


def _dump_outcome(outcome: Outcome) -> list[Any]:
    # Of one that did not complete nobody asks for the last event, whose class the workflow need not name.
    return [outcome.status, outcome.event if outcome.error is None else None, outcome.error]


def _dump_invocation(invocation: Invocation, now: float) -> dict[str, Any]:
    info = invocation.retry_info
    started = invocation.first_started_at
    parked = 0.0 if invocation.parked_at is None else now - invocation.parked_at
    return {
        "number": invocation.number,
        "step": invocation.spec.name,
        "event": invocation.event,
        "lineage": _dump_lineage(invocation.lineage),
        "attempt": invocation.attempt,
        "failures": invocation.failures,
        "elapsed": None if started is None else now - started - parked,
        "retry_in": None if invocation.retry_at is None else max(0.0, invocation.retry_at - now),
        "retry_info": [info.retry_number, info.elapsed_seconds, info.last_exception, info.last_failed_at],
        "sends": invocation.sends,
        "writes": invocation.writes,
        "collects": invocation.collects,
        "collected": None if invocation.collected is None else sorted(invocation.collected),
        "waits": None if invocation.waits is None else [_dump_wait(wait, now) for wait in invocation.waits.values()],
        "done_once": invocation.done_once,
    }


def _dump_wait(wait: Wait, now: float) -> dict[str, Any]:
    return {
        "number": wait.number,
        "key": wait.key,
        "event_type": None if wait.event_type is None else stored_name(wait.event_type),
        "requirements": wait.requirements,
        "left": None if wait.deadline is None else wait.deadline - now,
        "input_id": wait.input_id,
        "state": wait.state,
        "answer": wait.answer,
        "runs": list(wait.runs),
    }


def _dump_input(question: OpenInput, now: float) -> dict[str, Any]:
    return {
        "input_id": question.input_id,
        "request": question.request,
        "response": stored_name(question.response),
        "step": question.step,
        "age": now - question.asked_at,
        "left": None if question.expires_at is None else question.expires_at - now,
        "wait": question.wait,
        "lineage": _dump_lineage(question.lineage),
    }


def _dump_lineage(lineage: Lineage | None) -> list[Any] | None:
    if lineage is None:
        return None
    return [lineage.recoveries, None if lineage.fan_out is None else lineage.fan_out.number]


def _dump_fan_out(fan_out: FanOut) -> dict[str, Any]:
    return {
        "number": fan_out.number,
        "producer": fan_out.producer,
        "outer": _dump_lineage(fan_out.outer),
        "gathered": {
            step: [list(gathered.events), dict(gathered.recoveries)] for step, gathered in fan_out.gathered.items()
        },
        "served": sorted(fan_out.served),
    }


def read_document(graph: Graph, document: Any, registry: TypeRegistry, within: Sequence[Graph] = ()) -> RunState:
    """Return the run of a document, put away, with a clock that stands at 0.

    Args:
        graph: The workflow's graph.
        document: What `load_snapshot` returned.
        registry: The classes that may be built.
        within: The graphs of the runs within this one, in the order in which the document tells of them.

    Raises:
        ContextSerdeError: If it is not whole.
    """
    try:
        state = _read(graph, document, registry)
        _read_children(state, document, registry, within)
        return state
    except ContextSerdeError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ContextSerdeError(f"the snapshot of {graph.name} is not whole: {error!r}") from error


def _read(graph: Graph, document: dict[str, Any], registry: TypeRegistry) -> RunState:
    shared = document["state"]
    if not isinstance(shared, BaseModel) or not isinstance(shared, graph.state_type or DictState):
        raise ContextSerdeError(f"the snapshot holds a state of {type(shared).__name__}, which is not the workflow's")
    state = RunState(graph, _text(document["run_id"]), store=StateStore(graph.state_type, shared))
    state.origin = _text(document["origin"])
    state.place = (_count(document["published"]), 0)
    state.tally = Tally.load(document["tally"], graph)
    counters = map(_count, document["next"])
    state.next_invocation, state.next_delayed, state.next_wait, state.next_input, state.next_fan_out = counters
    for item in document["fan_outs"]:
        _read_fan_out(state, item)
    for item in document["invocations"]:
        invocation = _read_invocation(state, item, registry)
        state.invocations[invocation.number] = invocation
        for wait in (invocation.waits or {}).values():
            if wait.state == "open":
                state.waits.add(wait)
    for step, buffer_id, events in document["buffers"]:
        buffer = state.buffers[_read_buffer_key(state, step, buffer_id)] = CollectBuffer()
        for event, recoveries in events:
            buffer.keep(_event(event), _read_recoveries(graph, recoveries))
    state.dedup_keys = set(map(_text, document["dedup_keys"]))
    state.held = [(_event(event), None if step is None else _step(graph, step)) for event, step in document["held"]]
    for number, event, step, left, lineage in document["delayed"]:
        target = None if step is None else _step(graph, step)
        state.delayed[_count(number)] = (_event(event), target, _seconds(left), _read_lineage(state, lineage))
    for item in document["inputs"]:
        question = _read_input(state, item, registry)
        state.inputs.open[question.input_id] = question
        if question.wait is not None and state.waits.by_number[question.wait].input_id != question.input_id:
            raise ValueError(f"question '{question.input_id}' and its wait do not name each other")
    for input_id, how in document["closed_inputs"].items():
        state.inputs.closed[_text(input_id)] = _one_of(how, get_args(InputEnd))
    state.dead_letters.extend(
        DeadLetter(_event(e), _text(reason), None if step is None else _text(step))
        for e, reason, step in document["dead_letters"]
    )
    if max(state.invocations, default=-1) >= state.next_invocation:
        raise ValueError("an invocation has a number that is still to be given")
    if any(not fan_out.live for fan_out in state.fan_outs.values()):
        raise ValueError("a fan-out is open of which nothing is left")
    state.put_away_as(_one_of(document["status"], ("running", *get_args(EndStatus))))
    return state


def _read_children(state: RunState, document: dict[str, Any], registry: TypeRegistry, graphs: Sequence[Graph]) -> None:
    runs = [state]
    for item in document["children"]:
        *path, name = map(_text, item["path"])
        parent = state
        for outer in path:
            found = parent.children[outer].run
            if found is None:
                raise ValueError(f"run '{outer}' has ended, and holds another")
            parent = found
        if name in parent.children:
            raise ValueError(f"run '{name}' is there twice")
        invocation = parent.invocations[_count(item["invocation"])]
        child = Child(name, invocation.number, _text(item["run_id"]), graphs[_count(item["graph"])])
        if item["outcome"] is not None:
            child.outcome = _read_outcome(*item["outcome"])
        else:
            run = child.run = _read(child.graph, item["run"], registry)
            run.depth = parent.depth + 1
            if run.origin.rpartition("~")[0] != f"{parent.origin}/{name}" != run.origin:
                raise ValueError(f"the questions of run '{name}' do not begin with its name")
            runs.append(run)
            child.early = [Responded(_text(input_id), _event(event)) for input_id, event in item["early"]]
        parent.children[name] = child
        if invocation.children is None:
            invocation.children = []
        invocation.children.append(name)
    for run in runs:
        for invocation in run.invocations.values():
            for wait in (invocation.waits or {}).values():
                _find_outcome(run, wait)


def _read_outcome(status: Any, event: Any, error: Any) -> Outcome:
    status = _one_of(status, get_args(EndStatus))
    if status == "completed":
        if not isinstance(event, StopEvent):
            raise TypeError(f"a stop event was expected, not {event!r}")
        return Outcome(status, event)
    if not isinstance(error, BaseException):
        raise TypeError(f"a failure was expected, not {error!r}")
    return Outcome(status, StopEvent(), error)


def _find_outcome(run: RunState, wait: Wait) -> None:
    """Find what a wait for children was answered."""
    outcomes = [run.children[name].outcome for name in wait.runs]
    if wait.state == "answered" and wait.runs:
        failed = [outcome for outcome in outcomes if outcome is not None and outcome.has_failed]
        wait.outcome = failed[0] if failed else outcomes[0]


def _read_fan_out(state: RunState, item: dict[str, Any]) -> None:
    """Read a fan-out; those around it have smaller numbers, and come first."""
    graph, number = state.graph, _count(item["number"])
    if number >= state.next_fan_out or number <= max(state.fan_outs, default=-1):
        raise ValueError(f"fan-out {number} is out of order")
    fan_out = FanOut(number, _step(graph, item["producer"]), _read_lineage(state, item["outer"]))
    for step, (events, recoveries) in item["gathered"].items():
        gathered = fan_out.gathered[_gathering(graph, step, Collect)] = Gathered()
        gathered.events = [_event(event) for event in events]
        gathered.recoveries = _read_recoveries(graph, recoveries)
    fan_out.served = {_gathering(graph, step, Collect) for step in item["served"]}
    if fan_out.served & set(fan_out.gathered):
        raise ValueError(f"fan-out {number} gathers for a step that was given its list")
    state.fan_outs[number] = fan_out


def _read_lineage(state: RunState, item: Any) -> Lineage | None:
    """Read the lineage of something that is unfinished, and count it in."""
    if item is None:
        return None
    recoveries, number = item
    fan_out = None if number is None else state.fan_outs[number]
    if fan_out is not None:
        fan_out.live += 1
    return Lineage(_read_recoveries(state.graph, recoveries), fan_out)


def _read_recoveries(graph: Graph, item: Any) -> Recoveries:
    return {_step(graph, step): _count(count) for step, count in item.items()}


def _read_buffer_key(state: RunState, step: Any, buffer_id: Any) -> BufferKey:
    if isinstance(buffer_id, str):
        return _step(state.graph, step), buffer_id
    if buffer_id is not None and _count(buffer_id) not in state.fan_outs:
        raise ValueError(f"there is no fan-out {buffer_id}")
    return _gathering(state.graph, step, Join), buffer_id


def _read_invocation(state: RunState, item: dict[str, Any], registry: TypeRegistry) -> Invocation:
    graph = state.graph
    spec = graph.steps[_step(graph, item["step"])]
    invocation = Invocation(_count(item["number"]), spec, _event(item["event"]), _read_lineage(state, item["lineage"]))
    if spec.gather is not None:
        if not isinstance(invocation.event, CollectionReleaseEvent):
            raise ValueError(f"step '{spec.name}' does not take {type(invocation.event).__name__} alone")
        if isinstance(spec.gather, Join) and len(invocation.event.events) != len(spec.gather.classes):
            raise ValueError(f"step '{spec.name}' joins {len(spec.gather.classes)} events")
    invocation.attempt = _count(item["attempt"]) + 1
    invocation.failures = _count(item["failures"])
    invocation.first_started_at = None if item["elapsed"] is None else -_seconds(item["elapsed"])
    invocation.retry_at = None if item["retry_in"] is None else _seconds(item["retry_in"])
    retry_number, elapsed, error, failed_at = item["retry_info"]
    if not isinstance(error, Exception | None) or not isinstance(failed_at, datetime | None):
        raise TypeError(f"a failure was expected, not {error!r} at {failed_at!r}")
    invocation.retry_info = RetryInfo(_count(retry_number), _seconds(elapsed), error, failed_at)
    invocation.sends, invocation.writes = _count(item["sends"]), _count(item["writes"])
    if item["collects"] is not None:
        invocation.collects = [None if batch is None else [_event(e) for e in batch] for batch in item["collects"]]
    invocation.collected = None if item["collected"] is None else set(map(_text, item["collected"]))
    if item["done_once"] is not None:
        invocation.done_once = {_text(key): result for key, result in item["done_once"].items()}
    if item["waits"] is not None:
        invocation.waits = {wait["key"]: _read_wait(invocation, wait, registry) for wait in item["waits"]}
    return invocation


def _read_wait(invocation: Invocation, item: dict[str, Any], registry: TypeRegistry) -> Wait:
    event_type = None if item["event_type"] is None else registry.get(item["event_type"])
    left = item["left"]
    wait = Wait(
        _count(item["number"]),
        invocation.number,
        invocation.spec.name,
        _text(item["key"]),
        event_type if event_type is not None and issubclass(event_type, Event) else None,
        item["requirements"],
        None if left is None else _seconds(left),
        tuple(map(_text, item["runs"])),
    )
    wait.input_id = None if item["input_id"] is None else _text(item["input_id"])
    wait.state = _one_of(item["state"], get_args(WaitState))
    wait.answer = _event(item["answer"]) if wait.state == "answered" and not wait.runs else None
    return wait


def _read_input(state: RunState, item: dict[str, Any], registry: TypeRegistry) -> OpenInput:
    response = registry.get(item["response"])
    if response is None or not issubclass(response, Event):
        raise ContextSerdeError(
            f"question '{item['input_id']}' is answered with {item['response']}, a class that the workflow's steps do"
            " not name: register it with greenroom.codec.register_type"
        )
    left = item["left"]
    expires_at = None if left is None else _seconds(left)
    asked_at = -_seconds(item["age"])
    return OpenInput(
        _text(item["input_id"]),
        _event(item["request"]),
        response,
        _text(item["step"]),
        asked_at,
        expires_at,
        None if item["wait"] is None else _count(item["wait"]),
        _read_lineage(state, item["lineage"]),
    )


def _event(value: Any) -> Event:
    if not isinstance(value, Event):
        raise TypeError(f"an event was expected, not an instance of {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not {value!r}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"a count was expected, not {value!r}")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_SECONDS:
        raise TypeError(f"a number of seconds was expected, not {value!r}")
    return float(value)


def _one_of(value: Any, words: tuple[str, ...]) -> Any:
    if value not in words:
        raise ValueError(f"one of {', '.join(words)} was expected, not {value!r}")
    return value


def _step(graph: Graph, name: Any) -> str:
    if name not in graph.steps:
        raise ValueError(f"there is no step {name!r}")
    return _text(name)


def _gathering(graph: Graph, name: Any, how: type[Collect | Join]) -> str:
    if not isinstance(graph.steps[_step(graph, name)].gather, how):
        raise ValueError(f"step '{name}' does not gather events in this way")
    return _text(name)
