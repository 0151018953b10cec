"""The stages: what is run in an environment, and what counts as passed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from _environments import PIP, Environment
from _lanes import say
from _places import TIMED_OUT

NOT_RUN = 77
PYTEST_TIMEOUT_SECONDS = 2400
CPYTHON_TIMEOUT_SECONDS = 1200
CHAIN_TIMEOUT_SECONDS = 1200
ANYIO_TIMEOUT_SECONDS = 900
INSTRUCTIONS_TIMEOUT_SECONDS = 900
ANYIO_TOOLS = ("pytest-mock", "trustme", "truststore", "psutil", "blockbuster")
"""What anyio's tests need beside what ours do."""

Stage = Callable[[], int]


def pytest_stage(environment: Environment, extra: Sequence[str]) -> Stage:
    """Our own tests."""
    return lambda: environment.run("-m", "pytest", "tests", "-q", *extra, timeout=PYTEST_TIMEOUT_SECONDS)


def chain_stage(environment: Environment) -> Stage:
    """The whole way into the real backends; once, they do not depend on the interpreter."""
    return lambda: environment.run("-m", "pytest", "tests/chain", "-q", timeout=CHAIN_TIMEOUT_SECONDS)


STEPS = (
    "test_flavour.py",
    "test_task_spans.py",
    "test_task_outcomes.py",
    "test_metrics.py",
    "cancellation/test_bursts.py",
    "test_watchdog.py",
    "test_vigil.py",
    "traps",
    "randomized",
)


def reference_stage(environment: Environment, extra: Sequence[str]) -> Stage:
    """The tests of what is written twice and of the watchdog with the step hook in Python; the others run compiled."""
    tests = ("-m", "pytest", "-q", *(f"tests/{name}" for name in STEPS))
    return lambda: environment.run_reference(*tests, *extra, timeout=PYTEST_TIMEOUT_SECONDS)


def cpython_stage(environment: Environment) -> Stage:
    """CPython's own asyncio tests, bare against traced."""
    return lambda: environment.run(Path("tests/cpython/run.py"), timeout=CPYTHON_TIMEOUT_SECONDS)


def instructions_stage(environment: Environment) -> Stage:
    """What a task and a step cost in instructions, against what is recorded for this interpreter."""
    return lambda: environment.run("benchmarks/instructions.py", timeout=INSTRUCTIONS_TIMEOUT_SECONDS)


def anyio_stage(environment: Environment) -> Stage:
    """Anyio's own tests, bare against traced; once, its backend is the same on every interpreter."""
    return lambda: environment.run(Path("tests/anyio_suite/run.py"), timeout=ANYIO_TIMEOUT_SECONDS)


def lint_stages(environment: Environment) -> dict[str, Stage]:
    """Style, format and types; once, they do not depend on the interpreter."""
    return {
        "ruff": lambda: environment.run("-m", "ruff", "check", "."),
        "format": lambda: environment.run("-m", "ruff", "format", "--check", "."),
        "mypy": lambda: environment.run("-m", "mypy"),
    }


def docs_stage(environment: Environment) -> Stage:
    """The tour's programs still print what the tour shows, and the pages are built without a warning."""
    return lambda: environment.run("docs/render.py", "--check") or _build_docs(environment)


def _build_docs(environment: Environment) -> int:
    with tempfile.TemporaryDirectory(prefix="otel-asyncio-docs-") as folder:
        return environment.run("-m", "sphinx", "-q", "-W", "--keep-going", "docs", folder)


def package_stage(environment: Environment) -> Stage:
    """Build the sdist, the wheels from it, and import each from an environment that has nothing else."""
    return lambda: _package(environment)


def _package(environment: Environment) -> int:
    environment.collect_wheels()
    with tempfile.TemporaryDirectory(prefix="otel-asyncio-package-") as name:
        folder = Path(name)
        status = environment.run("-m", "build", "--no-isolation", "--sdist", "--outdir", folder)
        return status or _install_sdist(environment, folder)


def _install_sdist(environment: Environment, folder: Path) -> int:
    """The sdist with a compiler, without one, and as the wheel for everywhere."""
    sdists = list(folder.glob("*.tar.gz"))
    if len(sdists) != 1:
        say(f"expected one sdist, found {[path.name for path in folder.iterdir()]}")
        return 1
    return (
        _install(environment, folder / "compiled", sdists[0], "compiled")
        or _install(environment, folder / "no-compiler", sdists[0], "python", "CC=false")
        or _install(environment, folder / "pure", sdists[0], "python", "OTEL_ASYNCIO_COMPILED=0", tag="py3-none-any")
    )


def _install(environment: Environment, folder: Path, sdist: Path, flavour: str, *settings: str, tag: str = "") -> int:
    """Build a wheel, install it alone, and ask it which flavour runs."""
    run, python = environment.place.run, folder / "empty" / "bin" / "python"
    build = (*PIP, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, sdist)
    if status := run("env", *settings, environment.python, *build):
        return status
    (wheel,) = folder.glob("*.whl")
    if not wheel.stem.endswith(tag):
        say(f"expected a wheel for {tag}, found {wheel.name}")
        return 1
    question = (
        "import otel_asyncio; otel_asyncio.AsyncioInstrumentor; from otel_asyncio.observe import flavour; "
        f"print(otel_asyncio.__file__, flavour.FLAVOUR, flavour.reason); assert flavour.FLAVOUR == {flavour!r}"
    )
    return (
        environment.run("-m", "venv", folder / "empty")
        or run(python, *PIP, "install", "--no-index", "--find-links", environment.wheels, wheel)
        or run(python, *PIP, "check")
        or run(python, "-I", "-c", question, folder=folder)
    )


def outcome(status: int) -> str:
    """In the words of the table."""
    return {0: "passed", NOT_RUN: "not run", TIMED_OUT: "timed out"}.get(status, "failed")
