"""Tools for testing workflows.

`SeededRuntime(seed)` runs one schedule, `explore(test)` runs a test on many; `WorkflowTestRunner` runs a workflow to
its end and keeps what it streamed. `greenroom.testing.aio` has the runner for code that awaits. The fixtures for pytest
are in `greenroom_pytest`, which pytest finds by itself. docs/testing.md tells how to use them.
"""

from greenroom.testing.runner import WorkflowTestResult, WorkflowTestRunner
from greenroom.testing.seeded import SeededRuntime, explore

__all__ = ["SeededRuntime", "WorkflowTestResult", "WorkflowTestRunner", "explore"]
