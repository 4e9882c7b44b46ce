"""The command line: `python -m examples.journey --help`."""

from __future__ import annotations

import argparse
import sys

from examples.journey import FLIGHTS, JourneyWorkflow, Progress
from greenroom import InputRequiredEvent, InvalidResponseError


def main(arguments: list[str] | None = None) -> int:
    """Book a journey, show what its runs do, and answer the question of one of them.

    Args:
        arguments: The command line without the program's name; None takes it from `sys.argv`.

    Returns:
        The exit code: 0 it is booked, 2 there is no such journey, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m examples.journey", description="Book a flight and a hotel.")
    parser.add_argument("to", nargs="?", default="Lisbon", help=f"{', '.join(FLIGHTS)} (default: %(default)s)")
    parser.add_argument("--hotel", choices=["best", "cheapest"], help="answer beforehand; else you are asked")
    options = parser.parse_args(arguments)

    handler = JourneyWorkflow().run(run_id="journey", to=options.to)
    stream = handler.stream_events(include_children=True)
    try:
        for event in stream:
            if isinstance(event, Progress):
                print(f"[{stream.run_id}] {event.message}")
            while isinstance(event, InputRequiredEvent):
                decision = options.hotel or input(f"[{stream.run_id}] {event.get('message')} (best / cheapest) ")
                try:
                    handler.respond(event.input_id, {"decision": decision})
                    break
                except InvalidResponseError:  # The question is still open.
                    print("Please answer best or cheapest.")
        print(handler.result())
    except ValueError as error:  # That of the child: no flight goes there.
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, EOFError):
        handler.cancel_run()  # and with it what runs within it
        print("\nInterrupted: nothing was booked.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
