"""The graph of what steps and factories depend on, read off their annotations, and the checks of it."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from greenroom.errors import WorkflowValidationError
from greenroom.resources.config_files import read_config
from greenroom.resources.markers import SCOPES, Marker, Resource, ResourceConfig, function_of, identity

__all__ = ["Dependency", "DependencyReader", "find_circle", "find_marker", "find_narrower"]


@dataclass(frozen=True, slots=True, eq=False)
class Dependency:
    """A parameter, of a step or of a factory, that is a resource or a configuration.

    Attributes:
        parameter: The parameter's name.
        where: Names the step, and the factories between it and the parameter.
        marker: What the annotation says.
        annotation: The type, with what else the annotation says of it.
        dependencies: What the factory takes.
        given: The value, in a tuple, if a `ResourceManager` was given one. Then there is nothing to make.
    """

    parameter: str
    where: str
    marker: Marker
    annotation: Any = None
    dependencies: tuple[Dependency, ...] = ()
    given: tuple[Any] | None = None

    @property
    def key(self) -> Hashable:
        """What tells it from others: the factory itself, not its name."""
        return identity(self.marker.factory if isinstance(self.marker, Resource) else self.marker)

    def read_config(self) -> Any:
        """Read the file of a `ResourceConfig` and validate it.

        Raises:
            WorkflowValidationError: If it cannot be read or does not fit the annotation.
        """
        marker = self.marker
        assert isinstance(marker, ResourceConfig)
        try:
            return TypeAdapter(self.annotation).validate_python(read_config(marker.config_file, marker.path_selector))
        except ValidationError as error:
            raise WorkflowValidationError(f"{self.where}: {marker.name} does not fit: {error}") from error
        except ValueError as error:
            raise WorkflowValidationError(f"{self.where}: {error}") from error


def find_marker(hint: Any) -> Marker | None:
    """Return the first marker of an annotation, also of one within a union; or None."""
    if typing.get_origin(hint) is typing.Annotated:
        for item in hint.__metadata__:
            if isinstance(item, Resource | ResourceConfig):
                return item
        return find_marker(hint.__origin__)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for member in typing.get_args(hint):
            if (marker := find_marker(member)) is not None:
                return marker
    return None


class DependencyReader:
    """Reads what a step depends on, and what the factories of that depend on.

    Attributes:
        found: What the parameters that were read depend on.
        faults: Where faults are noted, one a line.
    """

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        self.found: list[Dependency] = []
        self._factories: dict[Hashable, tuple[Dependency, ...]] = {}

    def read(self, parameter: inspect.Parameter, hint: Any, where: str) -> None:
        """Read a parameter whose annotation bears a marker."""
        dependency = self._read(parameter, hint, where, ())
        if dependency is not None:
            self.found.append(dependency)

    def read_factory(self, marker: Resource, where: str, path: tuple[Resource, ...] = ()) -> tuple[Dependency, ...]:
        """Read what a factory depends on; `path` holds the factories that lead to it."""
        key = identity(marker.factory)
        known = self._factories.get(key)
        if known is not None:
            return known
        circle = find_circle(path, marker)
        if circle is not None:
            self.faults.append(f"{where}: circular resource dependency: {circle}")
            return ()
        found: list[Dependency] = []
        where = f"{where}, resource '{marker.name}'"
        for parameter in _parameters_of(marker.factory):
            hint = _resolve(parameter, marker)
            if find_marker(hint) is not None:
                dependency = self._read(parameter, hint, where, (*path, marker))
                if dependency is not None:
                    found.append(dependency)
            elif isinstance(hint, _Unresolved) and (
                "Resource" in str(parameter.annotation) or _must_be_given(parameter)
            ):
                self.faults.append(
                    f"{where}: the annotation of parameter '{parameter.name}' cannot be resolved: {hint.reason}"
                )
            elif _must_be_given(parameter):
                self.faults.append(
                    f"{where}: nothing can be given for parameter '{parameter.name}'; annotate it with"
                    " Annotated[..., Resource(factory)], or give it a default"
                )
        self._factories[key] = tuple(found)
        return self._factories[key]

    def _read(
        self, parameter: inspect.Parameter, hint: Any, where: str, path: tuple[Resource, ...]
    ) -> Dependency | None:
        where = f"{where}, parameter '{parameter.name}'"
        if typing.get_origin(hint) is not typing.Annotated:
            self.faults.append(f"{where}: Annotated must stand around the whole annotation, as Annotated[A | B, ...]")
            return None
        markers = [item for item in hint.__metadata__ if isinstance(item, Resource | ResourceConfig)]
        if len(markers) != 1:
            self.faults.append(f"{where} has {len(markers) or 'nested'} resource markers; one is enough")
            return None
        if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            self.faults.append(f"{where} cannot be given by name; write it as a plain parameter, without / or *")
            return None
        marker = markers[0]
        others = tuple(item for item in hint.__metadata__ if item is not marker)
        annotation: Any = typing.Annotated[(hint.__origin__, *others)] if others else hint.__origin__
        if isinstance(marker, ResourceConfig):
            try:
                TypeAdapter(annotation)
            except Exception as error:  # Of whatever kind: pydantic asks the type itself for its schema.
                self.faults.append(f"{where}: the data of a file cannot be made {_type_name(annotation)}: {error}")
                return None
            return Dependency(parameter.name, where, marker, annotation)
        dependencies = self.read_factory(marker, where, path)
        self.faults += find_narrower(marker, dependencies, where)
        return Dependency(parameter.name, where, marker, annotation, dependencies)


def find_circle(path: tuple[Resource, ...], marker: Resource) -> str | None:
    """Return the way from a factory back to itself, if it is among those that lead to it."""
    keys = [identity(outer.factory) for outer in path]
    key = identity(marker.factory)
    if key not in keys:
        return None
    return " -> ".join([outer.name for outer in path[keys.index(key) :]] + [marker.name])


def find_narrower(marker: Resource, dependencies: Iterable[Dependency], where: str) -> list[str]:
    """Return the faults of a resource that depends on others that are closed before it."""
    return [
        f"{where}: resource '{marker.name}' of scope '{marker.scope}' depends on '{inner.marker.name}' of scope"
        f" '{inner.marker.scope}', which is closed before it; let both have one scope, or swap theirs"
        for inner in dependencies
        if inner.given is None
        and isinstance(inner.marker, Resource)
        and SCOPES.index(inner.marker.scope) < SCOPES.index(marker.scope)
    ]


@dataclass(frozen=True, slots=True)
class _Unresolved:
    """Stands for an annotation that names what cannot be found."""

    reason: str


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def _parameters_of(factory: Any) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):
        return []  # One of C that does not say: it is called without arguments.
    bound = factory.keywords if isinstance(factory, functools.partial) else ()
    return [parameter for parameter in parameters if parameter.name not in bound]


def _must_be_given(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def _resolve(parameter: inspect.Parameter, marker: Resource) -> Any:
    """Return the annotation of a factory's parameter. The others may name what only type checkers know."""
    if parameter.annotation is parameter.empty:
        return None
    function = function_of(marker.factory)

    def stub() -> None:
        """Bears this one annotation."""

    stub.__annotations__ = {"it": parameter.annotation}
    try:
        hints = typing.get_type_hints(
            stub, function.__globals__ if function else {}, dict(marker.local_names), include_extras=True
        )
    except Exception as error:  # Whatever the text evaluates to.
        return _Unresolved(str(error))
    return hints["it"]
