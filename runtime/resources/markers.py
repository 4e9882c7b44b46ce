"""The markers that annotations bear: what a factory makes, and what a configuration file says."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Hashable
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from greenroom.annotations import local_names
from greenroom.errors import WorkflowValidationError
from greenroom.resources.config_files import SUFFIXES

__all__ = ["SCOPES", "Marker", "Resource", "ResourceConfig", "Scope", "function_of", "identity", "name_of"]

Scope: TypeAlias = Literal["invocation", "run", "workflow"]
# From the shortest to the longest.
SCOPES: tuple[Scope, ...] = get_args(Scope)


class Resource:
    """Marks a parameter that is given what a factory makes: `Annotated[T, Resource(factory)]`.

    Attributes:
        factory: Makes the resource.
        scope: How long one is kept: for an invocation (one attempt of a step's body), a run, or the workflow object.
        name: The factory's name, for messages and for `ResourceManager`.

    Example:
        >>> from collections.abc import Iterator
        >>> from typing import Annotated
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> from greenroom.resources import Resource
        >>> def open_log() -> Iterator[list[str]]:
        ...     lines: list[str] = []
        ...     yield lines
        ...     print("closed with", lines)
        >>> Log = Annotated[list[str], Resource(open_log, scope="run")]
        >>> class Greet(Workflow):
        ...     @step
        ...     def greet(self, ev: StartEvent, log: Log) -> StopEvent:
        ...         log.append(f"hello {ev.name}")
        ...         return StopEvent()
        >>> Greet().run(name="Ada").result()
        closed with ['hello Ada']
    """

    def __init__(self, factory: Callable[..., Any], cache: bool | None = None, *, scope: Scope | None = None) -> None:
        """Mark a parameter.

        Args:
            factory: A function, `async def` or not, whose parameters may be resources themselves. If it yields, or
                returns a context manager, the step is given what is yielded, and the rest is run at the end of the
                scope. Any other callable will do, such as a class.
            cache: True, which is the default, means `scope="workflow"`, and False means `scope="invocation"`.
            scope: "invocation", "run" or "workflow".

        Raises:
            WorkflowValidationError: If the factory cannot be called, or `cache` and `scope` contradict each other.
        """
        if not callable(factory):
            raise WorkflowValidationError(
                f"Resource(...) takes a factory, which is called when a step needs it, not {factory!r}"
            )
        self.factory = factory
        self.name = name_of(factory)
        if scope is not None and scope not in SCOPES:
            raise WorkflowValidationError(
                f"Resource({self.name}, scope={scope!r}): the scopes are {', '.join(map(repr, SCOPES))}"
            )
        self.scope: Scope = scope or ("invocation" if cache is False else "workflow")
        if (cache is True and self.scope == "invocation") or (cache is False and self.scope != "invocation"):
            raise WorkflowValidationError(
                f"Resource({self.name}, cache={cache}, scope={scope!r}) contradicts itself: cache=True keeps a resource"
                " for the workflow, cache=False for one invocation; leave out one of the two"
            )
        function = function_of(factory)
        self.local_names = local_names(function, sys._getframe(1)) if function is not None else {}

    def __repr__(self) -> str:
        return f"Resource({self.name}, scope={self.scope!r})"


class ResourceConfig:
    """Marks a parameter that is given what a configuration file says: `Annotated[Model, ResourceConfig("app.toml")]`.

    The data is validated into the annotated type: a pydantic model, or any type that pydantic knows. The file is read
    when the workflow object is built, so that a fault is found then; all its runs are given the same object. A workflow
    with `disable_validation=True` reads it when a step first needs it.

    Attributes:
        config_file: The path of the file.
        path_selector: What part of it is meant, or None.
        label: A name, for drawings and for `ResourceManager`.
        description: What it is for.
        name: The label or, without one, the file and the selector.

    Example:
        >>> import json, pathlib, tempfile
        >>> from typing import Annotated
        >>> from pydantic import BaseModel
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> from greenroom.resources import ResourceConfig
        >>> class Model(BaseModel):
        ...     name: str
        ...     temperature: float = 0.0
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "app.json"
        >>> _ = file.write_text(json.dumps({"models": [{"name": "small"}, {"name": "large"}]}))
        >>> class Ask(Workflow):
        ...     @step
        ...     def ask(self, ev: StartEvent, model: Annotated[Model, ResourceConfig(file, "models.1")]) -> StopEvent:
        ...         return StopEvent(result=model)
        >>> Ask().run().result()
        Model(name='large', temperature=0.0)
    """

    def __init__(
        self,
        config_file: str | PathLike[str],
        path_selector: str | None = None,
        label: str | None = None,
        description: str | None = None,
    ) -> None:
        """Mark a parameter.

        Args:
            config_file: A path that ends in `.json`, `.toml`, `.yaml` or `.yml`. A relative one starts at the current
                directory of the process. YAML takes the extra `greenroom[yaml]`.
            path_selector: Keys and indices with dots between them, as `models.0.name`.
            label: A name.
            description: What it is for.

        Raises:
            WorkflowValidationError: If the file's name ends in something else.
        """
        self.config_file = fspath(config_file)
        self.path_selector = path_selector
        self.label = label
        self.description = description
        self.name = label or self.config_file + (f"#{path_selector}" if path_selector else "")
        if Path(self.config_file).suffix.lower() not in SUFFIXES:
            raise WorkflowValidationError(
                f"ResourceConfig({self.config_file!r}): the file's name must end in one of {', '.join(SUFFIXES)}"
            )

    def __repr__(self) -> str:
        return f"ResourceConfig({self.name!r})"


Marker: TypeAlias = Resource | ResourceConfig


def identity(factory: Any) -> Hashable:
    """Tell factories apart. A bound method is made anew each time it is looked up, and `==` may be anybody's."""
    if isinstance(factory, types.MethodType):
        return id(factory.__self__), id(factory.__func__)
    return id(factory)


def name_of(factory: Any) -> str:
    """Return the name of a factory, for messages and for `ResourceManager`."""
    if isinstance(factory, functools.partial):
        return name_of(factory.func)
    return getattr(factory, "__qualname__", None) or type(factory).__qualname__


def function_of(factory: Any) -> types.FunctionType | None:
    """Return the function whose annotations a factory's are, if there is one."""
    if isinstance(factory, functools.partial):
        return function_of(factory.func)
    if isinstance(factory, type):
        factory = factory.__init__  # type: ignore[misc]  # it is only looked at
    elif not isinstance(factory, types.FunctionType | types.MethodType):
        factory = type(factory).__call__
    function = inspect.unwrap(getattr(factory, "__func__", factory))
    return function if isinstance(function, types.FunctionType) else None
