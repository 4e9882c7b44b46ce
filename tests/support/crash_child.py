"""A process that works through durable runs and may be killed at any moment, and the one that forks it.

`python -m tests.support.crash_child FD` is the zygote: it has imported all that is needed, and forks a child for each
request on the socket FD, so that a child begins in a few milliseconds. A child tells its parent, the test, what it does
as it happens, in lines of JSON on a socket of its own. See `tests.crash.test_kill` for what the test makes of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from greenroom import (
    Context,
    Event,
    GreenroomError,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    aio,
    catch_error,
    keeper,
    step,
)
from greenroom.errors import StoreError, StoreUnavailableError
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed
from greenroom.stores import Commit, RunStore
from tests.support.store_process import store_of

T = TypeVar("T")


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int


class Poke(Event):
    key: str


class Item(Event):
    n: int


class Later(Event):
    n: int


class Done(Event):
    n: int
    text: str


class Left(Event):
    n: int


class Right(Event):
    n: int


class Joined(Event):
    n: int


class Extra(Event):
    n: int


class Both(Event):
    n: int


class Rows(Event):
    texts: list[str]
    n: int


class Tick(Event):
    text: str


class Parent:
    """The way to the test."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.effects = 0
        self.dies_at_effect = -1

    def tell(self, **message: Any) -> None:
        """Tell the test something; it has been told when this returns."""
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def intend(self, text: str) -> str:
        """Say that an effect is asked for: whether it may be done is not decided yet."""
        self.tell(intended=text)
        return text

    def effect(self, text: str) -> str:
        """Do something that can be seen outside."""
        self.tell(effect=text)
        self.effects += 1
        if self.effects == self.dies_at_effect:
            die()
        return text


def die() -> None:
    """Die at once, with no chance to put anything in order."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


parent: Parent


class CrashChild(Workflow):
    """Is run within the other: does something once, sleeps, asks, and fails once."""

    @step
    async def begin(self, ctx: aio.Context, ev: StartEvent) -> Item:
        await ctx.once("inner", parent.effect, parent.intend(f"{ev.name} inner"))
        await ctx.sleep(0.01)
        return Item(n=1, name=ev.name)

    @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
    def ask(self, ctx: Context, ev: Item) -> StopEvent:
        answer = ctx.ask(Ask(n=ev.n), Answer)
        if ctx.retry_info().retry_number == 0:
            raise ValueError("once")
        ctx.once("inner asked", parent.effect, parent.intend(f"{ev.name} inner asked"))
        return StopEvent(result=answer.n)


class CrashFlow(Workflow):
    """Does a little of everything; its result does not depend on the schedule."""

    @step
    def begin(self, ctx: Context, ev: StartEvent) -> list[Item | Later]:
        ctx.once("begin", parent.effect, parent.intend(f"{ev.name} begin"))
        ctx.write_event_to_stream(Tick(text="begun"))
        ctx.store.set("name", ev.name)
        ctx.send_event(Extra(n=1))
        ctx.send_event(Extra(n=2), delay=0.02)
        return [Item(n=0, name=ev.name), Item(n=1, name=ev.name), Item(n=2, name=ev.name), Later(n=3, name=ev.name)]

    @step(num_workers=2, retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(3)))
    def work(self, ctx: Context, ev: Item) -> Done:
        retry = ctx.retry_info().retry_number
        if ev.n == 0:
            before = ctx.once("before", parent.effect, parent.intend(f"{ev.name} before"))
            answer = ctx.ask(Ask(n=ev.n), Answer)
            ctx.once("after", parent.effect, parent.intend(f"{ev.name} after"))
            return Done(n=answer.n, text=before)
        if ev.n == 1:
            text = ctx.once("tried", parent.effect, parent.intend(f"{ev.name} tried"))
            ctx.sleep(0.01)
            if retry < 2:
                raise ValueError(retry)
            ctx.write_event_to_stream(Tick(text=f"retry {retry}"))
            return Done(n=retry, text=text)
        raise OSError(ev.n)

    @step
    async def later(self, ctx: aio.Context, ev: Later) -> Done:
        poke = await ctx.wait_for_event(Poke, requirements={"key": "wanted"})
        text = await ctx.once("poked", parent.effect, parent.intend(f"{ev.name} poked"))
        await ctx.sleep(0.02)
        return Done(n=1000, text=text + poke.key)

    @catch_error(for_steps=["work"])
    def mend(self, ctx: Context, ev: StepFailedEvent) -> Done:
        return Done(n=100, text=ctx.once("mend", parent.effect, parent.intend(f"{ctx.store.get('name')} mend")))

    @step
    def gather(self, ctx: Context, done: list[Done]) -> list[Left | Right]:
        ctx.store.set("texts", sorted(event.text for event in done))
        return [Left(n=sum(event.n for event in done)), Right(n=1)]

    @step
    async def join(self, left: Left, right: Right) -> Joined:
        return Joined(n=left.n + right.n)

    @step
    async def rows(self, ctx: aio.Context, joined: list[Joined]) -> Rows:
        texts = await ctx.store.get("texts")
        name = await ctx.store.get("name")
        child = ctx.run(CrashChild(disable_validation=True), name=name)
        await ctx.once("rows", parent.effect, parent.intend(f"{name} rows"))
        return Rows(texts=texts, n=joined[0].n + await child)

    @step
    def extra(self, ctx: Context, ev: Extra) -> Both | None:
        both = ctx.collect_events(ev, [Extra, Extra])
        return both and Both(n=sum(event.n for event in both))

    @step
    def end(self, ctx: Context, ev: Both | Rows) -> StopEvent | None:
        got = ctx.collect_events(ev, [Both, Rows])
        if got is None:
            return None
        ctx.once("end", parent.effect, parent.intend(f"{ctx.store.get('name')} end"))
        return StopEvent(result=[got[0].n, got[1].n, *got[1].texts])


def result_of(name: str) -> list[Any]:
    """What a run comes to, whatever happens to its process."""
    texts = ("before", "mend", "pokedwanted", "tried")
    return [3, 70 + 2 + 100 + 1000 + 1 + 70, *(f"{name} {text}" for text in texts)]


EFFECTS = ("begin", "before", "after", "tried", "poked", "mend", "rows", "inner", "inner asked", "end")


class Fatal:
    """A store at whose commits something dies: this process, the server of the database, or both.

    Args:
        store: The store itself.
        at: "before" the commit, "after" it and before anybody is told, or "within": `delay` seconds after its begin.
        every: It happens at every so manieth commit.
        delay: See `at`.
        server: The file with the process id of the server, if that is to crash.
        times: How often the server crashes.
        alone: Whether this process outlives the server.
    """

    def __init__(
        self,
        store: RunStore,
        at: str = "",
        every: int = 1,
        delay: float = 0.0,
        server: str | None = None,
        times: int = 1,
        alone: bool = False,
    ) -> None:
        self._store = store
        self._at, self._every, self._delay = at, every, delay
        self._server, self._times, self._alone = server, times, alone
        self._commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, commits: Sequence[Commit]) -> list[StoreError | None]:
        self._commits += 1
        at = self._at if self._commits % self._every == 0 else ""
        if at == "before":
            self._strike()
        elif at == "within":
            threading.Timer(self._delay, self._strike).start()
        refused = self._store.commit(commits)
        if at == "after":
            self._strike()
        return refused

    def _strike(self) -> None:
        if self._server is not None and self._times:
            self._times -= 1
            crash_server(self._server)
        if not self._alone:
            die()


def crash_server(pid_file: str) -> None:
    """Have a PostgreSQL server end at once, as `pg_ctl -m immediate` does, unless it is down."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        lines = Path(pid_file).read_text().splitlines()
        if lines[-1].strip() == "ready":
            os.kill(int(lines[0]), signal.SIGQUIT)


def live(connection: socket.socket, request: dict[str, Any]) -> None:
    """Work until all runs have ended and the test says so."""
    global parent
    parent = Parent(connection)
    fault = dict(request["fault"])
    parent.dies_at_effect = fault.pop("effect", -1)
    keeper.POLL_SECONDS = 0.02
    store: Any = Fatal(store_of(request["kind"], request["where"]), **fault)
    with persist(lambda: Runtime(store=store, **request["options"])) as runtime:
        runtime.on_input(lambda question: parent.tell(asked=question.input_id))
        workflow = CrashFlow(disable_validation=True)
        persist(lambda: runtime.recover([workflow]))
        handlers = {name: persist(lambda name=name: workflow.run(run_id=name, name=name)) for name in request["runs"]}
        parent.tell(ready=True)
        for name, handler in handlers.items():
            threading.Thread(target=_read, args=(name, handler), daemon=True).start()
        for question in persist(runtime.pending_inputs):
            parent.tell(asked=question.input_id)
        for line in connection.makefile():
            message = json.loads(line)
            if "quit" in message:
                break
            threading.Thread(target=_do, args=(runtime, handlers, message), daemon=True).start()


def persist(call: Callable[[], T]) -> T:
    """Call until the store can be reached, as a program does that would rather wait."""
    while True:
        try:
            return call()
        except StoreUnavailableError:
            pass


def _read(name: str, handler: Any) -> None:
    offset = -1

    def read() -> None:
        nonlocal offset
        for event in handler.stream_events(after=offset):
            offset += 1
            parent.tell(run=name, offset=offset, event=describe(event))

    persist(read)
    try:
        parent.tell(run=name, result=persist(lambda: handler.result(20)))
    except Exception as error:
        parent.tell(run=name, result=repr(error))


def _do(runtime: Runtime, handlers: dict[str, Any], message: dict[str, Any]) -> None:
    try:
        if "answer" in message:
            persist(lambda: runtime.respond(message["answer"], {"n": 70}))
        else:
            key = message["poke"]
            persist(lambda: handlers[message["run"]].send_event(Poke(key=key), dedup_key=key))
        parent.tell(acknowledged=message)
    except GreenroomError as error:
        parent.tell(refused=message, error=type(error).__name__, said=str(error))


def describe(event: Event) -> str:
    """An event, as it can be compared."""
    return f"{type(event).__name__} {sorted(event.model_dump().items())}"


def serve(requests: socket.socket) -> None:
    """Fork a child for each request, and answer with its process id."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the children are reaped
    while True:
        data, fds, _, _ = socket.recv_fds(requests, 65536, 1)
        if not data:
            return
        (fd,) = fds
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                requests.close()
                live(socket.socket(fileno=fd), json.loads(data))
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(status)
        os.close(fd)
        requests.sendall(str(pid).encode())


if __name__ == "__main__":
    from tests.support import crash_child  # its classes by their own name, as the test knows them

    crash_child.serve(socket.socket(fileno=int(sys.argv[1])))
