"""Reading an unfinished run of a store: its checkpoint and journal, and what the code as it is now makes of it.

The run is replayed with the graph that its journal was written with, and then taken over to the graph as it is; each
run within it likewise. A difference between the two matters only where something unfinished of that run stands on it: a
new step does not, nor does a step that is gone and has nothing to do any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from greenroom.buffers import CollectBuffer
from greenroom.checkpoint import load_checkpoint
from greenroom.codec import TypeRegistry
from greenroom.errors import ContextSerdeError
from greenroom.events import Event
from greenroom.graph import Graph
from greenroom.invocation import Invocation
from greenroom.journal import replay
from greenroom.lineage import Lineage, Recoveries
from greenroom.past_graph import PastGraphs, present_graph
from greenroom.run_state import RunState
from greenroom.state import DictState
from greenroom.steps import StepSpec

__all__ = ["Fault", "FaultsError", "Recovery", "read_run", "within_run"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something of an unfinished run that the code as it is now has no place for.

    Attributes:
        place: Where in the run it stands, as "invocation 3" or "journal record 17". Of a run within it: with that run.
        problem: What is wrong, and what to do.
        step: The step that it concerns, or None.
        event: The class of the event, or of another value, that it concerns, or None.
        field: The field of it, or None.
        workflow: The name of the workflow of the run within it that it concerns; None: it concerns the run itself.
    """

    place: str
    problem: str
    step: str | None = None
    event: str | None = None
    field: str | None = None
    workflow: str | None = None


class FaultsError(ContextSerdeError):
    """A run cannot go on by the code as it is now.

    Attributes:
        faults: All that was found.
    """

    def __init__(self, message: str, faults: Sequence[Fault]) -> None:
        super().__init__(message + "".join(f"\n  - {fault.place}: {fault.problem}" for fault in faults))
        self.faults = tuple(faults)


class Recovery(NamedTuple):
    """An unfinished run, read.

    Attributes:
        state: The run, with the graph as it is now.
        last: When its last fact was applied, by its clock.
        has_moved: Whether a graph was another one, so that what is journaled from now on needs a new checkpoint.
        has_rested: Whether it was put to rest, so that no body was at work.
    """

    state: RunState
    last: float
    has_moved: bool
    has_rested: bool


def read_run(
    graph: Graph,
    checkpoint: bytes,
    records: Sequence[tuple[int, bytes]],
    registry: TypeRegistry,
    *,
    published: int,
    timeout: float | None,
    on_stuck: Any,
    named: Sequence[Graph] = (),
) -> Recovery:
    """Return an unfinished run as the code as it is now can go on with it.

    Args:
        graph: The graph of its workflow as it is now.
        checkpoint: Its newest checkpoint.
        records: The records after it, with their numbers.
        registry: The classes that may be built.
        published: How many events its stream has.
        timeout: Seconds at work that it may take, or None.
        on_stuck: What to do when it can never end.
        named: The graphs of the workflows that runs within it may be of.

    Raises:
        ContextSerdeError: If something cannot be read, or does not apply any more.
    """
    within = PastGraphs(named, registry)
    state, last = load_checkpoint(graph, checkpoint, registry, timeout=timeout, on_stuck=on_stuck, within=within)
    has_rested = not (records or any(_has_bodies(run) for _, run in _tree(state)))
    first = records[0][0] if records else 0
    last = replay(state, [record for _, record in records], registry, within, first) or last
    _check_replay(state, published)
    state.notes.clear()  # They were told when it happened.
    changed = [(place, run) for place, run in _tree(state) if present_graph(run.graph) is not run.graph]
    faults = [fault for place, run in changed for fault in _faults_of(place, run)]
    if faults:
        names = " and ".join(dict.fromkeys(run.graph.name for _, run in changed))
        raise FaultsError(f"{names} has changed, and this run stands on what has changed:", faults)
    for _, run in changed:
        _move(run, present_graph(run.graph))
    _move_children(state)
    return Recovery(state, last, bool(changed), has_rested)


def _has_bodies(run: RunState) -> bool:
    at_work = (
        inv.worker is not None or (inv.is_live and inv.parked_at is not None) for inv in run.invocations.values()
    )
    return any(at_work)


def _check_replay(state: RunState, published: int) -> None:
    """Raise if the run went another way than it did: what decided, as what class an event is of, is not what it was."""
    if state.outcome is not None:
        how = f" ({state.outcome.error!r})" if state.outcome.error is not None else ""
        raise ContextSerdeError(
            f"the run has not ended, but by the code as it is now it is {state.outcome.status}{how}: have the classes"
            " of its events changed?"
        )
    if state.published != published:
        raise ContextSerdeError(
            f"the run has streamed {published} events, but by the code as it is now it would have been"
            f" {state.published}: have the classes of its events changed?"
        )


def _tree(state: RunState, place: str = "") -> Iterator[tuple[str, RunState]]:
    """Return a run and those within it, each with what is said of it before the place of a fault."""
    yield place, state
    for child in state.children.values():
        if child.run is not None:
            yield from _tree(child.run, within_run(child.run_id, child.graph.name))


def within_run(run_id: str, workflow: str) -> str:
    """Return what is said before the place of a fault in a run within another."""
    return f"run '{run_id}' of {workflow}, "


def _faults_of(place: str, run: RunState) -> Iterator[Fault]:
    for fault in _find_faults(run, present_graph(run.graph)):
        yield replace(fault, place=place + fault.place, workflow=run.graph.name) if place else fault


def _move_children(state: RunState) -> None:
    """Have the runs within a run, those that have ended included, known by the graphs as they are."""
    for child in state.children.values():
        child.graph = present_graph(child.graph)
        if child.run is not None:
            _move_children(child.run)


def _find_faults(state: RunState, graph: Graph) -> Iterator[Fault]:
    """Find what is unfinished and stands on a difference between the run's graph and the one that is given."""
    shared = state.store.state
    if not isinstance(shared, graph.state_type or DictState):
        name = type(shared).__name__
        yield Fault("the shared state", f"it is a {name}, which is not the workflow's state any more", event=name)
    for invocation in state.invocations.values():
        yield from _invocation_faults(state, graph, invocation)
    for (step, _), events in state.buffered().items():
        if events and not _gathers_as_before(state, graph, step):
            names = ", ".join(type(event).__name__ for event in events)
            yield Fault("a collection", f"{_gone_or_changed(graph, step)}, and has collected {names}", step, names)
    for event, target, *_ in state.delayed.values():
        yield from _delivery_faults(state, graph, event, target, "a delayed event")
    for event, target in state.held:
        if target is not None:
            yield from _delivery_faults(state, graph, event, target, "an event that is held for a wait")
    for question in state.inputs.open.values():
        if question.wait is None and state.graph.route(question.response) and not graph.route(question.response):
            name = question.response.__name__
            yield Fault(f"question '{question.input_id}'", f"no step takes its answer, {name}", question.step, name)
    for fan_out in state.fan_outs.values():
        before, after = (sorted(s.name for s in g.collectors(fan_out.producer)) for g in (state.graph, graph))
        steps = {fan_out.producer, *fan_out.gathered, *before}
        for step in sorted(steps):
            if step != fan_out.producer and not _gathers_as_before(state, graph, step):
                yield Fault("an open fan-out", f"{_gone_or_changed(graph, step)}, and gathers from it", step)
        if before != after:
            gathers = ", ".join(after) or "no step"
            yield Fault(
                "an open fan-out",
                f"its list was gathered by {', '.join(before) or 'no step'}, and {gathers} would gather it now",
                fan_out.producer,
            )


def _invocation_faults(state: RunState, graph: Graph, invocation: Invocation) -> Iterator[Fault]:
    step, event = invocation.spec.name, type(invocation.event)
    place = f"invocation {invocation.number}"
    spec = graph.steps.get(step)
    if spec is None:
        yield Fault(place, f"step '{step}' is gone, and has {event.__name__} in hand", step, event.__name__)
    elif (spec.gather is None) != (invocation.spec.gather is None) or not _takes(spec, invocation.event):
        yield Fault(
            place,
            f"step '{step}' has {event.__name__} in hand, which it does not take any more: it is {spec.signature()}",
            step,
            event.__name__,
        )


def _takes(spec: StepSpec, event: Event) -> bool:
    if spec.gather is None:
        return isinstance(event, spec.accepts)
    return all(isinstance(each, spec.accepts) for each in event.events)


def _delivery_faults(state: RunState, graph: Graph, event: Event, target: str | None, place: str) -> Iterator[Fault]:
    name = type(event).__name__
    if target is not None:
        problem = graph.check_target(target, type(event))
        if problem is not None:
            yield Fault(place, problem, target, name)
    elif state.graph.route(type(event)) and not graph.route(type(event)):
        steps = ", ".join(f"'{spec.name}'" for spec in state.graph.route(type(event)))
        yield Fault(place, f"no step takes {name} any more; it was for {steps}", event=name)


def _gathers_as_before(state: RunState, graph: Graph, step: str) -> bool:
    before, after = state.graph.steps.get(step), graph.steps.get(step)
    if before is None or after is None:
        return False
    kinds = type(before.gather) is type(after.gather)
    return kinds and (before.gather is None or set(before.accepts) <= set(after.accepts))


def _gone_or_changed(graph: Graph, step: str) -> str:
    return f"step '{step}' gathers otherwise now" if step in graph.steps else f"step '{step}' is gone"


def _move(state: RunState, graph: Graph) -> None:
    """Take a run over to another graph, in which all that is unfinished has its place."""
    state.graph = graph
    for invocation in state.invocations.values():
        invocation.spec = graph.steps[invocation.spec.name]
    # What a step that is gone had used up of its recovery budget counts for nobody.
    for lineage in _lineages(state):
        lineage.recoveries = _still_counted(lineage.recoveries, graph)
    for fan_out in state.fan_outs.values():
        fan_out.served &= set(graph.steps)
        for gathered in fan_out.gathered.values():
            gathered.recoveries = _still_counted(gathered.recoveries, graph)
    for place, buffer in state.buffers.items():
        state.buffers[place] = CollectBuffer()
        for event, recoveries in buffer.arrivals:
            state.buffers[place].keep(event, _still_counted(recoveries, graph))
    tally = state.tally
    for step in [step for step in tally.finished if step not in graph.steps]:
        del tally.finished[step]
    for key in [key for key in tally.deeds if key[1] and key[1] not in graph.steps]:
        del tally.deeds[key]


def _lineages(state: RunState) -> Iterator[Lineage]:
    found = [invocation.lineage for invocation in state.invocations.values()]
    found += [lineage for *_, lineage in state.delayed.values()]
    found += [question.lineage for question in state.inputs.open.values()]
    found += [fan_out.outer for fan_out in state.fan_outs.values()]
    return (lineage for lineage in found if lineage is not None)


def _still_counted(recoveries: Recoveries, graph: Graph) -> Recoveries:
    return {step: count for step, count in recoveries.items() if step in graph.steps}
