"""One thread a test process: tests run side by side, and threads that wait for a core spin. And no network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
