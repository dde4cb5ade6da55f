"""A server with the bundled model, shared by the tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bhvit import Session
from helpers.serving import Server, running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("cifar10", "--max-body", 1, "--max-batch", 8, "--max-pixels", 1_000_000) as started:
        yield started


@pytest.fixture(scope="module")
def session() -> Session:
    return Session("cifar10")
