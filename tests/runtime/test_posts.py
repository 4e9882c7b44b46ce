"""What other processes post for a durable run: it is taken, or it is refused and kept as a dead letter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import field_validator

from greenroom import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Runtime,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from greenroom.codec import TypeRegistry, encode
from greenroom.inbox import fate_of, post_answer, post_event, post_fields
from greenroom.named import registry_of
from greenroom.stores import RunStore
from tests.support.flavours import DEADLINE
from tests.support.waiting import wait_until


class Ask(InputRequiredEvent):
    n: int


class Answer(HumanResponseEvent):
    n: int

    @field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        if n == 13:
            raise KeyError("a validator that raises what it likes")
        return n


class Other(HumanResponseEvent):
    n: int


class Poke(Event):
    n: int


class Asks(Workflow):
    """Gives its first question up, and asks two more."""

    @step
    def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        with contextlib.suppress(TimeoutError):
            ctx.ask(Ask(n=0), Answer, timeout=0.001)
        answers = [ctx.ask(Ask(n=n), Answer).n for n in (1, 2)]
        return StopEvent(result=answers)

    @step
    def take(self, ev: Poke | Other) -> None: ...


class Outer(Workflow):
    @step
    def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.run(Asks(disable_validation=True)).result())


def until(condition: Callable[[], object]) -> None:
    assert wait_until(condition, DEADLINE), "it never came to be"


def asks() -> Asks:
    return Asks(disable_validation=True)


def open_question(handler: Any, n: int) -> str:
    """Wait for the run to ask its question of that number, and return the id."""
    found: list[str] = []

    def is_asked() -> bool:
        found[:] = [question.input_id for question in handler.pending_inputs() if question.request.n == n]
        return bool(found)

    until(is_asked)
    return found[0]


def letters(handler: Any) -> list[tuple[str, str]]:
    return [(type(letter.event).__name__, letter.reason) for letter in handler.dead_letters()]


def post_all(store: RunStore, workflow: Workflow, question: str) -> list[str | None]:
    """Post what a run refuses, in each way, and then what it takes; return the tokens of the answers."""
    registry = registry_of(workflow)
    run, number = question.rpartition(":")[::2]
    until(lambda: store.input(question))  # "async" tells of it before it is committed
    row = store.input(question)
    assert row is not None
    return [
        post_answer(store, "one", f"{run}:{int(number) - 1}", Answer(n=1), registry),  # given up
        post_answer(store, "one", f"{run}:99", Answer(n=2), registry),  # never asked
        post_other_class(store, question, registry),
        post_fields(store, row, {"n": "many"}),
        post_fields(store, row, {"n": 13}),
        post_answer(store, "one", question, Answer(n=7), registry),
    ]


def post_other_class(store: RunStore, question: str, registry: TypeRegistry) -> str:
    """Post an answer as a process with other code might."""
    store.post("one", "answer", encode([question, Other(n=3), "a token"], registry))
    return "a token"


@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("flow", [asks, Outer], ids=["run", "child"])
def test_an_answer_that_a_run_refuses_is_a_dead_letter(
    flow: Callable[[], Workflow], durability: Any, make_store: Callable[[], RunStore]
) -> None:
    """With the reason, here and after a restart; whoever posted it can see it, and the run goes on."""
    workflow, store = flow(), make_store()
    with Runtime(store=store, durability=durability):
        handler = workflow.run(run_id="one")
        question = open_question(handler, 1)
        poster = make_store()
        poster.open()
        tokens = post_all(poster, workflow, question)
        open_question(handler, 2)
        row = poster.input(question)
        assert row is not None
        tokens.append(post_fields(poster, row, {"n": 8}))  # too late
        assert post_answer(poster, "one", question, Answer(n=8), registry_of(workflow)) is None
        until(lambda: fate_of(poster, "one", str(tokens[-1]))[0])
        fates = [fate_of(poster, "one", str(token)) for token in tokens]
        assert all(taken for taken, _ in fates)
        assert [None if reason is None else reason.splitlines()[0] for _, reason in fates] == [
            f"question '{question[:-1]}1' was given up: nobody had answered in time",
            f"there is no question '{question[:-1]}99'; pending_inputs() lists those that are open",
            f"question '{question}' is answered with Answer, not Other",
            f"the answer to question '{question}' does not fit: 1 validation error for Answer",
            f"the answer to question '{question}' does not fit: KeyError('a validator that raises what it likes')",
            None,
            f"question '{question}' has been answered",
        ]
        kept = letters(handler)
        assert [name for name, _ in kept] == ["Answer", "Answer", "Other", *["HumanResponseEvent"] * 2, "Answer"]
        refused = [reason for _, reason in fates if reason is not None]
        assert [reason for _, reason in kept] == refused
        assert handler.dead_letters()[3].event.answer == {"n": "many"}
        assert poster.inbox(run_id="one") == []
    with Runtime(store=make_store(), durability=durability) as runtime:
        runtime.recover([flow()])
        again = runtime.get("one")
        assert again is not None
        assert letters(again) == kept
        again.respond(open_question(again, 2), {"n": 9})
        assert again.result(DEADLINE) == [7, 9]


def test_answers_that_wait_together_are_taken_in_order(make_store: Callable[[], RunStore]) -> None:
    """The first counts, the second is refused, though nobody had the run when they were posted."""
    workflow, store = asks(), make_store()
    with Runtime(store=store):
        question = open_question(workflow.run(run_id="one"), 1)
    poster = make_store()
    poster.open()
    row = poster.input(question)
    assert row is not None
    first, second = (post_fields(poster, row, {"n": n}) for n in (4, 5))
    assert [fate_of(poster, "one", token) for token in (first, second)] == [(False, None), (False, None)]
    with Runtime(store=make_store()) as runtime:
        runtime.recover([asks()])
        handler = runtime.get("one")
        assert handler is not None
        last = open_question(handler, 2)
        until(lambda: fate_of(poster, "one", second)[0])
        assert fate_of(poster, "one", first) == (True, None)
        assert fate_of(poster, "one", second) == (True, f"question '{question}' has been answered")
        assert [name for name, _ in letters(handler)] == ["Answer"]
        handler.respond(last, {"n": 6})
        assert handler.result(DEADLINE) == [4, 6]


def test_an_event_for_a_step_that_does_not_take_it_is_a_dead_letter(make_store: Callable[[], RunStore]) -> None:
    """As one whose step is gone since it was posted; one that can be read by nobody stays in the inbox."""
    workflow, store = asks(), make_store()
    registry = registry_of(workflow)
    with Runtime(store=store):
        handler = workflow.run(run_id="one")
        question = open_question(handler, 1)
        poster = make_store()
        poster.open()
        poster.post("one", "event", encode([Poke(n=1), "gone", None], registry))
        poster.post("one", "event", encode([Poke(n=2), "ask", None], registry))
        poster.post("one", "event", encode([3, None, None], registry))
        poster.post("one", "answer", b"no document")
        post_event(poster, "one", Poke(n=5), registry)
        token = post_answer(poster, "one", question, Answer(n=6), registry)
        until(lambda: fate_of(poster, "one", str(token))[0])
        assert [entry.kind for entry in poster.inbox(run_id="one")] == ["event", "answer"]
        assert [reason.partition(";")[0] for _, reason in letters(handler)] == [
            "step 'gone' does not exist in Asks",
            "step 'ask' of Asks does not accept Poke",
        ]
        handler.respond(open_question(handler, 2), {"n": 7})
        assert handler.result(DEADLINE) == [6, 7]
