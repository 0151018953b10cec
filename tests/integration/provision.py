"""Install the receivers, and the applications that are observed, once per machine, outside the checkout.

Each gets a directory of its own: its dependencies must not meet those of the tests, and a checkout
that is thrown away must not cost the next one the installation again.
"""

from __future__ import annotations

import ctypes.util
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

DDAPM_TEST_AGENT = "ddapm-test-agent==1.69.1"
ROTEL = "rotel==0.0.1a15"
DATASETTE = "datasette==0.65.5"
PEERS = {"sentry": "sentry-sdk==2.75.0", "ddtrace": "ddtrace==4.16.0"}
APPLICATIONS = ("datasette==0.65.5", "aiosmtpd==1.4.6")
ROTEL_PYTHONS = ("3.11", "3.13", "3.12")
INSTALL_TIMEOUT = 600


class Unavailable(Exception):
    """A receiver cannot be had on this machine; the message says why."""


def cache_directory() -> Path:
    """The project's cache: its own variable, then XDG's, then XDG's default."""
    if own := os.environ.get("OTEL_ASYNCIO_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "otel-asyncio"


def ddapm_test_agent() -> Path:
    """The test agent's command, installed in its own virtual environment."""
    command = Path("bin", "ddapm-test-agent")
    return _made_once(_directory_name(DDAPM_TEST_AGENT), command, _make_ddapm_test_agent) / command


def rotel() -> tuple[Path, Path | None]:
    """The rotel binary, and the directory of the libpython it is linked with, unless the system has it.

    Every wheel of rotel carries a binary for one libpython, and a distribution has one or two of those. So
    the library decides which wheel is taken, and not the interpreter that runs the tests.
    """
    version, libraries = _shared_python()
    binary = Path("rotel", "rotel-agent")
    name = f"{_directory_name(ROTEL)}-cp{version.replace('.', '')}"
    home = _made_once(name, binary, partial(_make_rotel, version))
    (home / binary).chmod(0o755)
    return home / binary, libraries


def datasette() -> Path:
    """Datasette and what it needs, in a directory for `PYTHONPATH`: of this interpreter, beside its environment."""
    return beside_environment(DATASETTE)


def peers(*names: str) -> Path:
    """Tools that trace asyncio too, to be run beside ours."""
    return beside_environment(*(PEERS[name] for name in names))


def beside_environment(*requirements: str) -> Path:
    """Packages in a directory of their own for `PYTHONPATH`, so that the environment of the tests stays as it is."""
    name = f"{'-'.join(map(_directory_name, requirements))}-{sys.implementation.cache_tag}"

    def make(target: Path) -> None:
        _run([sys.executable, "-m", "pip", "install", "--target", target / "packages", *requirements])
        shutil.rmtree(target / "packages" / "opentelemetry", ignore_errors=True)  # the environment has its own

    return _made_once(name, Path("packages"), make) / "packages"


def applications() -> Path:
    """A folder for `PYTHONPATH` with applications from PyPI, for the interpreter that runs the tests."""
    tag = f"{sys.implementation.cache_tag}{sys.abiflags}"
    name = "+".join([*map(_directory_name, APPLICATIONS), tag])
    return _made_once(name, Path("datasette"), _make_applications)


def _make_applications(target: Path) -> None:
    _run([sys.executable, "-m", "pip", "install", "--target", str(target), *APPLICATIONS])


def _directory_name(requirement: str) -> str:
    return requirement.replace("==", "-")


def _made_once(name: str, product: Path, make: Callable[[Path], None]) -> Path:
    """The directory `name`, filled by `make`; one left half made, or without its product, is made again."""
    target = cache_directory() / "receivers" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    marker = target / "complete"
    with _locked(target.with_name(f"{name}.lock")):
        if not (marker.exists() and (target / product).exists()):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            make(target)
            marker.touch()
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps two test runs of one machine from installing into one directory."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str | Path], cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout)[-600:]}")


def _make_ddapm_test_agent(target: Path) -> None:
    """With the first interpreter the agent has wheels for: a new Python may have to borrow an older one's."""
    refusals = []
    for python in _interpreters():
        try:
            _run([python, "-m", "venv", "--clear", target])
            _run([target / "bin" / "pip", "install", "--only-binary", "grpcio", DDAPM_TEST_AGENT])
            return
        except Unavailable as refusal:
            refusals.append(str(refusal))
    raise Unavailable(f"{DDAPM_TEST_AGENT} cannot be installed: {'; '.join(refusals)}")


def _interpreters() -> list[str]:
    others = [shutil.which(f"python3.{minor}") for minor in (13, 12, 11)]
    return [sys.executable, *(path for path in others if path)]


def _make_rotel(version: str, target: Path) -> None:
    wheel = ["--only-binary", ":all:", "--no-deps", "--implementation", "cp"]
    abi = ["--python-version", version, "--abi", f"cp{version.replace('.', '')}"]
    where = ["--platform", f"manylinux_2_34_{platform.machine()}", "--target", str(target)]
    _run([sys.executable, "-m", "pip", "install", *wheel, *abi, *where, ROTEL])


def _shared_python() -> tuple[str, Path | None]:
    """A Python version that rotel has a wheel for, and where its shared library lies (None: the system's)."""
    for version in ROTEL_PYTHONS:
        if ctypes.util.find_library(f"python{version}"):
            return version, None
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    directory = Path(sysconfig.get_config_var("LIBDIR") or "/")
    if own in ROTEL_PYTHONS and (directory / _soname(own)).exists():
        return own, directory
    return _shared_python_of_debian()


def _shared_python_of_debian() -> tuple[str, Path]:
    """Unpacked from Debian's package and not installed: the machine stays as it is, and no root is needed."""
    refusals = []
    for version in ROTEL_PYTHONS:
        package = f"libpython{version}"
        library = Path("library", _soname(version))
        try:
            home = _made_once(package, library, partial(_unpack, package))
        except Unavailable as refusal:
            refusals.append(str(refusal))
        else:
            return version, (home / library).parent
    wanted = ", ".join(f"libpython{version}" for version in ROTEL_PYTHONS)
    raise Unavailable(f"{ROTEL} needs one of {wanted}; none is here nor in apt: {'; '.join(refusals)}")


def _unpack(package: str, target: Path) -> None:
    _run(["apt-get", "download", package], cwd=target)
    for archive in target.glob("*.deb"):
        _run(["dpkg-deb", "-x", archive, target])
    (target / "library").mkdir()
    for library in target.glob("usr/lib/*/libpython*.so.1.0"):
        library.rename(target / "library" / library.name)


def _soname(version: str) -> str:
    return f"libpython{version}.so.1.0"
