"""Memory between training steps."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def keep_memory() -> None:
    """Have malloc keep the memory that a training step frees.

    The next step needs it again: on a CPU this saves a twentieth of the time.

    It concerns the whole process, so that the command line asks for it, and `train` does not. Another malloc than
    glibc's is left as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 1 << 26)
