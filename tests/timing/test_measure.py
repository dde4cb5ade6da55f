"""Timing in turns."""

from __future__ import annotations

from bhvit.timing import measure as timing


def test_turns_alternate_and_discard_the_first_call():
    seen: list[str] = []
    runs = [
        timing.Run(
            name=name, isa="", threads=1, batch=2, call=lambda: None, prepare=lambda name=name: seen.append(name)
        )
        for name in "ab"
    ]
    first, _ = timing.measure(runs, seconds=0.0)
    assert seen == ["a", "b"] * (1 + timing.LEAST_BLOCKS)
    assert first.calls >= timing.LEAST_BLOCKS * timing.LEAST_CALLS


def test_a_busy_machine_is_noticed():
    row = timing.Timing(name="", isa="", threads=1, batch=1, calls=9, median=2.0, p10=1.0, p90=2.9, cpu=1.0)
    assert not timing.busy([row])
    assert timing.busy([row, timing.Timing(**{**vars(row), "p90": 3.1})])
    assert timing.busy([row, timing.Timing(**{**vars(row), "cpu": 0.6})])
