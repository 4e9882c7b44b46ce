"""Programs as people have written them for a peer, run as written but for the line that imports.

Each program is kept as text and run at the top level of a module that may await, as in a notebook. Only `IMPORT` names
Greenroom. What the pages that they come from leave out is filled in: classes without a definition,
`w = MyWorkflow(...)` and, by `gaps`, a person at the keyboard.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap
from typing import Any

import pytest

IMPORT = """
from greenroom.aio import (
    Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
)
"""


def run_program(program: str, gaps: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a program with top-level await on an event loop of its own; return its variables."""
    variables: dict[str, Any] = {"__name__": "seed", **(gaps or {})}
    code = compile(textwrap.dedent(program), "seed", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)

    async def main() -> None:
        result = eval(code, variables)
        if inspect.isawaitable(result):
            await result

    exec(IMPORT, variables)
    asyncio.run(asyncio.wait_for(main(), 20))
    return variables


@pytest.mark.parametrize("query_first", [True, False])
def test_waiting_for_multiple_events(query_first: bool) -> None:
    """A step buffers two kinds of event with collect_events and goes on when both have come, in the order asked."""

    class Synthesizer:
        def synthesize(self, query: str, nodes: list[str]) -> str:
            return f"{query} from {', '.join(nodes)}"

    program = """
    class QueryEvent(Event):
        query: str

    class RetrieveEvent(Event):
        nodes: list

    class RAG(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> QueryEvent | RetrieveEvent | None:
            events = [QueryEvent(query="who?"), RetrieveEvent(nodes=["a", "b"])]
            for event in events if ev.query_first else reversed(events):
                ctx.send_event(event)

        @step
        async def synthesize(
            self, ctx: Context, ev: QueryEvent | RetrieveEvent
        ) -> StopEvent | None:
            data = ctx.collect_events(ev, [QueryEvent, RetrieveEvent])
            # check if we can run
            if data is None:
                return None

            # unpack -- data is returned in order
            query_event, retrieve_event = data

            # run response synthesis
            synthesizer = get_response_synthesizer()
            response = synthesizer.synthesize(
                query_event.query, nodes=retrieve_event.nodes
            )

            return StopEvent(result=response)

    result = await RAG().run(query_first=query_first)
    """
    variables = run_program(program, {"get_response_synthesizer": Synthesizer, "query_first": query_first})
    assert variables["result"] == "who? from a, b"


MANUAL = """
class MyEvent(Event):
    pass


class MyEventResult(Event):
    result: str


class GatherEvent(Event):
    pass


class MyWorkflow(Workflow):
    @step
    async def dispatch_step(
        self, ctx: Context, ev: StartEvent
    ) -> MyEvent | GatherEvent:
        ctx.send_event(MyEvent())
        ctx.send_event(MyEvent())

        return GatherEvent()

    @step
    async def handle_my_event(self, ev: MyEvent) -> MyEventResult:
        return MyEventResult(result="result")

    @step
    async def gather(
        self, ctx: Context, ev: GatherEvent | MyEventResult
    ) -> StopEvent | None:
        # wait for events to finish
        events = ctx.collect_events(ev, [MyEventResult, MyEventResult])
        if not events:
            return None

        return StopEvent(result=events)
"""


def test_manually_triggering_events() -> None:
    """Events sent by hand are handled and gathered; an event of another class does not count into the collection."""
    variables = run_program(MANUAL + "results = [await MyWorkflow().run() for _ in range(20)]")
    for result in variables["results"]:
        assert [event.result for event in result] == ["result", "result"]
        assert all(isinstance(event, variables["MyEventResult"]) for event in result)


STREAMING = """
class FirstEvent(Event):
    first_output: str

class ProgressEvent(Event):
    msg: str


class MyWorkflow(Workflow):
    @step
    async def step_one(self, ctx: Context, ev: StartEvent) -> FirstEvent:
        ctx.write_event_to_stream(ProgressEvent(msg="Step one is happening"))
        return FirstEvent(first_output="First step complete.")

    @step
    async def step_two(self, ev: FirstEvent) -> StopEvent:
        return StopEvent(result=ev.first_output)

w = MyWorkflow()

handler = w.run(topic="Pirates")

async for event in handler.stream_events():
    print(event)

result = await handler
"""


def test_streaming_events(capsys: pytest.CaptureFixture[str]) -> None:
    """Events are read while the run goes on, and the result is awaited afterwards."""
    assert run_program(STREAMING)["result"] == "First step complete."
    assert capsys.readouterr().out.splitlines() == [
        "msg='Step one is happening'",
        "result='First step complete.'",
    ]


HUMAN = """
class HumanInTheLoopWorkflow(Workflow):
    @step
    async def step1(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Enter a number: ")

    @step
    async def step2(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


# workflow should work with streaming
workflow = HumanInTheLoopWorkflow()
"""


class Person:
    """Stands for input(): answers, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prefix: str) -> str:
        self.asked.append(prefix)
        return "42"


def test_human_in_the_loop() -> None:
    """A person is asked over the stream and answers with send_event, while the stream is being read."""
    program = """
    handler = workflow.run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            # here, we can handle human input however you want
            # this means using input(), websockets, accessing async state, etc.
            # here, we just use input()
            response = input(event.prefix)
            handler.ctx.send_event(HumanResponseEvent(response=response))

    final_result = await handler
    """
    person = Person()
    assert run_program(HUMAN + textwrap.dedent(program), {"input": person})["final_result"] == "42"
    assert person.asked == ["Enter a number: "]


def test_human_in_the_loop_with_a_pause() -> None:
    """The loop is left when the question comes, and the same stream is read on after the answer."""
    program = """
    handler = workflow.run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            break

    # now we handle the human response
    response = input(event.prefix)
    handler.ctx.send_event(HumanResponseEvent(response=response))

    rest = []
    # now we resume the workflow streaming
    async for event in handler.stream_events():
        rest.append(event)
        continue

    final_result = await handler
    """
    variables = run_program(HUMAN + textwrap.dedent(program), {"input": Person()})
    assert variables["final_result"] == "42"
    assert [type(event).__name__ for event in variables["rest"]] == ["StopEvent"]


def test_human_in_the_loop_with_events_of_ones_own() -> None:
    """One step asks with a subclass of InputRequiredEvent, another takes a subclass of HumanResponseEvent."""
    program = """
    class CLICommand(Event):
        command: str

    class CLIHumanInputEvent(InputRequiredEvent):
        data: CLICommand
        response_event_type: type

    class CLIHumanResponseEvent(HumanResponseEvent):
        execute: bool
        command: str

    class CLIWorkflow(Workflow):
        @step
        async def request_input(self, ctx: Context, ev: StartEvent) -> CLIHumanInputEvent:
            command = ev.command
            return CLIHumanInputEvent(
                data=CLICommand(command=command),
                response_event_type=CLIHumanResponseEvent,
            )

        @step
        async def handle_human_response(self, ctx: Context, ev: CLIHumanResponseEvent) -> StopEvent:
            if ev.execute:
                # Execute the command
                return StopEvent(result=f"ran {ev.command}")
            else:
                # Cancel the command
                return StopEvent(result="cancelled")

    results = []
    for execute in (True, False):
        handler = CLIWorkflow().run(command="ls")
        async for event in handler.stream_events():
            if isinstance(event, CLIHumanInputEvent):
                answer = event.response_event_type(execute=execute, command=event.data.command)
                handler.ctx.send_event(answer)
        results.append(await handler)
    """
    assert run_program(program)["results"] == ["ran ls", "cancelled"]
