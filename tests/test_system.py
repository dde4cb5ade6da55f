"""The machine as this process sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bhvit import system


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(system, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 384)
    return tmp_path


def test_affinity_counts_not_the_host(cgroups: Path) -> None:
    assert system.allowed_cores() == 8


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("damaged", 8)],
)
def test_quota_of_cgroup_2_caps(cgroups: Path, quota: str, cores: int) -> None:
    (cgroups / "cpu.max").write_text(quota + "\n")
    assert system.allowed_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3)])
def test_quota_of_cgroup_1_caps(cgroups: Path, quota: str, cores: int) -> None:
    (cgroups / "cpu").mkdir()
    (cgroups / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (cgroups / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert system.allowed_cores() == cores


def test_environment_names_the_machine() -> None:
    found = system.environment()
    assert int(found["cores"]) >= 1
    assert found["processor"]
