"""What the steps of a run depend on: opened when a body needs it, let go when the body has ended.

An attempt belongs to its body, on whose thread or task it is used. What it shares with others is in the scopes of
`greenroom.actors.open_resources`, which guard themselves. The scopes of workflows are in dicts of which only single
operations are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import weakref
from collections.abc import Callable
from contextvars import Context as Variables
from functools import partial
from typing import Any, NamedTuple

from greenroom.actors.base import Ref, here
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.factories import Keeper, Unentered, directly, enter, is_async, leaving, same
from greenroom.actors.open_resources import OpenResources, log_failures, raise_first
from greenroom.actors.resource_work import Blocking, Until, Work, run_here, run_on_loop
from greenroom.errors import DeadlockError, RuntimeShutdownError, StepCancelled
from greenroom.resources import Dependency, Resource, ResourceConfig, ResourceManager, Scope
from greenroom.steps import StepSpec

__all__ = ["ResourcesForgotten", "RunResources"]


class ResourcesForgotten(NamedTuple):
    """Tells the root supervisor that nobody holds the workflow any more whose resources these are."""

    resources: OpenResources


class RunResources:
    """What the steps of one run depend on."""

    def __init__(
        self,
        manager: ResourceManager,
        dispatcher: Dispatcher,
        root: Ref,
        open_scopes: dict[OpenResources, None],
    ) -> None:
        """Begin with nothing open.

        Args:
            manager: Holds what is open for the workflow.
            dispatcher: Gives threads, and the event loop.
            root: Is told if nobody holds the manager any more.
            open_scopes: What the runtime closes at its end.
        """
        self.manager = manager
        self.dispatcher = dispatcher
        self._root = root
        self._open_scopes = open_scopes
        self._of_run = OpenResources(dispatcher)

    def end(self, then: Callable[[], object] | None = None) -> bool:
        """End the run's scope; see `OpenResources.end`."""
        return self._of_run.end(then)

    def rehearse(self, dependencies: tuple[Dependency, ...]) -> None:
        """Open everything once, on this thread, and close again what is not the workflow's.

        Raises:
            BaseException: What a factory raises, or a resource that is closed.
            DeadlockError: On the thread of the event loop, where an async factory could never answer.
        """
        if self.dispatcher.on_loop_thread():
            raise DeadlockError("validate(validate_resources=True) would block the event loop that it needs")
        attempt = _Attempt(self, contextvars.copy_context(), None)
        try:
            run_here(attempt.opening(dependencies), self.dispatcher)
        finally:
            failures = run_here(attempt.closing(None), self.dispatcher)
            self._of_run.close()
        raise_first(failures)

    def use(self, scope: Scope) -> OpenResources:
        """Return what is open for the run or for the workflow, with the caller noted as one who uses it."""
        if scope == "run":
            if not self._of_run.use():
                raise StepCancelled("the run has ended")
            return self._of_run
        while True:
            scopes: dict[Any, Any] = self.manager.scopes
            found: OpenResources | None = scopes.get(self.dispatcher)
            if found is None:
                found = self._begin_workflow(scopes)
            if found.use():
                return found
            if scopes.get(self.dispatcher) is found:
                scopes.pop(self.dispatcher, None)

    def _begin_workflow(self, scopes: dict[Any, Any]) -> OpenResources:
        if self.dispatcher.closed:
            raise RuntimeShutdownError("the runtime was shut down before the resource could be opened")
        dispatcher = self.dispatcher

        def forget(resources: OpenResources) -> None:
            finalizer.detach()
            if scopes.get(dispatcher) is resources:
                scopes.pop(dispatcher, None)

        made = OpenResources(dispatcher, self._open_scopes, forget)
        finalizer = weakref.finalize(self.manager, _tell_from_anywhere, self._root, ResourcesForgotten(made))
        finalizer.atexit = False  # The runtime's own end sees to it.
        found: OpenResources = scopes.setdefault(dispatcher, made)
        if found is made:
            self._open_scopes[made] = None
        else:
            finalizer.detach()
        return found

    def caller(
        self, spec: StepSpec, bind: Callable[[dict[str, Any]], Callable[[Any], Any]], variables: Variables
    ) -> Callable[[Any], Any]:
        """Return a function of a body that calls the step with its resources.

        Args:
            spec: The step.
            bind: Returns, for the values of the resources, a function of a body that calls the step.
            variables: The context variables of whoever called `run()`.
        """
        dependencies, dispatcher = spec.dependencies, self.dispatcher

        def call(body: Any) -> Any:
            attempt = _Attempt(self, variables, None)
            try:
                result = bind(run_here(attempt.opening(dependencies), dispatcher))(body)
            except BaseException as error:
                log_failures(run_here(attempt.closing(error), dispatcher))
                raise
            raise_first(run_here(attempt.closing(None), dispatcher))
            return result

        async def call_async(body: Any) -> Any:
            attempt = _Attempt(self, variables, contextvars.copy_context())
            try:
                result = await bind(await run_on_loop(attempt.opening(dependencies), dispatcher))(body)
            except BaseException as error:
                with contextlib.suppress(asyncio.CancelledError):  # The error at hand tells more.
                    log_failures(await run_on_loop(attempt.closing(error), dispatcher))
                raise
            raise_first(await run_on_loop(attempt.closing(None), dispatcher))
            return result

        return call_async if spec.is_async else call


def _tell_from_anywhere(ref: Ref, message: object) -> None:
    """Tell from a collection of garbage, which may strike anywhere: no lock is taken, and no body pauses here."""
    lane, here.lane = here.lane, None
    try:
        ref.tell(message)
    finally:
        here.lane = lane


class _Attempt:
    """What one attempt at an invocation uses."""

    def __init__(self, resources: RunResources, variables: Variables, task_variables: Variables | None) -> None:
        """Begin with nothing.

        Args:
            resources: The run's.
            variables: The context variables of whoever called `run()`, in which what is shared is opened.
            task_variables: Those of the step's task; None for a `def` step, whose own resources are opened in its own.
        """
        self._resources = resources
        self._dispatcher = resources.dispatcher
        self._variables = variables
        self._task_variables = task_variables
        self._own = OpenResources(resources.dispatcher)
        self._used: dict[Scope, OpenResources] = {}

    def opening(self, dependencies: tuple[Dependency, ...]) -> Work[dict[str, Any]]:
        """Open what is needed; return the values by parameter."""
        values = {}
        for dependency in self._resources.manager.plan(dependencies):
            values[dependency.parameter] = yield from self._obtain(dependency)
        return values

    def closing(self, error: BaseException | None) -> Work[list[BaseException]]:
        """Close what is the attempt's own, let go of the rest, and return what that raised."""
        trace = None if error is None else error.__traceback__
        try:
            return (yield from self._own.closing(error))
        finally:
            for resources in self._used.values():
                resources.leave()
            if error is not None:
                error.__traceback__ = trace  # It went through those who were told of it.

    def _obtain(self, dependency: Dependency) -> Work[Any]:
        if dependency.given is not None:
            return dependency.given[0]
        marker = dependency.marker
        if isinstance(marker, ResourceConfig):
            manager = self._resources.manager
            if not manager.has_config(dependency):
                yield Blocking(partial(manager.config, dependency), False)
            return manager.config(dependency)
        resources = self._scope(marker.scope)
        while True:
            entry, is_ours, reply = resources.find(dependency)
            if is_ours:
                break
            if reply is None:
                return entry.value
            yield Until(reply)
        try:
            values = {}
            for inner in dependency.dependencies:
                values[inner.parameter] = yield from self._obtain(inner)
                if marker.scope == "run" and _is_of_workflow(inner):
                    resources.hold(self._scope("workflow"))  # The run needs it for longer than this attempt does.
            value, close = yield from self._open(marker, partial(marker.factory, **values))
        except BaseException as error:
            resources.failed(entry, error)
            raise
        resources.opened(entry, value, close)
        return value

    def _scope(self, scope: Scope) -> OpenResources:
        if scope == "invocation":
            return self._own
        resources = self._used.get(scope)
        if resources is None:
            resources = self._used[scope] = self._resources.use(scope)
        return resources

    def _open(
        self, marker: Resource, make: Callable[[], Any]
    ) -> Work[tuple[Any, Callable[[BaseException | None], Work[None]] | None]]:
        """Call a factory, and enter what it makes; return the value, and what closes it."""
        # Not those of the step for what is shared, which would keep the step alive.
        base = self._task_variables if marker.scope == "invocation" else self._variables
        variables = None if base is None else base.copy()
        if not is_async(marker.factory):
            run = directly if variables is None else variables.run
            entered = yield Blocking(partial(run, enter, make, marker), False)
            if not isinstance(entered, Unentered):
                value, leave = entered
                return value, (None if leave is None else partial(leaving, run, leave))
            make = partial(same, entered.made)
        if variables is None:
            variables = contextvars.copy_context()
        keeper = Keeper(make, variables)
        # The loop's callbacks keep the variables in which they are made, so those must not be the step's. A copy: the
        # task may begin, in its own, before this returns.
        variables.copy().run(self._dispatcher.execute_async, keeper)
        try:
            value, is_held = yield Until(keeper.opened)
        except BaseException:
            keeper.cancel()
            raise
        return value, (keeper.close if is_held else None)


def _is_of_workflow(dependency: Dependency) -> bool:
    marker = dependency.marker
    return dependency.given is None and isinstance(marker, Resource) and marker.scope == "workflow"
