"""The harness of the benchmarks, with figures that are made up."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import made_up_rows as made
import pytest

from benchmarks import __main__ as command
from benchmarks import at_rest, harness, profiling, report
from benchmarks.row import Figure, Result, Row, note_at_most
from benchmarks.rows import ROWS
from benchmarks.worker import load, path_of

PEER_IS_THERE = "9.9"


def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *rows: type[Row], peer: str | None = PEER_IS_THERE, rounds: int = 1
) -> tuple[int, dict[str, Any]]:
    """Run the command line quickly on these rows; return its exit code and the JSON that it wrote."""
    monkeypatch.setattr(command, "peer_version", lambda: peer)
    output = tmp_path / "new" / "figures.json"
    code = command.main(["--quick", "--rounds", str(rounds), "--output", str(output)], rows=rows)
    return code, json.loads(output.read_text(encoding="utf-8"))


def test_row_is_printed_as_a_line_and_written_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A row says what, ours, peer, ratio, target and whether it is met, on a line and in the JSON."""
    code, document = run(tmp_path, monkeypatch, made.Made)
    assert code == 0
    printed = capfd.readouterr().out
    assert "a made-up thing: ours 2.00 µs, peer 50.0 µs, ratio 25.0x, target ≥ 20x faster, met\n" in printed
    assert "what a row prints" not in printed
    (row,) = document["rows"]
    assert row["ratio"] == pytest.approx(25)
    assert (row["name"], row["unit"], row["met"]) == ("made", "s", True)
    assert row["ours"] == {"median": 2e-6, "samples": [2e-6], "notes": {"size seen": 10}, "error": None}
    assert document["quick"] is True


def test_missed_target_is_said_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A target that is missed is printed as such, and the command still succeeds: it measured."""
    code, document = run(tmp_path, monkeypatch, made.Missed)
    assert code == 0
    assert document["rows"][0]["met"] is False
    assert "NOT MET" in capfd.readouterr().out


def test_without_the_peer_ours_is_measured_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the peer is not installed, our figures are printed without a ratio, and how to install it is said."""
    code, document = run(tmp_path, monkeypatch, made.Made, peer=None)
    assert code == 0
    assert document["rows"][0]["peer"] is None
    assert document["rows"][0]["met"] is None
    printed = capfd.readouterr().out
    assert "pip install -U llama-index-workflows" in printed
    assert "ours 2.00 µs, peer -, ratio -" in printed


def test_row_without_a_peer_side_is_held_against_its_own_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A row that has no peer side needs none to meet its target, and its figure bears its own unit."""
    _, document = run(tmp_path, monkeypatch, made.Alone)
    assert document["rows"][0]["met"] is True
    assert "ours 8.00 B, peer -" in capfd.readouterr().out


def test_median_of_the_rounds_counts_and_the_warm_up_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure and the notes are the medians of the rounds, and what the warm-up gave is not among them."""
    _, document = run(tmp_path, monkeypatch, made.Growing, rounds=3)
    figure = document["rows"][0]["ours"]
    assert figure["samples"] == [2, 3, 4]
    assert figure["median"] == 3
    assert figure["notes"] == {"calls": 3}


def test_sides_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds go ours, peer, ours, peer, after a warm-up of each."""
    turns = tmp_path / "turns"
    monkeypatch.setenv("TURNS_FILE", str(turns))
    run(tmp_path, monkeypatch, made.TakingTurns, rounds=3)
    assert turns.read_text() == "oo" + "pp" + "op" * 2


def test_failing_side_costs_its_cell_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A side that raises is said to have failed, with its error; the other side and the other rows are measured."""
    code, document = run(tmp_path, monkeypatch, made.Broken, made.Made, rounds=2)
    assert code == 1
    broken, fine = document["rows"]
    assert broken["ours"]["error"] == "ValueError: no list[E] today"
    assert broken["ours"]["median"] is None
    assert broken["met"] is None
    assert broken["peer"]["samples"] == [50e-6, 50e-6]
    assert fine["met"] is True
    captured = capfd.readouterr()
    assert "ours failed: ValueError: no list[E] today" in captured.out
    assert captured.err.count("Traceback") == 1


def test_hang_ends_with_the_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A measurement that hangs is ended after the row's limit, with the stacks of its threads, and fails its cell."""
    code, document = run(tmp_path, monkeypatch, made.Hanging)
    assert code == 1
    assert document["rows"][0]["ours"]["error"].startswith("the process ended with code 1")
    assert document["rows"][0]["peer"]["median"] == 50e-6
    assert "waits_for_ever" in capfd.readouterr().err


def test_process_that_ends_badly_fails_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A side whose process does not end in order after its last round has failed, whatever it measured."""
    code, document = run(tmp_path, monkeypatch, made.HangingAtExit)
    assert code == 1
    assert "code 3 after its last round" in document["rows"][0]["ours"]["error"]


def test_terminal_gets_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table names its columns and holds each row, and an error with brackets comes through unharmed."""
    monkeypatch.setenv("COLUMNS", "200")
    figure = Figure(samples=[2e-6], noted=[{}])
    failed = Figure(error="ValueError: no list[E] today")
    results = [Result(made.Made, 1, figure, Figure(samples=[50e-6])), Result(made.Broken, 1, failed, None)]
    assert report.print_table(iter(results)) == results
    printed = capsys.readouterr().out
    for words in (*report.HEADER, "a made-up thing", "25.0x", "ours failed: ValueError: no list[E] today"):
        assert words in printed


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(2.15e-5, "s", "21.5 µs"), (1.23456e-6, "s", "1.23 µs"), (0.0105, "s", "10,500 µs"), (5761.4, "B", "5,761 B")],
)
def test_figures_are_readable(value: float, unit: str, text: str) -> None:
    """Figures are written with three digits or all before the point, and thousands apart."""
    assert report.amount(value, unit) == text


def test_target_on_a_note_reads_the_note_of_our_side() -> None:
    """A target may be about what our side noted instead of its figure."""
    flat = note_at_most("times the cost at 100", 1.5)
    result = Result(made.Alone, 1, Figure(samples=[1.0], noted=[{"times the cost at 100": 1.6}]), None)
    assert flat.check(result) is False


def test_rows_can_be_chosen_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--rows` measures those only, `--list` names all and measures none, and an unknown row is refused by name."""
    monkeypatch.setattr(command, "peer_version", lambda: None)
    rows = [made.Made, made.Alone]
    output = tmp_path / "figures.json"
    assert command.main(["--quick", "--rounds", "1", "--rows", "alone", "--output", str(output)], rows=rows) == 0
    assert [row["name"] for row in json.loads(output.read_text(encoding="utf-8"))["rows"]] == ["alone"]
    capsys.readouterr()
    assert command.main(["--list"], rows=rows) == 0
    assert capsys.readouterr().out.splitlines() == [
        "made: a made-up thing; target ≥ 20x faster",
        "alone: memory of ours alone; target ~0",
    ]
    for wrong in (["--rows", "nothing"], ["--rounds", "0"], ["--profile", "nothing"]):
        with pytest.raises(SystemExit) as refused:
            command.main(wrong, rows=rows)
        assert refused.value.code == 2
        assert wrong[1] in capsys.readouterr().err


def test_profile_measures_our_side_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--profile` measures our side in this process and prints its figure first."""
    monkeypatch.setattr(profiling, "SECONDS", 0.0)
    assert command.main(["--profile", "made"], rows=[made.Made]) == 0
    assert "2.000e-06 s a unit while sampled" in capsys.readouterr().out


def test_profile_says_in_which_function_each_thread_is() -> None:
    """A look at the threads counts the function that each is in, and every function that it is under."""
    arrived, leave = threading.Event(), threading.Event()

    def rests_here() -> None:
        arrived.set()
        leave.wait()

    thread = threading.Thread(target=rests_here, name="resting")
    thread.start()
    arrived.wait()
    seen: dict[int, profiling.Seen] = {}
    try:
        profiling.look(seen)
        profiling.look(seen)
    finally:
        leave.set()
        thread.join()
    assert thread.ident is not None
    text = profiling.describe(seen[thread.ident], wall=1.0)
    assert text.startswith("\nthread resting: ")
    assert "2 samples" in text
    assert any("under" in line and "100%" in line and "rests_here" in line for line in text.splitlines())


def test_every_row_of_the_table_is_complete() -> None:
    """Each row has a name of its own, can be found by another process, and warms up with less than it measures."""
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert type(load(path_of(row))) is row
        assert 0 < row.quick_size < row.size


def test_absent_distribution_has_no_version() -> None:
    """A distribution that is not installed has no version, and one that is has one."""
    assert harness.installed_version("no-such-distribution-of-ours") is None
    assert harness.installed_version("pytest") == pytest.__version__


def test_row_that_the_machine_cannot_measure_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A row that lacks something is named with the reason, is no failure, and keeps no other from being measured."""
    code, document = run(tmp_path, monkeypatch, made.Lacking, made.Made)
    assert code == 0
    assert [row["name"] for row in document["rows"]] == ["made"]
    assert "lacking is left out: no unobtainium" in capfd.readouterr().out


def test_row_whose_own_peer_is_absent_is_measured_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A row may name a peer of its own; while that is not installed, how to install it is said."""
    _, document = run(tmp_path, monkeypatch, made.OtherPeer)
    assert document["rows"][0]["peer"] is None
    assert "pip install -U no-such-distribution-of-ours" in capfd.readouterr().out


def test_runs_at_rest_are_measured(capfd: pytest.CaptureFixture[str]) -> None:
    """`python -m benchmarks.at_rest` prints a figure for each part, from processes of their own."""
    assert at_rest.main(["--runs", "4", "--answers", "3", "--json"]) == 0
    figures = json.loads(capfd.readouterr().out)
    assert figures["runs"] == 4
    assert all(figures[name] > 0 for name in ("begin_us_a_run", "file_bytes_a_run", "answer_p50_us", "rss_mib_fresh"))
