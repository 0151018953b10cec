"""Which programs there are. The simplest come first, so that a failing one shrinks to a few actions."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from randomized import programs as p

milliseconds = st.integers(0, 4)
small = st.integers(0, 3)
kinds = st.sampled_from([p.Boom, p.Hard, TimeoutError, SystemExit, KeyboardInterrupt])

leaves = st.one_of(
    st.builds(p.Sleep, milliseconds),
    st.builds(p.Spin, st.integers(1, 3)),
    st.builds(p.Join, small),
    st.builds(p.Cancel, st.none() | small),
    st.builds(p.CancelAny, small),
    st.builds(p.Raise, kinds),
    st.builds(p.Wait, st.none() | milliseconds),
    st.builds(p.Get, st.none() | milliseconds),
    st.sampled_from([p.Put(), p.Signal(), p.Await(), p.SetName()]),
)


@cache
def blocks(depth: int) -> st.SearchStrategy[p.Block]:
    """Sequences of actions, nested so deep at most."""
    if depth == 0:
        return st.lists(leaves, max_size=3)
    inner = blocks(depth - 1)
    several = st.lists(inner, min_size=1, max_size=3)
    spawn = st.builds(p.Spawn, inner, st.booleans(), st.booleans())
    compound = st.one_of(
        spawn,
        st.builds(p.Try, inner, st.booleans()),
        st.builds(p.Gather, several, st.booleans()),
        st.builds(p.InGroup, several, inner),
        st.builds(p.Timeout, milliseconds, inner),
        st.builds(p.WaitFor, milliseconds, inner),
        st.builds(p.Shield, inner),
        st.builds(p.AsCompleted, several),
        st.builds(p.Holding, st.none() | st.integers(0, 1), inner),
        st.builds(p.Callback, st.none() | milliseconds, inner),
    )
    return st.lists(st.one_of(leaves, spawn, compound), min_size=1, max_size=5)


programs = blocks(2) | blocks(3)
