"""The stages: what is run in an environment, and what counts as passed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from _environments import PIP, Environment
from _lanes import say
from _places import TIMED_OUT

NOT_RUN = 77
PYTEST_TIMEOUT_SECONDS = 1500
CPYTHON_TIMEOUT_SECONDS = 1200
CHAIN_TIMEOUT_SECONDS = 1200
ANYIO_TIMEOUT_SECONDS = 900
ANYIO_TOOLS = ("pytest-mock", "trustme", "truststore", "psutil", "blockbuster")
"""What anyio's tests need beside what ours do."""

Stage = Callable[[], int]


def pytest_stage(environment: Environment, extra: Sequence[str]) -> Stage:
    """Our own tests."""
    return lambda: environment.run("-m", "pytest", "tests", "-q", *extra, timeout=PYTEST_TIMEOUT_SECONDS)


def chain_stage(environment: Environment) -> Stage:
    """The whole way into the real backends; once, they do not depend on the interpreter."""
    return lambda: environment.run("-m", "pytest", "tests/chain", "-q", timeout=CHAIN_TIMEOUT_SECONDS)


def cpython_stage(environment: Environment) -> Stage:
    """CPython's own asyncio tests, bare against traced."""
    return lambda: environment.run(Path("tests/cpython/run.py"), timeout=CPYTHON_TIMEOUT_SECONDS)


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
    """Build the sdist, the wheel from it, and import that from an environment that has nothing else."""
    return lambda: _package(environment)


def _package(environment: Environment) -> int:
    environment.collect_wheels()
    with tempfile.TemporaryDirectory(prefix="otel-asyncio-package-") as name:
        folder = Path(name)
        status = environment.run("-m", "build", "--no-isolation", "--outdir", folder)
        return status or _install_and_import(environment, folder)


def _install_and_import(environment: Environment, folder: Path) -> int:
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1 or len(list(folder.glob("*.tar.gz"))) != 1:
        say(f"expected one wheel and one sdist, found {[path.name for path in folder.iterdir()]}")
        return 1
    python = folder / "empty" / "bin" / "python"
    question = "import otel_asyncio; print('imported', otel_asyncio.__file__); otel_asyncio.AsyncioInstrumentor"
    run = environment.place.run
    return (
        environment.run("-m", "venv", folder / "empty")
        or run(python, *PIP, "install", "--no-index", "--find-links", environment.wheels, wheels[0])
        or run(python, *PIP, "check")
        or run(python, "-I", "-c", question, folder=folder)
    )


def outcome(status: int) -> str:
    """In the words of the table."""
    return {0: "passed", NOT_RUN: "not run", TIMED_OUT: "timed out"}.get(status, "failed")
