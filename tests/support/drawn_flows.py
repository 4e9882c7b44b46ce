"""Workflows to be drawn: one a shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    catch_error,
    step,
)
from greenroom.aio import Context as AioContext
from greenroom.resources import Resource, ResourceConfig
from greenroom.retry import retry_policy, stop_after_attempt, wait_fixed


class Draft(Event):
    """What was written."""

    text: str
    round: int = 0


class Feedback(Event):
    round: int


class Good(Event):
    pass


class Linear(Workflow):
    """Writes and publishes."""

    @step(timeout=5)
    def write(self, ev: StartEvent) -> Draft:
        """Write it down.

        <script>alert("1 & 2")</script></script> \x1b[5m ~
        """
        return Draft(text="x")

    # Not in the text above: from Python 3.13 on the compiler takes no half of a pair there.
    write.__doc__ = str(write.__doc__).replace("~", "\ud800")

    @step(num_workers=1, retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
    async def publish(self, ev: Draft) -> StopEvent:
        return StopEvent()


class Loop(Workflow):
    """Writes until the critic is content."""

    @step
    def write(self, ev: StartEvent | Feedback) -> Draft:
        return Draft(text="x", round=ev.get("round", 0) + 1)

    @step
    def judge(self, ev: Draft) -> Feedback | Good:
        return Good() if ev.round == 3 else Feedback(round=ev.round)

    @step
    def publish(self, ev: Good) -> StopEvent:
        return StopEvent()


class Job(Event):
    n: int


class Result(Event):
    n: int


class Fan(Workflow):
    """Sends many, and collects them."""

    @step
    def split(self, ctx: Context, ev: StartEvent) -> Job | None:
        for n in range(3):
            ctx.send_event(Job(n=n))

    @step(num_workers=8)
    def work(self, ev: Job) -> Result:
        return Result(n=ev.n)

    @step
    def join(self, ctx: Context, ev: Result) -> StopEvent | None:
        results = ctx.collect_events(ev, {Result: 3})
        return results and StopEvent(result=len(results))


class ListFan(Workflow):
    """The same, by type."""

    @step
    def split(self, ev: StartEvent) -> list[Job]:
        return [Job(n=n) for n in range(3)]

    @step
    def work(self, ev: Job) -> Result:
        return Result(n=ev.n)

    @step
    def join(self, results: list[Result]) -> StopEvent:
        return StopEvent(result=len(results))


class Question(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    pass


class Approval(HumanResponseEvent):
    pass


class Delivered(Event):
    pass


class People(Workflow):
    """Asks from step to step, asks in place, and waits for a delivery."""

    @step
    def greet(self, ev: StartEvent) -> Question:
        return Question()

    @step
    def hear(self, ev: Answer) -> Draft:
        return Draft(text=ev.response)

    @step
    async def approve(self, ctx: AioContext, ev: Draft) -> StopEvent:
        await self._ask(ctx)
        await ctx.wait_for_event(Delivered)
        return StopEvent()

    async def _ask(self, context: AioContext) -> Approval:
        question = Question(prefix="really?")
        return await context.ask(question, response=Approval)


class Caught(Workflow):
    """Fails, and goes on."""

    @step
    def fetch(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no")

    @catch_error(for_steps=["fetch"])
    def mend(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result="mended")


class Settings(BaseModel):
    database: str
    size: int = 1


class Database:
    """A database."""


def connect(settings: Annotated[Settings, ResourceConfig("app.toml", "db", label="settings")]) -> Iterator[Database]:
    """Connect to what the settings say."""
    yield Database()


Connected = Annotated[Database, Resource(connect, scope="run")]


class Needs(Workflow):
    """Takes resources, one by itself and one through another."""

    @step
    def read(self, ev: StartEvent, db: Connected) -> Draft | Good:
        return Draft(text="x")

    @step
    def write(
        self,
        ev: Draft,
        database: Connected,
        number: Annotated[int, Resource(lambda: 1, cache=False)],
    ) -> StopEvent:
        return StopEvent()

    @step
    def never(self, ev: Good, number: Annotated[int, Resource(lambda: 2, cache=False)]) -> StopEvent:
        return StopEvent()


class Grandchild(Workflow):
    @step
    def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.n)


class Child(Workflow):
    """Runs another."""

    @step
    def first(self, ctx: Context, ev: StartEvent) -> Draft:
        return Draft(text=str(ctx.run(Grandchild(), n=ev.n).result()))

    @step
    def second(self, ev: Draft) -> StopEvent:
        return StopEvent(result=ev.text)


class Parent(Workflow):
    """Runs others: by name, through a method, and out of an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 2
        self.linear = [Linear()]

    @step
    def one(self, ctx: Context, ev: StartEvent) -> Draft:
        return Draft(text=self._run(ctx))

    @step
    def two(self, ctx: Context, ev: Draft) -> Feedback | Good:
        return Good() if self.limit else Feedback(round=ctx.run(self.linear[0]).result())

    @step
    def three(self, ev: Good) -> StopEvent:
        return StopEvent()

    @step
    def four(self, ctx: Context, ev: Feedback) -> StopEvent:
        return StopEvent(result=ctx.run(Grandchild(), n=1).result())

    def _run(self, ctx: Context) -> str:
        return str(ctx.run(Child(), n=1).result())


class Fails(Workflow):
    """Fails in its second step, at the second attempt."""

    @step
    def one(self, ev: StartEvent) -> Draft:
        return Draft(text="x")

    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
    def two(self, ev: Draft) -> Good:
        raise ValueError("no")

    @step
    def three(self, ev: Good) -> StopEvent:
        return StopEvent()


class Faulty(Workflow):
    """Makes what no step takes."""

    @step
    def one(self, ev: StartEvent) -> StopEvent | Good:
        return StopEvent()
