"""T13: the real sentry-sdk and ddtrace beside us: both see their tasks, and each task has exactly one span of ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import pytest

from . import provision
from .running import program, require, run

PEERS = ("sentry", "ddtrace")
LOOPS = ("asyncio", "uvloop")
SPANS = {"task main": 1, "task work": 1, "task child": 6, "task sleep": 1}
OUTCOMES = {"success": 8, "cancellation": 1}

Composed = Callable[..., dict[str, Any]]
every_way = pytest.mark.parametrize(
    ("peer", "first", "way", "loop"), list(product(PEERS, ("ours", "theirs"), ("instrumentor", "factory"), LOOPS))
)


@pytest.fixture(scope="module")
def composed() -> Composed:
    """What the program says of one combination; of the peer alone with `first="alone"`."""

    @cache
    def said(peer: str, first: str, way: str, loop: str) -> dict[str, Any]:
        require(loop)
        if peer == "ddtrace" and sys.version_info >= (3, 15):
            pytest.skip("needs Python 3.14 or older: ddtrace has no wheel for a newer one")
        try:
            packages = provision.peers(peer)
        except provision.Unavailable as reason:
            pytest.skip(f"no {peer} here: {reason}")
        command = program("composed.py", peer, first, way, loop)
        result: dict[str, Any] = json.loads(run(*command, environment={"PYTHONPATH": str(packages)}).stdout)
        return result

    return said


@every_way
def test_each_task_has_exactly_one_span_of_ours(composed: Composed, peer: str, first: str, way: str, loop: str) -> None:
    assert composed(peer, first, way, loop)["spans"] == SPANS


@every_way
def test_its_outcome_is_the_users_coroutine_s(composed: Composed, peer: str, first: str, way: str, loop: str) -> None:
    assert composed(peer, first, way, loop)["outcomes"] == OUTCOMES


@every_way
def test_the_program_and_the_peer_see_what_they_see_without_us(
    composed: Composed, peer: str, first: str, way: str, loop: str
) -> None:
    """The peer's spans, and whether it wraps the coroutines of tasks: who comes first must not switch it off."""
    bare = composed(peer, "alone", "factory", loop)
    both = composed(peer, first, way, loop)
    assert (both["results"], both["theirs"]) == (bare["results"], bare["theirs"])


@every_way
def test_the_task_factory_stays_the_one_that_was_set(
    composed: Composed, peer: str, first: str, way: str, loop: str
) -> None:
    assert composed(peer, first, way, loop)["factory_kept"]
