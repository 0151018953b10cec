"""Load on a service from plain threads and sockets: no event loop takes part but the service's own."""

from __future__ import annotations

import http.client
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, repeat

TIMEOUT = 60.0


@dataclass(frozen=True)
class Caller:
    """The remote parent of one request, as its `traceparent` header names it."""

    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def headers(self) -> dict[str, str]:
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-01"}


def drive(port: int, requests: int, connections: int, path: str = "/", body: bytes = b"found") -> list[Caller]:
    """Sends the requests over kept-alive connections, all of them at once; every answer has to be right."""
    share = [requests // connections] * connections
    share[0] += requests % connections
    with ThreadPoolExecutor(connections) as threads:
        lots = threads.map(_one_connection, repeat(port), share, repeat(path), repeat(body))
        return list(chain.from_iterable(lots))


def _one_connection(port: int, count: int, path: str, body: bytes) -> list[Caller]:
    callers = [Caller() for _ in range(count)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        for caller in callers:
            connection.request("GET", path, headers=caller.headers)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, body)
    finally:
        connection.close()
    return callers
