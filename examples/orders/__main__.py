"""The command line: `python -m examples.orders --help`."""

from __future__ import annotations

import argparse
import signal
import threading

from examples.orders import OrderWorkflow, open_runtime
from examples.orders.web import serve


def main(arguments: list[str] | None = None) -> int:
    """Be one of the processes that share a store.

    Args:
        arguments: The command line without the program's name; None takes it from `sys.argv`.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m examples.orders", description="Processes that share a store.")
    parser.add_argument("--store", default="orders.db", help="the SQLite file (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("web", help="serve HTTP").add_argument("--port", type=int, default=0)
    commands.add_parser("worker", help="go on with what other processes leave")
    begin = commands.add_parser("begin", help="begin an order, and leave it to a worker")
    begin.add_argument("order")
    begin.add_argument("amount", type=int)
    options = parser.parse_args(arguments)

    # As Ctrl-C, so that the block below is left and the runs are given back at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with open_runtime(options.store) as runtime:
            if options.command == "begin":
                OrderWorkflow().run(run_id=options.order, amount=options.amount)
                runtime.shutdown(timeout=0.0)  # Given back at once: a worker goes on with it.
                print(f"begun: {options.order}")
            elif options.command == "worker":
                runtime.recover([OrderWorkflow])
                print("at work", flush=True)
                threading.Event().wait()
            else:
                runtime.recover([OrderWorkflow])
                serve(runtime, options.port)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
