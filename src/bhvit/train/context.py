"""Device, processes and verbosity of a run, which travel together through training."""

from __future__ import annotations

import dataclasses
import sys

import torch

from .distributed import Processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunContext:
    """This process among those of the run, its device, and whether it shows progress."""

    device: torch.device
    processes: Processes = dataclasses.field(default_factory=Processes)
    quiet: bool = False

    def say(self, line: str) -> None:
        """Print a line to standard error, unless the run is quiet."""
        if not self.quiet:
            print(line, file=sys.stderr)
