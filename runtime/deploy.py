"""Before a deploy: what the code as it is now would make of the unfinished runs in a store."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from greenroom.codec import TypeRegistry, decode, from_jsonable, transcribe
from greenroom.document import take_document
from greenroom.errors import ContextSerdeError, StoreError, WorkflowRuntimeError
from greenroom.facts import EventArrived, PostRefused
from greenroom.inbox import read_entry, read_question
from greenroom.journal import RecordError, decode_record
from greenroom.named import graphs_named_by, registry_of
from greenroom.recovery import Fault, FaultsError, read_run, within_run
from greenroom.snapshot import open_snapshot
from greenroom.stores import Loaded, RunStore, Status

if TYPE_CHECKING:
    from greenroom.workflow import Workflow

__all__ = ["BrokenRun", "Fault", "Report", "check"]

_PAGE = 50
_UNFINISHED: tuple[Status, ...] = ("running", "set_aside")


@dataclasses.dataclass(frozen=True, slots=True)
class BrokenRun:
    """An unfinished run that would not go on as it should.

    Attributes:
        run_id: The run.
        workflow: The name of its workflow.
        status: "running", or "set_aside" for one that has been set aside before.
        faults: What would break.
    """

    run_id: str
    workflow: str
    status: Status
    faults: tuple[Fault, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What `check` found.

    Attributes:
        checked: How many unfinished runs were looked at.
        broken: Those that would break.
        others: How many unfinished runs there are of workflows that were not given, by workflow.
    """

    checked: int
    broken: tuple[BrokenRun, ...]
    others: Mapping[str, int]


def check(
    store: RunStore,
    workflows: Iterable[Workflow | type[Workflow]],
    *,
    on_progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Load every unfinished run as the code as it is now would, and tell what would break. Nothing is changed.

    Looked at are the checkpoint and the journal of each run, its stream, its inbox and its questions; whether all that
    is unfinished has its place in the graph; and whether the values of its events and of its shared state fit the types
    of their fields. What a step's body does is not looked at: one that waits is run again from its top, and must ask
    the same questions and do the same things once, by the same keys.

    Args:
        store: The store. It is opened, and not closed.
        workflows: The workflows: objects, or classes that are made without arguments.
        on_progress: Is called with how many runs were looked at, and how many there are.

    Returns:
        The report; `not report.broken` says that all is well.

    Raises:
        WorkflowRuntimeError: If one of the workflows is none.
        StoreError: If the store failed.

    Example:
        >>> from greenroom import Runtime, StartEvent, StopEvent, Workflow, step
        >>> from greenroom.stores import MemoryStore
        >>> class Hello(Workflow):
        ...     @step
        ...     def hello(self, ev: StartEvent) -> StopEvent:
        ...         return StopEvent(result="hello")
        >>> report = check(MemoryStore(), [Hello])
        >>> report.checked, report.broken
        (0, ())
    """
    made = [workflow() if isinstance(workflow, type) else workflow for workflow in workflows]
    for workflow in made:
        if not hasattr(workflow, "workflow_name"):
            raise WorkflowRuntimeError(f"check() takes workflows and classes of them, not {workflow!r}")
    known = {workflow.workflow_name: workflow for workflow in made}
    store.open()
    ids: list[str] = []
    others: Counter[str] = Counter()
    for run_id, name in _unfinished(store):
        if name in known:
            ids.append(run_id)
        else:
            others[name] += 1
    registries = {name: registry_of(workflow) for name, workflow in known.items()}
    checked, broken = 0, []
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        for run_id, loaded in store.load(page).items():
            row = loaded.row if isinstance(loaded, Loaded) else store.row(run_id)
            if row is None or row.status not in _UNFINISHED:
                continue  # It has ended meanwhile.
            checked += 1
            if isinstance(loaded, StoreError):
                faults: Iterable[Fault] = [Fault("the store", str(loaded))]
            else:
                faults = _run_faults(store, loaded, known[row.workflow], registries[row.workflow])
            found = tuple(dict.fromkeys(faults))
            if found:
                broken.append(BrokenRun(run_id, row.workflow, row.status, found))
        if on_progress is not None:
            on_progress(start + len(page), len(ids))
    return Report(checked, tuple(broken), dict(sorted(others.items())))


def _unfinished(store: RunStore) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for status in _UNFINISHED:
        after: str | None = None
        while True:
            page = store.runs(status=status, newest_first=False, after=after, limit=1000)
            for row in page:
                if row.run_id not in seen:
                    seen.add(row.run_id)
                    yield row.run_id, row.workflow
            if len(page) < 1000:
                break
            after = page[-1].run_id


def _run_faults(store: RunStore, loaded: Loaded, workflow: Workflow, registry: TypeRegistry) -> Iterator[Fault]:
    run_id = loaded.row.run_id
    if loaded.snapshot is None:
        yield Fault("the checkpoint", "the store has none")
    else:
        yield from _state_faults(loaded, loaded.snapshot[1], workflow, registry)
    yield from _stream_faults(store, run_id, registry)
    for entry in store.inbox(run_id=run_id):
        place = f"inbox entry {entry.id}"
        try:
            fact = read_entry(entry, registry)
        except ContextSerdeError as error:
            yield _fault(place, error)
            continue
        if isinstance(fact, PostRefused):
            yield Fault(place, fact.reason)
        if isinstance(fact, EventArrived) and fact.step is not None:
            problem = workflow._graph.check_target(fact.step, type(fact.event))
            if problem is not None:
                yield Fault(place, problem, fact.step, type(fact.event).__name__)
    for question in store.inputs(run_id):
        try:
            read_question(question, registry)
        except ContextSerdeError as error:
            yield _fault(f"question '{question.input_id}'", error, question.step)


def _state_faults(loaded: Loaded, checkpoint: bytes, workflow: Workflow, registry: TypeRegistry) -> Iterator[Fault]:
    try:
        recovery = read_run(
            workflow._graph,
            checkpoint,
            loaded.records,
            registry,
            published=loaded.row.next_offset,
            timeout=workflow.timeout,
            on_stuck=workflow.on_stuck,
            named=graphs_named_by(workflow),
        )
    except FaultsError as error:
        yield from error.faults
    except RecordError as error:
        # What comes after it cannot be applied, but it can be read.
        place, workflow_within = f"journal record {error.number}", None
        if error.within is not None:
            place, workflow_within = within_run(*error.within) + place, error.within[1]
        yield Fault(place, error.reason, error.step, error.type_name, error.field, workflow_within)
        for number, record in loaded.records:
            if number > error.number:
                try:
                    decode_record(record, registry)
                except ContextSerdeError as later:
                    yield _fault(f"journal record {number}", later)
    except RecursionError as error:
        yield Fault("the run", f"it cannot be read: {error}")
    except ContextSerdeError as error:
        found = list(_checkpoint_faults(checkpoint, registry))
        yield from found or [_fault("the checkpoint", error)]
    else:
        for section in _sections(take_document(recovery.state, recovery.last)):
            for event, field, problem in _misfits(section.part):
                yield Fault(section.place, problem, section.step, event, field, section.workflow)


def _stream_faults(store: RunStore, run_id: str, registry: TypeRegistry) -> Iterator[Fault]:
    """Find what readers of the stream could not read; the first of each kind will do."""
    seen: set[tuple[str | None, str | None]] = set()
    after = -1
    while page := store.events(run_id, after):
        for offset, data in page:
            try:
                decode(data, registry)
            except ContextSerdeError as error:
                if (error.type_name, error.field) not in seen:
                    seen.add((error.type_name, error.field))
                    yield _fault(f"stream offset {offset}", error)
        after = page[-1][0]


def _checkpoint_faults(checkpoint: bytes, registry: TypeRegistry) -> Iterator[Fault]:
    """Find each value of a checkpoint that cannot be built, not only the first."""
    try:
        head, body = open_snapshot(checkpoint)
        for section in _sections({**transcribe(head), **transcribe(body)}):
            for error in _unreadable(section.part, registry):
                yield _fault(section.place, error, section.step, section.workflow)
    except (ContextSerdeError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        return  # It is damaged: what reading it said has to do.


def _unreadable(node: Any, registry: TypeRegistry) -> list[ContextSerdeError]:
    """Return why the innermost parts of a transcribed value cannot be built."""
    try:
        from_jsonable(node, registry)
    except ContextSerdeError as error:
        inner: Iterable[Any] = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return [fault for part in inner for fault in _unreadable(part, registry)] or [error]
    return []


class _Section(NamedTuple):
    """A part of a run's document: where it stands, the step and the workflow of a run within it that it concerns."""

    place: str
    step: str | None
    part: Any
    workflow: str | None = None


def _sections(document: Mapping[str, Any]) -> Iterator[_Section]:
    """Take a run's document apart, and those of the runs within it."""
    for place, step, part in _parts(document):
        yield _Section(place, step, part)
    for item in document["children"]:
        workflow = document["within"][item["graph"]][0]
        run = within_run(item["run_id"], workflow)
        if item["run"] is not None:
            for place, step, part in _parts(item["run"]):
                yield _Section(run + place, step, part, workflow)
        yield _Section(f"{run}its result", None, item["outcome"], workflow)
        yield _Section(f"{run}answers that it is to take", None, item["early"], workflow)


def _parts(document: Mapping[str, Any]) -> Iterator[tuple[str, str | None, Any]]:
    """Take the document of one run apart: where each part stands, the step it concerns, and the part."""
    for item in document["invocations"]:
        yield f"invocation {item['number']}", item["step"], item
    for step, buffer_id, events in document["buffers"]:
        yield f"collection {buffer_id!r}", step, events
    for event, step in document["held"]:
        yield "an event that is held for a wait", step, event
    for number, event, step, *_ in document["delayed"]:
        yield f"delayed event {number}", step, event
    for item in document["fan_outs"]:
        yield f"fan-out {item['number']}", item["producer"], item
    for item in document["inputs"]:
        yield f"question '{item['input_id']}'", item["step"], item["request"]
    yield "the shared state", None, document["state"]
    for event, _, step in document["dead_letters"]:
        yield "a dead letter", step, event


# -- fields ------------------------------------------------------------------------------------------------------------


def _misfits(value: Any) -> Iterator[tuple[str, str, str]]:
    """Find the fields of models and dataclasses within a value that do not fit their annotations."""
    if isinstance(value, BaseModel):
        cls = type(value)
        for name in cls.model_fields:
            yield from _field_misfits(cls, name, value.__dict__.get(name))
        for extra in (value.__pydantic_extra__ or {}).values():
            yield from _misfits(extra)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _misfits(getattr(value, field.name, None))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _misfits(item)
    elif isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes | bytearray):
        for item in value:
            yield from _misfits(item)


def _field_misfits(cls: type[BaseModel], name: str, value: Any) -> Iterator[tuple[str, str, str]]:
    problem = _misfit(cls, name, value)
    if problem is not None:
        yield cls.__qualname__, name, f"{cls.__qualname__}.{name} does not fit: {problem}"
    else:
        yield from _misfits(value)


def _misfit(cls: type[BaseModel], name: str, value: Any) -> str | None:
    """Say why a value does not fit the annotation of a field, or return None. No validator of the class is called."""
    adapter = _adapter(cls, name)
    if adapter is None:
        return None
    try:
        adapter.validate_python(value, strict=True)
        return None
    except ValidationError as error:
        refusal = error
    try:
        # What was made by validation may be of another type than it is declared, as a default may.
        made = adapter.validate_python(value)
        if type(made) is type(value) and made == value:
            return None
    except ValidationError:
        pass
    return "; ".join(str(fault["msg"]) for fault in refusal.errors(include_input=False, include_url=False))


@cache
def _adapter(cls: type[BaseModel], name: str) -> TypeAdapter[Any] | None:
    annotation: Any = cls.model_fields[name].annotation
    for config in (None, ConfigDict(arbitrary_types_allowed=True)):
        try:
            return TypeAdapter(annotation, config=config)
        except (PydanticSchemaGenerationError, PydanticUserError):
            continue
    return None


def _fault(place: str, error: ContextSerdeError, step: str | None = None, workflow: str | None = None) -> Fault:
    return Fault(place, str(error), step, error.type_name, error.field, workflow)
