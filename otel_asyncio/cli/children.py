"""Interpreters that multiprocessing starts anew (`spawn`, `forkserver`) are traced like the program that starts them.

A forked child needs nothing of this. A new interpreter is started by `multiprocessing.util.spawnv_passfds`, with the
code to run as an argument: the call of `begin` is put in front of that, so that neither the environment nor the child's
own arguments change. On Windows another function starts them, and they are not traced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from multiprocessing import util
from typing import Any

_SPAWNED = "from multiprocessing.spawn import "
_FORK_SERVER = "from multiprocessing.forkserver import "  # not the resource tracker: it runs nothing of the program
_BEFORE = """\
try:
    from otel_asyncio.cli.children import begin
    begin({path!r}, {name!r}, forks={forks!r})
    del begin
except Exception:
    pass
"""


def follow(path: str | None, name: str) -> Callable[[], None]:
    """Trace the interpreters that multiprocessing starts from now on, and theirs. Returns the way to undo it.

    Args:
        path: the file for the spans; None: they go where the environment says.
        name: the service's name.
    """
    module: Any = util  # neither documented nor typed
    start = module.spawnv_passfds

    def spawnv_passfds(executable: Any, arguments: Sequence[str], descriptors: Any) -> Any:
        return start(executable, _with_us(arguments, path, name), descriptors)

    def undo() -> None:
        if module.spawnv_passfds is spawnv_passfds:
            module.spawnv_passfds = start

    module.spawnv_passfds = spawnv_passfds
    return undo


def begin(path: str | None, name: str, *, forks: bool) -> None:
    """In the new interpreter, before anything else: set everything up as in the first one.

    `forks`: it is the server that children are forked from: each of them does it, the server has nothing to trace.
    """
    from otel_asyncio.cli.run import begin_child  # noqa: PLC0415 - only in a child

    if forks:
        os.register_at_fork(after_in_child=lambda: begin_child(path, name))
    else:
        begin_child(path, name)


def _with_us(arguments: Sequence[str], path: str | None, name: str) -> Sequence[str]:
    """The same arguments, with our words before the code that multiprocessing wants to be run."""
    words = list(arguments)
    try:
        at = words.index("-c") + 1
        code = words[at]
    except (ValueError, IndexError):
        return arguments
    if _SPAWNED not in code and _FORK_SERVER not in code:
        return arguments
    words[at] = _BEFORE.format(path=path, name=name, forks=_FORK_SERVER in code) + code
    return words
