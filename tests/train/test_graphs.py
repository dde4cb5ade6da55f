"""A step that a CUDA graph holds computes what a called one computes. Graphs are simulated on a CPU, see `replay`."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bhvit.models import load_checkpoint
from bhvit.models.fused import kernels as native
from bhvit.train import Callback, execution, graphs, phase, train
from bhvit.train.context import RunContext
from bhvit.train.distributed import Processes
from bhvit.train.execution import Execution
from bhvit.train.graphs import StaticStep
from bhvit.train.optim import make_optimizer
from bhvit.train.step import TrainStep
from helpers.replay import record

OPTIONS = [
    {"ema": 0.9, "clip_grad": 1.0, "layer_decay": 0.9, "regularisation": 0.1, "dampening": 1e-3},
    {"mixup": 0.2, "cutmix": 1.0, "erase": 0.3, "accumulate": 2, "drop_path": 0.0, "opt": "sgd", "lr": 0.01},
    {"rotate": 5.0, "opt": "lamb"},
]


@pytest.fixture
def captured(monkeypatch):
    """Makes runs with graphs=true capture their steps, and counts how often."""
    captures = []

    def capture(compute, device):
        captures.append(device)
        return record(compute, device)

    def capturing():
        monkeypatch.setattr(execution, "_graphs", lambda *_: (True, ""))
        monkeypatch.setattr(phase, "cuda_graph", capture)
        return captures

    return capturing


def weights_of(result):
    return load_checkpoint(result.last).state_dict()


def differing(first, second):
    return [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


@pytest.mark.parametrize("changes", OPTIONS, ids=lambda changes: "-".join(changes))
def test_graphs_on_and_off_train_the_same_weights(config, tmp_path, monkeypatch, captured, changes):
    monkeypatch.setattr(native, "KERNELS", {})  # native code, which is no operation that can be recorded
    if "layer_decay" in changes:
        start = train(config(epochs=1, out=str(tmp_path / "start")), quiet=True).last
        changes = {**changes, "init": str(start)}
    plain = train(config(**changes, out=str(tmp_path / "plain")), quiet=True)
    called = train(config(**changes, graphs=True, out=str(tmp_path / "called")), quiet=True)
    captures = captured()
    replayed = train(config(**changes, graphs=True, out=str(tmp_path / "replayed")), quiet=True)
    assert len(captures) == 1
    assert not differing(weights_of(called), weights_of(replayed))
    assert [line["train_loss"] for line in called.log] == [line["train_loss"] for line in replayed.log]
    if "ema" not in changes and changes.get("opt") != "sgd":  # these sum in another order where numbers are tensors
        assert not differing(weights_of(plain), weights_of(called))
    assert plain.log[-1]["train_loss"] == pytest.approx(called.log[-1]["train_loss"], rel=1e-3)


def test_a_resumed_run_with_graphs_goes_on_exactly(config, tmp_path, monkeypatch, captured, kill):
    monkeypatch.setattr(native, "KERNELS", {})
    captured()
    whole = train(config(graphs=True, out=str(tmp_path / "whole")), quiet=True)
    cut = config(graphs=True, out=str(tmp_path / "cut"), save_minutes=1e-9)
    kill(cut, "_step", 9)
    resumed = train(cut, resume=True, quiet=True)
    assert not differing(weights_of(whole), weights_of(resumed))


def test_a_step_that_cannot_be_captured_is_called_and_said():
    said: list[str] = []

    def capture(compute, device):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    step = StaticStep(lambda inputs, seed: inputs["x"] * 2, torch.device("cpu"), capture, said.append)
    results = [step({"x": torch.tensor([float(k)])}, 0).item() for k in range(6)]
    assert results == [0, 2, 4, 6, 8, 10]
    what = "the step cannot be captured as a CUDA graph, training runs without"
    assert said == [f"warning: {what}: operation not permitted when stream is capturing"]


def test_steps_without_a_graph_stay_on_the_stream_they_are_called_on(monkeypatch):
    """DDP and autograd made their nodes there; another stream would have to be waited for in every step."""
    asides = []
    monkeypatch.setattr(graphs, "_aside", lambda device: asides.append(device) or contextlib.nullcontext())

    def capture(compute, device):
        raise RuntimeError("no")

    for given in (None, capture):
        step = StaticStep(lambda inputs, seed: inputs["x"] * 2, torch.device("cpu"), given, lambda line: None)
        for _ in range(6):
            step({"x": torch.zeros(1)}, 0)
    assert len(asides) == graphs.WARM_UP  # the calls before the attempt to capture one


@pytest.mark.parametrize("refused", [False, True])
def test_a_capture_is_of_its_thread_and_leaves_streams_and_generators_as_they_were(monkeypatch, refused):
    """CUDA is replaced: PyTorch leaves its stream and its generator in capture where CUDA refuses one at its end."""
    current, generators = ["main"], SimpleNamespace(state="before")
    modes = []

    @contextlib.contextmanager
    def capturing(graph, stream, capture_error_mode):
        modes.append(capture_error_mode)
        current[0], generators.state = stream, "capturing"
        yield
        if refused:
            raise RuntimeError("operation failed due to a previous error during capture")
        current[0], generators.state = "main", "before"

    class Generator:
        def __init__(self, device=None):
            assert device == torch.device("cuda", 0)

        def graphsafe_get_state(self):
            return "fresh"

        def graphsafe_set_state(self, state):
            generators.state = state

    monkeypatch.setattr(graphs, "_stream", lambda device: "side")
    monkeypatch.setattr(torch, "Generator", Generator)
    for name, value in {
        "CUDAGraph": lambda: SimpleNamespace(replay="replay"),
        "graph": capturing,
        "current_stream": lambda device: current[0],
        "set_stream": lambda stream: current.__setitem__(0, stream),
        "default_generators": [SimpleNamespace(graphsafe_set_state=lambda state: setattr(generators, "state", state))],
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    if refused:
        with pytest.raises(RuntimeError, match="previous error"):
            graphs.cuda_graph(lambda: torch.zeros(1), torch.device("cuda", 0))
    else:
        replay: Any = graphs.cuda_graph(lambda: torch.zeros(1), torch.device("cuda", 0))[0]
        assert replay == "replay"
    assert modes == ["thread_local"]  # another thread pins the batches of workers
    assert current == ["main"]
    assert generators.state == ("fresh" if refused else "before")


def test_training_takes_algorithms_that_repeat_and_leaves_the_choice_as_it_was(config, monkeypatch):
    cudnn, seen = torch.backends.cudnn, []

    class Look(Callback):
        def on_epoch_end(self, entry, model):
            seen.append((cudnn.deterministic, cudnn.benchmark))

    monkeypatch.setattr(cudnn, "benchmark", True)
    train(config(epochs=1), quiet=True, callbacks=[Look()])
    assert seen == [(True, False)]
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)


def test_a_phase_gives_back_the_graph_of_the_one_before(config, tmp_path, monkeypatch, captured):
    monkeypatch.setattr(native, "KERNELS", {})
    captured()
    steps, release = [], TrainStep.release

    def watched(step):
        static = step._static
        assert static._captured is not None
        steps.append(weakref.ref(static))
        del static
        release(step)
        assert steps[-1]() is None
        assert not step._phase.optimizer.state

    monkeypatch.setattr(TrainStep, "release", watched)
    changes = {"phases.0.epochs": 1, "phases.1.epochs": 1, "graphs": True}
    result = train(config(**changes), quiet=True)
    assert len(steps) == 1
    assert len(result.log) == 2


def test_the_optimiser_of_a_graph_says_nothing_of_steps_without_one(config):
    optimizer = make_optimizer(torch.nn.Linear(2, 2), config(), static=True)
    noted = "_warned_capturable_if_run_uncaptured"
    assert noted in inspect.getsource(torch.optim.Optimizer)  # what keeps PyTorch from warning again
    assert getattr(optimizer, noted)


GPU = RunContext(device=torch.device("cuda"))


@pytest.mark.parametrize(
    ("changes", "images", "context", "compiles", "captures"),
    [
        ({"epochs": 200}, 45_000, GPU, True, True),
        ({"epochs": 20}, 45_000, GPU, "longer runs", True),
        ({"epochs": 1}, 50, GPU, "longer runs", "too short"),
        ({"epochs": 1, "compile": True, "graphs": True}, 50, GPU, True, True),
        ({"epochs": 200, "compile": False, "graphs": False}, 45_000, GPU, "compile=false", "graphs=false"),
        ({"accumulate": 2, "drop_path": 0.1}, 45_000, GPU, "longer runs", "drop_path"),
        ({}, 45_000, RunContext(device=GPU.device, processes=Processes(size=2)), "several", "several processes"),
        ({"epochs": 200}, 45_000, RunContext(device=torch.device("cpu")), "no GPU", "no GPU"),
    ],
)
def test_compiling_and_graphs_are_chosen_or_a_reason_is_given(
    config, monkeypatch, changes, images, context, compiles, captures
):
    monkeypatch.setattr(execution, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    settings = config(**{"drop_path": 0.0, "epochs": 3, **changes})
    chosen = Execution.choose(settings, context, images, (32, 32))
    line = chosen.describe(settings, context, "on the device")
    for used, reason, expected in (
        (chosen.compile, chosen.compile_reason, compiles),
        (chosen.graphs, chosen.graphs_reason, captures),
    ):
        assert used is (expected is True)
        if not used:
            assert expected in reason
            assert reason in line or context.device.type == "cpu"


def test_a_run_says_what_it_uses_and_how_long_it_waited_for_data(config, capsys):
    result = train(config(epochs=1, graphs=True))
    error = capsys.readouterr().err
    line = "training on cpu, float32, images in memory, no CUDA graphs (the device is no GPU)"
    assert line in error.splitlines()
    assert "of the time waiting for data" in error
    assert 0 <= result.log[0]["waited_for_data"] < 1
