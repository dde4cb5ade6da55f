"""`bhvit bench`."""

from __future__ import annotations

import json

import pytest

from bhvit._native import available_isas


def test_bench_times_every_combination_and_pytorch(bhvit, material):
    options = "--threads 1 --batch 1,3 --isa all --seconds 0.01 --json".split()
    answer = bhvit("bench", material.model, *options, "--torch", material.checkpoint)
    rows = json.loads(answer.out)["milliseconds_per_image"]
    native = {(row["isa"], row["threads"], row["batch"]) for row in rows if row["name"] == "bhvit"}
    assert native == {(isa, 1, batch) for isa in available_isas() for batch in (1, 3)}
    assert {(row["threads"], row["batch"]) for row in rows if row["name"] == "PyTorch"} == {
        (1, 1),
        (1, 3),
    }
    assert all(0 < row["p10"] <= row["median"] <= row["p90"] for row in rows)


def test_the_profile_accounts_for_the_whole_call(bhvit, material):
    answer = bhvit("bench", material.model, "--seconds", "0.05", "--profile", "--json")
    (profile,) = json.loads(answer.out)["profiles"]
    parts = sum(op["microseconds"] for op in profile["ops"])
    assert parts + profile["outside"] == pytest.approx(profile["microseconds"])
    assert sum(op["share"] for op in profile["ops"]) == pytest.approx(parts / profile["microseconds"])
    text = bhvit("bench", material.model, "--seconds", "0.01", "--profile").out
    assert "the whole call" in text
    assert "milliseconds an image" in text


def test_bench_refuses_what_is_not_there(refused, material, tmp_path):
    assert "absent.bhv" in refused("bench", tmp_path / "absent.bhv")
    assert "sse9" in refused("bench", material.model, "--isa", "sse9")
    assert "--isa all stands alone" in refused("bench", material.model, "--isa", "all,avx2")
    assert "bundled models: cifar10" in refused("bench", "cifar11")
    assert "bundled models: cifar10" in refused("bench", material.model, "--torch", "cifar11")
    assert "no checkpoint" in refused("bench", material.model, "--torch", tmp_path / "absent.safetensors")
