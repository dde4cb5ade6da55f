"""The report in headless Chromium: on a phone, in the dark, and with its details folded."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bhvit.report.classes import CURVES
from bhvit.report.page import Page
from bhvit.report.svg import confusion_matrix
from bhvit.report.weights import BINS, REACH, WeightFindings
from bhvit.timing import Timing
from helpers.browser import CHROMIUM, chromium, context_of

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="needs Chromium and Playwright"
    ),
]
NAMES = tuple(f"a class with a long name {number}" for number in range(12))
LAYERS = [f"stages.{number}.0.mlp.linear1" for number in range(4)]
PHONE = {"width": 390, "height": 800}
LEAST_PIXELS = 9.0
"""Height of the smallest letters that can be read on a phone."""


def _timing(name: str, milliseconds: float) -> Timing:
    return Timing(
        name=name,
        isa="AVX-512",
        threads=1,
        batch=1,
        median=milliseconds,
        p10=milliseconds,
        p90=milliseconds,
        calls=9,
        cpu=1.0,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = [
        {
            "epoch": epoch,
            "lr": 1e-3 / epoch,
            "train_loss": 1 / epoch,
            "val_loss": 1.5 / epoch,
            "train_top1": 1 - 1 / epoch,
            "val_top1": 0.9 - 0.01 * abs(epoch - 12),
            "flipped": {layer: 0.05 * number / epoch for number, layer in enumerate(LAYERS)},
            "oscillating": dict.fromkeys(LAYERS, 0.5),
        }
        for epoch in range(1, 31)
    ]
    confusion = np.random.default_rng(0).integers(0, 40, (12, 12))
    text = Page(
        title="a_model_with_a_name_that_is_long on photographs",
        subtitle="A binary vision transformer.",
        tiles=[("97.50%", "accuracy of the packed file", "PyTorch: 97.50%")] * 3,
        log=log,
        chosen=12,
        curves=CURVES,
        results=[("Confusion matrix", confusion_matrix(confusion, NAMES))],
        weights=WeightFindings(
            edges=np.linspace(-REACH, REACH, BINS + 1),
            latent={"stage 0": np.full(BINS, 1 / BINS)},
            levels={layer: np.full(4, 0.25) for layer in LAYERS},
        ),
        sizes=[("packed file (.bhv)", 800_000), ("PyTorch checkpoint", 12_000_000)],
        timings=[_timing("bhvit", 0.4), _timing("PyTorch", 100.0)],
        fidelity=[("native and NumPy reference", "equal, bit for bit, after all 37 ops of 4 images")],
        model=[("architecture", "bhvit_nano, 32x32x3, 12 classes")],
        settings={"data": "photos", "lr": 1e-3},
        environment={"processor": "a processor with a name of usual length @ 2.10GHz"},
    ).html()
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module", params=["light", "dark"])
def phone(request: pytest.FixtureRequest, browser: Any, page: Path) -> Iterator[Any]:
    context = context_of(browser, viewport=PHONE, color_scheme=request.param)
    opened = context.new_page()
    opened.goto(page.as_uri())
    yield opened
    context.close()


def unfold(phone: Any) -> None:
    phone.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def test_nothing_but_tables_is_wider_than_a_phone(phone: Any) -> None:
    unfold(phone)
    assert phone.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    wide = phone.evaluate(
        """() => [...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll')
             && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert wide == []


def test_what_scrolls_shows_that_it_does(phone: Any) -> None:
    unfold(phone)
    found = phone.evaluate(
        """() => [...document.querySelectorAll('.scroll')].map((one) => ({
             more: one.scrollWidth > one.clientWidth + 1,
             shadows: getComputedStyle(one).backgroundImage.split('linear-gradient').length - 1,
             scrolls: getComputedStyle(one).overflowX, focus: one.tabIndex,
           }))"""
    )
    assert sum(one["more"] for one in found) >= 2  # the matrix of twelve classes, and the table of times
    for one in found:
        assert (one["shadows"], one["scrolls"], one["focus"]) == (4, "auto", 0)


def test_labels_can_be_read_on_a_phone(phone: Any) -> None:
    unfold(phone)
    sizes = phone.evaluate(
        """() => [...document.querySelectorAll('svg text')].map((one) => {
             const scale = one.ownerSVGElement.getScreenCTM().a;
             return [parseFloat(getComputedStyle(one).fontSize) * scale, one.textContent];
           })"""
    )
    assert len(sizes) > 100
    assert [(size, text) for size, text in sizes if size < LEAST_PIXELS] == []


def test_details_come_last_and_folded(phone: Any) -> None:
    phone.reload()
    headings = phone.evaluate("() => [...document.querySelectorAll('h2')].map((one) => one.textContent)")
    assert headings[-1] == "Binary weights and attention"
    assert not phone.evaluate("() => [...document.querySelectorAll('details')].some((one) => one.open)")
    assert not phone.locator(".heat svg").first.is_visible()


def test_the_scale_of_heat_maps_goes_from_pale_to_strong(phone: Any) -> None:
    """A larger value differs more from the card behind it, in the light and in the dark."""
    unfold(phone)
    cells = phone.evaluate(
        """() => [...document.querySelectorAll('.heat:first-of-type rect')].map((one) => [
             parseFloat(one.querySelector('title').textContent.split(': ')[1]),
             parseFloat(one.getAttribute('fill-opacity'))])"""
    )
    assert cells
    by_value = sorted(cells)
    assert [strength for _, strength in by_value] == sorted(strength for _, strength in by_value)
    assert by_value[0][1] < 0.1 < 0.9 < by_value[-1][1]
    card, strong = phone.evaluate(
        """() => [getComputedStyle(document.querySelector('section')).backgroundColor,
             getComputedStyle(document.querySelector('.heat rect')).fill]"""
    )
    shades = [sum(map(int, colour[4:-1].split(","))) for colour in (card, strong)]
    assert abs(shades[0] - shades[1]) > 150
    assert "linear-gradient" in phone.evaluate(
        "() => getComputedStyle(document.querySelector('.scale span')).backgroundImage"
    )


def test_the_chosen_epoch_and_factors_are_said(phone: Any) -> None:
    assert phone.get_by_text("this model: epoch 12", exact=True).count() == 1
    assert phone.locator("line.mark").count() == 2  # in both charts of what is measured
    assert phone.get_by_text("250 × faster", exact=True).count() == 1
    assert phone.get_by_text("15 × smaller", exact=True).count() == 1
