"""The machine this process runs on: processor, allowed cores, versions."""

from __future__ import annotations

import math
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .errors import UserError, shown

MAX_THREADS = 256
"""Most threads, or processes, that a command or a session starts: more may be more than the machine can."""
CGROUPS = Path("/sys/fs/cgroup")


def processor() -> str:
    """Return the processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware", "cpu model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def allowed_cores() -> int:
    """Return how many cores this process may use.

    That is its affinity mask, capped by the container's CPU quota. The host's own count, `os.cpu_count()`, is larger
    inside containers and under `taskset`.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def environment_limit(name: str, default: int) -> int:
    """Return the limit in an environment variable, or `default` if it is not set.

    Raises UserError unless it is a whole number from 1 on.
    """
    text = os.environ.get(name, "").strip()
    if text and not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) > 0):
        raise UserError(f"the environment variable {name} must be a whole number from 1 on, not {shown(text)}")
    return int(text) if text else default


def _quota() -> float | None:
    """Cores that the control group of this process allows, None without a quota or outside Linux."""
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, _, period = (CGROUPS / quota_file).read_text().strip().partition(" ")
            if period_file is not None:
                period = (CGROUPS / period_file).read_text().strip()
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None


def environment() -> dict[str, str]:
    """Return what a measurement was made on: processor, cores, system, versions."""
    found = {
        "processor": processor(),
        "cores": str(allowed_cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "bhvit": version("bhvit"),
    }
    try:
        import torch

        found["PyTorch"] = str(torch.__version__)
    except ModuleNotFoundError:
        pass
    return found
