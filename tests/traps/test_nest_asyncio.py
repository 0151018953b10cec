"""nest_asyncio puts the pure-Python task class in place of asyncio's, and runs loops inside loops."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

# Unmaintained since 2024: it reaches into parts of asyncio that 3.14 has moved.
pytestmark = pytest.mark.skipif(sys.version_info >= (3, 14), reason="needs Python 3.13 or older")

PROGRAM = """
    import asyncio
    import nest_asyncio
    import otel_asyncio
    from otel_asyncio.testing import record

    async def inner():
        await asyncio.sleep(0.001)
        return "inner"

    async def outer():
        if {late}:
            nest_asyncio.apply()
        loop = asyncio.get_running_loop()
        return [loop.run_until_complete(inner()), await asyncio.create_task(inner())]

    if not {late}:
        nest_asyncio.apply()
    with record() as recorder:
        print(asyncio.run(outer()))
    print(sorted(span.name for span in recorder.spans))
"""


@pytest.mark.parametrize("late", [False, True])
def test_a_nested_run_gives_what_it_gives_and_every_task_has_a_span(*, late: bool) -> None:
    """T12: the kind of task is the one that asyncio has at the time."""
    program = dedent(PROGRAM).format(late=late)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["['inner', 'inner']", "['task inner', 'task inner', 'task outer']"], done.stderr
