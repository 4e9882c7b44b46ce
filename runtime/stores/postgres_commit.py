"""A group commit in PostgreSQL: the commits of many runs, in one transaction.

Most commits only add records and events to the end of a run. A group of such is one statement, which is a transaction
by itself: it adds to those runs whose heads are as the writer knows them. Where one is not, and for all other commits,
there is a transaction of two round trips, which tells what to refuse and why. The first makes what new runs there are,
and reads and locks the heads of all runs; in between each commit is admitted or refused; the second writes all that was
admitted. Rows are locked in the order of their ids, so that groups of several processes seldom meet in a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from greenroom.errors import StoreError
from greenroom.stores.admission import Admitted, Head, admit, first_head
from greenroom.stores.postgres_connections import Connection
from greenroom.stores.postgres_schema import VERSION
from greenroom.stores.rows import ENDED, FIRST_FENCE, Commit, Status

__all__ = ["NOW", "commit_all"]

# The server's clock, at the begin of the transaction.
NOW = "extract(epoch FROM now())::float8"

Sql = Callable[[str], Any]


def commit_all(
    connection: Connection, statement: Sql, check_version: Callable[[int], None], commits: Sequence[Commit]
) -> list[StoreError | None]:
    """Write what is admitted of the commits; return for each why it was refused, or None.

    Args:
        connection: Lent for this transaction.
        statement: Puts the name of the schema into a statement.
        check_version: Raises if the schema is not of the version that it is given.
        commits: In the order in which they are to be done.
    """
    done = _add_to_ends(connection, statement, commits) if _are_plain(commits) else set[str]()
    if len(done) == len(commits):
        return [None] * len(commits)
    with connection.pipeline(), connection.transaction():
        version = connection.execute(statement("SELECT version FROM ~meta"))
        made = _make_runs(connection, statement, commits)
        heads = connection.execute(
            statement(
                "SELECT run_id, id, status, owner, fence, token, next_seq, next_offset, first_seq, bytes FROM ~runs"
                " WHERE run_id = ANY(%s) ORDER BY id FOR UPDATE"
            ),
            ([commit.run_id for commit in commits],),
        )
        ((number,),) = version.fetchall()
        check_version(number)
        group = _Group({run_id: Head(*head) for run_id, *head in heads.fetchall()}, made())
        outcomes = [group.add(commit) for commit in commits]
        group.write(connection, statement)
    return outcomes


def _are_plain(commits: Sequence[Commit]) -> bool:
    """Whether the commits are of one run each and have nothing but records and events, without gaps."""
    return len({commit.run_id for commit in commits}) == len(commits) and all(
        (commit.records or commit.events)
        and not (commit.new or commit.snapshot or commit.status or commit.release)
        and not (commit.opened or commit.closed or commit.taken)
        and _has_no_gap(commit.records)
        and _has_no_gap(commit.events)
        for commit in commits
    )


def _has_no_gap(items: Sequence[tuple[int, bytes]]) -> bool:
    return all(number == items[0][0] + place for place, (number, _) in enumerate(items))


# The condition is that of `admission.admit`. A commit that it does not let through is judged there.
_ADD_TO_ENDS = f"""
WITH changed AS (
    UPDATE ~runs SET next_seq = runs.next_seq + given.records, next_offset = runs.next_offset + given.events,
        bytes = runs.bytes + given.bytes, updated_at = {NOW}
    FROM unnest(%b::text[], %t::int8[], %t::int8[], %t::int8[], %t::int8[], %t::int8[], %t::int8[])
        AS given (run_id, fence, seq, records, number, events, bytes)
    WHERE runs.run_id = given.run_id AND runs.fence = given.fence AND runs.owner IS NOT NULL
        AND (given.records = 0 OR runs.next_seq = given.seq) AND (given.events = 0 OR runs.next_offset = given.number)
        AND (SELECT version FROM ~meta) = {VERSION}
    RETURNING runs.id, runs.run_id
), records AS (
    INSERT INTO ~journal SELECT changed.id, item.seq, item.data
    FROM unnest(%b::text[], %t::int8[], %b::bytea[]) AS item (run_id, seq, data) JOIN changed USING (run_id)
), events AS (
    INSERT INTO ~events SELECT changed.id, item.number, item.data
    FROM unnest(%b::text[], %t::int8[], %b::bytea[]) AS item (run_id, number, data) JOIN changed USING (run_id)
)
SELECT run_id FROM changed
"""


def _add_to_ends(connection: Connection, statement: Sql, commits: Sequence[Commit]) -> set[str]:
    """Add records and events to the runs whose heads let them; return the ids of those runs."""
    columns: list[list[Any] | str] = [
        [c.run_id for c in commits],
        _integers(c.fence for c in commits),
        _integers(c.records[0][0] if c.records else 0 for c in commits),
        _integers(len(c.records) for c in commits),
        _integers(c.events[0][0] if c.events else 0 for c in commits),
        _integers(len(c.events) for c in commits),
        _integers(sum(len(data) for _, data in c.records) for c in commits),
    ]
    for items in (
        [(c.run_id, number, data) for c in commits for number, data in c.records],
        [(c.run_id, number, data) for c in commits for number, data in c.events],
    ):
        columns += [[item[0] for item in items], _integers(item[1] for item in items), [item[2] for item in items]]
    return {run_id for (run_id,) in connection.execute(statement(_ADD_TO_ENDS), columns).fetchall()}


def _integers(numbers: Iterable[int]) -> str:
    """Return an array as PostgreSQL reads it: psycopg takes ten times as long to make its own form of a short one."""
    return f"{{{','.join(map(str, numbers))}}}"


def _make_runs(connection: Connection, statement: Sql, commits: Sequence[Commit]) -> Callable[[], set[int]]:
    """Insert the runs that commits make, where there is none of their id; the result tells the ids of those made."""
    new = sorted({c.run_id: (c.run_id, c.new) for c in reversed(commits) if c.new is not None}.values())
    if not new:
        return set
    owners = sorted({made.owner for _, made in new})
    connection.execute(
        statement("INSERT INTO ~owners SELECT unnest(%s::text[]), 0 ON CONFLICT DO NOTHING"),
        (owners,),
    )
    inserted = connection.execute(
        statement(
            "INSERT INTO ~runs (run_id, workflow, status, created_at, updated_at, owner, fence, token)"
            f" SELECT run_id, workflow, 'running', {NOW}, {NOW}, owner, {FIRST_FENCE}, token"
            " FROM unnest(%s::text[], %s::text[], %s::text[], %s::int8[]) AS new (run_id, workflow, owner, token)"
            " ON CONFLICT (run_id) DO NOTHING RETURNING id"
        ),
        ([r for r, _ in new], [n.workflow for _, n in new], [n.owner for _, n in new], [n.token for _, n in new]),
    )
    return lambda: {row[0] for row in inserted.fetchall()}


class _Group:
    """What a group writes, gathered by statement."""

    def __init__(self, heads: dict[str, Head], made: set[int]) -> None:
        self._heads = {run_id: head for run_id, head in heads.items() if head.key not in made}
        # Inserted by this transaction; a run exists only once its first commit is admitted.
        self._made = {run_id: head for run_id, head in heads.items() if head.key in made}
        self._changed: dict[int, Head] = {}
        self._records: list[tuple[int, int, bytes]] = []
        self._events: list[tuple[int, int, bytes]] = []
        self._later: list[tuple[str, Sequence[Any]]] = []

    def add(self, commit: Commit) -> StoreError | None:
        head = self._heads.get(commit.run_id)
        if head is None and commit.new is not None and commit.run_id in self._made:
            head = first_head(commit, self._made[commit.run_id].key)
        admitted = admit(head, commit)
        if isinstance(admitted, StoreError):
            return admitted
        assert head is not None
        if self._made.pop(commit.run_id, None):
            self._heads[commit.run_id] = head
        if not admitted.done:
            self._changed[head.key] = head
            self._add_items(head, commit, admitted)
            self._add_rare(head, commit)
        return None

    def _add_items(self, head: Head, commit: Commit, admitted: Admitted) -> None:
        run = head.key
        before = 0  # records before this one are not kept
        if commit.snapshot is not None and commit.snapshot[0] >= head.first_seq:
            before = commit.snapshot[0]
            self._add_snapshot(head, before, commit.snapshot[1])
        kept = [(run, seq, data) for seq, data in admitted.records if seq >= before]
        self._records += kept
        head.bytes += sum(len(data) for _, _, data in kept)
        head.next_seq += len(admitted.records)
        self._events += [(run, number, data) for number, data in admitted.events]
        head.next_offset += len(admitted.events)

    def _add_snapshot(self, head: Head, before: int, data: bytes) -> None:
        run = head.key
        self._later.append(
            (
                "INSERT INTO ~snapshots VALUES (%s, %s, %b)"
                " ON CONFLICT (run) DO UPDATE SET seq = excluded.seq, data = excluded.data",
                (run, before, data),
            )
        )
        if head.first_seq < head.next_seq:
            self._later.append(("DELETE FROM ~journal WHERE run = %s AND seq < %s", (run, before)))
        # What the group has gathered of the run but not written yet, it need not write.
        self._records = [record for record in self._records if record[0] != run or record[1] >= before]
        head.bytes = 0
        if before < head.next_seq:
            self._later.append(
                (
                    "UPDATE ~runs SET bytes = (SELECT coalesce(sum(length(data)), 0) FROM ~journal WHERE run = runs.id)"
                    " WHERE id = %s",
                    (run,),
                )
            )
        head.first_seq = before

    def _add_rare(self, head: Head, commit: Commit) -> None:
        run = head.key
        for row in commit.opened:
            self._later.append(
                (
                    "INSERT INTO ~inputs (run, input_id, step, request, response, schema, asked_at, expires_at, closed)"
                    " VALUES (%s, %s, %s, %b, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (
                        *(run, row.input_id, row.step, row.request, row.response),
                        *(row.schema, row.asked_at, row.expires_at, row.closed),
                    ),
                )
            )
        for input_id, how in commit.closed:
            self._later.append(
                (
                    "UPDATE ~inputs SET closed = %s WHERE run = %s AND input_id = %s AND closed IS NULL",
                    (how, run, input_id),
                )
            )
        if commit.taken:
            self._later.append(("DELETE FROM ~inbox WHERE id = ANY(%s) AND run = %s", (list(commit.taken), run)))
        if commit.status is not None:
            self._add_end(head, commit, commit.status)
        elif commit.release:
            head.owner = None
            self._later.append(
                (
                    "UPDATE ~runs SET owner = NULL, wake_at = CASE WHEN EXISTS (SELECT FROM ~inbox WHERE run = runs.id)"
                    " THEN 0 ELSE %s::float8 END WHERE id = %s",
                    (commit.wake_at, run),
                )
            )

    def _add_end(self, head: Head, commit: Commit, status: Status) -> None:
        run = head.key
        head.status, head.owner = status, None
        ended_at = NOW if status in ENDED else "NULL"
        self._later.append(
            (
                f"UPDATE ~runs SET status = %s, owner = NULL, reason = %s, ended_at = {ended_at} WHERE id = %s",
                (status, commit.reason, run),
            )
        )
        self._later.append(("UPDATE ~inbox SET live = false WHERE run = %s", (run,)))
        if commit.result is not None:
            self._later.append(
                (
                    "INSERT INTO ~results VALUES (%s, %b) ON CONFLICT (run) DO UPDATE SET data = excluded.data",
                    (run, commit.result),
                )
            )
        if status in ENDED:
            self._later.append(("UPDATE ~inputs SET closed = 'withdrawn' WHERE run = %s AND closed IS NULL", (run,)))

    def write(self, connection: Connection, statement: Sql) -> None:
        """Send all of it; the end of the pipeline waits for the answers."""
        if self._made:
            connection.execute(
                statement("DELETE FROM ~runs WHERE id = ANY(%s)"), ([head.key for head in self._made.values()],)
            )
        for table, rows in (("journal", self._records), ("events", self._events)):
            if rows:
                runs, numbers, data = zip(*rows, strict=True)
                connection.execute(
                    statement(f"INSERT INTO ~{table} SELECT * FROM unnest(%b::int8[], %b::int8[], %b::bytea[])"),
                    (list(runs), list(numbers), list(data)),
                )
        if self._changed:
            heads = [(h.key, h.next_seq, h.next_offset, h.bytes, h.first_seq) for h in self._changed.values()]
            connection.execute(
                statement(
                    "UPDATE ~runs SET next_seq = new.next_seq, next_offset = new.next_offset, bytes = new.bytes,"
                    f" first_seq = new.first_seq, updated_at = {NOW}"
                    " FROM unnest(%s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[])"
                    " AS new (id, next_seq, next_offset, bytes, first_seq) WHERE runs.id = new.id"
                ),
                [list(column) for column in zip(*heads, strict=True)],
            )
        for text, parameters in self._later:
            connection.execute(statement(text), parameters)
