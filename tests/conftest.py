"""One thread a test process: tests run side by side, and threads that wait for a core spin. And no network."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# Triton's kernels run in its interpreter; it reads this when it is imported, which other libraries may do first.
os.environ["TRITON_INTERPRET"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs ignore Ctrl-C, which children inherit and training respects; tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
