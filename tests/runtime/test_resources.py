"""What the annotations of resources say: markers, the checks of them, configuration files, and the manager."""

import functools
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from greenroom import (
    Context,
    Event,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    WorkflowValidationError,
    aio,
    step,
)
from greenroom.resources import Resource, ResourceConfig, ResourceManager
from tests.support.flavours import DEADLINE, Flavour


class Settings(BaseModel):
    url: str
    size: int = 1


def connect() -> str:
    return "connected"


def workflow_of(*functions: Callable[..., Any]) -> type[Workflow]:
    """Make a workflow class of functions that were defined elsewhere."""
    for function in functions:
        function.__qualname__ = f"Made.{function.__name__}"
    return type("Made", (Workflow,), {function.__name__: step(function) for function in functions})


def faults_of(*functions: Callable[..., Any]) -> list[str]:
    """Build a workflow of these functions, and return the faults that it is refused for."""
    with pytest.raises(WorkflowValidationError) as caught:
        workflow_of(*functions)()
    head, *faults = str(caught.value).splitlines()
    assert head == "Made cannot work:"
    return [fault.removeprefix("  - ") for fault in faults]


# -- markers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "scope"),
    [
        ({}, "workflow"),
        ({"cache": True}, "workflow"),
        ({"cache": False}, "invocation"),
        ({"scope": "invocation"}, "invocation"),
        ({"scope": "run"}, "run"),
        ({"scope": "workflow"}, "workflow"),
        ({"cache": True, "scope": "workflow"}, "workflow"),
        ({"cache": True, "scope": "run"}, "run"),
        ({"cache": False, "scope": "invocation"}, "invocation"),
    ],
)
def test_cache_and_scope_name_the_same_three_scopes(options: dict[str, Any], scope: str) -> None:
    """`cache` keeps the meaning that the peer gives it."""
    assert Resource(connect, **options).scope == scope


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": True, "scope": "invocation"}, "contradicts itself"),
        ({"cache": False, "scope": "run"}, "contradicts itself"),
        ({"cache": False, "scope": "workflow"}, "contradicts itself"),
        ({"scope": "request"}, "the scopes are 'invocation', 'run', 'workflow'"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    """At the marker, so that the traceback shows the line."""
    with pytest.raises(WorkflowValidationError, match=message):
        Resource(connect, **options)


def test_what_cannot_be_called_is_no_factory() -> None:
    """Most often it was called too early."""
    with pytest.raises(WorkflowValidationError, match="takes a factory"):
        Resource(connect())  # type: ignore[arg-type]  # that is the mistake


def test_a_marker_may_stand_anywhere_in_the_annotation(flow: Flavour) -> None:
    """Among other metadata, and in an alias of an alias."""
    inner = Annotated[str, "a note", Resource(connect)]
    alias = Annotated[inner, Field(description="more")]

    class Uses(Workflow):
        @flow.step
        async def work(self, one: inner, ev: StartEvent, *, two: alias) -> StopEvent:
            return StopEvent(result=[one, two])

    assert Uses().run().result(DEADLINE) == ["connected", "connected"]


def test_what_a_factory_may_be(flow: Flavour) -> None:
    """Functions, lambdas, bound methods, partials, classes, callable objects, builtins."""

    class Maker:
        """One is equal to any other, and none can be hashed, as with a dataclass."""

        __hash__ = None  # type: ignore[assignment]

        def __init__(self, name: str = "call") -> None:
            self.name = name

        def method(self, ending: Annotated[str, Resource(connect)]) -> str:
            return f"method {ending}"

        def __call__(self, ending: Annotated[str, Resource(connect)]) -> str:
            return f"{self.name} {ending}"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Maker)

    class Client:
        def __init__(self, url: Annotated[str, Resource(connect)], retries: int = 3, **options: Any) -> None:
            self.url = url

    def bound(first: str, second: str, third: Annotated[str, Resource(connect)]) -> str:
        return f"{first} {second} {third}"

    class Uses(Workflow):
        @flow.step
        async def work(
            self,
            ev: StartEvent,
            a: Annotated[str, Resource(lambda: "lambda")],
            b: Annotated[str, Resource(Maker().method)],
            c: Annotated[str, Resource(Maker())],
            d: Annotated[Client, Resource(Client)],
            e: Annotated[str, Resource(functools.partial(bound, "one", second="two"))],
            f: Annotated[dict[str, str], Resource(dict)],
            g: Annotated[str, Resource(Maker("another"))],
        ) -> StopEvent:
            return StopEvent(result=[a, b, c, d.url, e, f, g])

    assert Uses().run().result(DEADLINE) == [
        "lambda",
        "method connected",
        "call connected",
        "connected",
        "one two connected",
        {},
        "another connected",
    ]


def test_annotations_may_be_strings() -> None:
    """Those of a step and of its factories, also with names of the function around them."""
    source = """
from __future__ import annotations
from typing import TYPE_CHECKING, Annotated
from greenroom import StartEvent, StopEvent, Workflow, step
from greenroom.resources import Resource
if TYPE_CHECKING:
    from nowhere import Nothing

def outer(n: Annotated[int, Resource(lambda: 1)], note: Nothing | None = None) -> Nothing: return n

def build():
    class Local:
        pass
    def local() -> Local: return Local()
    def dependent(it: Annotated[Local, Resource(local)], n: Annotated[int, Resource(outer)]) -> str:
        return type(it).__name__ + str(n)
    class Uses(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[str, Resource(dependent)]) -> StopEvent:
            return StopEvent(result=it)
    return Uses()
"""
    module: dict[str, Any] = {"__name__": "strings"}
    exec(compile(source, "strings.py", "exec"), module)  # annotations that are strings, whatever this file has
    assert module["build"]().run().result(DEADLINE) == "Local1"


# -- checks ------------------------------------------------------------------------------------------------------------


def test_all_faults_come_in_one_message() -> None:
    """With step, parameter and factory by name, beside those of other kinds."""

    def needs(url: str) -> str:
        return url

    def positional(it: Annotated[str, Resource(connect)], /) -> str:
        return it

    def one(
        self: Any,
        ev: StartEvent,
        a: Annotated[str, Resource(needs)],
        b: Annotated[str, Resource(connect), Resource(connect)],
        c: Annotated[str, Resource(connect)] | None,
        d: Annotated[str, Resource(positional)],
        e: Annotated[Settings, ResourceConfig("/nowhere/app.json")],
        f: Annotated[threading.Event, ResourceConfig("app.json")],
    ) -> StopEvent:
        raise AssertionError

    def two(self: Any, ev: StartEvent, x: int) -> StopEvent:
        raise AssertionError

    faults = faults_of(one, two)
    where = "step 'one', parameter"
    name = "test_all_faults_come_in_one_message.<locals>"
    assert faults[0].startswith(f"{where} 'a', resource '{name}.needs': nothing can be given for parameter 'url'")
    assert faults[1] == f"{where} 'b' has 2 resource markers; one is enough"
    assert faults[2].startswith(f"{where} 'c': Annotated must stand around the whole annotation")
    assert faults[3].startswith(f"{where} 'd', resource '{name}.positional', parameter 'it' cannot be given by name")
    assert faults[4].startswith(f"{where} 'f': the data of a file cannot be made Event")
    assert "step 'two': nothing can be given for parameter 'x' (int)" in "\n".join(faults[5:])


def test_a_circle_is_refused_when_the_workflow_is_built() -> None:
    """With the whole way round in the message."""
    source = """
from __future__ import annotations
from typing import Annotated
from greenroom.resources import Resource

def first(it: Annotated[str, Resource(second)]) -> str: ...
def second(it: Annotated[str, Resource(third)]) -> str: ...
def third(it: Annotated[str, Resource(first)]) -> str: ...
"""
    module: dict[str, Any] = {"__name__": "circle"}
    exec(compile(source, "circle.py", "exec"), module)

    def work(self: Any, ev: StartEvent, it: Annotated[str, Resource(module["second"])]) -> StopEvent:
        raise AssertionError

    (fault,) = faults_of(work)
    assert fault.endswith("circular resource dependency: second -> third -> first -> second")


@pytest.mark.parametrize(
    ("inner", "outer", "refused"),
    [
        ("invocation", "run", True),
        ("invocation", "workflow", True),
        ("run", "workflow", True),
        ("run", "invocation", False),
        ("workflow", "run", False),
        ("workflow", "invocation", False),
        ("run", "run", False),
    ],
)
def test_a_resource_cannot_depend_on_what_is_closed_before_it(inner: Any, outer: Any, refused: bool) -> None:
    """It would be left with something closed."""

    def session() -> str:
        return "session"

    def pool(session: Annotated[str, Resource(session, scope=inner)]) -> str:
        return session

    def work(self: Any, ev: StartEvent, it: Annotated[str, Resource(pool, scope=outer)]) -> StopEvent:
        return StopEvent(result=it)

    if not refused:
        assert workflow_of(work)().run().result(DEADLINE) == "session"
        return
    (fault,) = faults_of(work)
    assert f".pool' of scope '{outer}' depends on '" in fault
    assert f".session' of scope '{inner}', which is closed before it" in fault


def test_a_resource_that_looks_like_an_event_is_a_resource(flow: Flavour) -> None:
    """The marker says what is meant."""

    class Template(Event):
        text: str

    class Uses(Workflow):
        @flow.step
        async def work(
            self, ev: StartEvent, it: Annotated[Template, Resource(lambda: Template(text="hello"))]
        ) -> StopEvent:
            return StopEvent(result=it.text)

    assert Uses().run().result(DEADLINE) == "hello"


def test_validate_resources_calls_the_factories() -> None:
    """Once each, in every kind, and closes what is not kept for the workflow."""
    log: list[str] = []

    def mine() -> Iterator[str]:
        log.append("open")
        yield "it"
        log.append("close")

    async def kept(mine: Annotated[str, Resource(connect)]) -> AsyncIterator[str]:
        log.append("open kept")
        yield "it"
        log.append("close kept")

    def broken() -> str:
        raise ConnectionError("nobody there")

    class Works(Workflow):
        @step
        async def work(
            self,
            ev: StartEvent,
            a: Annotated[str, Resource(mine, scope="run")],
            b: Annotated[str, Resource(mine, cache=False)],
            c: Annotated[str, Resource(kept)],
        ) -> StopEvent:
            return StopEvent()

    class Broken(Workflow):
        @step
        def work(
            self,
            ev: StartEvent,
            a: Annotated[str, Resource(mine, scope="run")],
            b: Annotated[str, Resource(broken, scope="run")],
        ) -> StopEvent:
            return StopEvent()

    with Works() as workflow:
        assert log == []
        assert workflow.validate(validate_resources=True) is False
        assert log == ["open", "open", "open kept", "close", "close"]
        workflow.run().result(DEADLINE)
    assert log[5:] == ["open", "open", "close", "close", "close kept"]
    log.clear()
    with pytest.raises(ConnectionError, match="nobody there"):
        Broken().validate(validate_resources=True)
    assert log == ["open", "close"]


# -- configuration -----------------------------------------------------------------------------------------------------


FILES = {
    "app.json": '{"db": {"url": "here", "size": 2}, "all": [{"url": "first"}, {"url": "second"}]}',
    "app.toml": 'all = [{url = "first"}, {url = "second"}]\n[db]\nurl = "here"\nsize = 2\n',
    "app.yaml": "db: {url: here, size: 2}\nall: [{url: first}, {url: second}]\n",
    "app.yml": "db:\n  url: here\n  size: 2\nall:\n- url: first\n- url: second\n",
}


@pytest.mark.parametrize("name", FILES)
def test_config_files_are_read_into_the_annotated_type(flow: Flavour, tmp_path: Path, name: str) -> None:
    """JSON, TOML and YAML, the whole or a part, a model or any other type; in steps and in factories."""
    file = tmp_path / name
    file.write_text(FILES[name])

    def connect(settings: Annotated[Settings, ResourceConfig(file, "db")]) -> str:
        return f"connected to {settings.url}"

    class Uses(Workflow):
        @flow.step
        async def work(
            self,
            ev: StartEvent,
            db: Annotated[
                Settings, ResourceConfig(str(file), path_selector="db", label="db", description="a database")
            ],
            size: Annotated[int, Field(gt=1), ResourceConfig(file, "db.size")],
            second: Annotated[str, ResourceConfig(file, "all.1.url")],
            every: Annotated[list[Settings], ResourceConfig(file, "all")],
            whole: Annotated[dict[str, Any], ResourceConfig(file)],
            connection: Annotated[str, Resource(connect)],
        ) -> StopEvent:
            return StopEvent(result=[db, size, second, len(every), sorted(whole), connection])

    assert Uses().run().result(DEADLINE) == [
        Settings(url="here", size=2),
        2,
        "second",
        2,
        ["all", "db"],
        "connected to here",
    ]


def test_a_file_is_read_when_the_workflow_is_built(flow: Flavour, tmp_path: Path) -> None:
    """All its runs have what it said then; `validate()` reads it again."""
    file = tmp_path / "app.json"
    file.write_text('{"url": "old"}')

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[Settings, ResourceConfig(file)]) -> StopEvent:
            return StopEvent(result=it.url)

    workflow = Uses()
    file.write_text('{"url": "new"}')
    assert workflow.run().result(DEADLINE) == "old"
    assert workflow.validate(validate_resource_configs=False) is False
    assert workflow.run().result(DEADLINE) == "old"
    workflow.validate()
    assert workflow.run().result(DEADLINE) == "new"
    assert Uses().run().result(DEADLINE) == "new"


def test_without_validation_a_file_is_read_when_a_step_needs_it(flow: Flavour, tmp_path: Path) -> None:
    """A fault is then one of the step."""
    file = tmp_path / "app.json"

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[Settings, ResourceConfig(file)]) -> StopEvent:
            return StopEvent(result=it.url)

    workflow = Uses(disable_validation=True)
    with pytest.raises(WorkflowValidationError, match="step 'work', parameter 'it': no such file"):
        workflow.run().result(DEADLINE)
    file.write_text('{"url": "here"}')
    assert workflow.run().result(DEADLINE) == "here"


@pytest.mark.parametrize(
    ("name", "text", "selector", "message"),
    [
        ("missing.json", None, None, "no such file: {file}"),
        ("bad.json", "{", None, "{file} cannot be parsed"),
        ("bad.toml", "= 1", None, "{file} cannot be parsed"),
        ("bad.yaml", "a: [", None, "{file} cannot be parsed"),
        ("bad.yaml", "!!python/object/apply:os.getcwd []", None, "{file} cannot be parsed"),
        ("bytes.json", b"\xff\xfe\x00", None, "{file} cannot be parsed"),
        (
            "app.json",
            '{"db": {"url": "x"}}',
            "db.size",
            "'db.size' names nothing: there is no 'size' in 'db' of {file}",
        ),
        ("app.json", '{"db": {"url": "x"}}', "cache", "its keys are 'db'"),
        ("app.json", '{"db": [1, 2]}', "db.2", "it is a list of 2"),
        ("app.json", '{"db": [1, 2]}', "db.x", "it is a list of 2"),
        ("app.json", '{"db": 1}', "db.url.x", "it is 1"),
        ("app.json", '{"size": 1}', None, "does not fit: 1 validation error for Settings"),
        ("app.json", "", None, "{file} cannot be parsed"),
    ],
)
def test_faults_of_files_name_step_and_parameter(
    tmp_path: Path, name: str, text: str | bytes | None, selector: str | None, message: str
) -> None:
    """When the workflow is built, and with those of the graph in one message."""
    file = tmp_path / name
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    class Lost(Event):
        pass

    def factory(it: Annotated[Settings, ResourceConfig(file, selector)]) -> str:
        return it.url

    class Uses(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[str, Resource(factory)]) -> StopEvent | Lost:
            return StopEvent()

    with pytest.raises(WorkflowValidationError) as caught:
        Uses()
    assert "step 'work', parameter 'it', resource '" in str(caught.value)
    assert message.format(file=file) in str(caught.value)
    assert "[terminal_event]" in str(caught.value)


def test_a_file_of_another_kind_is_refused_at_the_marker() -> None:
    """With the kinds that there are."""
    with pytest.raises(WorkflowValidationError, match=r"must end in one of \.json, \.toml, \.yaml, \.yml"):
        ResourceConfig("app.ini")


def test_without_pyyaml_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML is an extra."""
    file = tmp_path / "app.yaml"
    file.write_text("url: here")
    monkeypatch.setitem(sys.modules, "yaml", None)

    class Uses(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[Settings, ResourceConfig(file)]) -> StopEvent:
            return StopEvent(result=it.url)

    with pytest.raises(WorkflowValidationError, match=r"pip install 'greenroom\[yaml\]'"):
        Uses()


def test_a_relative_path_starts_at_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the message of a missing one says which that is."""
    monkeypatch.chdir(tmp_path)

    class Uses(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[Settings, ResourceConfig("app.json")]) -> StopEvent:
            return StopEvent(result=it.url)

    with pytest.raises(WorkflowValidationError, match=f"no such file: app.json in {tmp_path}"):
        Uses()
    Path("app.json").write_text(json.dumps({"url": "here"}))
    assert Uses().run().result(DEADLINE) == "here"


# -- the manager -------------------------------------------------------------------------------------------------------


def never() -> str:
    raise AssertionError("the real factory was called")


@pytest.mark.parametrize("resource", [never, "never"])
def test_set_gives_a_value_instead(flow: Flavour, resource: Any, tmp_path: Path) -> None:
    """By the factory or by its name, to steps and to other factories; a configuration by its label or path."""

    def uses(inner: Annotated[str, Resource(never)]) -> str:
        return f"with {inner}"

    class Uses(Workflow):
        @flow.step
        async def work(
            self,
            ev: StartEvent,
            it: Annotated[str, Resource(never, cache=False)],
            outer: Annotated[str, Resource(uses)],
            config: Annotated[Settings, ResourceConfig(tmp_path / "none.json", label="settings")],
        ) -> StopEvent:
            return StopEvent(result=[it, outer, config])

    resources = ResourceManager()
    resources.set(resource, "fake")
    resources.set("settings", "anything")
    workflow = Uses(resource_manager=resources)
    assert workflow.resource_manager is resources
    assert workflow.run().result(DEADLINE) == ["fake", "with fake", "anything"]
    assert resources.get(resource) == "fake"


def test_what_was_set_is_not_entered() -> None:
    """It is the test's own."""

    class Fake:
        def __enter__(self) -> str:
            raise AssertionError("entered")

        def __exit__(self, *error: object) -> None:
            raise AssertionError("closed")

    class Uses(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[Any, Resource(never)]) -> StopEvent:
            return StopEvent(result=it)

    resources, fake = ResourceManager(), Fake()
    resources.set(never, fake)
    with Uses(resource_manager=resources) as workflow:
        assert workflow.run().result(DEADLINE) is fake


def test_override_calls_another_factory(flow: Flavour) -> None:
    """In the scope of the one it stands for, with resources of its own, which may be overridden as well."""
    log: list[str] = []

    def base() -> str:
        raise AssertionError("the real factory was called")

    def fake_base() -> str:
        return "base"

    async def fake(base: Annotated[str, Resource(base)]) -> AsyncIterator[str]:
        log.append("open")
        yield f"fake on {base}"
        log.append("close")

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(never, scope="workflow")]) -> StopEvent:
            return StopEvent(result=it)

    resources = ResourceManager()
    resources.override(never, fake)
    resources.override(base, fake_base)
    with Uses(resource_manager=resources) as workflow:
        assert workflow.run().result(DEADLINE) == "fake on base"
        assert workflow.run().result(DEADLINE) == "fake on base"
    assert log == ["open", "close"]


def test_wrong_overrides_are_refused() -> None:
    """What cannot be called or given when it is overridden, the rest when the workflow is built or the step runs."""

    def needs(url: str) -> str:
        return url

    def wraps(inner: Annotated[str, Resource(never, scope="run")]) -> str:
        return inner

    def short(inner: Annotated[str, Resource(connect, scope="invocation")]) -> str:
        return inner

    class Uses(Workflow):
        @step
        def work(self, ev: StartEvent, it: Annotated[str, Resource(never, scope="run")]) -> StopEvent:
            return StopEvent(result=it)

    resources = ResourceManager()
    with pytest.raises(WorkflowValidationError, match=r"replacement of 'never'.* parameter 'url'"):
        resources.override(never, needs)
    with pytest.raises(WorkflowValidationError, match="takes a factory"):
        resources.override(never, "fake")  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(WorkflowValidationError, match="takes a factory"):
        resources.override("never", connect)  # type: ignore[arg-type]  # that is the mistake
    resources.override(never, wraps)
    with pytest.raises(WorkflowValidationError, match=r"by override\(\): .*wraps -> .*wraps"):
        Uses(resource_manager=resources)
    resources.override(never, short)
    with pytest.raises(WorkflowValidationError, match="which is closed before it"):
        Uses(resource_manager=resources)
    workflow = Uses(resource_manager=resources, disable_validation=True)
    with pytest.raises(WorkflowValidationError, match="which is closed before it"):
        workflow.run().result(DEADLINE)


def test_get_returns_what_is_open(flow: Flavour) -> None:
    """What was set, and what the workflow holds; by factory or name."""

    class Uses(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent(result=it)

    with Uses() as workflow:
        resources = workflow.resource_manager
        with pytest.raises(WorkflowRuntimeError, match="no resource 'connect'"):
            resources.get(connect)
        assert resources.get_all() == {}
        workflow.run().result(DEADLINE)
        assert resources.get(connect) == resources.get("connect") == "connected"
        resources.set(never, None)
        assert resources.get(never) is None
        assert resources.get_all() == {"connect": "connected", "never": None}
    assert resources.get_all() == {"never": None}


def test_workflows_that_share_a_manager_share_its_resources(flow: Flavour) -> None:
    """Opened once for all of them, and closed with the manager."""
    log: list[str] = []

    def shared() -> Iterator[str]:
        log.append("open")
        yield "it"
        log.append("close")

    class One(Workflow):
        @flow.step
        async def work(self, ev: StartEvent, it: Annotated[str, Resource(shared)]) -> StopEvent:
            return StopEvent(result=it)

    class Two(Workflow):
        @flow.step
        async def other(self, ev: StartEvent, it: Annotated[str, Resource(shared)]) -> StopEvent:
            return StopEvent(result=it)

    resources = ResourceManager()
    for cls in One, Two, One:
        assert cls(resource_manager=resources).run().result(DEADLINE) == "it"
    resources.close()
    assert log == ["open", "close"]


def test_a_wrong_manager_is_refused() -> None:
    """When the workflow is built."""

    class Plain(Workflow):
        @step
        def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match="resource_manager must be a ResourceManager"):
        Plain(resource_manager=ResourceManager)  # type: ignore[arg-type]  # that is the mistake


def test_a_workflow_without_resources_can_be_closed() -> None:
    """`with` works on any workflow, and starts no thread."""

    class Plain(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent()

    before = threading.active_count()
    with Runtime(), Plain() as workflow:
        workflow.validate(validate_resources=True)
        assert threading.active_count() == before
    assert aio.Workflow.close is not Workflow.close
