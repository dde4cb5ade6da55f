"""The site in headless Chromium: Python's bits, the page's flows, and what goes wrong."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhvit import Session
from bhvit.bundled import FOLDER
from bhvit.cli.main import main
from bhvit.format import file as bhv_file
from bhvit.web import single_file, site_files, write_site
from helpers import small_specs
from helpers.browser import chromium, context_of, serving, why_not
from helpers.random_model import random_model

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "all is there")
BUNDLED = sorted(FOLDER.glob("*.bhv"))
MODELS = [path for path in BUNDLED if Session(path).spec.task == "classify"]
SPECS = [spec for spec in small_specs.SPECS if spec.task == "classify"]
SEGMENTATIONS = [spec for spec in small_specs.SPECS if spec.task == "segment"]
LABELS = dataclasses.replace(small_specs.LABELS, img_size=(24, 32), num_classes=5)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a site with all bundled models, and models of every op and option."""
    folder, photos = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("photos")
    for name in ("cat", "dog"):
        (photos / name).mkdir()
        (photos / name / "1.png").write_bytes(_picture(40, 30))
    bhv_file.write(random_model(LABELS), photos / "labels.bhv")
    write_site([*BUNDLED, photos / "labels.bhv"], folder, examples=photos)
    for i, spec in enumerate(SPECS):
        bhv_file.write(random_model(spec), folder / f"{i}.bhv")
    for i, spec in enumerate(SEGMENTATIONS):
        bhv_file.write(random_model(spec), folder / f"labels{i}.bhv")
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    camera = tmp_path_factory.mktemp("camera") / "camera.y4m"
    frame = bytes(np.random.default_rng(0).integers(0, 256, 64 * 48 * 3 // 2, np.uint8))
    camera.write_bytes(b"YUV4MPEG2 W64 H48 F10:1 Ip A1:1 C420jpeg\n" + 4 * (b"FRAME\n" + frame))
    options = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with chromium(*options, f"--use-file-for-fake-video-capture={camera}") as opened:
        yield opened


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page once the model is loaded; it must not have asked any other host."""
    context = context_of(browser, permissions=["camera"])
    opened = context.new_page()
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    _wait(opened, "#status", "Ready")
    yield opened
    assert all(url.startswith((address, "blob:", "data:")) for url in asked), asked
    context.close()


_LOGITS = """async ([model, pixels, width, height, wasm]) => {
  const { Bhvit } = await import("./lib/index.js");
  const data = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0));
  const opened = await Bhvit.load(model, wasm ? { wasm: new URL(wasm, location.href) } : {});
  const logits = await opened.logits({ data, width, height });
  opened.close();
  return Array.from(new Uint8Array(logits.buffer));
}"""


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_logits_are_the_bits_of_python(page: Any, model: Path) -> None:
    session = Session(model)
    rng = np.random.default_rng(0)
    for height, width in ((32, 32), (48, 64), (200, 31), (224, 224), (300, 450)):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        sent = base64.b64encode(pixels.tobytes()).decode()
        found = page.evaluate(_LOGITS, [f"models/{model.name}", sent, width, height])
        # One native resize makes the pixels of both: Pillow's differ between its versions for very tall pictures.
        fitted = session.program.fit(pixels)
        expected = session(session._preprocess.normalize(fitted[None]))[0]
        np.testing.assert_array_equal(np.frombuffer(bytes(found), np.float32), expected)


@pytest.mark.parametrize("wasm", ["lib/bhvit.wasm", pytest.param("lib/bhvit.relaxed.wasm", marks=pytest.mark.long)])
def test_every_op_and_option_gives_the_bits_of_python(page: Any, wasm: str) -> None:
    for i, spec in enumerate(SPECS):
        session = Session(bhv_file.to_bytes(random_model(spec)))
        pixels = np.random.default_rng(0).integers(0, 256, (37, 51, spec.in_chans), np.uint8)
        sent = base64.b64encode(pixels.tobytes()).decode()
        found = page.evaluate(_LOGITS, [f"{i}.bhv", sent, 51, 37, wasm])
        expected = session(session._preprocess.normalize(session.program.fit(pixels)[None]))[0]
        np.testing.assert_array_equal(np.frombuffer(bytes(found), np.float32), expected, spec.name)


_TASK = """async ([model, pixels, width, height, task]) => {
  const { Bhvit } = await import("./lib/index.js");
  const data = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0));
  const opened = await Bhvit.load(model);
  const found = await opened[task]({ data, width, height });
  opened.close();
  const values = found.labels ?? found.heat ?? found;
  return [found.width, found.height, found.name, Array.from(new Uint8Array(values.buffer))];
}"""


def _ask(page: Any, model: str, pixels: np.ndarray[Any, Any], task: str) -> Any:
    height, width = pixels.shape[:2]
    *rest, found = page.evaluate(_TASK, [model, base64.b64encode(pixels.tobytes()).decode(), width, height, task])
    return [*rest, bytes(found)]


@pytest.mark.long
def test_features_are_the_bits_of_python(page: Any) -> None:
    for i, spec in enumerate(SPECS):
        session = Session(bhv_file.to_bytes(random_model(spec)))
        pixels = np.random.default_rng(0).integers(0, 256, (37, 51, spec.in_chans), np.uint8)
        *_, found = _ask(page, f"{i}.bhv", pixels, "embed")
        expected = session.embed(session._preprocess.normalize(session.program.fit(pixels)[None]))[0]
        np.testing.assert_array_equal(np.frombuffer(found, np.float32), expected, spec.name)


def test_labels_of_pixels_are_python_s(page: Any) -> None:
    models = {f"labels{i}.bhv": Session(bhv_file.to_bytes(random_model(spec))) for i, spec in enumerate(SEGMENTATIONS)}
    models |= {f"models/{path.name}": Session(path) for path in BUNDLED if path not in MODELS}
    assert len(models) > len(SEGMENTATIONS)
    seen = 0
    for name, session in models.items():
        spec = session.spec
        for height, width in ((37, 51), spec.img_size):
            pixels = np.random.default_rng(0).integers(0, 256, (height, width, spec.in_chans), np.uint8)
            *size, _, found = _ask(page, name, pixels, "segment")
            assert size == [width, height]
            labels = np.frombuffer(found, np.uint8).reshape(height, width)
            np.testing.assert_array_equal(labels, session.segment(pixels), name)
            seen = max(seen, len(np.unique(labels)))
    assert seen > 2  # or all of one class would prove little


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_explanations_are_python_s(page: Any, model: Path) -> None:
    """The same but for the logarithm's last digit: each hidden square has the bits of Python's."""
    session = Session(model)
    height, width = session.spec.img_size
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    expected = session.explain(pixels)
    *size, name, found = _ask(page, f"models/{model.name}", pixels, "explain")
    assert (size, name) == ([width, height], expected.name)
    heat = np.frombuffer(found, np.float32).reshape(height, width)
    np.testing.assert_allclose(heat, expected.heat, rtol=0, atol=1e-5)
    assert expected.heat.std() > 0.05


def _picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _choose(page: Any, data: bytes, name: str = "picture.png") -> None:
    page.set_input_files("#files", {"name": name, "mimeType": "image/png", "buffer": data})


def _wait(page: Any, selector: str, text: str) -> None:
    """Wait until an element has the text; Playwright's wait_for_function would need `eval`, which the page forbids."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text, timeout=60_000)


def test_a_chosen_picture_is_named_as_in_python(page: Any) -> None:
    data = _picture(40, 32)
    _choose(page, data)
    _wait(page, "#status", "picture.png: ")
    name, probability = Session(page.evaluate("fetch('models.json').then((r) => r.json())")[0]["name"]).classify(data)[
        0
    ]
    assert page.inner_text("#status") == f"picture.png: {name}"
    assert page.locator("#classes li").count() == 5
    assert page.locator("#classes li span").first.inner_text() == f"{100 * probability:.1f} %"
    assert "ms" in page.inner_text("#time")
    assert page.locator("#preview").is_visible()


@pytest.mark.long
def test_all_that_can_be_used_or_seen_has_a_name(page: Any) -> None:
    """For screen readers: controls, bars and pictures, as the browser's accessibility tree has them."""
    _choose(page, _picture(40, 32))
    _wait(page, "#status", "picture.png: ")
    page.locator("#explain").wait_for()
    found = re.findall(r"- (button|combobox|img|progressbar|textbox)\b(.*)", page.locator("body").aria_snapshot())
    assert len(found) > 10
    assert [kind for kind, name in found if not re.match(r' "[^"]+"', name)] == []
    names = " ".join(name for _, name in found)
    for name in ("Choose, drop or paste a picture", "Start the camera", "Model", "The picture", "dog, example 1"):
        assert f'"{name}"' in names, names


@pytest.mark.long
def test_the_map_over_a_picture_is_shown_and_hidden(page: Any) -> None:
    assert page.locator("#explain").is_hidden()
    _choose(page, _picture(64, 48))
    _wait(page, "#status", "picture.png: ")
    page.click("#explain")
    _wait(page, "#status", "the answer depends most on what is")
    assert page.get_attribute("#explain", "aria-pressed") == "true"
    box, over = page.locator("#preview").bounding_box(), page.locator("#overlay").bounding_box()
    assert box == over
    drawn = """() => {
      const { width, height } = document.getElementById("overlay");
      const { data } = document.getElementById("overlay").getContext("2d").getImageData(0, 0, width, height);
      return [width, height, Math.max(...data.filter((_, i) => i % 4 === 3))];
    }"""
    width, height, alpha = page.evaluate(drawn)
    assert (width, height) == (64, 48)
    assert alpha > 100
    page.click("#explain")
    assert page.locator("#overlay").is_hidden()
    assert page.get_attribute("#explain", "aria-pressed") == "false"
    page.click("#explain")
    _wait(page, "#status", "the answer depends most on what is")
    _choose(page, _picture(32, 32), "next.png")  # a map is about one picture
    _wait(page, "#status", "next.png: ")
    assert page.locator("#overlay").is_hidden()


@pytest.mark.long
def test_labels_are_drawn_over_the_picture_and_the_camera(page: Any) -> None:
    page.select_option("#model", "labels")
    _wait(page, "#facts", "labels each pixel")
    _wait(page, "#status", "Ready")
    data = _picture(40, 32)
    _choose(page, data)
    _wait(page, "#status", "picture.png: ")
    assert page.locator("#overlay").is_visible()
    assert page.locator("#explain").is_hidden()
    session = Session(bhv_file.to_bytes(random_model(LABELS)))
    counts = np.bincount(session.segment(data).reshape(-1), minlength=len(session.class_names))
    shares = [f"{100 * count / counts.sum():.1f} %" for count in sorted(counts, reverse=True) if count][:10]
    assert page.locator("#classes li span").all_inner_texts() == shares
    page.click("#camera")
    _wait(page, "#time", "frames a second")
    assert page.locator("#overlay").is_visible()
    page.click("#camera")
    assert page.locator("#overlay").is_hidden()
    page.select_option("#model", MODELS[0].stem)
    _wait(page, "#status", "Ready")
    assert page.locator("#overlay").is_hidden()


@pytest.mark.long
def test_an_example_is_answered(page: Any) -> None:
    assert page.locator("#groups h3").all_inner_texts() == ["cat", "dog"]
    page.get_by_role("button", name="dog, example 1").click()
    _wait(page, "#status", "dog, example 1: ")
    assert page.locator("#preview").is_visible()


_WITHOUT_WORKER = """async (worker) => {
  const { Bhvit } = await import("./lib/index.js");
  window.Worker = class { constructor() { throw new DOMException("of another origin", "SecurityError"); } };
  const options = worker === null ? {} : { worker };
  const load = Bhvit.load("models/cifar10.bhv", options);
  return load.then(async (model) => (await model.classify(new ImageData(8, 8))).length,
                   (error) => [error.name, error.code, error.message]);
}"""


@pytest.mark.long
def test_where_no_worker_starts_the_model_runs_in_the_page(page: Any) -> None:
    assert page.evaluate(_WITHOUT_WORKER, None) == 5
    name, code, message = page.evaluate(_WITHOUT_WORKER, True)
    assert (name, code) == ("BhvitError", "system")
    assert "of another origin" in message
    assert "{ worker: false }" in message


@pytest.mark.long
def test_calls_to_a_closed_model_are_rejected(page: Any) -> None:
    script = """async () => {
      const { Bhvit } = await import("./lib/index.js");
      const model = await Bhvit.load("models/cifar10.bhv");
      const image = await createImageBitmap(new ImageData(64, 64));
      const calls = [model.logits(new ImageData(64, 64)), model.explain(image), model.segment(new ImageData(64, 64))];
      model.close();
      calls.push(model.embed(image));
      return (await Promise.allSettled(calls)).map(({ reason }) => reason?.code);
    }"""
    assert page.evaluate(script) == ["closed"] * 4


@pytest.mark.long
def test_a_dropped_and_a_pasted_picture(page: Any) -> None:
    data = base64.b64encode(_picture(32, 32)).decode()
    for kind in ("drop", "paste"):
        page.evaluate(
            """([kind, data]) => {
              const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
              document.dispatchEvent(kind === "drop"
                ? new DragEvent("drop", { dataTransfer: transfer, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: transfer }));
            }""",
            [kind, data],
        )
        _wait(page, "#status", f"{kind}.png: ")


@pytest.mark.long
def test_the_camera_runs_until_it_is_stopped(page: Any) -> None:
    page.click("#camera")
    _wait(page, "#time", "frames a second")
    assert page.locator("#video").is_visible()
    page.click("#camera")
    assert page.inner_text("#camera") == "Start the camera"
    assert page.locator("#video").is_hidden()


@pytest.mark.long
def test_a_camera_that_stops_is_said(page: Any) -> None:
    page.click("#camera")
    _wait(page, "#time", "frames a second")
    page.evaluate("document.getElementById('video').srcObject.getTracks().forEach((track) => track.stop())")
    _wait(page, "#error", "the camera has stopped")
    assert page.inner_text("#camera") == "Start the camera"
    assert page.locator("#video").is_hidden()


_DROPS = """([index, pictures]) => {
  if (index !== null) {
    const select = document.getElementById("model");
    select.selectedIndex = index;
    select.dispatchEvent(new Event("change"));
  }
  for (const [name, data] of pictures) {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
  }
}"""


def _drop(page: Any, index: int | None, *pictures: tuple[str, bytes]) -> None:
    page.evaluate(_DROPS, [index, [(name, base64.b64encode(data).decode()) for name, data in pictures]])


def test_of_pictures_in_a_row_the_last_is_shown(page: Any) -> None:
    _drop(page, None, ("large.png", _picture(900, 700)), ("small.png", _picture(40, 32)))
    _wait(page, "#status", "small.png: ")
    page.evaluate("new Promise((resolve) => { setTimeout(resolve, 500); })")
    assert page.inner_text("#status").startswith("small.png: ")
    assert page.evaluate("document.getElementById('preview').width") == 40


@pytest.mark.long
def test_a_picture_chosen_while_a_model_loads_waits_for_it(page: Any) -> None:
    last = len(BUNDLED)  # the model with random labels
    _drop(page, last, ("early.png", _picture(40, 32)))
    _wait(page, "#status", "early.png: ")
    _wait(page, "#facts", "labels each pixel")
    assert page.locator("#overlay").is_visible()
    assert page.locator("#error").is_hidden()


@pytest.mark.long
def test_without_a_camera_the_page_says_so(page: Any) -> None:
    failing = "async () => { throw new DOMException('', 'NotFoundError'); }"
    page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {failing}; }}")
    page.click("#camera")
    _wait(page, "#error", "there is no camera to use")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty", marks=pytest.mark.long),
        pytest.param(b"plain text", id="text", marks=pytest.mark.long),
        pytest.param(_picture(32, 32)[:40], id="cut"),
    ],
)
def test_what_is_no_picture_is_refused_and_the_next_one_taken(page: Any, data: bytes) -> None:
    _choose(page, data, "odd.png")
    _wait(page, "#error", "not a picture that this browser can decode")
    _choose(page, _picture(32, 32))
    _wait(page, "#status", "picture.png: ")
    assert page.locator("#error").is_hidden()


@pytest.mark.long
@pytest.mark.parametrize("damage", ["cut", "wrong"])
def test_a_damaged_model_is_one_line_with_a_code(page: Any, damage: str) -> None:
    script = """async (damage) => {
      const { Bhvit } = await import("./lib/index.js");
      const whole = new Uint8Array(await (await fetch("models/cifar10.bhv")).arrayBuffer());
      const file = damage === "cut" ? whole.subarray(0, whole.length - 1) : new TextEncoder().encode("<html>");
      return Bhvit.load(file).then(() => "loaded", (error) => [error.name, error.code, error.message]);
    }"""
    name, code, message = page.evaluate(script, damage)
    assert (name, code) == ("BhvitError", "format")
    assert "\n" not in message


@pytest.mark.long
def test_a_huge_picture_is_refused(page: Any) -> None:
    script = """async () => {
      const { Bhvit } = await import("./lib/index.js");
      const model = await Bhvit.load("models/cifar10.bhv");
      const huge = { data: new Uint8Array(10000 * 10000), width: 10000, height: 10000 };
      return model.logits(huge).then(() => "answered", (error) => error.message);
    }"""
    assert "is larger than the" in page.evaluate(script)


@pytest.mark.long
def test_a_single_file_needs_no_server(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(_picture(40, 30))
    words = ["web", "cifar10", "--out", str(tmp_path / "page.html"), "--examples", str(tmp_path / "photos")]
    assert main(words) == 0
    context = context_of(browser)
    opened = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.goto((tmp_path / "page.html").as_uri())
    _wait(opened, "#status", "Ready")
    opened.get_by_role("button", name="cat, example 1").click()
    _wait(opened, "#status", "cat, example 1: ")
    data = _picture(40, 32)
    _choose(opened, data)
    _wait(opened, "#status", "picture.png: ")
    assert opened.inner_text("#status") == f"picture.png: {Session('cifar10').classify(data)[0][0]}"
    opened.click("#explain")
    _wait(opened, "#status", "the answer depends most on what is")
    assert not wrong
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == [(tmp_path / "page.html").as_uri()]
    context.close()


@pytest.mark.long
def test_a_report_embeds_the_page(browser: Any, tmp_path: Path) -> None:
    inner = single_file(site_files(["cifar10"]))
    (tmp_path / "report.html").write_text(f'<iframe srcdoc="{html.escape(inner)}"></iframe>')
    context = context_of(browser)
    opened = context.new_page()
    opened.goto((tmp_path / "report.html").as_uri())
    _wait(opened.frame_locator("iframe"), "#status", "Ready")
    context.close()


@pytest.mark.long
def test_the_page_works_offline_once_loaded(browser: Any, address: str) -> None:
    context = context_of(browser)
    opened = context.new_page()
    opened.goto(address)
    opened.evaluate("navigator.serviceWorker.ready.then(() => true)")
    context.set_offline(True)
    opened.reload()
    _wait(opened, "#status", "Ready")
    context.close()
