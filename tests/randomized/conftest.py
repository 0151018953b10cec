"""How much is tried: the same few hundred programs in every run, or with `--hypothesis-profile=long` ever new ones."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

settings.register_profile("long", max_examples=20_000, deadline=None, suppress_health_check=_QUIET)


@pytest.fixture(autouse=True)
def _collected_by_hand() -> Iterator[None]:
    """Without the cyclic collector: it runs at a number of allocations, and tracing allocates."""
    gc.collect()
    gc.freeze()  # what is there by now need not be looked through after every program
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()
