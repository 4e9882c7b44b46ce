"""Every error that Greenroom raises, and the signals that unwind a step.

Errors derive from `GreenroomError`. Signals derive from `BaseException`, so that an `except Exception` in a step cannot
swallow them.
"""

from __future__ import annotations

from typing import Self

__all__ = [
    "ContextSerdeError",
    "ContextStateError",
    "DeadlockError",
    "GreenroomError",
    "InputAnsweredError",
    "InputError",
    "InputExpiredError",
    "InvalidResponseError",
    "JournalGapError",
    "RunEndedError",
    "RunExistsError",
    "RunHeldError",
    "RuntimeForkedError",
    "RuntimeShutdownError",
    "StaleOwnerError",
    "StepCancelled",
    "StepPassivated",
    "StepTimeoutError",
    "StoreBusyError",
    "StoreDamagedError",
    "StoreError",
    "StoreFullError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "StoreVersionError",
    "UnknownInputError",
    "UnknownRunError",
    "WorkflowCancelledByUser",
    "WorkflowConfigurationError",
    "WorkflowRuntimeError",
    "WorkflowStuckError",
    "WorkflowTimeoutError",
    "WorkflowValidationError",
]


class GreenroomError(Exception):
    """The root of every error that Greenroom raises."""


class WorkflowValidationError(GreenroomError):
    """A workflow class is wrong: a signature, a connection between steps, or an option."""


class WorkflowConfigurationError(WorkflowValidationError):
    """A workflow has no steps, or not exactly one kind of start event and one kind of stop event."""


class WorkflowRuntimeError(GreenroomError):
    """A run was started or used wrongly, or one of its steps returned what it did not declare."""


class WorkflowTimeoutError(GreenroomError, TimeoutError):
    """A run was at work for longer than `Workflow(timeout=...)` allows."""


class StepTimeoutError(WorkflowTimeoutError):
    """An invocation of a step ran for longer than `@step(timeout=...)` allows."""


class WorkflowStuckError(GreenroomError):
    """A run has nothing left that could ever finish it."""


class WorkflowCancelledByUser(GreenroomError):
    """The run was ended by `handler.cancel_run()`."""


class ContextStateError(GreenroomError):
    """A context was used outside its place: before its run, from a handler, or from within a step."""


class RunHeldError(WorkflowRuntimeError):
    """Another runtime, as a rule that of another process, has the run, so it has no handler here."""


class ContextSerdeError(GreenroomError):
    """A snapshot could not be written or read.

    Attributes:
        type_name: The class whose instance could not be read, or None.
        field: The field of it that is at fault, or None.
    """

    type_name: str | None = None
    field: str | None = None

    def about(self, type_name: str, field: str | None = None) -> Self:
        """Note which class and field it is about, and return it."""
        self.type_name, self.field = type_name, field
        return self


class DeadlockError(GreenroomError):
    """A blocking call was refused because the thread that makes it is one that the answer needs."""


class InputError(GreenroomError):
    """A question to a person was answered wrongly. Each kind of fault is a class of its own."""


class UnknownInputError(InputError):
    """There is no question of this id."""


class InputAnsweredError(InputError):
    """The question has been answered already, or its step no longer waits."""


class InputExpiredError(InputError):
    """The question was given up before it was answered."""


class InvalidResponseError(InputError):
    """The answer does not fit the question's response class. The question stays open."""


class RuntimeShutdownError(GreenroomError):
    """The runtime that a run belongs to has been shut down."""


class RuntimeForkedError(GreenroomError):
    """A runtime or a handler of the parent process was used in a forked child."""


class StoreError(GreenroomError):
    """A store could not do what it was asked to. Unless a subclass says otherwise, nothing of it was done."""


class StoreVersionError(StoreError):
    """The store was written by a newer Greenroom, or by another program. Nothing in it was touched."""


class StoreFullError(StoreError):
    """There is no room left on the store's disk. Once there is room again, the store works again."""


class StoreReadOnlyError(StoreError):
    """The store may not be written to."""


class StoreBusyError(StoreError):
    """Another process has kept the store locked for longer than the store's timeout."""


class StoreDamagedError(StoreError):
    """The store, or what it keeps of a run, is not what was written to it."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached. What became of the last commit is not known; giving the same one again is safe."""


class LeaseLostError(GreenroomError):
    """The run goes on in another process, which took it over; this one has let go of it."""


class UnknownRunError(StoreError):
    """The store knows no run of this id."""


class RunExistsError(StoreError):
    """The store has a run of this id already."""


class RunEndedError(StoreError):
    """The run has ended, so nothing can be sent to it any more."""


class StaleOwnerError(StoreError):
    """Another process has taken the run over, or it was given back: this owner may not write to it any more."""


class JournalGapError(StoreError):
    """A commit does not continue where the run's journal or stream ends. This is a fault of the program."""


class StepPassivated(BaseException):
    """Unwinds a step that has waited for long; it runs again from its top when its answer comes. Let it pass."""


class StepCancelled(BaseException):
    """Unwinds a step whose run has ended or was cancelled. Let it pass; clean up in `finally`."""
