"""The receivers, one process of each per session; one that cannot be had skips its tests and says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from .provision import Unavailable
from .receivers import DatadogTestAgent, Receiver, Rotel

R = TypeVar("R", bound=Receiver)


def started(kind: type[R], directory: Path) -> R:
    try:
        return kind.start(directory)
    except Unavailable as reason:
        pytest.skip(f"no {kind.name} here: {reason}")


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatadogTestAgent]:
    """One agent for the session; whoever runs a program into it empties it first."""
    receiver = started(DatadogTestAgent, tmp_path_factory.mktemp("agent"))
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def rotel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotel]:
    """A rotel per module: reading from it ends it."""
    receiver = started(Rotel, tmp_path_factory.mktemp("rotel"))
    yield receiver
    receiver.stop()
