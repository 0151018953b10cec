"""`otel-asyncio demo`: it ends by itself, and what it plants is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import otel_asyncio_demo

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


def line_of(code: str) -> int:
    lines = (Path(otel_asyncio_demo.__file__).with_name("shop.py")).read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if code in line]
    return number


def finding(text: str, word: str) -> str:
    """The paragraph that begins with this word."""
    return next(part for part in text.split("\n\n") if re.match(rf"\s+[✗!] {word} ", part))


def test_the_timeout_names_its_scope_and_what_it_waited_for(demo: Ended) -> None:
    told = finding(demo.err, "timeout")
    assert f"shop.py:{line_of('asyncio.timeout(0.25)')}" in told
    assert f"ask_bank shop.py:{line_of('amount % 4 == 1')}" in told


def test_the_cancelled_requests_name_who_cancelled_them_and_where_it_hit(demo: Ended) -> None:
    told = finding(demo.err, "cancelled")
    assert f"shop.py:{line_of('task.cancel()  # WRONG')}" in told
    assert "by janitor" in told
    assert f"it hit shop.py:{line_of('asyncio.sleep(30 + amount)')}" in told


def test_the_blocked_loop_names_the_line(demo: Ended) -> None:
    assert f"shop.py:{line_of('time.sleep')}" in finding(demo.err, "loop_blocked")


def test_the_contended_lock_names_who_waits_and_who_holds(demo: Ended) -> None:
    line = line_of("async with till")
    assert re.search(rf"await Lock\.acquire .* shop\.py:{line} held at shop\.py:{line} by Task-\d+", demo.err)


def test_who_holds_the_loop_is_told(demo: Ended) -> None:
    first = demo.err.partition("Who ran on the loop")[2].splitlines()[2]
    assert first.split()[:2] == ["task", "handle"]


def test_the_file_is_named(demo: Ended) -> None:
    assert demo.file.exists()


def test_it_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert started.run(*DEMO, "-o", "x", folder=tmp_path).status == 2
