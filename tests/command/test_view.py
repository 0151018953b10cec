"""`otel-asyncio view`, started as a user starts it."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from . import contract, started
from .started import COMMAND, Ended

VIEW = (*COMMAND, "view")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "spans.jsonl"
    path.write_text("".join(trace.line for trace in contract.everything()))
    return path


def view(folder: Path, *words: str | Path, given: str = "", **environment: str) -> Ended:
    return started.run(*VIEW, *words, folder=folder, given=given, **environment)


def test_a_file_is_shown(file: Path) -> None:
    ended = view(file.parent, file)
    assert (ended.status, ended.err) == (0, "")
    assert "✗ loop_blocked  draw_page  /srv/shop.py:41" in ended.out


def test_standard_input_is_shown(file: Path) -> None:
    ended = view(file.parent, "-", given=file.read_text())
    assert ended == view(file.parent, file)


def test_several_files_are_one_page(file: Path, tmp_path: Path) -> None:
    lines = file.read_text().splitlines(keepends=True)
    (tmp_path / "a").write_text("".join(lines[:2]))
    (tmp_path / "b").write_text("".join(lines[2:]))
    assert view(tmp_path, "a", "b") == view(tmp_path, file)


def test_a_broken_line_is_told_and_the_rest_is_shown(file: Path) -> None:
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], "{broken\n", *lines[1:]]))
    ended = view(file.parent, file)
    assert ended.status == 1
    assert f"{file}:2: is not JSON" in ended.err
    assert "✗ timeout" in ended.out


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    ended = view(tmp_path, "missing.jsonl")
    assert (ended.status, ended.out) == (2, "")
    assert "cannot read missing.jsonl: No such file" in ended.err


@pytest.mark.parametrize(
    ("words", "traces"),
    (
        (("--problem", "timeout"), ["GET /pay"]),
        (("--name", "cancel *"), ["GET /news"]),
        (("--service", "bank"), []),
        (("--min-duration", "420", "--slowest", "1"), ["task main"]),
        (("--min-duration", "410"), ["GET /checkout", "task main"]),
    ),
)
def test_filters(file: Path, words: tuple[str, ...], traces: list[str]) -> None:
    ended = view(file.parent, *words, file)
    assert sorted(re.findall(r"^trace \w+ (\w+ [/\w]+)", ended.out, re.MULTILINE)) == traces


def test_the_width_is_the_terminal_s(file: Path) -> None:
    assert max(map(len, view(file.parent, file, COLUMNS="60").out.splitlines())) <= 60


def test_a_reader_that_goes_away_is_no_error(file: Path) -> None:
    shell = f'"{sys.executable}" -m otel_asyncio view {file} {" ".join([str(file)] * 20)} | head -1'
    ended = started.run("/bin/sh", "-c", shell, folder=file.parent)
    assert ended.err == ""


def test_follow_shows_a_trace_when_it_has_ended(file: Path) -> None:
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0])
    process = started.start([*VIEW, "--follow", file], file.parent, {"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    assert "GET /checkout" in process.stdout.readline()
    with file.open("a") as more:
        more.write(lines[1][:100])
        more.flush()
        time.sleep(0.05)
        more.write(lines[1][100:])
    while "GET /pay" not in (line := process.stdout.readline()):
        assert line, "it ended"
    process.send_signal(2)
    assert started.finish(process).status == 130


def test_how_far_a_large_file_is_read_shows_on_a_terminal_and_goes_away(file: Path) -> None:
    copies = [str(file)] * (20_000_000 // file.stat().st_size + 1)
    status, seen = started.in_terminal(sys.executable, "-m", "otel_asyncio", "view", *copies, folder=file.parent)
    assert status == 0
    assert "reading spans" in seen
    assert "\x1b[2K" in seen.rpartition("reading spans")[2]  # the line is erased
    assert "reading spans" not in started.in_terminal(*VIEW, file, folder=file.parent)[1]


def test_a_terminal_without_unicode_gets_ascii(file: Path) -> None:
    ended = view(file.parent, file, PYTHONIOENCODING="ascii")
    assert ended.status == 0
    assert ended.out.isascii()
    assert "x loop_blocked" in ended.out
