"""Checkpoints: a run between two facts, to the letter, so that the facts that follow can be applied to it.

A snapshot is for going on elsewhere: bodies at work are forgotten there. A checkpoint also holds who has which worker
and who stands where, since the journal goes on with what those bodies told: of the run and of those within it. Only
the engine reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from greenroom.codec import TypeRegistry, decode
from greenroom.document import graphs_within, read_document, take_document
from greenroom.errors import ContextSerdeError
from greenroom.facts import Caller
from greenroom.fingerprint import graphs_told
from greenroom.graph import Graph
from greenroom.invocation import Invocation
from greenroom.journal import Gone
from greenroom.lanes import Lane
from greenroom.past_graph import PastGraphs, dump_steps, past_graph
from greenroom.run_state import RunState
from greenroom.run_state.child import Child
from greenroom.snapshot import dump_snapshot, open_snapshot, read_head
from greenroom.state import StoreCall
from greenroom.waits import Wait

__all__ = ["dump_checkpoint", "load_checkpoint"]


def dump_checkpoint(state: RunState, now: float, registry: TypeRegistry) -> bytes:
    """Return a run as bytes, to the letter.

    Args:
        state: The run, between two facts.
        now: The time of its clock, in seconds.
        registry: The classes whose instances it may contain.

    Raises:
        ContextSerdeError: If it holds something that cannot be encoded; the message starts with its path.
    """
    document = take_document(state, now)
    document["live"] = {
        "now": now,
        "steps": dump_steps(state.graph),
        "within": [dump_steps(graph) for graph in graphs_within(state)],
        "carried": state.carried,
        **_live(state),
        "children": list(_live_children(state, ())),
    }
    return dump_snapshot(document, registry)


def load_checkpoint(
    graph: Graph,
    data: bytes,
    registry: TypeRegistry,
    *,
    timeout: float | None,
    on_stuck: Any,
    within: PastGraphs | None = None,
) -> tuple[RunState, float]:
    """Return the run of a checkpoint and the time of its clock.

    Where a workflow was another one when it was taken, the run has the graph of then, and so have the runs within it:
    the journal was written by them. `greenroom.recovery` takes such a tree over to the graphs as they are.

    Args:
        graph: The graph of its workflow as it is.
        data: The checkpoint.
        registry: The classes that may be built.
        timeout: Seconds at work that the run may take, or None.
        on_stuck: What to do when it can never end.
        within: Finds the graphs of the runs within it; None where there are none.

    Raises:
        ContextSerdeError: If the bytes are no checkpoint, are damaged, are of a newer format, or
            name a class that the program has not named.
    """
    head, body = open_snapshot(data)
    outside = decode(head, registry)
    _, then = read_head(outside)  # The store goes by the name that the workflow was given.
    document = decode(body, registry)
    try:
        document = {**outside, **document}
        live = document["live"]
        then_graph = past_graph(graph, then, live["steps"], registry)
        told = zip(graphs_told(outside), live["within"], strict=True)
        within = within or PastGraphs((), registry)
        inside = [within.find(name, steps, more) for (name, steps), more in told]
        now = float(live["now"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ContextSerdeError(f"the checkpoint of a run of {graph.name} is not whole: {error!r}") from error
    state = read_document(then_graph, document, registry, inside)
    try:
        _read_live(state, live, now)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ContextSerdeError(f"the checkpoint of run '{state.run_id}' is not whole: {error!r}") from error
    state.timeout, state.on_stuck = timeout, on_stuck
    state.outcome = None
    return state, now


def _live(state: RunState) -> dict[str, Any]:
    """Return what a snapshot leaves out of a run, without those within it."""
    return {
        "order": list(state.invocations),
        "invocations": {number: _dump(invocation) for number, invocation in state.invocations.items()},
        "lanes": {
            name: [
                [invocation.number for invocation in lane.queue],
                [invocation.number for invocation in lane.retries],
                list(lane.freed),
                lane.used,
            ]
            for name, lane in state.lanes.items()
        },
        "worked": state.worked,
        "at_work_since": state.at_work_since,
        "idle_noted": state.idle_noted,
        "began_at": state.began_at,
        "editor": _dump_owner(state.store.editor),
        "line": [[call.method, list(call.arguments), _dump_owner(call.owner)] for call in state.store.line],
        "place": list(state.place),
        "busy": state.busy,
        "touched": list(state.touched),
    }


def _live_children(state: RunState, path: tuple[str, ...]) -> Iterator[list[Any]]:
    """Return what a snapshot leaves out of the runs within a run: flat, since a document cannot nest so deep."""
    for name, child in state.children.items():
        run = child.run
        lives = None if run is None else [run.outcome is not None, run.timeout, run.on_stuck, _live(run)]
        yield [[*path, name], _dump_child(child), lives]
        if run is not None:
            yield from _live_children(run, (*path, name))


def _read_live(state: RunState, live: Any, now: float) -> None:
    state.shift_clock(now)
    state.carried = live["carried"]
    _read_run(state, live)
    waits: dict[int, dict[int, Wait]] = {}  # of each run, by its id here
    for (*path, name), item, lives in live["children"]:
        parent = state
        for outer in path:
            found = parent.children[outer].run
            if found is None:
                raise ValueError(f"run '{outer}' has ended, and holds another")
            parent = found
        if id(parent) not in waits:
            waits[id(parent)] = _waits_of(parent)
        _read_child(parent.children[name], item, lives, waits[id(parent)])
    _count_dozing(state)


def _waits_of(state: RunState) -> dict[int, Wait]:
    return {wait.number: wait for inv in state.invocations.values() for wait in (inv.waits or {}).values()}


def _count_dozing(state: RunState) -> None:
    for child in state.children.values():
        if child.run is not None:
            _count_dozing(child.run)
            child.is_dozing = child.is_busy and child.run.only_waits
    state.dozing = sum(child.is_dozing for child in state.children.values())


def _read_run(state: RunState, live: Any) -> None:
    state.invocations = {number: state.invocations[number] for number in live["order"]}
    for number, item in live["invocations"].items():
        _read(state.invocations[number], item, state)
    for name, (queue, retries, freed, used) in live["lanes"].items():
        lane = state.lanes[name] = Lane(state.graph.steps[name])
        lane.queue.extend(state.invocations[number] for number in queue)
        lane.retries.extend(state.invocations[number] for number in retries)
        lane.freed, lane.used = list(freed), used
    state.parked = sum(inv.parked_at is not None and inv.ready is None for inv in state.invocations.values())
    state.retrying = sum(inv.retry_at is not None for inv in state.invocations.values())
    state.worked, state.at_work_since = live["worked"], live["at_work_since"]
    state.idle_noted, state.began_at = live["idle_noted"], live["began_at"]
    state.store.resume_edit(
        _read_owner(live["editor"]),
        [StoreCall(method, tuple(arguments), _read_owner(owner)) for method, arguments, owner in live["line"]],
    )
    first, second = live["place"]
    state.place, state.busy, state.touched = (first, second), live["busy"], dict.fromkeys(live["touched"])


def _dump_child(child: Child) -> list[Any]:
    return [
        child.cast is not None,
        child.is_told,
        child.is_busy,
        [wait.number for wait in child.waits],
        sorted(child.timers, key=repr),
        list(child.lifted),
        child.closed,
    ]


def _read_child(child: Child, item: list[Any], lives: list[Any] | None, waits: Mapping[int, Wait]) -> None:
    has_cast, child.is_told, child.is_busy, awaited, timers, (first, second), child.closed = item
    child.cast = Gone(child.run_id) if has_cast else None
    child.waits = [waits[number] for number in awaited]
    child.timers = set(timers)
    child.lifted = (first, second)
    if child.run is not None and lives is not None:
        is_over, child.run.timeout, child.run.on_stuck, live = lives
        _read_run(child.run, live)
        if not is_over:
            child.run.outcome = None


def _dump(invocation: Invocation) -> list[Any]:
    return [
        invocation.attempt,
        invocation.worker,
        invocation.parked_at,
        invocation.first_started_at,
        invocation.is_live,
        invocation.unwinds,
        None if invocation.ready is None else [wait.key for wait in invocation.ready],
        {wait.key: wait.left for wait in (invocation.waits or {}).values() if wait.runs},
        invocation.time_left,
        invocation.step_deadline,
        invocation.skips_sends,
        invocation.skips_writes,
        invocation.collect_position,
    ]


def _read(invocation: Invocation, item: list[Any], state: RunState) -> None:
    (
        invocation.attempt,
        invocation.worker,
        invocation.parked_at,
        invocation.first_started_at,
        invocation.is_live,
        invocation.unwinds,
        ready,
        left,
        invocation.time_left,
        invocation.step_deadline,
        invocation.skips_sends,
        invocation.skips_writes,
        invocation.collect_position,
    ) = item
    for key, count in left.items():
        (invocation.waits or {})[key].left = count
    if ready is not None:
        invocation.ready = [(invocation.waits or {})[key] for key in ready]


def _dump_owner(owner: Any) -> list[Any] | None:
    if owner is None:
        return None
    return ["step", *owner] if isinstance(owner, Caller) else ["outside", *map(str, owner)]


def _read_owner(owner: Any) -> Any:
    if owner is None:
        return None
    return Caller(*owner[1:]) if owner[0] == "step" else tuple(owner)
