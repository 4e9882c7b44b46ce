"""Greenroom: workflows of actors for synchronous Python."""

from __future__ import annotations

from greenroom.child import ChildRun
from greenroom.collect import All, Collect, Take
from greenroom.context import Context
from greenroom.errors import (
    ContextSerdeError,
    ContextStateError,
    DeadlockError,
    GreenroomError,
    InputAnsweredError,
    InputError,
    InputExpiredError,
    InvalidResponseError,
    RuntimeForkedError,
    RuntimeShutdownError,
    StepCancelled,
    StepTimeoutError,
    UnknownInputError,
    WorkflowCancelledByUser,
    WorkflowConfigurationError,
    WorkflowRuntimeError,
    WorkflowStuckError,
    WorkflowTimeoutError,
    WorkflowValidationError,
)
from greenroom.events import (
    CollectionReleaseEvent,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    StopEvent,
    UnhandledEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)
from greenroom.handler import Handler
from greenroom.inputs import PendingInput
from greenroom.outcome import DeadLetter
from greenroom.runtime import Runtime
from greenroom.state import DictState
from greenroom.steps import catch_error, step
from greenroom.workflow import Workflow

__all__ = [
    "All",
    "ChildRun",
    "Collect",
    "CollectionReleaseEvent",
    "Context",
    "ContextSerdeError",
    "ContextStateError",
    "DeadLetter",
    "DeadlockError",
    "DictState",
    "Event",
    "GreenroomError",
    "Handler",
    "HumanResponseEvent",
    "InputAnsweredError",
    "InputError",
    "InputExpiredError",
    "InputRequiredEvent",
    "InvalidResponseError",
    "PendingInput",
    "Runtime",
    "RuntimeForkedError",
    "RuntimeShutdownError",
    "StartEvent",
    "StepCancelled",
    "StepFailedEvent",
    "StepState",
    "StepStateChanged",
    "StepTimeoutError",
    "StopEvent",
    "Take",
    "UnhandledEvent",
    "UnknownInputError",
    "Workflow",
    "WorkflowCancelledByUser",
    "WorkflowCancelledEvent",
    "WorkflowConfigurationError",
    "WorkflowFailedEvent",
    "WorkflowIdleEvent",
    "WorkflowRuntimeError",
    "WorkflowStuckError",
    "WorkflowTimedOutEvent",
    "WorkflowTimeoutError",
    "WorkflowValidationError",
    "catch_error",
    "step",
]
