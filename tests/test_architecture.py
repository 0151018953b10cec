"""The house: which way imports go, how long a file is, and that each name of the contract stands once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import otel_asyncio

ROOT = Path(otel_asyncio.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LONGEST = 300

# Which packages of ours, and which of others, a part of the house may import. `TYPE_CHECKING` counts as well.
ALLOWED: dict[str, set[str]] = {
    "observe": {"otel_asyncio.observe"},
    "emit": {"otel_asyncio.observe", "otel_asyncio.emit", "otel_asyncio.policy", "opentelemetry"},
    "policy": {"otel_asyncio.observe.records", "otel_asyncio.settings"},
    "settings": set(),
    "environment": set(),
    # Reads files, knows the rest of the package by its names only.
    "report": {"otel_asyncio.report", "otel_asyncio.emit.names", "rich"},
    # Thin, over what every program may use.
    "cli": {
        "otel_asyncio.cli", "otel_asyncio.report", "otel_asyncio.configure", "otel_asyncio.environment",
        "otel_asyncio.settings", "otel_asyncio.observe.flavour", "otel_asyncio_demo", "rich", "opentelemetry",
    },
}  # fmt: skip


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_allowed(module: str, part: str) -> bool:
    if module.partition(".")[0] in sys.stdlib_module_names:
        return True
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in ALLOWED[part])


def strings_of(path: Path) -> list[str]:
    """The string constants of a module that are not docstrings or statements."""
    tree = ast.parse(path.read_text())
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare
    ]


by_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


@by_module
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    if part in ALLOWED:
        assert [name for name in sorted(imports_of(path)) if not is_allowed(name, part)] == []


@by_module
def test_what_emits_never_imports_asyncio(path: Path) -> None:
    if part_of(path) in ("emit", "policy", "settings"):
        assert not {name for name in imports_of(path) if name.partition(".")[0] == "asyncio"}


@by_module
def test_no_module_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@by_module
def test_no_name_of_the_contract_is_spelled_outside_names(path: Path) -> None:
    if path.name != "names.py":
        prefixes = ("asyncio.task.", "asyncio.eventloop.", "asyncio.cancel.", "asyncio.link.", "code.", "exception.")
        assert [text for text in strings_of(path) if text.startswith(prefixes) and " " not in text] == []


def test_no_name_of_the_contract_is_spelled_twice() -> None:
    spelled = [text for text in strings_of(ROOT / "emit" / "names.py") if "." in text]
    assert sorted(spelled) == sorted(set(spelled))


def test_only_the_composition_root_knows_both_halves() -> None:
    halves = ("otel_asyncio.observe", "otel_asyncio.emit")
    both = [
        path.name
        for path in MODULES
        if part_of(path) not in ("emit", "observe")
        and all(any(name.startswith(half) for name in imports_of(path)) for half in halves)
    ]
    assert set(both) <= {"instrumentor.py", "testing.py"}


def test_the_public_names_are_these() -> None:
    expected = {"AsyncioInstrumentor", "Settings", "Telemetry", "configure", "dump_tasks", "render", "task_factory"}
    assert set(otel_asyncio.__all__) == expected


def test_the_public_names_are_there() -> None:
    assert all(hasattr(otel_asyncio, name) for name in otel_asyncio.__all__)


def test_the_package_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()


def test_what_observes_can_be_imported_without_opentelemetry() -> None:
    program = (
        "import sys, types; sys.modules['opentelemetry'] = None; "
        f"package = types.ModuleType('otel_asyncio'); package.__path__ = [{str(ROOT)!r}]; "
        "sys.modules['otel_asyncio'] = package; import otel_asyncio.observe.install"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
