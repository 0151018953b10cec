"""The same program read by a second receiver, which shares no line with the first."""

from __future__ import annotations

import pytest

from .receivers import Rotel
from .rotel_dump import DumpedSpan
from .running import program, run

PROTOCOLS = ("grpc", "http/protobuf")


@pytest.fixture(scope="module")
def dump(rotel: Rotel) -> list[DumpedSpan]:
    """One run per protocol, told apart by its service name."""
    for protocol in PROTOCOLS:
        environment = {**rotel.exporter_environment(protocol), "OTEL_SERVICE_NAME": protocol}
        run(*program("tasks.py", "asyncio"), environment=environment)
    return rotel.stop_and_read()


@pytest.fixture(params=PROTOCOLS)
def spans(request: pytest.FixtureRequest, dump: list[DumpedSpan]) -> dict[str, DumpedSpan]:
    """By name: the names used below are unique in the program."""
    return {span.name: span for span in dump if span.resource["service.name"] == request.param}


def test_rotel_sees_a_task_under_the_users_span(spans: dict[str, DumpedSpan]) -> None:
    assert spans["task work"].fields["Parent ID"] == spans["request"].fields["ID"]


def test_rotel_sees_a_nested_task_in_the_same_trace(spans: dict[str, DumpedSpan]) -> None:
    assert spans["task nested"].fields["Trace ID"] == spans["request"].fields["Trace ID"]


def test_rotel_sees_the_scope(spans: dict[str, DumpedSpan]) -> None:
    assert spans["task work"].scope.split()[0] == "otel_asyncio"


def test_rotel_sees_an_internal_span(spans: dict[str, DumpedSpan]) -> None:
    assert spans["task work"].fields["Kind"] == "SPAN_KIND_INTERNAL"


def test_rotel_sees_a_raising_task_as_an_error(spans: dict[str, DumpedSpan]) -> None:
    assert spans["task failing"].fields["Status code"] == "STATUS_CODE_ERROR"


@pytest.mark.parametrize(
    ("attribute", "type_name"),
    [
        ("asyncio.task.kind", "Str"),
        ("asyncio.task.steps", "Int"),
        ("code.line.number", "Int"),
        ("asyncio.task.idle_time", "Double"),
    ],
)
def test_rotel_sees_the_attributes_type(spans: dict[str, DumpedSpan], attribute: str, type_name: str) -> None:
    assert spans["task work"].attributes[attribute][0] == type_name
