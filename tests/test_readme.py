"""What the README promises is what the code has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from otel_asyncio import Settings
from otel_asyncio.emit import names
from otel_asyncio.observe.cancellation import Fate, Origin, Via
from otel_asyncio.observe.records import Kind, Outcome
from otel_asyncio.observe.scopes import TimeoutOutcome

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EMITTED = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}


def test_every_attribute_in_the_readme_is_emitted() -> None:
    written = set(re.findall(r"`((?:asyncio|code|error)\.[a-z_.]+)`", README))
    others = {
        *("asyncio.exception_never_retrieved", "asyncio.stuck", "asyncio.deadlock"),  # names of spans
        "asyncio.sleep",  # a target
        *("asyncio.timeout", "asyncio.wait_for", "asyncio.to_thread"),
    }
    assert written - EMITTED == others


def test_every_task_attribute_stands_in_the_readme() -> None:
    missing = [name for name in EMITTED if name.startswith("asyncio.") and "." + name.rsplit(".", 1)[1] not in README]
    assert [name for name in missing if name not in README] == []


def test_every_setting_stands_in_the_readme() -> None:
    assert [item.name for item in dataclasses.fields(Settings) if f"`{item.name}`" not in README] == []


def test_every_kind_and_outcome_that_is_emitted_stands_in_the_readme() -> None:
    words = {*Kind, *Outcome, *Origin, *Via, *Fate, *TimeoutOutcome}
    assert [word for word in words if f"`{word}`" not in README] == []
