"""A process that begins runs in a store, or recovers those that another has left, and works on them until it ends.

`python -m tests.support.recover_process begin STORE COUNT NOTES` says "begun" when all of them have asked; each notes
that it has begun, once, in a file. `... recover STORE` says "ready", waits for a line, and tells what it has taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

from greenroom import Context, HumanResponseEvent, InputRequiredEvent, Runtime, StartEvent, StopEvent, Workflow, step
from greenroom.keeper import lookout
from greenroom.stores import SQLiteStore


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Asks(Workflow):
    """Notes that it has begun, asks, and adds."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.once("begun", note, ev.notes, ev.n)
        return StopEvent(result=ev.n + ctx.ask(Ask(n=ev.n), Answer).n)


def note(path: str, n: int) -> None:
    with Path(path).open("a") as file:
        file.write(f"{n}\n")


def begin(store: str, count: str, notes: str) -> None:
    with Runtime(store=SQLiteStore(store)):
        handlers = [Asks().run(run_id=f"run-{n}", n=n, notes=notes) for n in range(int(count))]
        for handler in handlers:
            next(handler.stream_events())
        print("begun", flush=True)
        sys.stdin.read()


def recover(store: str) -> None:
    lookout.PAGE = 7  # so that those who recover at once meet again and again
    with Runtime(store=SQLiteStore(store, poll_interval=0.01)) as runtime:
        print("ready", flush=True)
        sys.stdin.readline()
        print(*(handler.run_id for handler in runtime.recover([Asks])), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    from tests.support import recover_process  # under the name by which other processes know its classes

    getattr(recover_process, sys.argv[1])(*sys.argv[2:])
