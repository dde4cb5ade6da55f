"""What `--engine ray` refuses before a cluster is started; Ray itself is not needed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bhvit.cli.main import main
from bhvit.errors import UserError
from bhvit.integrations import ray
from helpers.images import png


class NoCluster:
    """In the place of the package: whatever would start or use a cluster fails the test."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"ray.{name} was used")


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "_ray", NoCluster)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("cifar11", r"cannot read cifar11: No such file or directory; bundled models: cifar10, "),
        ("absent.bhv", r"cannot read absent\.bhv: No such file or directory$"),
        (".", r"cannot read \.: Is a directory$"),
    ],
)
def test_a_model_that_is_not_there_is_named(model: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ray.Engine(model, top=1, workers=1)


@pytest.mark.parametrize("model", ["cifar11.bhv", "road"])
def test_the_command_starts_no_cluster_for_a_wrong_model(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    assert main(["classify", "--model", model, str(tmp_path / "a.png"), "--engine", "ray"]) == 2
    said = capsys.readouterr().err
    assert model in said
    assert said.count("\n") == 1


def test_a_predictor_of_a_segmentation_is_refused() -> None:
    with pytest.raises(UserError, match="labels pixels, and a Predictor classifies"):
        ray.Predictor("road")
