"""Where lists of large sources are kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from bhvit.data import index_cache


def test_a_process_without_a_home_has_a_cache_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("BHVIT_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert index_cache.cache_folder() == tmp_path / "bhvit-cache"
    index_cache.keep("list", {}, [1, 2])
    assert index_cache.recall("list") == [1, 2]


def test_names_that_are_not_utf8_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BHVIT_CACHE", str(tmp_path))
    name = os.fsdecode(b"caf\xe9")
    index_cache.keep(f"folder {name}", {}, [name])
    assert index_cache.recall(f"folder {name}") == [name]
