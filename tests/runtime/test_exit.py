"""How a process with runs in flight ends: exit, Ctrl-C, fork, each in a child process with a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

# Seconds that a child may take. It is far more than any of them needs; a child that hangs is killed and fails the test.
LIMIT = 30

PRELUDE = """
import asyncio, os, signal, sys, threading, time
from greenroom import *
from greenroom import aio

class Ping(Event):
    n: int = 0

class Square(Workflow):
    @step
    def one(self, ev: StartEvent) -> Ping:
        return Ping(n=ev.n)
    @step
    async def two(self, ev: Ping) -> StopEvent:
        return StopEvent(result=ev.n ** 2)

class Blocked(Workflow):
    @step
    def one(self, ev: StartEvent) -> StopEvent:
        at_work.set()
        time.sleep(3600)
        return StopEvent()

class Asleep(Workflow):
    @step
    async def one(self, ev: StartEvent) -> StopEvent:
        at_work.set()
        await asyncio.sleep(3600)
        return StopEvent()

class Asks(Workflow):
    @step
    def ask(self, ev: StartEvent) -> InputRequiredEvent:
        at_work.set()
        return InputRequiredEvent()
    @step
    def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.n)

class Busy(Workflow):
    @step
    def one(self, ev: StartEvent | Ping) -> Ping | StopEvent:
        at_work.set()
        return Ping()

class Parents(Workflow):
    @step
    def one(self, ev: StartEvent | Ping) -> Ping | StopEvent:
        at_work.set()
        Square().run(n=1).result()
        return Ping()

at_work = threading.Event()
"""


def run_child(
    program: str, *options: str, prelude: str = PRELUDE, interrupt_at: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in a child process; send it SIGINT when it has printed the line `interrupt_at`."""
    code = prelude + textwrap.dedent(program)
    child = subprocess.Popen(
        [sys.executable, *options, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        start_new_session=True,
        # A runner that ignores SIGINT hands that down; the child must see it as a terminal's programs do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    printed = []
    try:
        if interrupt_at is not None:
            assert child.stdout is not None
            for line in child.stdout:
                printed.append(line)
                if line.strip() == interrupt_at:
                    break
            child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGABRT)  # faulthandler prints where it hangs, and where its children do
        out, err = child.communicate()
        pytest.fail(f"the child hangs; it printed:\n{''.join(printed)}{out}\n{err}")
    return subprocess.CompletedProcess(child.args, child.returncode, "".join(printed) + out, err)


def check(child: subprocess.CompletedProcess[str], printed: str = "", code: int = 0) -> None:
    """Check what a child printed, that it wrote nothing on stderr, and how it ended."""
    assert (child.stdout, child.stderr, child.returncode) == (printed, "", code)


# -- exit --------------------------------------------------------------------------------------------------------------

IN_FLIGHT = ["Blocked", "Asleep", "Asks", "Busy", "Parents"]


@pytest.mark.parametrize("workflow", IN_FLIGHT)
@pytest.mark.parametrize("code", [0, 3])
def test_the_interpreter_exits_with_runs_in_flight(workflow: str, code: int) -> None:
    """Exit neither hangs nor prints, and keeps its code, whatever a run is doing: blocked, asleep, asking, at work."""
    child = run_child(f"""
        handlers = [{workflow}().run() for _ in range(3)]
        at_work.wait()
        print("bye", flush=True)
        sys.exit({code})
    """)
    check(child, "bye\n", code)


def test_exit_without_a_word_while_much_is_going_on() -> None:
    """Exit with runs of every kind, timers, streams being read and callbacks pending prints nothing."""
    child = run_child("""
        class Delayed(Workflow):
            @step
            def one(self, ctx: Context, ev: StartEvent) -> StopEvent | Ping | None:
                ctx.send_event(Ping(), delay=3600)
                return None
            @step
            def two(self, ev: Ping) -> StopEvent:
                return StopEvent()

        kinds = [Blocked, Asleep, Asks, Busy, Delayed, Parents]
        handlers = [kind(timeout=3000).run() for kind in kinds * 5]
        for handler in handlers:
            handler.add_done_callback(lambda h: h.status)
            threading.Thread(target=lambda h=handler: list(h.stream_events()), daemon=True).start()
        at_work.wait()
    """)
    check(child)


def test_an_exception_in_the_program_is_all_that_is_printed() -> None:
    """A program that fails with runs in flight shows its own traceback and nothing else."""
    child = run_child("Blocked().run(); Asleep().run(); at_work.wait(); raise ValueError('mine')")
    assert child.returncode == 1
    assert child.stderr.count("Traceback") == 1
    assert child.stderr.rstrip().endswith("ValueError: mine")


def test_a_program_with_warnings_as_errors_runs_clean() -> None:
    """python -W error: nothing that Greenroom does warns, from import to exit."""
    child = run_child("print(Square().run(n=3).result(10)); Asleep().run(); at_work.wait()", "-W", "error", "-X", "dev")
    check(child, "9\n")


def test_no_thread_exists_before_the_first_run() -> None:
    """Import, definition and construction start nothing; neither does a Runtime by itself, nor does its end."""
    child = run_child("""
        def threads():
            return threading.active_count() - 1, len(sys._current_frames()) - 1
        workflow = Square(timeout=5)
        context = Context(workflow)
        context.store.set("a", 1)
        print(*threads())
        with Runtime() as runtime:
            Square()
            print(*threads())
        print(*threads())
        with Runtime():
            workflow.run(n=2).result(10)
            print(threads() > (0, 0))
        print(*threads())
    """)
    check(child, "0 0\n0 0\n0 0\nTrue\n0 0\n")


def test_leaving_a_runtimes_block_at_exit() -> None:
    """sys.exit() inside the block ends the runs; the exit code stays."""
    child = run_child("""
        with Runtime():
            Blocked().run(); Asks().run(); Asleep().run()
            at_work.wait()
            sys.exit(5)
    """)
    check(child, code=5)


def test_an_exception_inside_a_runtimes_block_ends_its_runs() -> None:
    """The exception comes through, and the runs end with RuntimeShutdownError without being waited for."""
    child = run_child("""
        try:
            with Runtime():
                handlers = [Blocked().run(), Asleep().run(), Asks().run()]
                at_work.wait()
                raise ValueError("mine")
        except ValueError as error:
            print(error, [type(handler.exception(5)).__name__ for handler in handlers])
    """)
    check(child, f"mine {['RuntimeShutdownError'] * 3}\n")


def test_shutdown_from_another_thread_wakes_those_who_wait() -> None:
    """While one thread waits for a result and another reads a stream, a third may shut the runtime down."""
    child = run_child("""
        runtime = Runtime()
        handler = Asks(runtime=runtime).run()
        threading.Timer(0.05, runtime.shutdown).start()
        try:
            handler.result()
        except RuntimeShutdownError as error:
            print(error)
        print([type(event).__name__ for event in handler.stream_events()])
    """)
    check(
        child, "the runtime was shut down before the run had ended\n['InputRequiredEvent', 'WorkflowCancelledEvent']\n"
    )


def test_many_threads_may_shut_down_at_once() -> None:
    """Concurrent shutdowns all return."""
    child = run_child("""
        for _ in range(50):
            runtime = Runtime()
            handlers = [Square(runtime=runtime).run(n=n) for n in range(3)]
            threads = [threading.Thread(target=runtime.shutdown) for _ in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join(10)
            assert not any(thread.is_alive() for thread in threads), "hangs"
            assert [handler.result(0) for handler in handlers] == [0, 1, 4]
        print("ok")
    """)
    check(child, "ok\n")


def test_runs_begun_while_the_interpreter_exits_are_refused() -> None:
    """An atexit function may still wait for its runs, or is told that it is too late; it never hangs."""
    child = run_child("""
        import atexit
        @atexit.register
        def last():
            try:
                print(Square().run(n=2).result(10))
            except RuntimeShutdownError as error:
                print("refused")
        Square().run(n=1).result(10)
    """)
    assert child.stdout in ("4\n", "refused\n")
    assert (child.stderr, child.returncode) == ("", 0)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow", IN_FLIGHT)
@pytest.mark.parametrize("wait", ["handler.result()", "list(handler.stream_events(after=5))", "handler.exception()"])
def test_ctrl_c_ends_a_wait_and_the_program(workflow: str, wait: str) -> None:
    """SIGINT raises KeyboardInterrupt out of a blocking wait at once, and the process dies of it."""
    child = run_child(
        f"""
        handler = {workflow}().run()
        at_work.wait()
        print("waiting", flush=True)
        {wait}
        """,
        interrupt_at="waiting",
    )
    assert child.stderr.rstrip().endswith("KeyboardInterrupt")
    assert child.stderr.count("Traceback") == 1
    assert child.returncode in (130, -signal.SIGINT)


@pytest.mark.parametrize("wait", ["handler.result()", "list(handler.stream_events(after=5))"])
def test_the_runtime_works_after_ctrl_c(wait: str) -> None:
    """After a KeyboardInterrupt the run goes on, and the runtime takes further runs."""
    child = run_child(
        f"""
        handler = Asks().run()
        at_work.wait()
        try:
            print("waiting", flush=True)
            {wait}
        except KeyboardInterrupt:
            print("interrupted", handler.status)
        handler.send_event(HumanResponseEvent(n=7))
        print(handler.result(10), Square().run(n=5).result(10))
        """,
        interrupt_at="waiting",
    )
    check(child, "waiting\ninterrupted running\n7 25\n")


@pytest.mark.parametrize("wait", ["handler.result()", "next(handler.stream_events(after=5))", "handler.exception()"])
def test_an_interrupt_that_does_not_wake_the_main_thread_is_not_lost(wait: str) -> None:
    """A SIGINT that strikes just before the main thread blocks, or another thread, ends the wait all the same."""
    child = run_child(
        f"""
        handler = Asks().run()
        at_work.wait()
        def interrupt():
            time.sleep(0.3)  # Until the main thread waits. The signal goes to this thread: the wait is not interrupted.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            {wait}
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    check(child, "interrupted\n")


def test_ctrl_c_at_any_moment_never_leaves_a_run_hanging() -> None:
    """Interrupts that strike run(), send_event(), the store and result() at random: the next run always works."""
    child = run_child("""
        import random
        random.seed(5)
        def strike(*_):
            global struck
            struck = True
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, strike)
        # A function: Python 3.13 does not count the jump at the end of a loop as within the `try` around it.
        def work(n):
            # Not for ever: an interrupt that strikes in a finaliser is printed and lost, as everywhere.
            while not struck:
                handler = Asks().run()
                handler.send_event(HumanResponseEvent(n=n))
                handler.ctx.store.set("n", n)
                assert handler.result(10) == n
                next(handler.stream_events(after=-1))
        for n in range(400):
            struck = False
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.002))
                work(n)
            except KeyboardInterrupt:
                pass
            assert struck
            assert Square().run(n=3).result(10) == 9
        print("ok")
    """)
    assert (child.stdout, child.returncode) == ("ok\n", 0), child.stderr


def test_ctrl_c_at_every_line_of_the_first_use_leaves_a_runtime_that_works() -> None:
    """An interrupt at each line that a runtime's very first run executes on the main thread: the next run works."""
    child = run_child("""
        class Lines:
            # Raises KeyboardInterrupt at the k-th line of Greenroom's code that this thread executes.
            def __init__(self, k):
                self.left = k
            def __call__(self, frame, event, arg):
                if "greenroom" not in frame.f_code.co_filename:
                    return None
                return self.line
            def line(self, frame, event, arg):
                if event == "line":
                    self.left -= 1
                    if self.left == 0:
                        sys.settrace(None)
                        raise KeyboardInterrupt
                return self.line

        k, struck = 1, True
        while struck:
            runtime = Runtime()
            lines = Lines(k)
            struck = False
            try:
                sys.settrace(lines)
                handler = Asks(runtime=runtime).run()
                handler.ctx.store.set("n", 1)
                handler.send_event(HumanResponseEvent(n=1))
                handler.result(10)
                list(handler.stream_events())
            except KeyboardInterrupt:
                struck = True
            finally:
                sys.settrace(None)
            try:
                assert Square(runtime=runtime).run(n=3).result(5) == 9
            except TimeoutError:
                print("hangs after an interrupt at line", k)
            runtime.shutdown(0)
            k += 1
        print("ok", k > 100)
    """)
    check(child, "ok True\n")


def test_a_signal_handler_may_cancel_the_run_that_the_main_thread_waits_for() -> None:
    """cancel_run() and send_event() work in a signal handler that interrupts result()."""
    child = run_child(
        """
        handler = Blocked().run()
        at_work.wait()
        signal.signal(signal.SIGINT, lambda *_: handler.cancel_run())
        print("waiting", flush=True)
        try:
            handler.result()
        except WorkflowCancelledByUser:
            print("cancelled")
        """,
        interrupt_at="waiting",
    )
    check(child, "waiting\ncancelled\n")


def test_ctrl_c_in_asyncio_run() -> None:
    """SIGINT while a coroutine awaits a handler ends asyncio.run() with KeyboardInterrupt; the run goes on."""
    child = run_child(
        """
        async def main():
            global handler
            handler = Asks().run()
            print("waiting", flush=True)
            await handler
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted", handler.status)
        handler.send_event(HumanResponseEvent(n=3))
        print(handler.result(10))
        """,
        interrupt_at="waiting",
    )
    check(child, "waiting\ninterrupted running\n3\n")


# -- fork --------------------------------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
IGNORE_FORK_WARNING = ("-W", "ignore::DeprecationWarning")


@needs_fork
def test_a_forked_child_has_a_runtime_of_its_own() -> None:
    """A child of a process that has used Greenroom runs workflows; handlers of the parent say where they belong."""
    child = run_child(
        """
        handler, done = Asks().run(), Square().run(n=4)
        done.result(10)
        at_work.wait()
        if os.fork() == 0:
            async def wait():
                await handler
            for call in (handler.result, lambda: handler.send_event(HumanResponseEvent()), handler.cancel_run,
                         lambda: next(handler.stream_events()), lambda: handler.ctx.store.get("a", 1),
                         lambda: handler.ctx.is_running, lambda: asyncio.run(wait()), handler.dead_letters):
                try:
                    call()
                    print("went through")
                except RuntimeForkedError as error:
                    assert f"process {os.getppid()}" in str(error), error
            print("child", Square().run(n=3).result(10), done.result(0), flush=True)
            os._exit(0)
        print("status", os.waitstatus_to_exitcode(os.wait()[1]))
        handler.send_event(HumanResponseEvent(n=1))
        print("parent", handler.result(10))
        """,
        *IGNORE_FORK_WARNING,
    )
    check(child, "child 9 16\nstatus 0\nparent 1\n")


@needs_fork
def test_a_child_forked_within_a_runtimes_block_runs_workflows() -> None:
    """The block around is the parent's; in the child the default runtime takes its place."""
    child = run_child(
        """
        with Runtime() as runtime:
            bound = Square()
            bound.run(n=1).result(10)
            if os.fork() == 0:
                print("child", Square().run(n=3).result(10))
                try:
                    bound.run(n=1)
                except RuntimeForkedError as error:
                    print("build the workflow anew" in str(error), flush=True)
                os._exit(0)
            print("status", os.waitstatus_to_exitcode(os.wait()[1]))
        """,
        *IGNORE_FORK_WARNING,
    )
    check(child, "child 9\nTrue\nstatus 0\n")


@needs_fork
def test_a_child_forked_in_a_step_runs_workflows() -> None:
    """A step may fork; in the child its context says that it belongs to the parent, and new runs work."""
    child = run_child(
        """
        class Forks(Workflow):
            @step
            def one(self, ctx: Context, ev: StartEvent) -> StopEvent:
                pid = os.fork()
                if pid == 0:
                    for call in (lambda: ctx.store.get("a", 1), lambda: ctx.send_event(Ping())):
                        try:
                            call()
                            print("went through")
                        except RuntimeForkedError:
                            pass
                    print("child", Square().run(n=3).result(10), flush=True)
                    os._exit(0)
                return StopEvent(result=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            @step
            def two(self, ev: Ping) -> StopEvent:
                return StopEvent()
            @step(skip_graph_checks=["reachability"])
            def makes(self, ev: StartEvent) -> Ping | None:
                return None
        print("status", Forks().run().result(10))
        """,
        *IGNORE_FORK_WARNING,
    )
    check(child, "child 9\nstatus 0\n")


@needs_fork
def test_forks_while_much_is_going_on() -> None:
    """Children forked while other threads run workflows all work: no lock of Greenroom's is held in them.

    Pydantic has locks of its own, which a child may find held for ever (about once in 4,000 forks here). So the program
    forks when no thread makes an event.
    """
    child = run_child(
        """
        pydantic_at_rest = threading.RLock()

        class Guarded(Workflow):
            @step
            def one(self, ev: StartEvent) -> Ping:
                with pydantic_at_rest:
                    return Ping(n=ev.n)
            @step
            async def two(self, ev: Ping) -> StopEvent:
                with pydantic_at_rest:
                    return StopEvent(result=ev.n ** 2)

        stop = threading.Event()
        def churn():
            while not stop.is_set():
                with pydantic_at_rest:
                    handler = Guarded().run(n=2)
                handler.result(10)

        threads = [threading.Thread(target=churn) for _ in range(3)]
        for thread in threads: thread.start()
        codes = set()
        for _ in range(15):
            with pydantic_at_rest:
                pid = os.fork()
            if pid == 0:
                os._exit(Square().run(n=3).result(10))
            codes.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        stop.set()
        for thread in threads: thread.join()
        print(codes)
        """,
        *IGNORE_FORK_WARNING,
    )
    check(child, "{9}\n")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_workers_run_workflows(method: str, tmp_path: os.PathLike[str]) -> None:
    """A pool of processes, however they start, runs workflows in each of them."""
    if method != "spawn" and not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    script = os.path.join(tmp_path, "pool.py")
    with open(script, "w") as file:
        file.write(
            PRELUDE
            + textwrap.dedent(f"""
            import multiprocessing

            def work(n):
                return Square().run(n=n).result(10)

            if __name__ == "__main__":
                work(1)
                with multiprocessing.get_context({method!r}).Pool(2) as pool:
                    print(pool.map(work, range(5)))
            """)
        )
    child = subprocess.run(
        [sys.executable, *IGNORE_FORK_WARNING, script], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    check(child, "[0, 1, 4, 9, 16]\n")
