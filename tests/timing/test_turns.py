"""Timing in turns."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace

import pytest

from bhvit.timing import turns


def test_turns_alternate_and_discard_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()  # of a clock that stands still while other programs have the processor
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) * 1e-3, process_time=lambda: 0.0)
    monkeypatch.setattr(turns, "time", clock)
    seen: list[str] = []
    runs = [
        turns.Run(name=name, isa="", threads=1, batch=2, call=lambda: None, prepare=partial(seen.append, name))
        for name in "ab"
    ]
    first, _ = turns.measure(runs, seconds=0.0)
    assert seen == ["a", "b"] * (1 + turns.LEAST_BLOCKS)
    assert first.calls >= turns.LEAST_BLOCKS * turns.LEAST_CALLS


def test_what_runs_change_is_restored_after_an_error():
    seen: list[str] = []
    run = turns.Run(name="", isa="", threads=1, batch=1, call=lambda: 1 // 0, restore=lambda: seen.append("restored"))
    with pytest.raises(ZeroDivisionError):
        turns.measure([run], seconds=0.0)
    assert seen == ["restored"]


def test_a_busy_machine_is_noticed():
    row = turns.Timing(name="", isa="", threads=1, batch=1, calls=9, median=2.0, p10=1.0, p90=2.9, cpu=1.0)
    assert not turns.busy([row])
    assert turns.busy([row, turns.Timing(**{**vars(row), "p90": 3.1})])
    assert turns.busy([row, turns.Timing(**{**vars(row), "cpu": 0.6})])
