"""The schema of a store in PostgreSQL. In statements `~` stands for the name of the schema.

A newer Greenroom migrates an older schema when it opens it; an older one refuses a newer one. Each write transaction
reads the number of the schema first: the lock that a migration takes on `meta` waits for it, and the other way round.

- The order of `runs.id` is the order in which runs were made, of `inbox.id` that in which entries came: for one run
  exactly so, since who posts locks its row.
- `owners` has the leases, so that prolonging the lease on any number of runs changes one row.
- `inbox.live` is false once the run has ended, so that leftovers are not in the way of those who look for work.
- `posts` remembers each post by its key. A post without one has a key of ours, by which a poster that lost its
  connection finds out whether it was committed; those are forgotten after a while.
"""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from greenroom.errors import StoreVersionError

__all__ = ["VERSION", "newer", "prepare"]

_VERSION_1: LiteralString = """
CREATE TABLE ~owners (
    owner text PRIMARY KEY,
    lease_until float8 NOT NULL
);
CREATE TABLE ~runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL UNIQUE,
    workflow text NOT NULL,
    status text NOT NULL,
    created_at float8 NOT NULL,
    updated_at float8 NOT NULL,
    ended_at float8,
    owner text,
    fence bigint NOT NULL,
    token bigint NOT NULL,
    wake_at float8,
    reason text,
    next_seq bigint NOT NULL DEFAULT 0,
    next_offset bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    first_seq bigint NOT NULL DEFAULT 0,
    trimmed boolean NOT NULL DEFAULT false
) WITH (fillfactor = 80);
CREATE INDEX runs_listed ON ~runs (workflow, status, id);
CREATE INDEX runs_by_status ON ~runs (status, id);
CREATE INDEX runs_held ON ~runs (owner) WHERE owner IS NOT NULL;
CREATE INDEX runs_due ON ~runs (workflow, wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_ended ON ~runs (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_untrimmed ON ~runs (ended_at) WHERE ended_at IS NOT NULL AND NOT trimmed;

CREATE TABLE ~journal (run bigint, seq bigint, data bytea NOT NULL, PRIMARY KEY (run, seq));
CREATE TABLE ~snapshots (run bigint PRIMARY KEY, seq bigint NOT NULL, data bytea NOT NULL);
CREATE TABLE ~results (run bigint PRIMARY KEY, data bytea NOT NULL);
CREATE TABLE ~events (run bigint, number bigint, data bytea NOT NULL, PRIMARY KEY (run, number));

CREATE TABLE ~inputs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run bigint NOT NULL,
    input_id text NOT NULL,
    step text NOT NULL,
    request bytea NOT NULL,
    response text NOT NULL,
    schema text NOT NULL,
    asked_at float8 NOT NULL,
    expires_at float8,
    closed text,
    UNIQUE (run, input_id)
);
CREATE INDEX inputs_by_id ON ~inputs (input_id);
CREATE INDEX inputs_open ON ~inputs (id) WHERE closed IS NULL;

CREATE TABLE ~inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run bigint NOT NULL,
    kind text NOT NULL,
    payload bytea NOT NULL,
    dedup_key text,
    live boolean NOT NULL
);
CREATE INDEX inbox_of_run ON ~inbox (run);
CREATE INDEX inbox_live ON ~inbox (id) WHERE live;

CREATE TABLE ~posts (
    run bigint,
    key text,
    token bigint NOT NULL,
    forget_at float8,
    PRIMARY KEY (run, key)
);
CREATE INDEX posts_forgotten ON ~posts (forget_at) WHERE forget_at IS NOT NULL;
"""

# The script at place n makes version n + 1 of version n. A script that was released is never changed.
_MIGRATIONS: tuple[LiteralString, ...] = (_VERSION_1,)

VERSION = len(_MIGRATIONS)


def prepare(connection: psycopg.Connection[Any], schema: str) -> None:
    """Make the schema, or migrate it. Several processes may do so at once."""
    name = sql.Identifier(schema)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"greenroom {schema}",))
        known = connection.execute("SELECT to_regclass(%s)", (sql.Identifier(schema, "meta").as_string(),)).fetchone()
        version = 0
        if known is not None and known[0] is not None:
            row = connection.execute(sql.SQL("SELECT version FROM {}.meta").format(name)).fetchone()
            version = row[0] if row else 0
        if version > VERSION:
            raise newer(schema, version)
        if version == VERSION:
            return
        if version == 0:
            if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone():
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
            connection.execute(sql.SQL("CREATE TABLE {}.meta (version integer NOT NULL)").format(name))
            connection.execute(sql.SQL("INSERT INTO {}.meta VALUES (0)").format(name))
        connection.execute(sql.SQL("LOCK TABLE {}.meta IN ACCESS EXCLUSIVE MODE").format(name))
        for script in _MIGRATIONS[version:]:
            connection.execute(script.replace("~", f"{name.as_string()}.").encode())
        connection.execute(sql.SQL("UPDATE {}.meta SET version = %s").format(name), (VERSION,))


def newer(schema: str, version: int) -> StoreVersionError:
    """The error for a schema of another version than ours."""
    return StoreVersionError(
        f"The schema {schema!r} has version {version}, this Greenroom knows {VERSION}: a newer Greenroom has migrated "
        "it. Upgrade Greenroom here as well. Nothing in it was touched."
    )
