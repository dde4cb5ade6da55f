"""`bhvit serve`: pictures, limits, replaced models, and an orderly end."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from bhvit import Session, bundled
from bhvit.cli.main import main
from bhvit.format import file as bhv_file
from bhvit.serve.limits import Limits, RequestError
from bhvit.serve.log import Log
from bhvit.serve.pool import Pool
from bhvit.serve.server import _watch
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.images import png
from helpers.random_model import random_model
from helpers.serving import Server, running
from helpers.small_specs import LABELS

MODEL = bundled.find("cifar10", ".bhv")


def answers(session: Session, data: bytes, top: int = 5) -> list[dict]:
    return [{"name": name, "probability": value} for name, value in session.classify(data, top)]


def test_pictures_are_classified(server: Server, session: Session) -> None:
    answer = httpx.post(f"{server.url}/classify?top=3&model=cifar10", content=png(1))
    assert answer.json() == {"model": "cifar10", "classes": answers(session, png(1), 3)}
    form = [("file", ("a.png", png(1))), ("file", ("b.png", png(2)))]
    found = httpx.post(f"{server.url}/classify", files=form).json()["images"]
    assert found == [{"classes": answers(session, png(1))}, {"classes": answers(session, png(2))}]


def test_the_interface_describes_itself(server: Server) -> None:
    described = httpx.get(f"{server.url}/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    for path, methods in described["paths"].items():
        for method in methods:
            url = server.url + path.replace("{model}", "cifar10")
            assert httpx.request(method, url).status_code in (200, 400), (method, path)
    for path in ("/docs", "/"):
        page = httpx.get(server.url + path)
        assert page.headers["content-type"].startswith("text/html")
        assert all(path in page.text for path in described["paths"])
        assert "https:" not in page.text  # nothing from other servers


def test_metrics_count(server: Server) -> None:
    def count() -> float:
        text = httpx.get(f"{server.url}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith('bhvit_images_total{model="cifar10"}')]
        assert "bhvit_models 1.0" in text
        return float(lines[0].split()[1]) if lines else 0

    before = count()
    httpx.post(f"{server.url}/classify", files=[("file", png(1)), ("file", png(2))])
    assert count() == before + 2


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("query", "content", "headers", "status", "said"),
    [
        ("?top=0", png(1), {}, 400, "top must be a whole number of at least 1, not '0'"),
        ("?top=x", png(1), {}, 400, "top must be"),
        ("?tpo=1", png(1), {}, 400, "there is no parameter 'tpo'; did you mean top?"),
        ("?windows=1", png(1), {}, 400, "there is no parameter 'windows'; known: model, top"),
        ("?top=1&top=2", png(1), {}, 400, "the parameter top is given 2 times"),
        ("?model=absent", png(1), {}, 404, "there is no model absent; known: cifar10"),
        ("", b"", {}, 400, "the body is empty"),
        ("", b"no picture", {}, 400, "the image is not an image"),
        ("", png(1)[:60], {}, 400, "the image is damaged"),
        ("", picture(2000, 1000), {}, 400, "2000x1000 pixels, more than the 1000000 that are taken"),
        ("", bytes(2 << 20), {}, 413, "the body has 2097152 bytes, at most 1048576 are taken"),
        ("", gzip.compress(bytes(2 << 20)), {"content-encoding": "gzip"}, 413, "more than the 1048576 bytes"),
        ("", gzip.compress(png(1))[:-9], {"content-encoding": "gzip"}, 400, "gzip is cut short"),
        ("", b"no gzip", {"content-encoding": "gzip"}, 400, "the body is no gzip"),
        ("", gzip.compress(png(1)) + gzip.compress(b"more"), {"content-encoding": "gzip"}, 400, "after the end of its"),
        ("", gzip.compress(b"nothing"), {"content-encoding": "x-gzip"}, 400, "the image"),
        ("", png(1), {"content-encoding": "br"}, 415, "gzip or deflate"),
        ("", b"--x\r\n\r\n", {"content-type": "multipart/form-data"}, 400, "the form cannot be read"),
        ("", b"--x\r\nbroken", {"content-type": "multipart/form-data; boundary=x"}, 400, "the form"),
        ("", b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}, 400, "the form has no file"),
        ("", b"--x--\r\n", {"content-type": "Multipart/Form-Data; boundary=x"}, 400, "the form has no file"),
    ],
)
def test_wrong_pictures(
    server: Server, query: str, content: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = httpx.post(f"{server.url}/classify{query}", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert server.process.poll() is None


def test_a_body_without_a_length_is_bounded(server: Server) -> None:
    answer = httpx.post(f"{server.url}/classify", content=(bytes(1 << 16) for _ in range(40)))
    assert (answer.status_code, "more than the 1048576 bytes" in answer.text) == (413, True)


@pytest.mark.parametrize("path", ["/absent", "/v2/models/cifar10/versions/2", "/v2/models/a%2Fb", "/classify"])
def test_unknown_paths(server: Server, path: str) -> None:
    answer = httpx.get(server.url + path)
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    logged = server.wait_for("request", path=httpx.URL(server.url + path).path, status=answer.status_code)
    assert (logged["level"], logged["method"], logged["client"]) == ("warning", "GET", "127.0.0.1")
    assert logged["reason"]


def test_cut_and_malformed_requests_leave_the_server_well(server: Server, session: Session) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n"
    for data in (b"", b"GET", b"\0\1\2\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", head, head + bytes(1000), b"A" * 200_000):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(data)
    answer = httpx.post(f"{server.url}/classify", content=png(3))
    assert answer.json()["classes"] == answers(session, png(3))
    assert "bhvit_jobs 0.0" in httpx.get(f"{server.url}/metrics").text


def test_a_file_is_never_on_the_disk(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    from starlette.testclient import TestClient

    from bhvit.serve.app import Service
    from bhvit.serve.models import Models, SessionOptions

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a file was about to be written")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", refused)
    log = Log(io.StringIO())
    service = Service(Models(["cifar10"], 1, SessionOptions(), log), Limits(), 1, log)
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert len(file.getvalue()) > 4 << 20
    answer = TestClient(service.app()).post("/classify", files={"file": file.getvalue()})
    assert answer.json()["images"][0]["classes"] == answers(session, file.getvalue())
    service.pool.close()


def test_a_full_queue_is_503_and_says_when_to_come_again() -> None:
    async def several() -> None:
        pool, go = Pool(1, 2), threading.Event()
        waiting = [asyncio.create_task(pool.run(lambda: go.wait(10), 20)) for _ in range(3)]
        await asyncio.sleep(0)  # lets the tasks begin
        assert pool.jobs == 3
        with pytest.raises(RequestError) as refused:
            await pool.run(lambda: True, 20)
        assert (refused.value.status, refused.value.retry_after) == (503, 1)
        go.set()
        assert await asyncio.gather(*waiting) == [True] * 3
        assert await pool.run(lambda: 7, 20) == 7
        pool.close()

    asyncio.run(several())


def test_a_late_answer_is_504_and_its_place_is_free_afterwards() -> None:
    async def late() -> None:
        pool, go = Pool(1, 5), threading.Event()
        begun: list[int] = []
        first = asyncio.create_task(pool.run(lambda: go.wait(10), 20))
        await asyncio.sleep(0)  # lets the task begin
        assert pool.jobs == 1
        with pytest.raises(RequestError) as refused:
            await pool.run(lambda: begun.append(1), 0.05)
        assert refused.value.status == 504
        go.set()
        await first
        assert await pool.run(lambda: "next", 5) == "next"
        assert (begun, pool.jobs) == ([], 0)  # what was given up never began
        pool.close()

    asyncio.run(late())


def test_the_watch_over_models_outlives_a_fault() -> None:
    class Broken:
        looks = 0

        def refresh(self) -> None:
            self.looks += 1
            if self.looks == 2:
                stop.set()
            raise MemoryError("no room")

    models, stop, stream = Broken(), threading.Event(), io.StringIO()
    _watch(models, 0, stop, Log(stream))  # type: ignore[arg-type]
    assert models.looks == 2
    assert stream.getvalue().count('"level": "error", "event": "models not looked for", "reason": "MemoryError') == 2


def tiny(seed: int) -> bytes:
    """A packed model of two classes with random weights."""
    stage = StageSpec(depth=1, channels=64, hidden=64, mixer="conv")
    spec = ModelSpec(name="tiny", img_size=(16, 16), patch=4, num_classes=2, stages=(stage,))
    return bhv_file.to_bytes(random_model(spec, seed))


def replace(path: Path, data: bytes) -> None:
    part = path.with_suffix(".new")
    part.write_bytes(data)
    os.replace(part, path)  # noqa: PTH105


def test_models_are_replaced_without_dropping_a_request(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    replace(folder / "a.bhv", tiny(0))
    (folder / "._a.bhv").write_bytes(b"what macOS leaves behind")
    shutil.copy(MODEL, folder / "other.bhv")
    expected = [[{"name": n, "probability": v} for n, v in Session(tiny(seed)).classify(png(1))] for seed in (0, 1)]
    assert expected[0] != expected[1]
    found: list[object] = []
    changed, stop = threading.Condition(), threading.Event()
    with running(folder, "--workers", 2) as server:

        def ask() -> None:
            with httpx.Client() as client:
                while not stop.is_set():
                    answer = client.post(f"{server.url}/classify?model=a", content=png(1))
                    with changed:
                        found.append(answer.json().get("classes") if answer.status_code == 200 else answer.text)
                        changed.notify()

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        replace(folder / "a.bhv", tiny(1))
        server.wait_for("model ready", 2, model="a")
        with changed:
            ready = len(found)
            assert changed.wait_for(lambda: len(found) >= ready + 10, 30)
        stop.set()
        for thread in threads:
            thread.join()
        assert all(one in expected for one in found), found
        assert found[-1] == expected[1]
        replace(folder / "a.bhv", b"no model")
        server.wait_for("model not replaced", model="a")
        assert httpx.post(f"{server.url}/classify?model=a", content=png(1)).json()["classes"] == expected[1]
        assert "name the model: ?model= one of a, other" in httpx.post(f"{server.url}/classify", content=png(1)).text
        shutil.copy(MODEL, folder / "third.bhv")
        (folder / "other.bhv").unlink()
        server.wait_for("model ready", model="third", mapped=False)
        server.wait_for("model removed", model="other")
        names = [model["name"] for model in httpx.post(f"{server.url}/v2/repository/index").json()]
        assert names == ["a", "third"]


@contextmanager
def request_under_way(server: Server, length: int) -> Iterator[socket.socket]:
    """A connection whose request the server has begun to handle, and of whose body nothing is sent yet."""
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        yield connection


def accepts(port: int) -> bool:
    """Whether a new request is answered."""
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            return connection.recv(1) != b""
    except ConnectionError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_before_the_end(number: int) -> None:
    server = Server("cifar10")
    data = png(1)
    with request_under_way(server, len(data)) as connection:
        connection.sendall(data[:50])
        assert accepts(server.port)
        server.process.send_signal(number)
        server.wait_for("stopping")
        deadline = time.monotonic() + 10
        while accepts(server.port):
            assert time.monotonic() < deadline
        connection.sendall(data[50:])
        assert b"200 OK" in connection.recv(10_000)
    assert server.process.wait(20) == 0
    assert server.process.stderr is not None
    server._reader.join(10)
    server.process.stderr.close()


def test_the_end_comes_within_its_limit() -> None:
    server = Server("cifar10", "--drain", 1)
    with request_under_way(server, 100) as connection:
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 8
        assert connection.recv(1000).startswith(b"HTTP/1.1 503 ")
    assert not any(event["event"].startswith("Exception") for event in server.log)
    assert server.process.stderr is not None
    server.process.stderr.close()


def test_a_built_page_is_shown(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>the page")
    (tmp_path / "bhvit.wasm").write_bytes(b"\0asm")
    with running("cifar10", "--web", tmp_path) as server:
        assert httpx.get(server.url).text == "<p>the page"
        assert httpx.get(f"{server.url}/bhvit.wasm").headers["content-type"] == "application/wasm"
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        (tmp_path.parent / "secret").write_text("outside the page")
        for path in ("/../secret", "/%2e%2e/secret", "/..%2fsecret", "//../secret", f"/{tmp_path}/../secret"):
            with socket.create_connection(("127.0.0.1", server.port), 20) as connection:  # clients remove `..`
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
            assert answer.startswith(b"HTTP/1.1 404 "), (path, answer)
            assert b"outside" not in answer


def test_what_cannot_be_served_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.bhv").write_bytes(b"no model")
    shutil.copy(MODEL, tmp_path / "cifar10.bhv")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases: list[tuple[list[object], str]] = [
            (["absent.bhv"], "absent.bhv"),
            ([tmp_path / "empty"], "holds no .bhv files"),
            ([tmp_path / "bad.bhv"], "bad.bhv"),
            (["cifar10", tmp_path / "cifar10.bhv"], "would both be the model cifar10: rename one"),
            (["cifar10", "--port", "65536"], "'65536' is not a port"),
            (["cifar10", "--port", taken.getsockname()[1]], "cannot listen on 127.0.0.1 port"),
            (["cifar10", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
            (["cifar10", "--web", tmp_path], "is no built page: it has no index.html"),
            (["cifar10", "--queue", "0"], "--queue"),
            ([], "required: MODEL"),
        ]
        for words, said in cases:
            assert main(["serve", *map(str, words)]) == 2
            err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
            assert len(err) == 1, err
            assert said in err[0]


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("bhvit.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert main(["serve", "cifar10"]) == 2
    assert "install bhvit with the extra 'serve'" in capsys.readouterr().err


def test_labelled_pixels_are_no_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bhv_file.write(random_model(LABELS), tmp_path / "labels.bhv")
    (tmp_path / "a.png").write_bytes(png(1))
    assert main(["classify", str(tmp_path / "labels.bhv"), str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "labels pixels" in said, said
    assert said.count("\n") == 1
    from bhvit.errors import UserError
    from bhvit.integrations.ray import Predictor

    with pytest.raises(UserError, match="labels pixels, and a Predictor classifies"):
        Predictor(tmp_path / "labels.bhv")


def test_a_job_that_does_not_end_does_not_keep_the_process() -> None:
    code = (
        "import asyncio, threading\n"
        "from bhvit.serve.pool import Pool\n"
        "from bhvit.serve.limits import RequestError\n"
        "async def late():\n"
        "    try: await pool.run(threading.Event().wait, 0.01)\n"
        "    except RequestError as error: print(error.status)\n"
        "pool = Pool(1, 1)\nasyncio.run(late())\npool.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, "504\n"), done.stderr
