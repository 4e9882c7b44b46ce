"""The journal of a run: its facts as bytes, and back.

A run is its facts: applied in the same order at the same times they give the same state. A record is one fact and the
time at which it was applied. Facts that change nothing, as reading the shared state, are not recorded.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from greenroom.child_facts import ChildAsked, ChildAwaited, ChildCancelAsked, ForChild
from greenroom.codec import TypeRegistry, decode, encode, global_registry, transcribe
from greenroom.errors import ContextSerdeError
from greenroom.facts import (
    BecameQuiet,
    Caller,
    CancelAsked,
    Carried,
    CollectAsked,
    Crashed,
    EventArrived,
    EventSent,
    EventWritten,
    Fact,
    Failed,
    Finished,
    OnceDone,
    PassivateAsked,
    PostRefused,
    Recovered,
    Responded,
    RunResumed,
    RunStarted,
    TimerFired,
    WaitAsked,
)
from greenroom.fingerprint import taken_down
from greenroom.past_graph import PastGraphs, dump_steps
from greenroom.run_state import RunState
from greenroom.state import StoreCall

__all__ = ["RecordError", "decode_record", "describe_record", "encode_fact", "is_recorded", "pack_record", "replay"]

_TIME = struct.Struct(">d")

# The fields of each kind of fact, in the order in which it takes them.
_FIELDS: dict[type, tuple[str, ...]] = {
    RunStarted: ("event",),
    RunResumed: (),
    Recovered: ("last",),
    Carried: ("texts",),
    EventArrived: ("event", "step", "dedup_key"),
    EventSent: ("invocation", "attempt", "event", "step", "delay"),
    EventWritten: ("invocation", "attempt", "event"),
    CollectAsked: ("invocation", "attempt", "event", "own", "expected", "buffer_id"),
    WaitAsked: (
        "invocation",
        "attempt",
        "key",
        "event_type",
        "requirements",
        "timeout",
        "request",
        "is_question",
    ),
    ChildAsked: ("invocation", "attempt", "name", "run_id", "graph", "event", "timeout", "on_stuck"),
    ChildAwaited: ("invocation", "attempt", "name", "nth", "timeout"),
    ChildCancelAsked: ("invocation", "attempt", "name"),
    ForChild: ("path", "fact"),
    OnceDone: ("invocation", "attempt", "key", "result"),
    Responded: ("input_id", "event"),
    PostRefused: ("event", "reason", "token"),
    PassivateAsked: ("invocation", "attempt"),
    Finished: ("invocation", "attempt", "event"),
    Failed: ("invocation", "attempt", "error", "failed_at", "retry_in"),
    TimerFired: ("key", "at", "retry_in"),
    CancelAsked: ("error",),
    Crashed: ("error",),
    BecameQuiet: (),
    StoreCall: ("method", "arguments", "owner"),
}
# The kinds whose fields are written as they are.
_PLAIN = frozenset(
    {RunStarted, EventArrived, EventSent, EventWritten, Finished, Failed, OnceDone, Responded, TimerFired}
)


class Gone:
    """Stands for what ran the steps of a child, in the process that is no more. The child may be ended all the same."""

    steps: ClassVar[Mapping[str, Any]] = {}
    resources = None

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id


_KINDS = {kind.__name__: kind for kind in _FIELDS}


def is_recorded(message: object) -> bool:
    """Return whether a message is a fact that changes the run, so that the journal must have it."""
    kind = type(message)
    if kind is StoreCall:
        return not message.is_read  # type: ignore[attr-defined]
    if kind is ForChild:
        return is_recorded(message.fact)  # type: ignore[attr-defined]
    return kind in _FIELDS


def encode_fact(fact: Fact, registry: TypeRegistry) -> bytes:
    """Return a fact as bytes. Who asked is left out: nobody outlives the process.

    Raises:
        ContextSerdeError: If it holds something that cannot be encoded; the message starts with its path.
    """
    kind = type(fact)
    if isinstance(fact, ForChild):
        return encode([kind.__name__, list(fact.path), encode_fact(fact.fact, registry)], registry)
    values = [getattr(fact, name) for name in _FIELDS[kind]]
    if kind not in _PLAIN:
        values = [_written(fact, name, value, registry) for name, value in zip(_FIELDS[kind], values, strict=True)]
    try:
        return encode([kind.__name__, *values], registry)
    except ContextSerdeError:
        for name, value in zip(_FIELDS[kind], values, strict=True):
            encode(value, registry, root=name)  # raises with the path that begins with the field's name
        raise


def decode_fact(data: bytes, state: RunState, registry: TypeRegistry, within: PastGraphs) -> Fact:
    """Return the fact that `encode_fact` wrote.

    Args:
        data: The bytes.
        state: The run as it was when the fact came.
        registry: The classes that may be built.
        within: Finds the graphs of the runs within this one.

    Raises:
        ContextSerdeError: If the bytes are damaged, or name a kind of fact or a class that there is not.
    """
    try:
        name, *values = decode(data, registry)
        kind = _KINDS[name]
        if kind is ForChild:
            path, inner = values
            return ForChild(tuple(path), decode_fact(inner, _state_at(state, path), registry, within))
        if kind is ChildAsked:
            return _child_asked(*values, within=within)
        fields = dict(zip(_FIELDS[kind], values, strict=True))
        arguments = [_read(fields, field, state, registry) for field in _FIELDS[kind]]
        fact: Fact = kind(*arguments)
    except ContextSerdeError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ContextSerdeError(f"a record of run '{state.run_id}' cannot be read: {error!r}") from error
    return fact


def _state_at(state: RunState, path: list[str]) -> RunState:
    """Return the state of a child, or of its parent if it has ended: what comes for it then changes nothing."""
    for name in path:
        child = state.children.get(name)
        if child is None or child.run is None:
            break
        state = child.run
    return state


def _child_asked(
    invocation: int,
    attempt: int,
    name: str,
    run_id: str,
    graph_then: list[Any],
    event: Any,
    timeout: float | None,
    on_stuck: Any,
    *,
    within: PastGraphs,
) -> ChildAsked:
    past = within.find(*graph_then)
    return ChildAsked(invocation, attempt, name, run_id, past, event, timeout, on_stuck, Gone(run_id), None)


def pack_record(now: float, fact: bytes) -> bytes:
    """Return a record: a fact and the time of the run's clock at which it was applied."""
    return _TIME.pack(now) + fact


def unpack_record(record: bytes) -> tuple[float, bytes]:
    """Return the time and the fact of a record.

    Raises:
        ContextSerdeError: If it is too short.
    """
    if len(record) <= _TIME.size:
        raise ContextSerdeError("a record of the journal is cut short")
    return _TIME.unpack_from(record)[0], record[_TIME.size :]


def _written(fact: Any, name: str, value: Any, registry: TypeRegistry) -> Any:
    if name == "event" and isinstance(fact, CollectAsked) and fact.own:
        return None  # The invocation has it.
    if name == "event_type":
        return _class_name(value, registry)
    if name == "expected":
        if isinstance(value, Mapping):
            return {_class_name(cls, registry): count for cls, count in value.items()}
        return [_class_name(cls, registry) for cls in value]
    if name == "requirements":
        return dict(value)
    if name == "graph":
        return [value.name, taken_down(value), dump_steps(value)]
    if name == "owner":
        return ["step", *value] if isinstance(value, Caller) else ["outside", *map(str, value)]
    if name == "arguments":
        return list(value)
    return value


def _read(fields: dict[str, Any], name: str, state: RunState, registry: TypeRegistry) -> Any:
    if name == "event" and fields[name] is None and "own" in fields:
        invocation = state.invocations.get(fields["invocation"])
        if invocation is None:
            raise ValueError(f"invocation {fields['invocation']} is not there")
        return invocation.event
    value: Any = fields[name]
    if name == "event_type":
        return _class_named(value, registry)
    if name == "expected":
        if isinstance(value, Mapping):
            return {_class_named(cls, registry): count for cls, count in value.items()}
        return [_class_named(cls, registry) for cls in value]
    if name == "owner":
        return Caller(*value[1:]) if value[0] == "step" else tuple(value)
    if name == "arguments":
        return tuple(value)
    return value


def _class_name(cls: type[Any], registry: TypeRegistry) -> str:
    name = registry.name_of(cls)
    if name is None:
        raise ContextSerdeError(
            f"{cls.__module__}:{cls.__qualname__} is not named by the workflow's annotations or code: register it with"
            " greenroom.codec.register_type, so that the run can be read again"
        )
    return name


def _class_named(name: Any, registry: TypeRegistry) -> type[Any]:
    cls = registry.get(name)
    if cls is None:
        raise ContextSerdeError(f"the journal names {name}, a class that the workflow does not name any more")
    return cls


def replay(
    state: RunState,
    records: Sequence[bytes],
    registry: TypeRegistry,
    within: PastGraphs | None = None,
    first: int = 0,
) -> float | None:
    """Apply records to a run; return the time of the last one, or None where there is none.

    Args:
        state: The run, as it was before the first of them.
        records: The records.
        registry: The classes that may be built.
        within: Finds the graphs of the runs within this one; None where there are none.
        first: The number of the first of them, for messages.

    Raises:
        RecordError: If one cannot be read, or does not apply.
    """
    last: float | None = None
    within = within or PastGraphs((), registry)
    for number, record in enumerate(records, first):
        if state.outcome is not None:
            how = f" ({state.outcome.error!r})" if state.outcome.error is not None else ""
            error = ContextSerdeError(
                f"the run had not ended before it, but by the code as it is now it is {state.outcome.status}{how}:"
                " have the classes of its events changed?"
            )
            raise RecordError(number, record, state, error)
        try:
            last, data = unpack_record(record)
            state.apply(decode_fact(data, state, registry, within), last)
        except (ContextSerdeError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
            raise RecordError(number, record, state, error) from error
    return last


class RecordError(ContextSerdeError):
    """A record of the journal cannot be read, or does not apply to the run as it is by then.

    Attributes:
        number: The number of the record.
        kind: What it tells, as `Finished`, or None if even that cannot be read.
        step: The step that it is about, or None.
        within: The id and the workflow of the run within the run that it is about; None for the run itself.
        reason: What is wrong with it.
    """

    def __init__(self, number: int, record: bytes, state: RunState, error: Exception) -> None:
        self.number = number
        self.kind, self.step, self.within = _subject(record, state)
        of_step = "" if self.step is None else f" of step '{self.step}'"
        if self.within is not None:
            of_step += f" in run '{self.within[0]}' of {self.within[1]}"
        what = f", {self.kind}{of_step}," if self.kind is not None else ""
        self.reason = str(error) if isinstance(error, ContextSerdeError) else repr(error)
        super().__init__(f"journal record {number}{what} cannot be applied: {self.reason}")
        if isinstance(error, ContextSerdeError):
            self.type_name, self.field = error.type_name, error.field


def decode_record(record: bytes, registry: TypeRegistry) -> None:
    """Check that the values of a record can be built, without the run that it applies to.

    Raises:
        ContextSerdeError: If they cannot.
    """
    decode(_own_fact(unpack_record(record)[1])[1], registry)


def describe_record(record: bytes) -> tuple[float, str, dict[str, Any]]:
    """Return the time, the kind and the fields of a record as JSON-able values. No class is built or looked up.

    Of a fact of a run within the run, the path to that run is one of the fields.

    Raises:
        ContextSerdeError: If it is damaged.
    """
    at, data = unpack_record(record)
    path, data = _own_fact(data)
    content = transcribe(data)
    if not isinstance(content, list) or not content or content[0] not in _KINDS:
        raise ContextSerdeError("a record of the journal tells no kind of fact that there is")
    fields = dict(zip(_FIELDS[_KINDS[content[0]]], content[1:], strict=False))
    return at, content[0], {"path": path, **fields} if path else fields


def _own_fact(data: bytes) -> tuple[list[str], bytes]:
    """Return the path to the run that a fact is about, empty for the run itself, and the fact as that run sees it."""
    content = transcribe(data)
    if isinstance(content, list) and len(content) == 3 and content[0] == ForChild.__name__:
        _, path, inner = decode(data, global_registry)
        if isinstance(path, list) and isinstance(inner, bytes):
            return path, inner
    return [], data


def _subject(record: bytes, state: RunState) -> tuple[str | None, str | None, tuple[str, str] | None]:
    try:
        _, kind, fields = describe_record(record)
    except ContextSerdeError:
        return None, None, None
    about = _state_at(state, fields.get("path", []))
    number = fields.get("invocation")
    invocation = about.invocations.get(number) if isinstance(number, int) else None
    step = fields.get("step") if invocation is None else invocation.spec.name
    return kind, step, None if about is state else (about.run_id, about.graph.name)
