"""Headless Chromium, and servers of sites for it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bhvit.errors import UserError
from bhvit.web import site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ISOLATING = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""Headers with which pages may share memory between threads."""


def why_not() -> str:
    """Return what is missing to test the page in Chromium, or an empty text."""
    if CHROMIUM is None:
        return "needs Chromium"
    if importlib.util.find_spec("playwright") is None:
        return "needs Playwright (pip install playwright)"
    try:
        site.find_library()
    except UserError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def serving(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve a folder with some headers; gives its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def chromium(*options: str) -> Iterator[Any]:
    """Start Chromium; gives Playwright's browser."""
    from playwright.sync_api import sync_playwright

    always = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=[*always, *options])
        yield opened
        opened.close()


def context_of(browser: Any, **options: Any) -> Any:
    """Return a new context of a browser, whose pages may take as long as a busy machine needs."""
    context = browser.new_context(**options)
    context.set_default_timeout(120_000)
    return context
