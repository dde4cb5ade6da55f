"""The engine with threads, in a page that is cross-origin isolated by its host's headers or by its service worker."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bhvit import Session
from bhvit.bundled import FOLDER
from bhvit.format import file as bhv_file
from bhvit.web import write_site
from helpers import small_specs
from helpers.browser import ISOLATING, chromium, context_of, serving, why_not
from helpers.random_model import random_model

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "all is there")
MODELS = [path for path in sorted(FOLDER.glob("*.bhv")) if Session(path).spec.task == "classify"]
SPECS = [spec for spec in small_specs.SPECS if spec.task == "classify"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with the bundled classifiers, and models of every op and option."""
    site = tmp_path_factory.mktemp("site")
    write_site(MODELS, site)
    for i, spec in enumerate(SPECS):
        bhv_file.write(random_model(spec), site / f"{i}.bhv")
    return site


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


_LOGITS = """async ([model, pixels, width, height, threads, worker]) => {
  const { Bhvit } = await import("./lib/index.js");
  const data = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0));
  const opened = await Bhvit.load(model, threads ? { threads, worker } : {});
  const used = opened.info.threads;
  const answers = [];
  for (let i = 0; i < 3; i++) {
    const logits = await opened.logits({ data, width, height });
    answers.push(Array.from(new Uint8Array(logits.buffer)));
  }
  opened.close();
  return [used, answers];
}"""


def _open(browser: Any, address: str, **options: Any) -> Any:
    page = context_of(browser, **options).new_page()
    page.goto(address)
    return page


def _ask(
    page: Any, model: str, pixels: np.ndarray[Any, Any], threads: int, worker: bool = True
) -> tuple[int, list[bytes]]:
    height, width = pixels.shape[:2]
    sent = base64.b64encode(pixels.tobytes()).decode()
    used, answers = page.evaluate(_LOGITS, [model, sent, width, height, threads, worker])
    return used, [bytes(answer) for answer in answers]


def _expected(session: Session, pixels: np.ndarray[Any, Any]) -> bytes:
    return session(session._preprocess.normalize(session.program.fit(pixels)[None]))[0].tobytes()


def test_threads_give_the_bits_of_python(browser: Any, folder: Path) -> None:
    with serving(folder, ISOLATING) as address:
        page = _open(browser, address)
        assert page.evaluate("crossOriginIsolated")
        for i, spec in enumerate(SPECS):
            pixels = np.random.default_rng(0).integers(0, 256, (37, 51, spec.in_chans), np.uint8)
            used, answers = _ask(page, f"{i}.bhv", pixels, 3)
            assert used == 3
            assert answers == 3 * [_expected(Session(bhv_file.to_bytes(random_model(spec))), pixels)], spec.name
        for model in MODELS:
            pixels = np.random.default_rng(1).integers(0, 256, (120, 99, 3), np.uint8)
            used, answers = _ask(page, f"models/{model.name}", pixels, 0)
            assert used == page.evaluate("Math.min(4, navigator.hardwareConcurrency)")
            assert answers == 3 * [_expected(Session(model), pixels)]
        # A page's own thread may not wait for others.
        assert _ask(page, f"models/{MODELS[0].name}", pixels, 2, worker=False)[0] == 1
        page.context.close()


@pytest.mark.long
def test_the_service_worker_isolates_the_page_from_the_second_load_on(browser: Any, folder: Path) -> None:
    with serving(folder) as address:
        page = _open(browser, address)
        pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), np.uint8)
        expected = 3 * [_expected(Session(MODELS[0]), pixels)]
        assert not page.evaluate("crossOriginIsolated")
        assert _ask(page, f"models/{MODELS[0].name}", pixels, 2) == (1, expected)
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        page.reload()
        assert page.evaluate("crossOriginIsolated")
        assert _ask(page, f"models/{MODELS[0].name}", pixels, 2) == (2, expected)
        page.context.close()


@pytest.mark.long
def test_without_the_engine_with_threads_a_model_runs_on_one(browser: Any, folder: Path) -> None:
    with serving(folder, ISOLATING) as address:
        page = _open(browser, address, service_workers="block")
        page.route("**/*threads*.wasm", lambda route: route.abort())
        pixels = np.random.default_rng(3).integers(0, 256, (40, 40, 3), np.uint8)
        assert _ask(page, f"models/{MODELS[0].name}", pixels, 2) == (1, 3 * [_expected(Session(MODELS[0]), pixels)])
        page.context.close()
