"""Which programs there are. The simplest come first, so that a failing one shrinks to a few actions."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from randomized import programs as p
from randomized import structures as s

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
    st.builds(s.Wait, st.none() | milliseconds),
    st.builds(s.Get, st.none() | milliseconds),
    st.sampled_from([s.Put(), s.Signal(), s.Await(), p.SetName()]),
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
        st.builds(s.Gather, several, st.booleans()),
        st.builds(s.InGroup, several, inner),
        st.builds(s.Timeout, milliseconds, inner),
        st.builds(s.WaitFor, milliseconds, inner),
        st.builds(s.Shield, inner),
        st.builds(s.AsCompleted, several),
        st.builds(s.Holding, st.none() | st.integers(0, 1), inner),
        st.builds(s.Callback, st.none() | milliseconds, inner),
    )
    return st.lists(st.one_of(leaves, spawn, compound), min_size=1, max_size=5)


programs = blocks(2) | blocks(3)
