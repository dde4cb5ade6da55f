"""`bhvit report`: the page is whole, self-contained, and safe with hostile names."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from bhvit.data.metrics import Metrics
from bhvit.report.gallery import LISTED, MAX_BYTES, choose, gallery, shown_images
from bhvit.report.svg import MOST_COLUMNS, MOST_DOTS, Series, confusion_matrix, heat_map, line_chart
from bhvit.report.weights import BINS
from helpers.html_page import HtmlPage


@pytest.fixture(scope="module")
def page_text(material, tmp_path_factory) -> str:
    from bhvit.cli.main import main

    out = tmp_path_factory.mktemp("page") / "page.html"
    assert main(["report", str(material.run), "--split", "all", "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def test_the_page_parses_and_says_what_it_must(page_text, material):
    page = HtmlPage(page_text)
    for text in (
        "Accuracy (top-1)",
        "Loss",
        "Learning rate",
        "Confusion matrix",
        "Most confidently wrong",
        "Milliseconds per image",
        "top-1 agreement",
        "equal, bit for bit",
        "processor",
        "PyTorch",
    ):
        assert text in page.text, text
    # 3 epochs of 5 lines, the cut one left out, and a histogram for each of 3 stages
    assert sum(tag == "circle" for tag, _ in page.tags) == 3 * 5 + 3 * BINS
    assert "Binary weights and attention" in page.text
    assert "Weights whose sign changed" in page.text
    assert "Levels that attention uses" in page.text
    assert page.text.index("Environment and settings") < page.text.index("Binary weights and attention")
    log = [json.loads(line) for line in (material.run / "log.jsonl").read_text().splitlines() if line.endswith("}")]
    assert len({entry["val_top1"] for entry in log}) == 1  # equally accurate: that of the lowest loss is the best
    chosen = min(log, key=lambda entry: entry["val_loss"])["epoch"]
    assert page.text.count(f"this model: epoch {chosen}") == 1
    assert re.search(r"\d × smaller", page.text)
    assert re.search(r"\d × faster", page.text)


def test_the_page_asks_nothing_of_anyone(page_text):
    page = HtmlPage(page_text)
    without_pictures = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", page_text)
    assert not re.search(r"https?:|//[a-z]", without_pictures)
    assert not re.search(r"@import|url\(", page_text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        assert "href" not in attributes


def test_hostile_names_are_text(page_text, material):
    assert "<script" not in page_text
    assert "&lt;script&gt;" in page_text
    assert any("cat & 'dog'" in (attributes.get("alt") or "") for _, attributes in HtmlPage(page_text).tags)


def test_pictures_and_charts_can_be_read_aloud(page_text):
    page = HtmlPage(page_text)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert pictures
    assert all("classified as" in (attributes["alt"] or "") for attributes in pictures)
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert charts
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts)


def test_colours_can_be_told_from_what_lies_behind_them():
    from pathlib import Path

    from bhvit import report

    css = Path(report.__file__).with_name("report.css").read_text()
    light, dark = re.findall(r":root \{([^}]*)\}", css)
    for block in (light, dark):
        colour = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", block))
        for text, least in (("text", 7), ("soft", 4.5), ("c1", 3), ("c2", 3), ("c3", 3), ("c4", 3)):
            for behind in ("page", "card"):
                assert _contrast(colour[text], colour[behind]) >= least, (text, behind)
        for cell in ("right", "wrong"):
            assert _contrast(colour["on"], colour[cell]) >= 4.5


def _contrast(first: str, second: str) -> float:
    """The contrast ratio of the Web Content Accessibility Guidelines."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_without_a_packed_file_one_is_packed_for_the_occasion(bhvit, material, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(material.run, run, ignore=shutil.ignore_patterns("model.bhv", "other*"))
    answer = bhvit("report", run, "--limit", 2)
    assert answer.status == 0
    assert (run / "report.html").is_file()
    assert not (run / "model.bhv").exists()


def test_what_cannot_be_reported_is_refused(refused, material, tmp_path):
    out = tmp_path / "page.html"
    assert "bhvit train" in refused("report", tmp_path, "--out", out)
    assert "must end in .html" in refused("report", material.run, "--out", tmp_path / "page.txt")
    (tmp_path / "config.json").write_text("{")
    assert "config.json is damaged" in refused("report", tmp_path, "--out", out)
    (tmp_path / "config.json").write_text('{"data": "digits"}')
    assert "best.safetensors" in refused("report", tmp_path, "--out", out)
    assert not out.exists()
    out.write_text("precious")
    assert "--force" in refused("report", material.run, "--out", out)
    assert "absent.bhv" in refused("report", material.run, "--out", out, "--force", "--model", tmp_path / "absent.bhv")
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    "values", [[], [float("nan")], [1.0], [2.0, 2.0], [1e-9, 1e9], [0.0, -3.0], list(range(500)), [1e308, -1e308]]
)
def test_lines_of_any_values_can_be_drawn(values):
    chart = line_chart("<t>", [Series("<s>", 1, range(len(values)), values)], "x", lambda y: f"{y:.3g}")
    HtmlPage(chart)
    assert "nan" not in chart
    assert "<t>" not in chart


@pytest.mark.parametrize("count", [1, 2, 24, 25, pytest.param(200, marks=pytest.mark.long)])
def test_matrices_of_any_size_can_be_drawn(count):
    confusion = np.random.default_rng(0).integers(0, 5, (count, count))
    confusion[0] = 0  # a class without images
    HtmlPage(confusion_matrix(confusion, [f"<{'long ' * (index % 9)}{index}>" for index in range(count)]))


def test_epochs_of_any_number_can_be_drawn():
    chart = line_chart("Loss", [Series("training", 1, [-5, 1, 10**15], [1.0, 2.0, 3.0])], "epoch", str)
    HtmlPage(chart)
    assert chart.count("<text") < 30


def test_what_is_not_finite_is_said():
    nan = float("nan")
    lines = [Series("training", 1, [1, 2, 3], [0.5, nan, float("inf")]), Series("validation", 2, [1, 2], [nan, nan])]
    chart = line_chart("Loss", lines, "epoch", str)
    HtmlPage(chart)
    assert "4 of 5 values are left out: not finite, or too large." in chart
    assert "validation" not in chart  # no line, so nothing to name
    assert "Loss: 2 of 2 values are left out" in line_chart("Loss", lines[1:], "epoch", str)


def test_labels_of_small_numbers_stay_within_the_chart():
    chart = line_chart("Learning rate", [Series("lr", 3, [1, 2], [0.0001, 0.0008])], "epoch", lambda y: f"{y:.2g}")
    (place,) = map(float, re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end">0.0002<', chart))
    assert place >= 6 * 8.4  # six letters of 15 pixels, as on a phone


def test_charts_of_thousands_of_epochs_stay_small():
    epochs = [float(epoch) for epoch in range(1, 5001)]
    chart = line_chart("Loss", [Series("training", 1, epochs, [1 / epoch for epoch in epochs])], "epoch", str)
    HtmlPage(chart)
    assert MOST_DOTS / 2 <= chart.count("<circle") <= MOST_DOTS + 1
    assert "epoch 5000: 0.0002" in chart  # the last one
    assert len(chart) < 100_000
    values = np.tile(np.arange(1.0, 5001.0), (30, 1))
    values[3] = np.nan
    values[4, :2500] = np.inf
    drawn = heat_map("Signs", [f"layer{row}" for row in range(30)], [f"{epoch:g}" for epoch in epochs], values, str)
    HtmlPage(drawn)
    width = -(-5000 // MOST_COLUMNS)
    assert f"layer0, epoch 1 to {width}: {(1 + width) / 2}" in drawn  # their mean
    assert "layer3, epoch" not in drawn
    assert "layer4, epoch 1 to" not in drawn
    assert "layer4" in drawn
    assert len(drawn) < 1_000_000


def test_a_cell_of_the_matrix_chooses_its_images(page_text):
    page = HtmlPage(page_text)
    buttons = {a["id"] or "" for tag, a in page.tags if tag == "input" and a["type"] == "radio"}
    targets = [a["for"] or "" for tag, a in page.tags if tag == "label"]
    cells = {button for button in buttons if button.startswith("cell-")}
    assert cells
    assert set(targets) == buttons - cells | cells
    items = [(a["class"] or "").split() for tag, a in page.tags if tag == "li" and "cell-" in (a.get("class") or "")]
    assert {group for groups in items for group in groups if group.startswith("cell-")} == cells
    for button in buttons:
        assert f"main:has(#{button}:checked) .gallery li:not(.{button})" in page_text
        assert any(button in groups for groups in items)
    assert sum("checked" in a for tag, a in page.tags if tag == "input") == 1
    assert "Least certain" in page.text


def test_a_gallery_stays_within_its_bytes():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (3000, 30)).astype(np.float32)
    names = tuple(f"class {index}" for index in range(30))
    found = Metrics(class_names=names, labels=rng.integers(0, 30, 3000), logits=logits, seconds=0)
    lists, confidence = choose(found)
    wrong = [index for index, its in lists.items() if "wrong" in its]
    assert len(wrong) == LISTED
    assert confidence[wrong].tolist() == sorted(confidence[found.predictions != found.labels])[::-1][:LISTED]
    unsure = {index for index, its in lists.items() if "unsure" in its}
    assert unsure == set(np.argsort(confidence)[:LISTED].tolist())
    cells = {(int(found.labels[index]), int(found.predictions[index])) for index in lists}
    assert cells == set(zip(found.labels.tolist(), found.predictions.tolist()))

    def noise(index):
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (90, 60, 3), np.uint8))

    pictures = shown_images(found, noise, str)
    assert 100 < len(pictures) < len(lists)
    assert sum(len(one.source) for one in pictures) <= MAX_BYTES
    page = gallery(pictures, names)
    assert len(page) < 1.5 * MAX_BYTES
    assert 'id="class-' not in page  # too many classes for buttons
    assert gallery([], names) == ""


def test_corrupted_images_are_reported(bhvit, material, tmp_path):
    out = tmp_path / "page.html"
    assert bhvit("report", material.run, "--split", "all", "--limit", 2, "--corruptions", "--out", out).status == 0
    text = out.read_text(encoding="utf-8")
    assert "Corrupted images" in text
    assert "<td>pixelate</td>" in text
