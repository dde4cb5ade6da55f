"""A real Ray cluster of two workers on this machine; one is killed during the run."""

from __future__ import annotations

import io
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhvit import Session, UserError
from bhvit.cli.main import main
from bhvit.data.inputs import open_inputs
from helpers.images import class_folders, png, zipped

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ray: Any = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    pytest.importorskip("ray.data", reason="Ray Data is not installed (extra ray)")

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray's own code


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray with two cores, which everything here uses."""
    if os.environ.get("BHVIT_TEST_RAY") != "1":
        pytest.skip("starts a Ray cluster, which takes a minute: BHVIT_TEST_RAY=1 runs it, as make check-slow does")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def test_a_worker_that_is_killed_loses_and_repeats_nothing(tmp_path: Path, cluster: None) -> None:
    from bhvit.integrations.ray import Engine

    root = class_folders(tmp_path / "photos", count=80)
    (root / "cat" / "010.png").write_bytes(b"\x89PNG")
    archive = zipped(tmp_path / "more.zip", class_folders(tmp_path / "more", count=10))
    session = Session("cifar10")
    with Engine("cifar10", top=2, workers=2) as engine:
        victim, _ = ray.get([worker.process.remote() for worker in engine.workers])
        found = []
        for streamed in engine.stream(open_inputs([root, archive])):
            found.append(streamed)
            if len(found) == 30:
                os.kill(victim, signal.SIGKILL)
        again, _ = ray.get([worker.process.remote() for worker in engine.workers])
        assert again != victim
    expected = list(session.stream([root, archive], 2, workers=1))
    assert len(found) == 180
    assert [streamed.name for streamed in found] == [streamed.name for streamed in expected]
    assert [streamed.classes for streamed in found] == [streamed.classes for streamed in expected]
    assert [str(streamed.error) for streamed in found] == [str(streamed.error) for streamed in expected]
    assert sum(streamed.error is not None for streamed in found) == 1


def test_the_command_writes_what_it_writes_without_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cluster: None
) -> None:
    root = class_folders(tmp_path / "photos", count=20)
    local, remote = tmp_path / "local.jsonl", tmp_path / "ray.jsonl"
    assert main(["classify", str(root), "--out", str(local)]) == 0
    assert main(["classify", str(root), "--out", str(remote), "--engine", "ray", "--workers", "2"]) == 0
    assert remote.read_bytes() == local.read_bytes()
    capsys.readouterr()
    assert main(["classify", str(root), "--address", "10.0.0.1:6379"]) == 2
    assert "give --engine ray with it" in capsys.readouterr().err


def test_a_predictor_for_ray_data(tmp_path: Path, cluster: None) -> None:
    import ray.data

    from bhvit.integrations.ray import Predictor

    ray.data.DataContext.get_current().enable_progress_bars = False
    root = class_folders(tmp_path / "photos", count=6)
    files = sorted(str(path) for path in root.rglob("*.png"))
    dataset = ray.data.from_items([{"path": path} for path in [*files, "absent.png"]])
    rows = dataset.map_batches(Predictor, fn_constructor_args=["cifar10"], batch_size=4, concurrency=1).take_all()
    session = Session("cifar10")
    by_path = {row["path"]: row for row in rows}
    assert len(rows) == len(by_path) == 13
    for path in files:
        expected = session.classify(path)
        row = by_path[path]
        assert (row["class"], row["probability"], row["error"]) == (*expected[0], "")
        assert list(zip(row["classes"], row["probabilities"], strict=True)) == expected
    assert "absent.png" in by_path["absent.png"]["error"]


def test_a_worker_opens_its_session_with_the_options_of_the_command() -> None:
    from bhvit import bundled
    from bhvit.integrations.ray import _Worker

    data = bundled.find("cifar10", ".bhv").read_bytes()
    assert _Worker(data, 1, 1, "scalar", None)._session.isa == "scalar"
    with pytest.raises(UserError, match="max_memory"):
        _Worker(data, 1, 1, "auto", 1)


def test_a_predictor_takes_every_kind_of_column() -> None:
    from bhvit.integrations.ray import Predictor

    predictor = Predictor("cifar10", top=1)
    expected = Session("cifar10").classify(png(1), top=1)[0]
    pixels = np.asarray(Image.open(io.BytesIO(png(1))))
    for batch in (
        {"bytes": np.array([png(1)], object)},
        {"image": [{"bytes": png(1), "path": None}]},
        {"image": pixels[None]},
    ):
        found = predictor(batch)
        assert (found["class"][0], found["probability"][0]) == expected
    empty = predictor({"path": np.array([], np.str_)})
    assert {empty[name].dtype.kind for name in ("class", "error")} == {"U"}  # as those of other batches
    with pytest.raises(UserError, match="no column image, bytes, path with pictures; it has x"):
        predictor({"x": [1]})
