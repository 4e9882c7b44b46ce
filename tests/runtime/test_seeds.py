"""Programs as people have written them for a peer, run as written but for the line that imports.

Each program is kept as text and run at the top level of a module that may await, as in a notebook. Only `IMPORT` names
Greenroom. What the pages that they come from leave out is filled in: classes without a definition,
`w = MyWorkflow(...)` and, by `gaps`, a person at the keyboard.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
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


OWN_EVENTS = """
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

workflow = CLIWorkflow()
"""


def test_human_in_the_loop_with_events_of_ones_own() -> None:
    """One step asks with a subclass of InputRequiredEvent, another takes a subclass of HumanResponseEvent."""
    program = """
    results = []
    for execute in (True, False):
        handler = workflow.run(command="ls")
        async for event in handler.stream_events():
            if isinstance(event, CLIHumanInputEvent):
                answer = event.response_event_type(execute=execute, command=event.data.command)
                handler.ctx.send_event(answer)
        results.append(await handler)
    """
    assert run_program(OWN_EVENTS + textwrap.dedent(program))["results"] == ["ran ls", "cancelled"]


def test_stopping_and_resuming_between_human_responses() -> None:
    """The context is put away as JSON, the run is cancelled, and another goes on when the answer comes."""
    program = """
    handler = workflow.run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            # Serialize the context, store it anywhere as a JSON blob
            ctx_dict = handler.ctx.to_dict()
            await handler.cancel_run()
            break

    ctx_dict = json.loads(json.dumps(ctx_dict))

    # now we handle the human response once it comes in
    response = input(event.prefix)

    restored_ctx = Context.from_dict(workflow, ctx_dict)
    handler = workflow.run(ctx=restored_ctx)

    # Send the event to resume the workflow
    handler.ctx.send_event(HumanResponseEvent(response=response))

    # now we resume the workflow streaming with our restored context
    async for event in handler.stream_events():
        continue

    final_result = await handler
    """
    person = Person()
    variables = run_program(HUMAN + textwrap.dedent(program), {"input": person, "json": json})
    assert variables["final_result"] == "42"
    assert person.asked == ["Enter a number: "]
    assert type(variables["event"]).__name__ == "StopEvent"


DANGEROUS = """
async def dangerous_task(ctx: Context) -> str:
    \"\"\"A dangerous task that requires human confirmation.\"\"\"

    # emit an event to the external stream to be captured
    ctx.write_event_to_stream(
        InputRequiredEvent(
            prefix="Are you sure you want to proceed? ",
            user_name="Laurie",
        )
    )

    # wait until we see a HumanResponseEvent
    response = await ctx.wait_for_event(
        HumanResponseEvent, requirements={"user_name": "Laurie"}
    )

    # act on the input from the event
    if response.response.strip().lower() == "yes":
        return "Dangerous task completed successfully."
    else:
        return "Dangerous task aborted."


class ToolWorkflow(Workflow):
    @step
    async def call_tool(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await dangerous_task(ctx))


workflow = ToolWorkflow()
handler = workflow.run(user_msg="I want to proceed with the dangerous task.")

async for event in handler.stream_events():
    if isinstance(event, InputRequiredEvent):
        # somebody else is not asked, and does not answer
        handler.ctx.send_event(HumanResponseEvent(response="no", user_name="Logan"))
        # capture keyboard input
        response = input(event.prefix)
        # send our response back
        handler.ctx.send_event(
            HumanResponseEvent(
                response=response,
                user_name=event.user_name,
            )
        )

response = await handler
"""


@pytest.mark.parametrize(
    ("answer", "result"),
    [(" Yes ", "Dangerous task completed successfully."), ("no", "Dangerous task aborted.")],
)
def test_a_tool_gets_a_human_in_the_loop(answer: str, result: str) -> None:
    """A function that a step calls asks over the stream and waits for the answer of the one whom it asked."""
    assert run_program(DANGEROUS, {"input": lambda prefix: answer})["response"] == result


CLI = """
class CLICommand(Event):
    command: str

class CLIHumanInputEvent(InputRequiredEvent):
    data: CLICommand

class CLIHumanResponseEvent(HumanResponseEvent):
    execute: bool

entered = []

async def cli_executor(ctx: Context, command: str) -> str:
    entered.append(command)
    # You can use other pattern to generate the waiter_id,
    # but make sure it'll be same when we resume the workflow and re-execute the tool call.
    waiter_id = hashlib.sha256(f"cli_executor:{command}".encode("utf-8")).hexdigest()

    confirmation = await ctx.wait_for_event(
        CLIHumanResponseEvent,
        waiter_id=waiter_id,
        waiter_event=CLIHumanInputEvent(
            data=CLICommand(command=command),
        ),
    )
    return f"ran {command}" if confirmation.execute else "cancelled"


class CLIWorkflow(Workflow):
    @step
    async def call_tool(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await cli_executor(ctx, ev.command))

workflow = CLIWorkflow()
"""


def test_a_tool_waits_with_a_name_and_is_resumed_elsewhere() -> None:
    """The question is asked once: the resumed run has it open, and does not stream it again."""
    program = """
    handler = workflow.run(command="ls")
    async for event in handler.stream_events():
        if isinstance(event, CLIHumanInputEvent):
            ctx_dict = json.loads(json.dumps(handler.ctx.to_dict()))
            await handler.cancel_run()
            break

    handler = workflow.run(ctx=Context.from_dict(workflow, ctx_dict))
    handler.ctx.send_event(CLIHumanResponseEvent(execute=True))
    rest = [event async for event in handler.stream_events()]
    result = await handler
    """
    variables = run_program(CLI + textwrap.dedent(program), {"hashlib": hashlib, "json": json})
    assert variables["result"] == "ran ls"
    assert [type(event).__name__ for event in variables["rest"]] == ["StopEvent"]
    assert variables["entered"] == ["ls", "ls"]


# -- the same programs for code that blocks ----------------------------------------------------------------------------


def as_sync(program: str) -> str:
    """Turn a program into its synchronous twin: without `async` and `await`, and from `greenroom` itself."""
    return re.sub(r"\b(async|await) ", "", textwrap.dedent(program))


def run_sync_program(program: str, gaps: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a program's synchronous twin, without any event loop; return its variables."""
    variables: dict[str, Any] = {"__name__": "seed", **(gaps or {})}
    exec(IMPORT.replace("greenroom.aio", "greenroom"), variables)
    exec(compile(as_sync(program), "seed", "exec", dont_inherit=True), variables)
    return variables


def test_sync_manually_triggering_events() -> None:
    """As its twin: two results are gathered in each of the runs."""
    variables = run_sync_program(MANUAL + "results = [MyWorkflow().run().result() for _ in range(20)]")
    assert [[event.result for event in result] for result in variables["results"]] == [["result", "result"]] * 20


def test_sync_streaming_events(capsys: pytest.CaptureFixture[str]) -> None:
    """As its twin: events are read with `for` while the run goes on."""
    variables = run_sync_program(STREAMING.replace("await handler", "handler.result()"))
    assert variables["result"] == "First step complete."
    assert capsys.readouterr().out.splitlines() == ["msg='Step one is happening'", "result='First step complete.'"]


@pytest.mark.parametrize("how", ["at once", "after a break", "in another run"])
def test_sync_human_in_the_loop(how: str) -> None:
    """As its twins: answered in the loop, after a break, and after the context was put away."""
    program = """
    handler = workflow.run()
    rest = []
    for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            if how == "in another run":
                ctx_dict = json.loads(json.dumps(handler.ctx.to_dict()))
                handler.cancel_run()
            if how != "at once":
                break
            handler.ctx.send_event(HumanResponseEvent(response=input(event.prefix)))

    if how != "at once":
        response = input(event.prefix)
        if how == "in another run":
            handler = workflow.run(ctx=Context.from_dict(workflow, ctx_dict))
        handler.ctx.send_event(HumanResponseEvent(response=response))
        rest = list(handler.stream_events())

    final_result = handler.result()
    """
    person = Person()
    variables = run_sync_program(HUMAN + textwrap.dedent(program), {"input": person, "json": json, "how": how})
    assert variables["final_result"] == "42"
    assert person.asked == ["Enter a number: "]
    assert len(variables["rest"]) == (how != "at once")


def test_sync_tools_get_a_human_in_the_loop() -> None:
    """As their twins: `def` functions that a `def` step calls wait where they stand."""
    program = DANGEROUS.replace("response = await handler", "response = handler.result()")
    variables = run_sync_program(program, {"input": lambda prefix: "yes"})
    assert variables["response"] == "Dangerous task completed successfully."
    program = """
    handler = workflow.run(command="ls")
    for event in handler.stream_events():
        if isinstance(event, CLIHumanInputEvent):
            ctx_dict = json.loads(json.dumps(handler.ctx.to_dict()))
            handler.cancel_run()
            break

    handler = workflow.run(ctx=Context.from_dict(workflow, ctx_dict))
    handler.ctx.send_event(CLIHumanResponseEvent(execute=False))
    rest = [event for event in handler.stream_events()]
    result = handler.result()
    """
    variables = run_sync_program(CLI + textwrap.dedent(program), {"hashlib": hashlib, "json": json})
    assert variables["result"] == "cancelled"
    assert [type(event).__name__ for event in variables["rest"]] == ["StopEvent"]


# -- the programs that ask a person, each in two processes -------------------------------------------------------------

# What a module of each program holds, what `run` is given, the event that answers, and the result.
IN_TWO: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "human": (HUMAN, {}, "HumanResponseEvent(response='42')", "42"),
    "own_events": (
        OWN_EVENTS,
        {"command": "ls"},
        "event.response_event_type(execute=True, command=event.data.command)",
        "ran ls",
    ),
    "dangerous": (
        DANGEROUS.partition("handler = ")[0],
        {"user_msg": "I want to proceed with the dangerous task."},
        "HumanResponseEvent(response='yes', user_name=event.user_name)",
        "Dangerous task completed successfully.",
    ),
    "cli": ("import hashlib\n" + CLI, {"command": "ls"}, "CLIHumanResponseEvent(execute=True)", "ran ls"),
}
# Puts every program away at its question, or answers every question that was put away and prints the results.
IN_ONE_PROCESS = """
async def begin(name, arguments):
    handler = importlib.import_module(name).workflow.run(**arguments)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            Path(name + ".saved").write_bytes(handler.ctx.snapshot())
            Path(name + ".json").write_text(json.dumps(handler.ctx.to_dict()))
            await handler.cancel_run()
            break

async def go_on(name, ctx, answer):
    module = importlib.import_module(name)
    handler = module.workflow.run(ctx=ctx)
    (event,) = [question.request for question in handler.pending_inputs()]
    handler.ctx.send_event(eval(answer, vars(module), {"event": event}))
    return await handler

async def main():
    results = {}
    for name, (arguments, answer) in json.load(sys.stdin).items():
        if sys.argv[1] == "begin":
            await begin(name, arguments)
        else:
            workflow = importlib.import_module(name).workflow
            for ctx in (
                Context.restore(workflow, Path(name + ".saved").read_bytes()),
                Context.from_dict(workflow, json.loads(Path(name + ".json").read_text())),
            ):
                results.setdefault(name, []).append(await go_on(name, ctx, answer))
    print(json.dumps(results))
"""


@pytest.mark.parametrize("is_sync", [False, True], ids=["as written", "sync twin"])
def test_programs_that_ask_are_answered_in_another_process(tmp_path: Path, is_sync: bool) -> None:
    """Each begins in one process, which ends, and goes on in another, from bytes and from JSON."""
    imports = IMPORT.replace("greenroom.aio", "greenroom") if is_sync else IMPORT
    for name, (program, *_) in IN_TWO.items():
        (tmp_path / f"{name}.py").write_text(imports + (as_sync(program) if is_sync else program))
    main = as_sync(IN_ONE_PROCESS) + "main()" if is_sync else IN_ONE_PROCESS + "asyncio.run(main())"
    main = main.replace("handler\n", "handler.result()\n") if is_sync else main
    given = json.dumps({name: (arguments, answer) for name, (_, arguments, answer, _) in IN_TWO.items()})

    def in_a_process(what: str) -> Any:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import asyncio, importlib, json, sys\nfrom pathlib import Path\n" + imports + main,
                what,
            ],
            input=given,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert in_a_process("begin") == {}
    assert in_a_process("go on") == {name: [result] * 2 for name, (*_, result) in IN_TWO.items()}
