"""Several processes train what one would, and each image is counted once. Two of them on a CPU, joined by gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from bhvit.errors import UserError
from bhvit.models import load_checkpoint
from bhvit.models.fused import kernels as native
from bhvit.train import train
from bhvit.train.distributed import TIMEOUT, BatchShard, Processes, choose_device, process_group

OPTIONS = {
    "epochs": 1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "accumulate": 2,
    "drop_path": 0.3,
    "ema": 0.9,
    "ema_batches": 2,
    "erase": 0.3,
    "rotate": 5.0,
    "regularisation": 0.1,
    "clip_grad": 1.0,
    "repeats": 2,
    "lr": 1e-3,
}
"""Everything whose result could depend on who holds which image."""


STATISTICS = """
from unittest import mock
import torch, torch.distributed as dist
from bhvit.models import attention_quantizers, batch_statistics, layers
from bhvit.models.attention_quantizers import DecomposedAttention
from bhvit.models.layers import BatchNorm
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
x = torch.randn(8, 3, 16, dtype=torch.float64) * 3 + 1
weights = torch.randn(8, 3, 16, dtype=torch.float64)
p = torch.rand(8, 1, 2, 5, 5, dtype=torch.float64).softmax(-1)
def run(slice_):
    norm, quantizer = BatchNorm(16).double().train(), DecomposedAttention(2).double().train()
    own = x[slice_].clone().requires_grad_()
    y = norm(own)
    (y * weights[slice_]).sum().backward()
    q = quantizer(p[slice_])
    (q * p[slice_]).sum().backward()
    gradients = torch.cat([quantizer.step.grad, quantizer.offset.grad, norm.weight.grad, norm.bias.grad])
    return [y, own.grad, norm.running_mean, norm.running_var, quantizer.step, quantizer.offset, q, gradients]
shared = run(slice(rank * 4, rank * 4 + 4))
gradients = shared.pop()
dist.all_reduce(gradients)
modules = batch_statistics, layers, attention_quantizers
patches = [mock.patch.object(module, "processes", lambda: 1) for module in modules]
for patch in patches:
    patch.start()
alone = run(slice(0, 8))
for patch in patches:
    patch.stop()
torch.testing.assert_close(gradients, alone.pop(), rtol=1e-9, atol=1e-12)
for a, b in zip(shared, alone):
    b = b[rank * 4 : rank * 4 + 4] if b.shape[:1] == (8,) else b
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
"""
"""Checks batch norm and the attention quantiser, forward and backward, against those of the whole batch; leaves the
process group as it is."""


def two_processes(program, *arguments):
    """Run a Python file in two processes with the environment that torchrun gives; ((output, errors), status) of each.

    Without torchrun's own process, whose start takes as long as the test.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, str(program), *arguments],
            env={**shared, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        return [(process.communicate(timeout=120), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("changes", [pytest.param({}, id="parts"), pytest.param({"accumulate": 1}, id="static graph")])
@pytest.mark.long
def test_two_processes_compute_what_one_computes(config, arguments, program, tmp_path, monkeypatch, changes):
    # Several processes compute layers as they are written, one fuses them: another rounding, which a sign that flips
    # makes larger than what is compared here. tests/models/test_fused.py compares those two, in float64.
    monkeypatch.setattr(native, "KERNELS", {})
    (tmp_path / "program.py").write_text(STATISTICS + program)
    one = train(config(**{**OPTIONS, **changes}, out=str(tmp_path / "one")), quiet=True)
    ended = two_processes(tmp_path / "program.py", *arguments(**{**OPTIONS, **changes}, out=tmp_path / "two"), "--json")
    for (_, error), status in ended:
        assert status == 0, error
    (told, _), (announced, _) = (streams for streams, _ in ended)
    assert json.loads(told[told.index("{") :])["validation"]["images"] == 16  # each counted once
    assert set(announced.split()) == {"_step"}  # the first one alone saves and tells
    for first, second in zip(one.log, log_of(tmp_path / "two"), strict=True):
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-5)
        assert second["train_top1"] == first["train_top1"]
    alone, together = load_checkpoint(one.last).state_dict(), load_checkpoint(tmp_path / "two" / "last.safetensors")
    differences = torch.cat([(t - alone[name]).abs().flatten() for name, t in together.state_dict().items()])
    # The rest: some gradients are rounding alone (a bias before a batch norm) and AdamW scales them up to whole steps,
    # some signs fall the other way.
    assert differences.quantile(0.9) < 1e-6, differences.quantile(torch.tensor([0.5, 0.9, 0.99, 1.0]))
    # What two wrote, one continues.
    saved = safetensors.torch.load_file(tmp_path / "two" / "resume.safetensors")
    assert any(name.startswith("average.") for name in saved)
    resumed = train(config(**{**OPTIONS, **changes}, out=str(tmp_path / "two")), resume=True, quiet=True)
    assert list(resumed.log) == log_of(tmp_path / "two")
    assert len(resumed.log) == len(one.log)


@pytest.mark.parametrize(("batch", "parts", "size"), [(8, 1, 1), (8, 1, 2), (16, 2, 2), (12, 1, 3), (6, 1, 2)])
def test_shares_are_the_whole_batch_and_keep_pairs_together(batch, parts, size):
    shards = [BatchShard(batch, parts, Processes(rank=rank, size=size)) for rank in range(size)]
    rows = [shard.rows.tolist() for shard in shards]
    assert sorted(row for shard in rows for row in shard) == list(range(batch))
    part = batch // parts
    own = part // size
    if own % 2 == 0:
        for shard in rows:
            for begin in range(0, len(shard), own):
                mirrored = [part - 1 - row % part for row in shard[begin : begin + own]]
                assert mirrored == [row % part for row in shard[begin : begin + own]][::-1]
    if size == 1:
        assert rows[0] == list(range(batch))


def test_uneven_batches_are_refused_with_one_that_works():
    BatchShard(8, 2, Processes(size=2)).check_divides(True)
    with pytest.raises(UserError, match="batch_size 10 does not divide into 4 processes: give 8"):
        BatchShard(10, 1, Processes(size=4)).check_divides(False)
    with pytest.raises(UserError, match="pairs to mix: give 4"):
        BatchShard(7, 1, Processes(size=2)).check_divides(True)


def test_a_share_sees_what_the_whole_batch_sees(config):
    from bhvit.data.dataset import open_dataset
    from bhvit.image import Preprocess
    from bhvit.train.loader import Batches

    settings = config(erase=0.5, rotate=10.0, repeats=2, augment="shift")
    images, preprocess = open_dataset(settings.data), Preprocess(size=(8, 8), crop=1.0)
    whole, labels = next(Batches(images, preprocess, settings, torch.device("cpu")).epoch(0))
    for rank in range(2):
        shard = BatchShard(8, 1, Processes(rank=rank, size=2))
        own, own_labels = next(Batches(images, preprocess, settings, torch.device("cpu"), shard).epoch(0))
        np.testing.assert_array_equal(own.numpy(), whole[shard.rows].numpy())
        assert torch.equal(own_labels, labels[shard.rows])


def test_a_device_that_cannot_be_had_is_refused_with_the_reason(monkeypatch):
    def full(*arguments, **options):
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(UserError, match=r"cannot use device 'cpu' \(out of memory and more\); available: cpu$"):
        choose_device("cpu", Processes())


@pytest.mark.parametrize("gpus", [2, 0])
def test_processes_join_with_their_own_gpu_and_wait_for_the_first_ones_work(monkeypatch, gpus):
    """CUDA and nccl are replaced."""
    joined: list[Any] = []
    devices: list[Any] = []
    environment = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(dist, "is_initialized", lambda: bool(joined))

    def join(backend, timeout, device_id=None):
        joined.append((backend, timeout, device_id))

    monkeypatch.setattr(dist, "init_process_group", join)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "destroy_process_group", joined.clear)
    gpu = torch.device("cuda", 1) if gpus else None
    with process_group("auto") as processes:
        assert processes == Processes(rank=1, size=2, local_rank=1)
        assert joined == [("nccl" if gpus else "gloo", TIMEOUT, gpu)]
        assert TIMEOUT.total_seconds() > 12 * 3600  # a teacher's outputs for a million images
    assert devices == [gpu] * bool(gpus)


def test_one_process_takes_the_gpu_it_names_as_the_current_one(monkeypatch):
    devices: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    assert choose_device("cuda:1", Processes()) == torch.device("cuda", 1)
    assert devices == [torch.device("cuda", 1)]
