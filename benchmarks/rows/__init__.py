"""The rows of the table, in the order in which they are printed."""

from __future__ import annotations

from benchmarks.row import Row
from benchmarks.rows.blocking import SideBySide
from benchmarks.rows.durable import (
    AsyncDurableHop,
    AsyncDurableHops,
    DurableHop,
    DurableHopAsItComes,
    DurableHopFull,
    DurableHops,
    DurableHopsAsItComes,
    DurableHopsFull,
    PostgresHop,
    PostgresHops,
)
from benchmarks.rows.fan_out import FanOut100, FanOut1000, FanOut10000, ListFanOut100, ListFanOut10000
from benchmarks.rows.hops import AsyncHop, DefHop
from benchmarks.rows.memory import RetainedMemory
from benchmarks.rows.observed import ObservedHop
from benchmarks.rows.recovery import AnswerAtRest, Recover
from benchmarks.rows.runs import OneStepRun
from benchmarks.rows.streams import Stream1, Stream50
from benchmarks.rows.waits import ParkAndResume, SnapshotAfterLoop, StreamPastParked

ROWS: tuple[type[Row], ...] = (
    DefHop,
    AsyncHop,
    OneStepRun,
    FanOut100,
    FanOut1000,
    FanOut10000,
    ListFanOut100,
    ListFanOut10000,
    Stream1,
    Stream50,
    SideBySide,
    RetainedMemory,
    SnapshotAfterLoop,
    ParkAndResume,
    StreamPastParked,
    ObservedHop,
    DurableHop,
    DurableHops,
    DurableHopAsItComes,
    DurableHopsAsItComes,
    DurableHopFull,
    DurableHopsFull,
    AsyncDurableHop,
    AsyncDurableHops,
    PostgresHop,
    PostgresHops,
    Recover,
    AnswerAtRest,
)
