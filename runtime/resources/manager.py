"""The manager of a workflow's resources: what is open, and what is given in the place of some."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Protocol

from greenroom.errors import WorkflowRuntimeError, WorkflowValidationError
from greenroom.resources.dependencies import Dependency, DependencyReader, find_circle, find_narrower
from greenroom.resources.markers import Resource, ResourceConfig, identity, name_of

__all__ = ["OpenScope", "ResourceManager"]


class OpenScope(Protocol):
    """What holds the open resources of a workflow, on one runtime."""

    def close(self) -> None:
        """Close them here or, if a step is using them, when that has ended."""

    def open_values(self) -> list[tuple[Dependency, Any]]:
        """Return what is open."""
        ...


class ResourceManager:
    """Holds a workflow's resources, and what is given in the place of some, as in tests.

    A workflow makes one of its own, unless it is built with `Workflow(resource_manager=...)`. Workflows that share one
    share its resources. What it has open is closed by `close()`, with the last workflow that holds it, or with the
    runtime.

    Example:
        >>> from typing import Annotated
        >>> from greenroom import StartEvent, StopEvent, Workflow, step
        >>> from greenroom.resources import Resource, ResourceManager
        >>> def connect() -> dict[str, str]:
        ...     raise ConnectionError("not in a test")
        >>> class Find(Workflow):
        ...     @step
        ...     def find(self, ev: StartEvent, db: Annotated[dict[str, str], Resource(connect)]) -> StopEvent:
        ...         return StopEvent(result=db[ev.key])
        >>> resources = ResourceManager()
        >>> resources.set(connect, {"a": "found"})
        >>> Find(resource_manager=resources).run(key="a").result()
        'found'
    """

    def __init__(self) -> None:
        # Only single operations are used on these dicts, from any thread.
        self._given: dict[Hashable, tuple[Any, Any]] = {}  # The factory or name, which it keeps alive, and the value.
        self._replacements: dict[Hashable, tuple[Any, Resource, tuple[Dependency, ...]]] = {}
        self._configs: dict[Dependency, Any] = {}
        self.scopes: dict[Any, OpenScope] = {}  # By dispatcher: what is bound to an event loop stays with its own.

    def set(self, resource: str | Callable[..., Any], value: Any) -> None:
        """Have steps and factories given a value, as it is, instead of what a factory makes or a file says.

        Args:
            resource: The factory, or the name of every factory that is called so: its `__qualname__`; or the label, or
                the path, of a `ResourceConfig`.
            value: The value. It is neither entered nor closed.
        """
        self._given[_given_key(resource)] = (resource, value)

    def override(self, factory: Callable[..., Any], replacement: Callable[..., Any]) -> None:
        """Have another factory called instead of one, in the same scope, wherever it is asked for.

        Args:
            factory: The factory that the workflow names.
            replacement: A factory, which may have resources of its own.

        Raises:
            WorkflowValidationError: If the replacement cannot be called, or its parameters not be given.
        """
        replaced, marker = Resource(factory), Resource(replacement)
        faults: list[str] = []
        dependencies = DependencyReader(faults).read_factory(marker, f"replacement of '{replaced.name}'")
        if faults:
            raise WorkflowValidationError("\n".join(faults))
        self._replacements[identity(factory)] = (factory, marker, dependencies)

    def get(self, resource: str | Callable[..., Any]) -> Any:
        """Return what was set, or else what is open for the workflow.

        Args:
            resource: As in `set`.

        Raises:
            WorkflowRuntimeError: If there is neither.
        """
        key = _given_key(resource)
        if key in self._given:
            return self._given[key][1]
        for dependency, value in self._open_values():
            if key in (dependency.key, dependency.marker.name):
                return value
        name = resource if isinstance(resource, str) else name_of(resource)
        raise WorkflowRuntimeError(
            f"there is no resource '{name}': nobody has set it, and none of the workflow is open"
        )

    def get_all(self) -> dict[str, Any]:
        """Return what is open for the workflow, and what was set, by name."""
        values = {dependency.marker.name: value for dependency, value in self._open_values()}
        for resource, value in list(self._given.values()):
            values[resource if isinstance(resource, str) else name_of(resource)] = value
        return values

    def close(self) -> None:
        """Close what is open for the workflow, in reverse order. What is needed afterwards is opened anew.

        What a step at work is using is closed when that has ended.

        Raises:
            BaseException: What the first resource raised that failed to close; the others are closed all the same.
        """
        failures = []
        for scope in list(self.scopes.values()):
            try:
                scope.close()
            except BaseException as error:
                failures.append(error)
        if failures:
            raise failures[0]

    # -- for the engine ------------------------------------------------------------------------------------------------

    def plan(self, dependencies: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
        """Return dependencies with what was set and overridden put in.

        Raises:
            WorkflowValidationError: If an override makes a circle, or depends on what is closed before it.
        """
        if not self._given and not self._replacements:
            return dependencies
        return tuple(self._planned(dependency, ()) for dependency in dependencies)

    def _planned(self, dependency: Dependency, path: tuple[Resource, ...]) -> Dependency:
        marker, key = dependency.marker, dependency.key
        given = self._given.get(key) or self._given.get(marker.name)
        if given is not None:
            return Dependency(dependency.parameter, dependency.where, marker, given=(given[1],))
        if isinstance(marker, ResourceConfig):
            return dependency
        inner = dependency.dependencies
        if key in self._replacements:
            _, replacement, inner = self._replacements[key]
            marker = Resource(replacement.factory, scope=marker.scope)
        circle = find_circle(path, marker)
        if circle is not None:
            raise WorkflowValidationError(f"{dependency.where}: circular resource dependency by override(): {circle}")
        planned = tuple(self._planned(dependency, (*path, marker)) for dependency in inner)
        faults = find_narrower(marker, planned, dependency.where)
        if faults:
            raise WorkflowValidationError("\n".join(faults))
        return Dependency(dependency.parameter, dependency.where, marker, dependency.annotation, planned)

    def check(self, dependencies: Iterable[Dependency], *, configs: bool) -> list[str]:
        """Return the faults of what was overridden and, if `configs`, of the files; these are read, and kept."""
        faults: dict[str, None] = {}
        try:
            planned = self.plan(tuple(dependencies))
        except WorkflowValidationError as error:
            return str(error).splitlines()
        for dependency in _walk(planned) if configs else ():
            if isinstance(dependency.marker, ResourceConfig) and dependency.given is None:
                try:
                    self._configs[dependency] = dependency.read_config()
                except WorkflowValidationError as error:
                    faults[str(error)] = None
        return list(faults)

    def has_config(self, dependency: Dependency) -> bool:
        """Return whether the file has been read."""
        return dependency in self._configs

    def config(self, dependency: Dependency) -> Any:
        """Return what a file says, read once."""
        if dependency not in self._configs:
            self._configs.setdefault(dependency, dependency.read_config())
        return self._configs[dependency]

    def _open_values(self) -> Iterator[tuple[Dependency, Any]]:
        for scope in list(self.scopes.values()):
            yield from scope.open_values()


def _walk(dependencies: Iterable[Dependency]) -> Iterator[Dependency]:
    for dependency in dependencies:
        yield dependency
        yield from _walk(dependency.dependencies)


def _given_key(resource: str | Callable[..., Any]) -> Hashable:
    return resource if isinstance(resource, str) else identity(resource)
