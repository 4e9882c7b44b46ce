"""A store that lives as long as its process.

Any thread may call it. One lock protects all of it and is held for the length of a call. A forked child has a copy of
its own, as of the moment of the fork.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from greenroom.errors import RunEndedError, StoreError, UnknownRunError
from greenroom.stores.admission import Head, admit, first_head
from greenroom.stores.forks import at_fork
from greenroom.stores.rows import ENDED, FIRST_FENCE, Commit, InboxEntry, InputRow, Loaded, NewRun, RunRow, Status
from greenroom.stores.watchers import Watchers

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Run:
    run_id: str
    workflow: str
    created_at: float
    updated_at: float
    head: Head
    ended_at: float | None = None
    wake_at: float | None = None
    reason: str | None = None
    result: bytes | None = None
    snapshot: tuple[int, bytes] | None = None
    records: list[tuple[int, bytes]] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    inbox: dict[int, InboxEntry] = field(default_factory=dict)
    dedup_keys: set[str] = field(default_factory=set)
    inputs: dict[str, InputRow] = field(default_factory=dict)


class MemoryStore:
    """Keeps runs in memory: for tests, and for programs that only want runs at rest to leave their runtime.

    Args:
        clock: Tells the time for leases, in seconds since the epoch.

    Example:
        >>> store = MemoryStore()
        >>> store.open()
        >>> store.renew("me", seconds=30)
        True
        >>> fence = store.create("run-1", "Invoices", owner="me")
        >>> store.commit([Commit("run-1", fence, records=[(0, b"started")])])
        [None]
        >>> store.load(["run-1"])["run-1"].records
        [(0, b'started')]
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}  # in the order in which they were made
        self._leases: dict[str, float] = {}
        self._posted: dict[str, None] = {}  # the runs whose inbox holds something
        self._questions: dict[int, tuple[_Run, str]] = {}  # those that are open, by their numbers, in the order asked
        self._next_entry = 1
        self._next_input = 1
        self._watchers = Watchers()
        at_fork(self)

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._watchers.forget()
        self._lock.release()

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    # Owners

    def renew(self, owner: str, seconds: float) -> bool:
        with self._lock:
            now = self._clock()
            lease = self._leases.get(owner)
            self._leases[owner] = now + seconds
            return lease is None or lease > now

    def resign(self, owner: str) -> None:
        with self._lock:
            self._leases[owner] = 0.0

    def held(self, owner: str) -> dict[str, int]:
        with self._lock:
            return {run.run_id: run.head.fence for run in self._runs.values() if run.head.owner == owner}

    def owners(self) -> list[str]:
        with self._lock:
            now = self._clock()
            holding = {run.head.owner for run in self._runs.values()}
            return [owner for owner, until in self._leases.items() if until > now and owner in holding]

    def create(self, run_id: str, workflow: str, owner: str) -> int | None:
        (refused,) = self.commit([Commit(run_id, FIRST_FENCE, new=NewRun(workflow, owner))])
        return FIRST_FENCE if refused is None else None

    def acquire(self, run_ids: Collection[str], owner: str) -> dict[str, int]:
        fences = {}
        with self._lock:
            self._leases.setdefault(owner, 0.0)
            for run_id in run_ids:
                run = self._runs.get(run_id)
                if run is None or run.head.status != "running":
                    continue
                if run.head.owner in (None, owner) or not self._has_lease(run):
                    run.head.owner = owner
                    run.head.fence += 1
                    run.wake_at = None
                    fences[run_id] = run.head.fence
        return fences

    def _has_lease(self, run: _Run) -> bool:
        return run.head.owner is not None and self._leases.get(run.head.owner, 0.0) > self._clock()

    # Writing

    def commit(self, commits: Sequence[Commit]) -> list[StoreError | None]:
        with self._lock:
            return [self._commit(commit) for commit in commits]

    def _commit(self, commit: Commit) -> StoreError | None:
        now = self._clock()
        run = self._runs.get(commit.run_id)
        head = run.head if run else first_head(commit, 0) if commit.new else None
        admitted = admit(head, commit)
        if isinstance(admitted, StoreError):
            return admitted
        if admitted.done:
            return None
        assert head is not None
        if run is None:
            assert commit.new is not None
            run = self._runs[commit.run_id] = _Run(commit.run_id, commit.new.workflow, now, now, head)
            self._leases.setdefault(commit.new.owner, 0.0)
        run.updated_at = now
        run.records += admitted.records
        run.events += [data for _, data in admitted.events]
        head.next_seq += len(admitted.records)
        head.next_offset += len(admitted.events)
        head.bytes += sum(len(data) for _, data in admitted.records)
        if commit.snapshot is not None and commit.snapshot[0] >= head.first_seq:
            run.snapshot = commit.snapshot
            self._drop_records(run, commit.snapshot[0])
        for row in commit.opened:
            if row.input_id not in run.inputs:
                number, self._next_input = self._next_input, self._next_input + 1
                run.inputs[row.input_id] = replace(row, run_id=run.run_id, workflow=run.workflow, number=number)
                self._questions[number] = run, row.input_id
        for input_id, how in commit.closed:
            self._close_input(run, input_id, how)
        for entry in commit.taken:
            run.inbox.pop(entry, None)
        if not run.inbox:
            self._posted.pop(run.run_id, None)
        if commit.status is not None:
            head.status, head.owner = commit.status, None
            run.result, run.reason = commit.result, commit.reason
            if commit.status in ENDED:
                run.ended_at = now
                for input_id in run.inputs:
                    self._close_input(run, input_id, "withdrawn")
        elif commit.release:
            head.owner = None
            run.wake_at = 0.0 if run.inbox else commit.wake_at
        return None

    def _drop_records(self, run: _Run, before: int) -> None:
        run.head.first_seq = before
        run.records = [record for record in run.records if record[0] >= before]
        run.head.bytes = sum(len(data) for _, data in run.records)

    def _close_input(self, run: _Run, input_id: str, how: str) -> None:
        row = run.inputs.get(input_id)
        if row is not None and row.closed is None:
            run.inputs[input_id] = replace(row, closed=how)
            del self._questions[row.number]

    def post(self, run_id: str, kind: str, payload: bytes, dedup_key: str | None = None) -> bool:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                raise UnknownRunError(f"The store knows no run {run_id!r}: it was deleted, or never made.")
            if run.head.status in ENDED:
                raise RunEndedError(f"Run {run_id!r} is {run.head.status}: nothing can be sent to it any more.")
            if dedup_key is not None:
                if dedup_key in run.dedup_keys:
                    return False
                run.dedup_keys.add(dedup_key)
            run.inbox[self._next_entry] = InboxEntry(self._next_entry, run_id, kind, payload, dedup_key)
            self._next_entry += 1
            self._posted[run_id] = None
            if run.head.status == "running" and run.head.owner is None:
                run.wake_at = 0.0
        self._watchers.notify()
        return True

    def put_back(self, run_id: str) -> bool:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None or run.head.status != "set_aside":
                return False
            run.head.status = "running"
            run.head.fence += 1
            run.wake_at, run.reason, run.result = 0.0, None, None
            return True

    def delete(self, run_id: str, *, owner: str | None = None) -> bool:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None or (self._has_lease(run) if owner is None else run.head.owner != owner):
                return False
            self._forget(run)
            return True

    def _forget(self, run: _Run) -> None:
        del self._runs[run.run_id]
        self._posted.pop(run.run_id, None)
        for row in run.inputs.values():
            self._questions.pop(row.number, None)

    def sweep(self, runs_before: float, journals_before: float) -> int:
        with self._lock:
            ended = [(run, run.ended_at) for run in self._runs.values() if run.ended_at is not None]
            for run, ended_at in ended:
                if ended_at < journals_before:
                    run.snapshot = None
                    self._drop_records(run, run.head.next_seq)
            old = [run for run, ended_at in ended if ended_at < runs_before]
            for run in old:
                self._forget(run)
            now = self._clock()
            named = {run.head.owner for run in self._runs.values()}
            self._leases = {owner: end for owner, end in self._leases.items() if end > now or owner in named}
            return len(old)

    # Reading

    def row(self, run_id: str) -> RunRow | None:
        with self._lock:
            run = self._runs.get(run_id)
            return self._row(run) if run else None

    def _row(self, run: _Run) -> RunRow:
        head = run.head
        return RunRow(
            run_id=run.run_id,
            workflow=run.workflow,
            status=head.status,
            created_at=run.created_at,
            updated_at=run.updated_at,
            owner=head.owner,
            lease_until=self._leases.get(head.owner) if head.owner is not None else None,
            fence=head.fence,
            wake_at=run.wake_at,
            reason=run.reason,
            next_seq=head.next_seq,
            next_offset=head.next_offset,
            bytes=head.bytes,
        )

    def load(self, run_ids: Collection[str]) -> dict[str, Loaded | StoreError]:
        with self._lock:
            found = [self._runs[run_id] for run_id in run_ids if run_id in self._runs]
            return {run.run_id: Loaded(self._row(run), run.snapshot, list(run.records)) for run in found}

    def result(self, run_id: str) -> bytes | None:
        with self._lock:
            run = self._runs.get(run_id)
            return run.result if run else None

    def events(self, run_id: str, after: int = -1, limit: int = 1000) -> list[tuple[int, bytes]]:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                return []
            begins = run.head.next_offset - len(run.events)  # where the stream of this run begins
            first = max(after + 1, begins)
            return list(enumerate(run.events[first - begins : first - begins + limit], first))

    def runs(
        self,
        workflow: str | None = None,
        status: Status | None = None,
        *,
        newest_first: bool = True,
        after: str | None = None,
        limit: int = 100,
    ) -> list[RunRow]:
        with self._lock:
            ordered = list(reversed(self._runs.values()) if newest_first else self._runs.values())
            if after is not None:
                if after not in self._runs:
                    raise UnknownRunError(f"There is no run {after!r}, after which a page could begin.")
                ordered = ordered[ordered.index(self._runs[after]) + 1 :]
            matching = (run for run in ordered if workflow in (None, run.workflow))
            matching = (run for run in matching if status in (None, run.head.status))
            return self._rows(matching, limit)

    def _rows(self, runs: Iterable[_Run], limit: int) -> list[RunRow]:
        return [self._row(run) for run in islice(runs, limit)]

    def orphans(self, workflows: Collection[str], limit: int = 1000) -> list[RunRow]:
        with self._lock:
            runs = (run for run in self._runs.values() if run.workflow in workflows)
            return self._rows((run for run in runs if run.head.owner and not self._has_lease(run)), limit)

    def due(self, workflows: Collection[str], now: float, limit: int = 1000) -> list[RunRow]:
        with self._lock:
            runs = [(run.wake_at, run) for run in self._runs.values() if run.wake_at is not None]
            due = [(at, run) for at, run in runs if at <= now and run.workflow in workflows]
            return self._rows((run for _, run in sorted(due, key=lambda pair: pair[0])), limit)

    def inputs(self, run_id: str | None = None, *, after: int = 0, limit: int = 1000) -> list[InputRow]:
        with self._lock:
            wanted = ((run, name) for number, (run, name) in self._questions.items() if number > after)
            of_run = ((run, name) for run, name in wanted if run_id in (None, run.run_id))
            return [run.inputs[name] for run, name in islice(of_run, limit)]

    def input(self, input_id: str) -> InputRow | None:
        with self._lock:
            rows = [run.inputs[input_id] for run in self._runs.values() if input_id in run.inputs]
            return max(rows, key=lambda row: (row.closed is None, row.number), default=None)

    def inbox(self, *, owner: str | None = None, run_id: str | None = None, limit: int = 1000) -> list[InboxEntry]:
        if (owner is None) == (run_id is None):
            raise ValueError("inbox() takes either owner or run_id")
        with self._lock:
            runs = (self._runs[one] for one in self._posted if run_id in (None, one))
            entries = [entry for run in runs if owner in (None, run.head.owner) for entry in run.inbox.values()]
            return sorted(entries, key=lambda entry: entry.id)[:limit]

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._watchers.add(callback)
