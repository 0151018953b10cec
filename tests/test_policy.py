"""The recording policy: pure functions of settings and records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from otel_asyncio import Settings
from otel_asyncio.observe.records import Outcome
from otel_asyncio.policy import Policy

MILLISECOND = 1_000_000


def ended(outcome: Outcome = Outcome.SUCCESS, duration: int = 0, problem: str | None = None) -> Any:
    """As much of a record as the policy looks at."""
    return SimpleNamespace(outcome=outcome, created=5, ended=5 + duration, problem=problem)


def wants(record: Any, *, root: bool = False, yielded: bool = False, **settings: Any) -> bool:
    return Policy(Settings(**settings)).wants(record, root=root, yielded=yielded)


WRONG = [Outcome.ERROR, Outcome.TIMEOUT, Outcome.PENDING, Outcome.DESTROYED]
FINE = [Outcome.SUCCESS, Outcome.CANCELLATION, Outcome.EXIT]


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("root", [True, False])
def test_by_default_every_task_is_wanted(outcome: Outcome, *, root: bool) -> None:
    assert wants(ended(outcome), root=root)


@pytest.mark.parametrize("outcome", WRONG)
def test_what_went_wrong_is_wanted_whatever_the_settings(outcome: Outcome) -> None:
    record = ended(outcome)
    assert wants(record, root=True, yielded=True, root_tasks="problems", min_task_duration=60)


@pytest.mark.parametrize("outcome", FINE)
def test_a_root_without_a_problem_is_not_wanted_under_problems(outcome: Outcome) -> None:
    assert not wants(ended(outcome), root=True, root_tasks="problems")


@pytest.mark.parametrize("outcome", FINE)
def test_a_task_inside_a_span_is_wanted_under_problems(outcome: Outcome) -> None:
    assert wants(ended(outcome), root=False, root_tasks="problems")


def test_a_problem_makes_a_root_wanted() -> None:
    assert wants(ended(problem="stuck"), root=True, root_tasks="problems")


@pytest.mark.parametrize(("duration", "wanted"), [(99, False), (100, True), (101, True)])
def test_the_shortest_task_lasts_min_task_duration(duration: int, *, wanted: bool) -> None:
    assert wants(ended(duration=duration * MILLISECOND), min_task_duration=0.1) == wanted


def test_no_task_is_long_enough_for_never() -> None:
    assert not wants(ended(duration=10**15), min_task_duration=float("inf"))


def test_what_left_its_facts_to_a_request_is_not_wanted() -> None:
    assert not wants(ended(), root=True, yielded=True)


@pytest.mark.parametrize(
    ("settings", "function", "selected"),
    [
        ({}, "shop.cart.add", True),
        ({"include": ("shop.*",)}, "shop.cart.add", True),
        ({"include": ("shop.*",)}, "other.shop.add", False),
        ({"include": ("a", "shop.cart.*")}, "shop.cart.add", True),
        ({"exclude": ("shop.*",)}, "shop.cart.add", False),
        ({"exclude": ("*.poll",)}, "shop.cart.add", True),
        ({"include": ("shop.*",), "exclude": ("*.add",)}, "shop.cart.add", False),
        ({"include": ("*<locals>*",)}, "shop.main.<locals>.work", True),
        ({"include": ("shop.cart",)}, "shop.cart.add", False),
    ],
    ids=str,
)
def test_globs_select_by_module_and_qualified_name(settings: Any, function: str, *, selected: bool) -> None:
    assert Policy(Settings(**settings)).selects(function) == selected


def test_globs_tell_case_apart() -> None:
    assert not Policy(Settings(include=("Shop.*",))).selects("shop.cart")


@pytest.mark.parametrize(("function", "detached"), [("pool.worker", True), ("pool.request", False)])
def test_globs_detach(function: str, *, detached: bool) -> None:
    assert Policy(Settings(detached_tasks=("*.worker",))).detaches(function) == detached


@pytest.mark.parametrize("name", ["include", "exclude", "detached_tasks"])
def test_functions_are_looked_at_only_for_a_glob(name: str) -> None:
    assert Policy(Settings(**{name: ("x",)})).looks_at_functions
    assert not Policy(Settings()).looks_at_functions
