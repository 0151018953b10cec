"""Applications from PyPI under `otel-asyncio run`: who reads only the report can say what was slow, and which line.

Each has something planted in it: a handler, a plugin, a service of its own. Nothing else is known to the tests but the text.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from . import provision
from .receivers import free_ports, until
from .running import clean_environment, line_of, require

APPLICATIONS = Path(__file__).with_name("applications")
START_TIMEOUT = 60.0
REQUESTS = 6


@pytest.fixture(scope="session")
def installed() -> Path:
    try:
        return provision.applications()
    except provision.Unavailable as reason:
        pytest.skip(f"no applications here: {reason}")


def report(folder: Path, port: int, load: Callable[[], None], *command: str, path: str = "") -> str:
    """What stands on standard error when the application was started, driven and stopped by Ctrl-C."""
    variables = clean_environment({"PYTHONPATH": path, "COLUMNS": "150", "PYTHONIOENCODING": "utf-8"})
    with (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "otel_asyncio", "run", "-o", str(folder / "spans.jsonl"), *command],
            env=variables, cwd=APPLICATIONS, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
        )  # fmt: skip
    try:
        until(lambda: process.poll() is not None or _accepts(port), START_TIMEOUT, f"{command} listening")
        load()
        process.send_signal(signal.SIGINT)
        process.wait(START_TIMEOUT)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return (folder / "err").read_text()


def _accepts(port: int) -> bool:
    try:
        _get(port, "/")
    except (ConnectionError, TimeoutError):
        return False
    except http.client.HTTPException:  # something answers, and it is no web server
        return True
    return True


def _get(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        connection.getresponse().read()


def drive(port: int, *paths: str) -> None:
    """Several times each, a few at once."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(partial(_get, port), chain.from_iterable([paths] * REQUESTS)))


def send_mail(port: int, *words: str) -> None:
    with smtplib.SMTP("127.0.0.1", port) as client:
        for word in words:
            client.sendmail("a@example.com", ["b@example.com"], f"Subject: x\r\n\r\n{word}\r\n")


def waits(text: str) -> Iterator[tuple[str, str]]:
    """Of the last table: what was waited for, and the line."""
    for row in text.partition("What was waited for")[2].splitlines()[2:]:
        if found := re.match(r"\s*await (\S.*?)\s+\d.*\s(\S+:\d+)\s*$", row):
            yield found[1], found[2]


def longest_step(text: str) -> float:
    """Of the task that ran longest: its longest step, in milliseconds."""
    row = text.partition("Who ran on the loop")[2].splitlines()[2]
    found = re.search(r"([\d.]+) (s|ms|µs)$", row)
    assert found is not None, row
    return float(found[1]) * {"s": 1000, "ms": 1, "µs": 0.001}[found[2]]


def finding(text: str, word: str) -> str:
    """The paragraph that begins with this word."""
    return next(part for part in text.split("\n\n") if re.match(rf"\s+[✗!] {word} ", part))


def place(file: str, mark: str) -> str:
    path = next(APPLICATIONS.rglob(file))
    return f"{file}:{line_of(path, '# ' + mark)}"


@pytest.fixture(scope="module")
def datasette(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    (port,) = free_ports(1)
    load = partial(drive, port, "/-/slow", "/-/blocking", "/_memory.json?sql=select+1")
    command = ("-m", "datasette", "--memory", "--plugins-dir", "plugins", "--port", str(port))
    return report(tmp_path_factory.mktemp("datasette"), port, load, *command, path=str(installed))


@pytest.fixture(scope="module")
def aiosmtpd(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    (port,) = free_ports(1)

    def load() -> None:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(partial(send_mail, port), ["one"] * 3, ["two", "block", "two"]))

    command = ("-m", "aiosmtpd", "-n", "-c", "mail_handler.Planted", "-l", f"127.0.0.1:{port}")
    where = f"{installed}:{APPLICATIONS}"
    return report(tmp_path_factory.mktemp("aiosmtpd"), port, load, *command, path=where)


SERVED = {
    "asyncio": ("--loop", "asyncio"),
    "uvloop": ("--loop", "uvloop"),
    "workers": ("--loop", "asyncio", "--workers", "2"),  # new interpreters, by multiprocessing
}


@pytest.fixture(scope="module", params=SERVED)
def uvicorn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    require("uvicorn", "starlette", *(["uvloop"] if request.param == "uvloop" else []))
    (port,) = free_ports(1)
    load = partial(drive, port, "/pay", "/give-up", "/draw")
    command = ("-m", "uvicorn", "asgi_service:app", *SERVED[request.param], "--port", str(port))
    return report(tmp_path_factory.mktemp("uvicorn"), port, load, *command)


def test_a_reader_of_every_application_sees_which_line_blocked_the_loop(
    datasette: str, aiosmtpd: str, uvicorn: str
) -> None:
    for text, file in ((datasette, "planted.py"), (aiosmtpd, "mail_handler.py"), (uvicorn, "asgi_service.py")):
        assert place(file, "BLOCKS") in finding(text, "loop_blocked"), text


def test_a_reader_of_datasette_sees_which_line_was_slow(datasette: str) -> None:
    assert ("asyncio.sleep", place("planted.py", "SLOW")) in list(waits(datasette)), datasette


def test_a_reader_of_datasette_sees_that_a_request_held_the_loop(datasette: str) -> None:
    assert "task RequestResponseCycle.run_asgi" in datasette.partition("Who ran on the loop")[2].splitlines()[2]
    assert longest_step(datasette) >= 250


def test_a_reader_of_aiosmtpd_sees_which_line_was_slow(aiosmtpd: str) -> None:
    assert ("asyncio.sleep", place("mail_handler.py", "SLOW")) in list(waits(aiosmtpd)), aiosmtpd


def test_a_reader_of_aiosmtpd_sees_who_waited_for_the_lock_and_who_held_it(aiosmtpd: str) -> None:
    where = place("mail_handler.py", "WAITS")
    assert ("Lock.acquire", where) in list(waits(aiosmtpd)), aiosmtpd
    assert re.search(rf"await Lock\.acquire .*{re.escape(where)} held at {re.escape(where)} by \S+", aiosmtpd), aiosmtpd


def test_a_reader_of_aiosmtpd_sees_that_a_client_s_task_held_the_loop(aiosmtpd: str) -> None:
    assert "task SMTP._handle_client" in aiosmtpd.partition("Who ran on the loop")[2].splitlines()[2]
    assert longest_step(aiosmtpd) >= 250


def test_a_reader_of_uvicorn_sees_which_deadline_passed_and_on_what(uvicorn: str) -> None:
    told = finding(uvicorn, "timeout")
    assert f"{place('asgi_service.py', 'EXPIRES')}" in told
    assert f"ask_bank {place('asgi_service.py', 'SLOW')}" in told


def test_a_reader_of_uvicorn_sees_the_task_that_was_cancelled_by_whom_and_where(uvicorn: str) -> None:
    by, hit = place("asgi_service.py", "CANCELS"), place("asgi_service.py", "HIT")
    assert re.search(rf"cancel think .* by watcher {re.escape(by)} at {re.escape(hit)}", uvicorn), uvicorn
    assert f"it hit {hit}" in finding(uvicorn, "cancelled")


def test_no_application_says_a_word_about_us(datasette: str, aiosmtpd: str, uvicorn: str) -> None:
    for text in (datasette, aiosmtpd, uvicorn):
        before = text.partition("spans in")[0]
        assert "otel_asyncio" not in before, before
