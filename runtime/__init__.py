"""Greenroom: workflows of actors for synchronous Python."""

from __future__ import annotations

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
from greenroom.facts import DeadLetter
from greenroom.handler import Handler
from greenroom.inputs import PendingInput
from greenroom.runtime import Runtime
from greenroom.state import DictState
from greenroom.steps import step
from greenroom.workflow import Workflow

__all__ = [
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
    "step",
]
