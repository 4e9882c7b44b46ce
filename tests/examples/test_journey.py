"""The journey example: two runs within one, seen from the command."""

from __future__ import annotations

import pytest

from examples.journey import JourneyWorkflow
from examples.journey.__main__ import main
from greenroom import Context
from greenroom.testing import SeededRuntime

FLIGHT, HOTEL = "[journey/FlightWorkflow.0.0]", "[journey/HotelWorkflow.0.0]"


def typed(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Answer what is asked at the terminal; return the prompts."""
    prompts: list[str] = []
    given = iter(answers)

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    return prompts


def test_both_children_are_shown_and_one_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What each run publishes bears its id, and its question is answered, also after a wrong answer."""
    prompts = typed(monkeypatch, "any", "cheapest")
    assert main(["Lisbon"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(FLIGHT)] == [f"{FLIGHT} a seat to Lisbon for 148 EUR"]
    assert [line for line in lines if line.startswith(HOTEL)] == [
        f"{HOTEL} 2 hotels in Lisbon",
        f"{HOTEL} 2 nights at Baixa for 158 EUR",
    ]
    assert "Please answer best or cheapest." in lines
    assert lines[-1] == "Lisbon, 2 nights: 306 EUR"
    assert prompts == [f"{HOTEL} Alfama is 132 EUR a night, Baixa is 79. Which one? (best / cheapest) "] * 2


@pytest.mark.parametrize(
    ("arguments", "total"), [(["Turin"], 247), (["Oslo", "--hotel", "best"], 532), (["--hotel", "cheapest"], 306)]
)
def test_nobody_is_asked_without_need(arguments: list[str], total: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Within the budget, or with the answer given beforehand, it books without a question."""
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"2 nights: {total} EUR")


def test_what_a_child_raises_ends_the_journey(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a flight there is no journey: the child's error is the run's, with exit code 2."""
    assert main(["Paris"]) == 2
    assert capsys.readouterr().err == "Error: no flight to Paris; there is one to Lisbon, Oslo, Turin\n"


def test_no_answer_books_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody is there to answer the run is cancelled with its children."""
    typed(monkeypatch)
    assert main(["Lisbon"]) == 130
    assert "nothing was booked" in capsys.readouterr().err


def test_a_journey_is_put_away_with_its_children() -> None:
    """A snapshot holds both children: the flight's result, and the hotel's question to be answered in another life."""
    with SeededRuntime(1) as runtime:
        handler = JourneyWorkflow().run(to="Lisbon", nights=3)
        runtime.run_until_idle()
        data = handler.ctx.snapshot()
        handler.cancel_run()
        workflow = JourneyWorkflow()
        again = workflow.run(ctx=Context.restore(workflow, data))
        runtime.run_until_idle()
        (question,) = again.pending_inputs()
        again.respond(question.input_id, {"decision": "best"})
        assert again.result() == "Lisbon, 3 nights: 544 EUR"
