"""Measure `bhvit serve` under load on loopback.

Requests a second, times, twice its capacity, bad requests, memory.

    python -m benchmarks.serve.serve --minutes 10

The server and the client share the machine's cores. Every answer of status 200 is compared with what a session
computes, so a wrong answer is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from benchmarks.common import add_page, markdown, write_results
from PIL import Image

from bhvit import Session

HERE = Path(__file__).resolve().parent
CONNECTIONS = 4
"""Of the closed loop that measures capacity."""


class Done(NamedTuple):
    status: int
    seconds: float
    right: bool


class Target:
    """The server, what is sent, and what it must answer."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.pid = port, pid
        pixels = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=85)
        self.body = file.getvalue()
        classes = Session("cifar10").classify(self.body)
        expected = {"model": "cifar10", "classes": [{"name": name, "probability": p} for name, p in classes]}
        self.expected = json.dumps(expected, separators=(",", ":")).encode()
        head = "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
        self.request = f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body

    def memory(self) -> float:
        """Resident megabytes of the server."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1000
        return float("nan")


class Connection:
    """A connection that is opened again after the server has closed it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> Done:
        begin = time.perf_counter()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._target.port)
            reader, writer = self._streams
            writer.write(self._target.request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().lower().split("\r\n")
            length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
            body = await reader.readexactly(length)
            if "connection: close" in lines:
                self.close()
            status = int(lines[0].split()[1])
            return Done(status, time.perf_counter() - begin, status != 200 or body == self._target.expected)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return Done(0, time.perf_counter() - begin, True)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(target: Target, connections: int, seconds: float) -> list[Done]:
    """Each connection asks again as soon as it is answered."""
    end = time.perf_counter() + seconds
    found: list[Done] = []

    async def one() -> None:
        connection = Connection(target)
        while time.perf_counter() < end:
            found.append(await connection.ask())
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return found


async def open_loop(target: Target, rate: float, seconds: float) -> list[Done]:
    """A request every 1 / rate seconds, whether or not earlier ones are answered."""
    idle: list[Connection] = []
    found: list[Done] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        connection = idle.pop() if idle else Connection(target)
        found.append(await connection.ask())
        idle.append(connection)

    begin = time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0, begin + number / rate - time.perf_counter()))
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return found


async def disturb(target: Target, end: float, counts: Counter[str]) -> None:
    """Malformed, cut and slow requests, one after the other, until `end`."""
    rng = np.random.default_rng(1)
    kinds = ("malformed", "cut", "slow", "no picture", "too large")
    while time.perf_counter() < end:
        kind = kinds[rng.integers(len(kinds))]
        head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        data = {
            "malformed": rng.integers(0, 256, 300, dtype=np.uint8).tobytes() + b"\r\n\r\n",
            "cut": target.request[: rng.integers(1, len(target.request))],
            "slow": target.request[:200],
            "no picture": head % 1000 + rng.integers(0, 256, 1000, dtype=np.uint8).tobytes(),
            "too large": head % (1 << 30),
        }[kind]
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
            writer.write(data)
            await writer.drain()
            if kind == "slow":
                for byte in target.request[200:210]:
                    await asyncio.sleep(0.05)
                    writer.write(bytes([byte]))
            elif kind in ("no picture", "too large"):
                await asyncio.wait_for(reader.read(1000), 30)
            writer.close()
            counts[kind] += 1
        except (OSError, asyncio.TimeoutError):
            counts[f"{kind}, connection lost"] += 1
        await asyncio.sleep(0.02)


def row(name: str, found: list[Done], seconds: float) -> list[str]:
    answered = sorted(done.seconds for done in found if done.status == 200) or [float("nan")]
    statuses = Counter(done.status for done in found)
    others = ", ".join(f"{count} × {status or 'lost'}" for status, count in sorted(statuses.items()) if status != 200)
    p50, p99 = answered[len(answered) // 2], answered[int(0.99 * (len(answered) - 1))]
    wrong = sum(not done.right for done in found)
    rate = f"{statuses[200] / seconds:.0f}"
    return [name, f"{seconds:.0f}", rate, f"{1000 * p50:.1f}", f"{1000 * p99:.1f}", others or "none", str(wrong)]


async def measure(target: Target, minutes: float, each: float) -> tuple[list[list[str]], list[list[str]], Counter[str]]:
    rows, memory = [], []
    begin = time.perf_counter()
    await closed_loop(target, CONNECTIONS, 2)

    def note(what: str) -> None:
        memory.append([f"{(time.perf_counter() - begin) / 60:.1f}", what, f"{target.memory():.1f}"])

    note("warm")
    found = await closed_loop(target, CONNECTIONS, each)
    capacity = sum(done.status == 200 for done in found) / each
    rows.append(row(f"{CONNECTIONS} connections", found, each))
    for factor in (0.5, 2.0):
        found = await open_loop(target, factor * capacity, each)
        rows.append(row(f"{factor:g} × that rate", found, each))
        note(f"after {factor:g} × the capacity")
    counts: Counter[str] = Counter()
    left = max(each, 60 * minutes - (time.perf_counter() - begin))
    end = time.perf_counter() + left
    disturbing = [asyncio.create_task(disturb(target, end, counts)) for _ in range(4)]
    several: list[Done] = []
    parts = 8
    for part in range(parts):
        several += await closed_loop(target, CONNECTIONS, left / parts)
        note(f"bad requests, part {part + 1}")
    await asyncio.gather(*disturbing)
    rows.append(row(f"{CONNECTIONS} connections next to bad requests", several, left))
    return rows, memory, counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="in all (default 10)")
    parser.add_argument("--each", type=float, default=20.0, help="seconds of each measurement (default 20)")
    add_page(parser, HERE / "results.md")
    args = parser.parse_args()
    command = [sys.executable, "-m", "bhvit", "serve", "cifar10", "--port", "0", "--queue", "32", "--timeout", "10"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    port = 0
    while not port:
        event = json.loads(server.stderr.readline())
        port = event.get("port", 0)
    errors: list[str] = []

    def read() -> None:
        assert server.stderr is not None
        errors.extend(line for line in server.stderr if json.loads(line)["level"] == "error")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    rows, memory, counts = asyncio.run(measure(Target(port, server.pid), args.minutes, args.each))
    begin = time.perf_counter()
    server.send_signal(signal.SIGTERM)
    status = server.wait(60)
    reader.join(10)
    text = markdown(("Load", "Seconds", "Answered a second", "p50 ms", "p99 ms", "Others", "Wrong answers"), rows)
    bad = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    text += f"\n\nBad requests: {bad}. Errors in the server's log: {len(errors)}.\n\n"
    text += markdown(("Minute", "After", "Resident MB"), memory)
    text += f"\n\nThe server ended with status {status}, {time.perf_counter() - begin:.1f} s after SIGTERM.\n"
    text += (
        "\nThe bundled model, JPEG pictures of 320×240, one session a core; the client takes part of the same cores."
    )
    write_results(args.page, "A server under load", text)
    return int(bool(errors) or status != 0 or any(row[-1] != "0" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
