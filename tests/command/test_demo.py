"""`otel-asyncio demo`: it ends by itself, and what it plants is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import started
from .started import COMMAND, Ended

DEMO = (*COMMAND, "demo")


@pytest.fixture(scope="module", params=("asyncio", "uvloop"))
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    options = ["--uvloop"] if request.param == "uvloop" else []
    ended = started.run(*DEMO, *options, folder=tmp_path_factory.mktemp("demo"), COLUMNS="160")
    assert ended.status == 0, ended.err
    return ended


def test_it_serves_and_ends(demo: Ended) -> None:
    assert "the shop served" in demo.err


def test_its_lines_are_a_program_s(demo: Ended) -> None:
    assert "from shop.py:" in demo.err


def test_the_unhandled_answer_of_the_bank_is_told(demo: Ended) -> None:
    assert "ConnectionError" in demo.err
    assert "the bank did not answer" in demo.err


def test_who_holds_the_loop_is_told(demo: Ended) -> None:
    first = demo.err.partition("Who ran on the loop")[2].splitlines()[2]
    assert first.split()[:2] == ["task", "handle"]


def test_the_file_is_named(demo: Ended) -> None:
    assert demo.file.exists()


def test_it_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert started.run(*DEMO, "-o", "x", folder=tmp_path).status == 2
