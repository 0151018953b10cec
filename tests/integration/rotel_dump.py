"""rotel's detailed debug dump, read back line by line: it is for people, so only what tests use is taken."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ATTRIBUTE = re.compile(r"^     -> (?P<key>[\w.]+): (?P<type>[A-Z]\w+)\((?P<value>.*?)\)?$")
_FIELD = re.compile(r"^    (?P<name>\w[\w ]*?) *: ?(?P<value>.*)$")
_SCOPE = "InstrumentationScope "


@dataclass
class DumpedSpan:
    """A span of the dump: its header lines by their names, and its attributes as (type, text)."""

    resource: dict[str, str]
    scope: str
    fields: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.fields.get("Name", "")


def spans_of_dump(dump: str) -> list[DumpedSpan]:
    """Resource, scope and span headings open a section; the lines below belong to the latest one."""
    spans: list[DumpedSpan] = []
    resource: dict[str, str] = {}
    scope = section = ""
    for line in dump.splitlines():
        if line.startswith("ResourceSpans #"):
            resource, section = {}, "resource"
        elif line.startswith(_SCOPE):
            scope = line.removeprefix(_SCOPE)
        elif line.startswith("Span #"):
            spans.append(DumpedSpan(resource, scope))
            section = "span"
        elif line.startswith(("Events:", "Links:")):
            section = "ignored"
        elif section == "resource" and (found := _ATTRIBUTE.match(line)):
            resource[found["key"]] = found["value"]
        elif section == "span":
            _read_span_line(spans[-1], line)
    return spans


def _read_span_line(span: DumpedSpan, line: str) -> None:
    if found := _ATTRIBUTE.match(line):
        span.attributes[found["key"]] = (found["type"], found["value"])
    elif found := _FIELD.match(line):
        span.fields[found["name"]] = found["value"]
