"""Workflows for the tests of the command line."""

from __future__ import annotations

import socket
from enum import Enum
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from greenroom import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from greenroom.aio import Context as AioContext
from greenroom.aio import Workflow as AioWorkflow


class Order(StartEvent):
    zip: str
    amount: int = 1


class Packed(Event):
    text: str


class Echo(Workflow):
    """Streams one event and returns what it was given."""

    @step
    def echo(self, ctx: Context, ev: Order) -> StopEvent:
        ctx.write_event_to_stream(Packed(text=f"{ev.amount} to {ev.zip}"))
        return StopEvent(result=ev.to_dict())


class Noisy(Workflow):
    """Streams more than a pipe holds, and then leaves a mark."""

    @step
    def talk(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for _ in range(2000):
            ctx.write_event_to_stream(Packed(text="x" * 100))
        Path(ev.mark).touch()
        return StopEvent(result="done")


class Fails(Workflow):
    @step
    def fall(self, ev: StartEvent) -> StopEvent:
        raise ValueError("first line\nsecond line")


class Broken(Workflow):
    @step
    def odd(self, ev: StartEvent) -> Packed:
        return Packed(text="")


class NeedsArguments(Workflow):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    @step
    def tell(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=self.place)


made = NeedsArguments("here")
not_a_workflow = 3


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Profile(HumanResponseEvent):
    age: int = Field(ge=18, description="Your age")
    colour: Colour = Colour.BLUE
    member: bool
    password: SecretStr
    tags: list[str] = Field([], max_length=3)

    @model_validator(mode="after")
    def members_are_older(self) -> Self:
        if self.member and self.age < 21:
            raise ValueError("members must be 21")
        return self


class AskProfile(Workflow):
    """Asks for one answer of many fields."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        got = ctx.ask(InputRequiredEvent(message="Tell us about \x1b[5myou"), Profile)
        return StopEvent(
            result=f"{got.age} {got.colour.value} {got.member} {got.password.get_secret_value()} {got.tags}"
        )


class AskNumber(Workflow):
    """Asks as the oldest programs do: with a prefix, answered by a text."""

    @step
    def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Enter a number: ")

    @step
    def take(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=f"doubled: {2 * int(ev.response)}")


class AskNumberAsync(AioWorkflow):
    """The same from an `async def` step that waits in place."""

    @step
    async def ask(self, ctx: AioContext, ev: StartEvent) -> StopEvent:
        answer = await ctx.ask(InputRequiredEvent(prefix="Enter a number: "))
        return StopEvent(result=f"doubled: {2 * int(answer.response)}")


class Part(Event):
    name: str


class Answered(Event):
    name: str
    response: str


class AskTwo(Workflow):
    """Asks two questions side by side."""

    @step
    def split(self, ctx: Context, ev: StartEvent) -> Part | None:
        ctx.send_event(Part(name="first"))
        ctx.send_event(Part(name="second"))
        return None

    @step(num_workers=2)
    def ask(self, ctx: Context, ev: Part) -> Answered:
        answer = ctx.ask(InputRequiredEvent(prefix=f"The {ev.name}? "))
        return Answered(name=ev.name, response=answer.response)

    @step
    def join(self, ctx: Context, ev: Answered) -> StopEvent | None:
        answers = ctx.collect_events(ev, {Answered: 2})
        return answers and StopEvent(result=sorted(f"{answer.name}={answer.response}" for answer in answers))


class AskMeanwhile(Workflow):
    """Asks, and ends by itself when something can be read from a file."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.ask(InputRequiredEvent(prefix="Quick? ")).response)

    @step
    def end(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=Path(ev.until).read_text())


class Works(Workflow):
    """Counts how often it was begun, and then is at work until something can be read from a file."""

    @step
    def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        log = Path(ev.log)
        ctx.once("begun", lambda: log.write_text(log.read_text() + "begun\n" if log.exists() else "begun\n"))
        ctx.write_event_to_stream(Packed(text="at work"))
        return StopEvent(result=Path(ev.until).read_text())


class HoldsSocket(Workflow):
    """Keeps what cannot be saved, and asks."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        with socket.socket() as connection:
            ctx.store.set("connection", connection)
            answer = ctx.ask(InputRequiredEvent(prefix="Now? "))
        return StopEvent(result=answer.response)


class Decision(HumanResponseEvent):
    verdict: Literal["yes", "no"]


class AskThenFail(Workflow):
    """Fails after a "no"."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = ctx.ask(InputRequiredEvent(message="Go on?"), Decision)
        if answer.verdict == "no":
            raise RuntimeError("told to stop")
        return StopEvent(result="went on")
