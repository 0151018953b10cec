"""Runs the two versions of a symptom, each on a loop of its own, and prints what the trace shows.

python examples/symptoms/who_cancelled.py            # the wrong pattern, then the corrected one
python examples/symptoms/who_cancelled.py wrong --uvloop
python examples/symptoms/who_cancelled.py wrong --json    # the spans, one JSON object a line
"""

import argparse
import asyncio
import gc
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from otel_asyncio import Settings
from otel_asyncio.testing import record, render

Program = Callable[[], Coroutine[Any, Any, Any]]


def show(wrong: Program, right: Program, **settings: Any) -> None:
    """Run what the command line asks for. `settings`: thresholds, where the defaults would take too long to watch."""
    options = _options()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for version, program in (("wrong", wrong), ("right", right)):
        if options.version in (version, "both"):
            spans = _run(program, settings, options.loop)
            if options.json:
                print("\n".join(json.dumps(_as_json(span)) for span in spans))
            else:
                print(f"\n{version}\n\n{render(spans, digits=3)}")


def _run(program: Program, settings: dict[str, Any], loop: str) -> tuple[ReadableSpan, ...]:
    with record(settings=Settings(**settings)) as recorder:
        tracer = recorder.tracer_provider.get_tracer("symptom")
        with asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:

            async def request() -> None:
                with tracer.start_as_current_span("request"):
                    await program()

            try:
                runner.run(request())
            except (Exception, asyncio.CancelledError) as error:
                logging.warning("the program ended with %r", error)
        gc.collect()
    return recorder.spans


def _loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


def _as_json(span: ReadableSpan) -> dict[str, Any]:
    return {
        "name": span.name,
        "attributes": dict(span.attributes or {}),
        "status": span.status.status_code.name,
        "links": [dict(link.attributes or {}) for link in span.links],
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("version", nargs="?", choices=("wrong", "right", "both"), default="both")
    parser.add_argument("--uvloop", dest="loop", action="store_const", const="uvloop", default="asyncio")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()
