"""A random program does the same bare, with the step hook in Python and with the compiled one, on asyncio and uvloop.

In a module of its own: while its processes live, this one has threads that might wake a loop that waits for nothing.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace

import pytest
from harness import LOOP_KINDS, NO_EAGER_UVLOOP, loop_maker
from hypothesis import example, given, settings
from hypothesis import strategies as st

from randomized.flavours import FLAVOURS, processes, running
from randomized.programs import Block, Sleep
from randomized.runs import Mode, account, bare_account
from randomized.strategies import programs
from randomized.structures import Wait
from randomized.test_comparison import WAYS_IN, budget, long, mistakes, modes

pytestmark = pytest.mark.timeout(0 if long else 120)

flavour_budget = budget if long else settings(budget, max_examples=120)  # on each loop


def on(loop_kind: str, mode: Mode) -> Mode:
    """This mode on this loop. uvloop cannot have asyncio's eager factory everywhere, bare or traced."""
    loop_maker(loop_kind)  # skips where there is no such loop
    uvloop = loop_kind == "uvloop"
    return replace(mode, uvloop=uvloop, eager=mode.eager and not (uvloop and NO_EAGER_UVLOOP))


@pytest.fixture(scope="module")
def flavours() -> Iterator[dict[str, Executor]]:
    """A process that runs Python, one that runs what was compiled, and one for the bare program."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("needs Python with a GIL: without one there is no compiled step hook")
    with processes() as found:
        for name in FLAVOURS:
            runs, reason = found[name].submit(running).result()
            if runs != name:
                pytest.skip(f"the {name} step hook is NOT TESTED: {reason}")
        yield found


@flavour_budget
@pytest.mark.parametrize("loop_kind", LOOP_KINDS)
@given(program=programs, mode=st.builds(replace, modes, debug=st.booleans()))
@example(program=[Sleep(1), Wait(None)] * 5, mode=Mode())  # few of the random tasks have many steps
def test_both_flavours_do_as_the_bare_program_does_and_tell_the_same(
    flavours: dict[str, Executor], loop_kind: str, program: Block, mode: Mode
) -> None:
    mode = on(loop_kind, mode)
    for way_in in WAYS_IN:
        expected = flavours["bare"].submit(bare_account, program, mode, way_in).result()
        assert not mistakes(expected)
        runs = {name: flavours[name].submit(account, program, mode, way_in) for name in FLAVOURS}
        told = {name: run.result() for name, run in runs.items()}
        for traced in told.values():
            assert traced.history == expected.history
            assert traced.late == expected.late
            assert traced.iterations == expected.iterations
        assert told["compiled"] == told["python"]
