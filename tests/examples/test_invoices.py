"""The invoices example: its parsing as a table, and the command as a person or a script would use it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from examples.invoices.__main__ import main
from examples.invoices.parsing import Invoice, Rejection, read_invoice
from examples.invoices.report import make_report, summary
from tests.support.terminal import ROOT, TIME_LIMIT, Program
from tests.support.waiting import wait_until

INVOICES = Program(sys.executable, "-m", "examples.invoices", kind="xterm")

FIELDS: dict[str, Any] = {
    "number": "A-1",
    "issued": "2025-06-30",
    "supplier": "Acme",
    "currency": "EUR",
    "lines": [{"description": "Bolts", "quantity": "3", "unit_price": "1.50"}],
    "tax": "0.45",
    "total": "4.95",
}
HEADER = "number,issued,supplier,currency,description,quantity,unit_price,tax,total\n"


def invoice_json(**changes: Any) -> str:
    """A correct invoice with some fields changed; a field set to `...` is left out."""
    return json.dumps({name: value for name, value in {**FIELDS, **changes}.items() if value is not ...})


def one_line(**changes: str) -> list[dict[str, str]]:
    return [{**FIELDS["lines"][0], **changes}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", invoice_json()),
        ("a.JSON", "\ufeff" + invoice_json()),
        ("a.json", '{"extra": null, ' + invoice_json(tax=0.45, total=4.95)[1:]),
        ("a.csv", HEADER + "A-1,2025-06-30,Acme,EUR,Bolts,3,1.50,0.45,4.95\n"),
        (
            "a.csv",
            "\ufeff" + HEADER.replace("\n", "\r\n") + ' A-1 ,2025-06-30,Acme,EUR,"Bolts",3,1.50,0.45,4.95\r\n\r\n',
        ),
    ],
)
def test_a_correct_file_is_read_as_an_invoice_with_decimal_amounts(tmp_path: Path, name: str, text: str) -> None:
    """CSV and JSON, with and without a byte order mark, give the same invoice, and no amount passes through float."""
    (tmp_path / name).write_bytes(text.encode())
    invoice = read_invoice(tmp_path / name)
    assert isinstance(invoice, Invoice), invoice
    assert invoice == Invoice(**FIELDS, file=name)
    amounts = [invoice.total, invoice.tax, invoice.lines[0].quantity, invoice.lines[0].unit_price]
    assert amounts == [Decimal("4.95"), Decimal("0.45"), Decimal(3), Decimal("1.50")]
    assert {type(amount) for amount in amounts} == {Decimal}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "", "the file is empty"),
        ("a.csv", " \n", "the file is empty"),
        ("a.txt", "hello", "not an invoice file: its name ends neither in .csv nor in .json"),
        ("a", "hello", "not an invoice file: its name ends neither in .csv nor in .json"),
        ("a.json", '{"number": "A-1",', "malformed JSON at line 1, column 18: Expecting property name enclosed"),
        ("a.json", "[1, 2]", "malformed JSON: expected one object with the fields of an invoice"),
        ("a.json", "[" * 200_000, "malformed JSON: nested too deeply"),
        ("a.json", invoice_json(total=...), "missing field: total"),
        ("a.json", invoice_json(total=..., supplier=...), "missing field: supplier; missing field: total"),
        ("a.json", invoice_json(lines=[]), "no line items"),
        ("a.json", invoice_json(lines=[{"description": "Bolts"}]), "missing field: lines.1.quantity; missing field"),
        ("a.json", invoice_json(supplier=" "), "supplier: String should have at least 1 character"),
        ("a.json", invoice_json(supplier="\x1b[2J"), "supplier: expected printable text"),
        ("a.json", invoice_json(supplier=None), "supplier: Input should be a valid string"),
        ("a.json", invoice_json(issued="30.06.2025"), "issued: expected a date such as 2025-06-30, found '30.06.2025'"),
        ("a.json", invoice_json(issued="2025-02-30"), "issued: Input should be a valid date"),
        ("a.json", invoice_json(issued=20250630), "issued: expected a date such as 2025-06-30, found '20250630'"),
        ("a.json", invoice_json(total="1_0"), "total: expected a plain number such as 1250.00, found '1_0'"),
        ("a.json", invoice_json(total="1,250.00"), "total: expected a plain number such as 1250.00, found '1,250.00'"),
        ("a.json", invoice_json(total=1e300), "total: expected a plain number such as 1250.00, found '1e+300'"),
        ("a.json", invoice_json(total=True), "total: expected a plain number such as 1250.00, found True"),
        ("a.json", invoice_json(total=float("nan")), "total: expected a plain number such as 1250.00, found nan"),
        ("a.json", invoice_json(currency="XAU"), "currency: no rate for XAU in the table of 2025-06-30"),
        ("a.json", invoice_json(total="4.955"), "total: 4.955 has more decimals than EUR has"),
        ("a.json", invoice_json(currency="JPY"), "tax: 0.45 has more decimals than JPY has"),
        ("a.json", invoice_json(total="5.00"), "total: states 5.00, but lines and tax add up to 4.95"),
        (
            "a.json",
            invoice_json(lines=one_line(quantity="-3")),
            "total: states 4.95, but lines and tax add up to -4.05",
        ),
        ("a.csv", HEADER, "no line items"),
        ("a.csv", HEADER + "A-1,2025-06-30,Acme,EUR,Bolts,3,1.50,,4.95\n", "missing field: tax"),
        ("a.csv", HEADER + "A-1,2025-06-30,Acme,EUR,Bolts,3,1.50,0.45\n", "missing field: total"),
        (
            "a.csv",
            HEADER + "A-1,2025-06-30,Acme,EUR,Bolts, 8 mm,3,1.50,0.45,4.95\n",
            "malformed CSV at line 2: more values",
        ),
        (
            "a.csv",
            HEADER + 'A-1,2025-06-30,Acme,EUR,"Bolts,3,1.50,0.45,4.95\n',
            "malformed CSV at line 2: unexpected end",
        ),
        (
            "a.csv",
            HEADER + "A-1,2025-06-30,Acme,EUR,Bolts,3,1.50,0.45,4.95\nA-2,2025-06-30,Acme,EUR,Nuts,3,1.50,0.45,4.95\n",
            "malformed CSV at line 3: its invoice fields differ from the first row",
        ),
    ],
)
def test_a_bad_file_is_rejected_with_the_reason(tmp_path: Path, name: str, text: str, reason: str) -> None:
    """Whatever is wrong with a file, the outcome is a rejection that says it, never an exception."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    outcome = read_invoice(tmp_path / name)
    assert isinstance(outcome, Rejection), outcome
    assert outcome.file == name
    assert outcome.reason.startswith(reason)


def test_bytes_that_are_no_text_and_files_that_are_gone_are_rejected(tmp_path: Path) -> None:
    """Binary content, a file that vanished and an unprintable name are rejections as well."""
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    assert read_invoice(tmp_path / "a.csv") == Rejection(
        file="a.csv", reason="not UTF-8 text: invalid start byte at byte 0"
    )
    assert read_invoice(tmp_path / "gone.csv") == Rejection(
        file="gone.csv", reason="cannot be read: No such file or directory"
    )
    assert read_invoice(tmp_path / "a\x1b.txt").file == r"'a\x1b.txt'"


def test_line_amounts_are_rounded_half_up_to_the_currencys_unit(tmp_path: Path) -> None:
    """Half a cent counts as a cent, half a yen as a yen, line by line."""
    cents = invoice_json(lines=one_line(quantity="1", unit_price="0.125") * 2, tax="0", total="0.26")
    yen = invoice_json(lines=one_line(quantity="1", unit_price="2.5") * 2, tax="0", total="6", currency="JPY")
    for text in (cents, yen):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        assert isinstance(read_invoice(tmp_path / "a.json"), Invoice)


def test_duplicates_are_rejected_in_the_order_of_file_names() -> None:
    """The first file by name is kept; another supplier may use the same number."""
    first = Invoice(**FIELDS, file="a.json")
    same = first.model_copy(update={"file": "b.json"})
    changed = first.model_copy(update={"file": "c.json", "total": Decimal(9)})
    other = first.model_copy(update={"file": "d.json", "supplier": "Bolt & Co"})
    report = make_report([other, changed, same, first], Decimal("9.90"))
    assert [payable.file for payable in report.accepted] == ["a.json", "d.json"]
    assert report.rejected == [
        Rejection(file="b.json", reason="duplicate: the same invoice as a.json"),
        Rejection(file="c.json", reason="duplicate: number A-1 is already used in a.json, which says something else"),
    ]
    assert (report.total_eur, report.payment) == (Decimal("9.90"), "within limit")


def test_a_sum_one_cent_above_the_limit_is_held() -> None:
    """The limit itself needs no approval, and nothing accepted is no sum at all."""
    assert make_report([Invoice(**FIELDS, file="a.json")], Decimal("4.94")).payment == "held"
    nothing = make_report([Rejection(file="a.txt", reason="no")], Decimal(0))
    assert (nothing.total_eur, nothing.payment) == (Decimal(0), "within limit")
    assert "Files: 1, accepted 0, rejected 1" in summary(nothing)


# The command.

ACCEPTED = [
    ("brightwater-2025-0611.csv", "2025-0611", "2025-06-11", "EUR", "1136.45", "1136.45"),
    ("brightwater-2025-0625.csv", "2025-0625", "2025-06-25", "EUR", "611.63", "611.63"),
    ("brightwater-CN-0031.json", "CN-0031", "2025-06-27", "EUR", "-220.15", "-220.15"),
    ("calder-print-7731.csv", "7731", "2025-06-04", "GBP", "1557.60", "1820.69"),
    ("calder-print-7740.csv", "7740", "2025-06-19", "GBP", "411.72", "481.26"),
    ("helvion-R-5521.csv", "R-5521", "2025-06-10", "CHF", "1338.93", "1432.47"),
    ("helvion-R-5540.json", "R-5540", "2025-06-24", "CHF", "1116.13", "1194.11"),
    ("kanda-seiki-25-0098.csv", "25-0098", "2025-06-06", "JPY", "266420", "1574.87"),
    ("kanda-seiki-25-0104.json", "25-0104", "2025-06-20", "JPY", "259160", "1531.95"),
    ("lumen-cloud-INV-20417.json", "INV-20417", "2025-06-01", "USD", "1126.88", "961.50"),
    ("lumen-cloud-INV-20488.json", "INV-20488", "2025-06-30", "USD", "1820.0", "1552.90"),
    ("meridian-travel-9918.json", "9918", "2025-06-16", "EUR", "500.28", "500.28"),
    ("northgate-freight-88120.csv", "88120", "2025-06-09", "USD", "2998.75", "2558.66"),
    ("northgate-freight-88131.csv", "88131", "2025-06-23", "USD", "1134.75", "968.22"),
    ("ostra-energia-FV-118.json", "FV-118", "2025-06-05", "EUR", "2788.15", "2788.15"),
    ("penrose-legal-2025-41.json", "2025-41", "2025-06-12", "GBP", "2605.80", "3045.94"),
]
SUPPLIERS = {
    "brightwater": "Brightwater Büroservice GmbH",
    "calder": "Calder Print Ltd",
    "helvion": "Helvion Werkzeuge AG",
    "kanda": "Kanda Seiki K.K.",
    "lumen": "Lumen Cloud Inc.",
    "meridian": "Meridian Travel S.A.",
    "northgate": "Northgate Freight LLC",
    "ostra": "Ostra Energía S.L.",
    "penrose": "Penrose Legal LLP",
}
REJECTED = {
    "fjordline-3308.csv": "currency: no rate for SEK in the table of 2025-06-30",
    "kanda-seiki-25-0110.csv": "tax: 1855.50 has more decimals than JPY has",
    "lumen-cloud-INV-20417_corrected.json": "duplicate: number INV-20417 is already used in "
    "lumen-cloud-INV-20417.json, which says something else",
    "meridian-travel-9917.json": "malformed JSON at line 12, column 4: Expecting value",
    "northgate-freight-88131_copy.csv": "duplicate: the same invoice as northgate-freight-88131.csv",
    "ostra-energia-FV-131.json": "missing field: total",
    "penrose-legal-2025-42.json": "total: states 5878.50, but lines and tax add up to 5587.50",
}


def expected_report(payment: str, limit: str = "10000") -> dict[str, Any]:
    """All of report.json for the example's own folder."""
    return {
        "rates_of": "2025-06-30",
        "accepted": [
            {
                "file": file,
                "number": number,
                "issued": issued,
                "supplier": SUPPLIERS[file.split("-")[0]],
                "currency": currency,
                "total": total,
                "eur": eur,
            }
            for file, number, issued, currency, total, eur in ACCEPTED
        ],
        "rejected": [{"file": file, "reason": reason} for file, reason in REJECTED.items()],
        "limit_eur": limit,
        "payment": payment,
        "total_eur": "21938.93",
        "totals": {"CHF": "2455.06", "EUR": "4816.36", "GBP": "4575.12", "JPY": "525580", "USD": "7080.38"},
    }


def written(output: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return report


def test_without_a_terminal_the_sum_is_held_and_both_reports_are_written(tmp_path: Path) -> None:
    """The command ends by itself with exit code 0, shows plain lines, and writes the exact report."""
    done = INVOICES.run("--output", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert written(tmp_path) == expected_report("held")

    text = (tmp_path / "summary.txt").read_text(encoding="utf-8")
    assert "Files: 23, accepted 16, rejected 7" in text
    for file, reason in REJECTED.items():
        assert f"  {file}\n    {reason}\n" in text
    assert "       EUR 21,938.93  in all\n" in text
    assert text.endswith("Payment: held for approval, the sum is above the limit of EUR 10,000.00\n")

    assert text in done.stdout
    assert "\x1b" not in done.stdout
    progress = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert [line[:7] for line in progress] == [f"[{done:>2}/23]" for done in range(1, 24)]
    told = {line.split(" ok ")[1].strip() for line in progress if " ok " in line}
    assert "kanda-seiki-25-0098.csv: JPY 266,420" in told
    assert "There is no terminal to ask: held for approval. Run again with --approve or --reject." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "payment", "limit", "sentence"),
    [
        (["--approve"], "approved", "10000", "Payment: approved by a person, the sum is above"),
        (["--reject"], "rejected", "10000", "Payment: rejected by a person, the sum is above"),
        (["--limit", "21938.93"], "within limit", "21938.93", "Payment: approved, the sum is within the limit"),
        (["--limit", "21938.92", "--approve"], "approved", "21938.92", "Payment: approved by a person"),
    ],
)
def test_the_answer_may_be_given_beforehand(
    tmp_path: Path, arguments: list[str], payment: str, limit: str, sentence: str
) -> None:
    """--approve and --reject answer the question, and a sum within the limit raises none."""
    done = INVOICES.run("--output", tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert written(tmp_path) == expected_report(payment, limit)
    assert sentence in done.stdout
    assert "no terminal" not in done.stdout


def reads_a_line(process: subprocess.Popen[bytes]) -> bool:
    """Whether the program's main thread waits for a key: in read, poll, select or pselect6."""
    call = Path(f"/proc/{process.pid}/syscall").read_text().split()[0]
    return call in {"0", "7", "23", "270"} if os.uname().machine == "x86_64" else call != "running"


@pytest.mark.parametrize(
    ("keys", "payment"),
    [("y\n", "approved"), ("n\n", "rejected"), ("\n", "held"), ("\x04", "held"), ("maybe\nYes\n", "approved")],
)
def test_on_a_terminal_a_person_is_asked(tmp_path: Path, keys: str, payment: str) -> None:
    """The progress bar runs to its end, then y approves, n rejects, Enter or end of input holds."""
    with INVOICES.terminal("--output", tmp_path) as person:
        screen = person.read_until("Enter = hold) ")
        person.type(keys)
        rest = person.read_rest()
        assert person.code() == 0
    assert "Checking invoices" in screen
    assert "23/23" in screen
    assert "rejected  ostra-energia-FV-131.json: missing field: total" in screen
    assert "Pay EUR 21,938.93?" in screen
    assert rest.count("Enter = hold) ") == (1 if "maybe" in keys else 0)
    assert written(tmp_path) == expected_report(payment)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Let child processes take SIGINT even where these tests run as a shell's background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_at_the_question_ends_with_130_and_a_message(tmp_path: Path) -> None:
    """An interrupt while the person is asked leaves no report and no traceback."""
    with INVOICES.terminal("--output", tmp_path) as person:
        person.read_until("Enter = hold) ")
        # Between showing the prompt and reading the answer Python looks for no signal: one that came there would have
        # to be sent again.
        assert wait_until(lambda: reads_a_line(person.process), TIME_LIMIT)
        person.interrupt()
        rest = person.read_rest()
        assert person.code() == 130
    assert rest.split() == ["Interrupted:", "no", "report", "was", "written."]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_while_files_are_checked_ends_with_130_and_a_message(tmp_path: Path) -> None:
    """An interrupt in the middle of the work ends the command at once."""
    inbox, output = tmp_path / "inbox", tmp_path / "output"
    inbox.mkdir()
    for number in range(1000):  # More lines than a pipe holds: the command cannot end while nobody reads.
        (inbox / f"{number:0200}.txt").touch()
    with subprocess.Popen(
        INVOICES.command(inbox, "--output", output),
        cwd=ROOT,
        env=INVOICES.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], TIME_LIMIT)
            assert ready
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIME_LIMIT)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.decode().split() == ["Interrupted:", "no", "report", "was", "written."]
    assert list(output.iterdir()) == []


def test_a_reader_that_has_gone_does_not_stop_the_report(tmp_path: Path) -> None:
    """With a closed pipe for standard output (`| head -1`) there is no traceback, and the report is written."""
    done = INVOICES.run_unread("--output", tmp_path, "--approve")
    assert (done.returncode, done.stderr) == (0, b"")
    assert written(tmp_path) == expected_report("approved")


def test_a_folder_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    """A missing folder, a file in its place and an empty folder end with exit code 2 and say which folder."""
    empty, file, output = tmp_path / "empty", tmp_path / "file", tmp_path / "output"
    empty.mkdir()
    file.touch()
    (empty / ".hidden.csv").touch()
    for folder, message in {
        tmp_path / "missing": f"Error: cannot read the folder {tmp_path / 'missing'}: No such file or directory\n",
        file: f"Error: cannot read the folder {file}: Not a directory\n",
        empty: f"Error: no files in the folder {empty}\n",
    }.items():
        done = INVOICES.run(folder, "--output", output)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
    assert list(output.iterdir()) == []


def test_an_output_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    """The command says so before it does any work, and ends with exit code 2."""
    file = tmp_path / "file"
    file.touch()
    done = INVOICES.run("--output", file / "below")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: cannot write to the folder {file / 'below'}: Not a directory\n"


@pytest.mark.parametrize("limit", ["ten", "-1", "NaN", "1e5", "0.001", ""])
def test_a_limit_that_is_no_amount_is_refused(capsys: pytest.CaptureFixture[str], limit: str) -> None:
    """A limit that is not a plain amount of euros is a usage error."""
    with pytest.raises(SystemExit) as ended:
        main([f"--limit={limit}"])
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert f"argument --limit: {limit!r} is not an amount in euros, such as 10000 or 99.50" in told.err


def test_approve_and_reject_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Two answers to one question are a usage error."""
    with pytest.raises(SystemExit) as ended:
        main(["--approve", "--reject"])
    assert ended.value.code == 2
    assert "not allowed with argument --approve" in capsys.readouterr().err


def test_help_documents_the_default_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """--help says what happens where nobody can be asked, and what the exit codes mean."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "the payment is held for approval" in text
    assert "Exit codes: 0 the report is written, 2 bad input, 130 interrupted." in text
