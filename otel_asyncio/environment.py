"""The standard `OTEL_*` variables: which exporters they ask for, and what is wrong with them.

The SDK and its exporters read the variables themselves; where a value is wrong they warn, guess or fail at the first
export. Here it is found at the start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

SIGNALS = ("TRACES", "METRICS")
PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""By the value of `OTEL_EXPORTER_OTLP_PROTOCOL`, the entry point of the exporter."""

_GRPC_PORT = 4317
_LARGEST_PORT = 65535
_OF_REQUESTS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SAMPLERS = ("always_on", "always_off", "traceidratio")
_HEADER = re.compile(r"\s*[^=,\s]+\s*=[^,]*")


@dataclass(frozen=True, slots=True)
class Exports:
    """What the environment asks for: names of entry points, for each signal; none where nothing is to be exported."""

    traces: tuple[str, ...]
    metrics: tuple[str, ...]
    disabled: bool = False
    named: bool = False
    """Whether the environment names an endpoint or an exporter for traces."""


class Variables:
    """The variables, and how one of a signal is found."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, name: str) -> str | None:
        """A value without blanks; an empty one counts as unset."""
        return (self._environ.get(name) or "").strip() or None

    def otlp(self, signal: str, what: str) -> tuple[str, str | None]:
        """The variable of the signal, else that of all signals; its name and its value."""
        own = f"OTEL_EXPORTER_OTLP_{signal}_{what}"
        value = self.get(own)
        return (own, value) if value is not None else (common := f"OTEL_EXPORTER_OTLP_{what}", self.get(common))


def exports(environ: Mapping[str, str]) -> Exports:
    """What to export, and by which exporters.

    Traces go out by OTLP unless `OTEL_TRACES_EXPORTER` says otherwise; metrics where their exporter or an endpoint for
    them is named. Where no protocol is given, an endpoint on port 4317 is taken for gRPC, and everything else is OTLP
    over HTTP, as the specification has it.

    Raises:
        ValueError: a variable is wrong, or two contradict each other. Every one is named, with its value and what it
            takes.
    """
    variables = Variables(environ)
    faults = list(_faults(variables))
    if faults:
        raise ValueError("; ".join(faults))
    if (variables.get("OTEL_SDK_DISABLED") or "").lower() == "true":
        return Exports((), (), disabled=True)
    metrics = tuple(_exporters(variables, "METRICS")) if _is_named(variables, "METRICS") else ()
    return Exports(tuple(_exporters(variables, "TRACES")), metrics, named=_is_named(variables, "TRACES"))


def _is_named(variables: Variables, signal: str) -> bool:
    return variables.get(f"OTEL_{signal}_EXPORTER") is not None or variables.otlp(signal, "ENDPOINT")[1] is not None


def _exporters(variables: Variables, signal: str) -> Iterator[str]:
    for name in (variables.get(f"OTEL_{signal}_EXPORTER") or "otlp").split(","):
        exporter = name.strip()
        if exporter == "otlp":
            yield PROTOCOLS[protocol(variables, signal)]
        elif exporter != "none":
            yield exporter


def protocol(variables: Variables, signal: str) -> str:
    """The protocol of a signal, given or told by the port."""
    given = variables.otlp(signal, "PROTOCOL")[1]
    if given is not None:
        return given
    endpoint = variables.otlp(signal, "ENDPOINT")[1]
    return "grpc" if endpoint is not None and _port(endpoint) == _GRPC_PORT else "http/protobuf"


def _port(endpoint: str) -> int | None:
    return urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").port


def _faults(variables: Variables) -> Iterator[str]:
    for name, words in (("OTEL_SDK_DISABLED", "true,false"), ("OTEL_EXPORTER_OTLP_INSECURE", "true,false")):
        yield from _one_of(variables, name, words.split(","))
    yield from _processor(variables)
    yield from _sampler(variables)
    yield from _pairs(variables, "OTEL_RESOURCE_ATTRIBUTES")
    seen: set[str] = set()  # what two signals share is told once
    for signal in SIGNALS:
        for fault in _of_signal(variables, signal):
            if fault not in seen:
                seen.add(fault)
                yield fault


def _of_signal(variables: Variables, signal: str) -> Iterator[str]:
    yield from _exporter_names(variables, signal)
    before = tuple(_one_of(variables, variables.otlp(signal, "PROTOCOL")[0], list(PROTOCOLS)))
    yield from before
    endpoint_name, endpoint = variables.otlp(signal, "ENDPOINT")
    grpc = False
    if endpoint is not None:
        faults = tuple(_endpoint(endpoint_name, endpoint))
        yield from faults
        if not faults and not before:
            grpc = protocol(variables, signal) == "grpc"
            if "://" not in endpoint and not grpc:
                yield _wrong(endpoint_name, endpoint, "http:// or https:// in front of it for OTLP over HTTP")
    compressions = ["none", "gzip", *([] if grpc else ["deflate"])]
    yield from _one_of(variables, variables.otlp(signal, "COMPRESSION")[0], compressions)
    yield from _number(variables, variables.otlp(signal, "TIMEOUT")[0], "a number of seconds above 0", float)
    yield from _pairs(variables, variables.otlp(signal, "HEADERS")[0])
    yield from _tls(variables, signal, endpoint_name, endpoint or "")
    if not grpc and variables.otlp(signal, "PROTOCOL")[1] != "grpc":
        yield from _authorities(variables, signal)


def _exporter_names(variables: Variables, signal: str) -> Iterator[str]:
    name = f"OTEL_{signal}_EXPORTER"
    value = variables.get(name)
    if value is None:
        return
    chosen = [item.strip() for item in value.split(",")]
    if "none" in chosen and len(chosen) > 1:
        yield _wrong(name, value, "'none' alone, or exporters without it")
    known = {entry.name for entry in entry_points(group=f"opentelemetry_{signal.lower()}_exporter")}
    for exporter in chosen:
        if exporter not in known | {"none", "otlp"}:
            yield _wrong(name, value, f"installed exporters: {', '.join(sorted(known | {'none'}))}")


def _endpoint(name: str, value: str) -> Iterator[str]:
    wanted = "a URL such as http://localhost:4318"
    try:
        parts, port = urlsplit(value if "://" in value else f"//{value}"), _port(value)
    except ValueError:
        yield _wrong(name, value, f"{wanted}, with a port from 1 to {_LARGEST_PORT}")
        return
    if parts.scheme not in ("", "http", "https") or not parts.hostname or port == 0:
        yield _wrong(name, value, wanted)


def _tls(variables: Variables, signal: str, endpoint_name: str, endpoint: str) -> Iterator[str]:
    files = {what: variables.otlp(signal, what) for what in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")}
    for name, path in files.values():
        if path is not None and not Path(path).is_file():
            yield _wrong(name, path, "the path of a file that can be read")
        elif path is not None and endpoint.startswith("http://"):
            yield f"{name} is set, but {endpoint_name}={endpoint!r} is not encrypted: use https://, or unset {name}"
    (key, key_path), (certificate, certificate_path) = files["CLIENT_KEY"], files["CLIENT_CERTIFICATE"]
    if key_path is not None and certificate_path is None:
        yield f"{key} is set without {certificate}: a client's key needs its certificate"
    name, insecure = variables.otlp(signal, "INSECURE")
    if insecure is not None and insecure.lower() == "true" and endpoint.startswith("https://"):
        yield f"{name}=true contradicts {endpoint_name}={endpoint!r}: use http://, or unset {name}"


def _authorities(variables: Variables, signal: str) -> Iterator[str]:
    """`requests`, by which OTLP over HTTP goes, takes its own variable before the exporter's (its issue 3829)."""
    name, path = variables.otlp(signal, "CERTIFICATE")
    stronger = next((each for each in _OF_REQUESTS if variables.get(each) is not None), None)
    if path is None or stronger is None or not Path(path).is_file():
        return
    bundle = Path(variables.get(stronger) or "")
    if bundle.is_file() and Path(path).read_text(errors="replace").strip() not in bundle.read_text(errors="replace"):
        yield (
            f"{name}={path!r} has no effect on OTLP over HTTP while {stronger}={str(bundle)!r} is set: "
            f"unset {stronger}, or add the certificate to that file"
        )


def _processor(variables: Variables) -> Iterator[str]:
    whole = "a whole number above 0"
    names = ("SCHEDULE_DELAY", "EXPORT_TIMEOUT", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE")
    faults = [fault for what in names for fault in _number(variables, f"OTEL_BSP_{what}", whole, int)]
    yield from faults
    if not faults:
        batch = int(variables.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or 512)
        queue = int(variables.get("OTEL_BSP_MAX_QUEUE_SIZE") or 2048)
        if batch > queue:
            yield f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE={batch} is more than OTEL_BSP_MAX_QUEUE_SIZE={queue} holds"


def _sampler(variables: Variables) -> Iterator[str]:
    name, value = "OTEL_TRACES_SAMPLER", variables.get("OTEL_TRACES_SAMPLER")
    known = {entry.name for entry in entry_points(group="opentelemetry_traces_sampler")}
    known |= {prefix + sampler for sampler in _SAMPLERS for prefix in ("", "parentbased_")}
    if value is not None and value.lower() not in known:
        yield _wrong(name, value, f"one of {', '.join(sorted(known))}")
    ratio = variables.get("OTEL_TRACES_SAMPLER_ARG")
    if ratio is None or not (value or "").lower().endswith("traceidratio"):
        return
    if not _is(float, ratio) or not 0 <= float(ratio) <= 1:
        yield _wrong("OTEL_TRACES_SAMPLER_ARG", ratio, "a number from 0 to 1")


def _pairs(variables: Variables, name: str) -> Iterator[str]:
    value = variables.get(name)
    if value is not None and not all(_HEADER.fullmatch(item) for item in value.split(",") if item.strip()):
        hidden = "…" if name.endswith("HEADERS") else value  # it may hold a key
        yield _wrong(name, hidden, "pairs such as key=value,key2=value2")


def _one_of(variables: Variables, name: str, words: list[str]) -> Iterator[str]:
    value = variables.get(name)
    if value is not None and value.lower() not in words:
        yield _wrong(name, value, f"one of {', '.join(words)}")


def _number(variables: Variables, name: str, wanted: str, kind: Callable[[str], float]) -> Iterator[str]:
    value = variables.get(name)
    if value is not None and not (_is(kind, value) and 0 < kind(value) < float("inf")):
        yield _wrong(name, value, wanted)


def _is(kind: Callable[[str], float], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _wrong(name: str, value: str, wanted: str) -> str:
    return f"{name}={value!r}: expected {wanted}"
