"""A program run in this process as `python PROGRAM` runs it: its arguments, its `__main__`, its path, its end.

What the interpreter does before the first line of a program stands in CPython's Modules/main.c and Lib/runpy.py.
"""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

_commands: list[ModuleType] = []  # the command's own `__main__`, whose functions run on

_OWN = str(Path(__file__).parent.parent) + os.sep


def run_program(program: str, arguments: Sequence[str], *, as_module: bool) -> None:
    """Run the program to its end. What it raises leaves as it would leave the interpreter: the traceback without us."""
    main = _fresh_main()
    sys.argv[:] = [program, *arguments]
    try:
        if as_module:
            sys.argv[0] = "-m"  # runpy puts the module's file in its place
            _set_first_path(str(Path.cwd()))
            runpy._run_module_as_main(program)  # type: ignore[attr-defined]  # what `python -m` calls itself
        elif _is_importable(program):
            _set_first_path(_absolute(program), even_if_safe=True)
            runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        else:
            _set_first_path(os.path.dirname(os.path.realpath(program)))  # noqa: PTH120 - as a string, it stays what it is
            _run_file(_absolute(program), main)
    except SystemExit:
        raise
    except BaseException as error:
        _hide_own_frames(error)
        raise


def find_fault(program: str, *, as_module: bool) -> str | None:
    """What keeps a program from being run at all, in the interpreter's words."""
    if as_module or _is_importable(program):
        return None
    try:
        with io.open_code(program):
            return None
    except OSError as error:
        return f"can't open file {str(Path.cwd() / program)!r}: [Errno {error.errno}] {error.strerror}"


def _fresh_main() -> ModuleType:
    """A `__main__` as the interpreter makes it; that of the command stays alive, its functions are running."""
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __package__=None, __spec__=None, __loader__=None, __doc__=None)
    if sys.version_info < (3, 14):
        vars(main)["__annotations__"] = {}
    _commands.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    return main


def _set_first_path(folder: str, *, even_if_safe: bool = False) -> None:
    """Put the program's folder where that of the command stands; told to be safe, Python has put none there."""
    if not sys.flags.safe_path:
        sys.path[0] = folder
    elif even_if_safe:
        sys.path.insert(0, folder)


def _absolute(program: str) -> str:
    """As the interpreter writes it: behind the current folder, and not simplified."""
    return str(Path.cwd()) if program == os.curdir else os.path.join(os.getcwd(), program)  # noqa: PTH109, PTH118


def _is_importable(program: str) -> bool:
    """Whether it is a folder or an archive with a `__main__.py`."""
    path = Path(program)
    if path.is_dir():
        return True
    importer = _importer(program)
    return importer is not None and path.is_file()


def _importer(program: str) -> Any:
    from pkgutil import get_importer  # noqa: PLC0415 - only for what looks like a file

    importer = get_importer(program)
    return None if importer is None or type(importer).__name__ == "FileFinder" else importer


def _run_file(program: str, main: ModuleType) -> None:
    main.__file__ = program
    main.__loader__ = SourceFileLoader("__main__", program)
    if sys.version_info < (3, 15):  # gone in 3.15
        vars(main)["__cached__"] = None
    with io.open_code(program) as file:
        source = file.read()
    exec(_compiled(source, program), main.__dict__)  # noqa: S102 - what the command is for


def _compiled(source: bytes, program: str) -> Any:
    if program.endswith(".pyc"):
        import marshal  # noqa: PLC0415 - rare

        return marshal.loads(source[16:])  # noqa: S302 - the file the user named
    return compile(source, program, "exec", dont_inherit=True)


def _hide_own_frames(error: BaseException) -> None:
    """Let the traceback begin where the interpreter's would, when it is printed."""
    traceback = _first_of_program(error.__traceback__)
    before = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, current: TracebackType | None) -> None:
        if value is error:
            current = traceback
            value.__traceback__ = traceback
        sys.excepthook = before
        before(kind, value, current)

    sys.excepthook = hook


def _first_of_program(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_OWN):
        traceback = traceback.tb_next
    return traceback
