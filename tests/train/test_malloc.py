"""Memory that a training step frees stays with the process."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from bhvit.train.malloc import keep_memory

if sys.argv[1] == "keep":
    keep_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(what: str) -> int:
    """Of filling 64 MiB for the second time, after they were freed."""
    out = subprocess.run([sys.executable, "-c", SCRIPT, what], capture_output=True, text=True, check=True).stdout
    return int(out)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc than glibc's keeps what it likes")
@pytest.mark.long
def test_memory_is_kept() -> None:
    usual = _page_faults("leave")
    assert usual > 30  # of 4 KiB each, or of 2 MiB
    assert _page_faults("keep") < usual / 10
