"""The end of the process, by its own exit or by SIGTERM, whichever comes first: the last spans leave before it."""

from __future__ import annotations

import _thread
import enum
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    from otel_asyncio.configure import Telemetry

EXIT_SECONDS = 5.0
"""So long the last spans and metrics may take to leave when the process exits. The SDK would try for up to 30 s."""

logger = logging.getLogger("otel_asyncio")


class Stage(enum.Enum):
    """How far the process has come; it only goes on."""

    RUNNING = enum.auto()
    LEAVING = enum.auto()
    """The interpreter exits, and the last spans are on their way."""
    LEFT = enum.auto()
    """There is nothing left to send."""


class Ending:
    """What happens to the last spans of one process.

    Args:
        telemetry: is flushed when SIGTERM strikes, and has the last word.
        providers: are shut down when the interpreter exits.
        patience: seconds that this may take; None: as long as the SDK does.
    """

    def __init__(
        self, telemetry: Telemetry, providers: Sequence[TracerProvider | MeterProvider], patience: float | None
    ) -> None:
        self._telemetry = telemetry
        self._providers = providers
        self._patience = patience
        self._stage = Stage.RUNNING
        self._put_off: int | None = None

    def take_termination(self) -> None:
        """Take SIGTERM where nobody has, so that the last spans leave; the process still dies by the signal."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self.terminate)

    def terminate(self, number: int, _: Any) -> None:
        """Handle the signal: at once, or, where the last spans are leaving already, as soon as they have left.

        To end an exit before that takes a second signal.
        """
        if self._put_off is None and (self._stage is Stage.LEAVING or not self._flush()):
            self._put_off = number
        else:
            self._die(number)

    def at_exit(self) -> None:
        """Send what is left; an impatient Ctrl-C gives it up, and is no error of the program."""
        self._stage = Stage.LEAVING
        with suppress(KeyboardInterrupt):
            if self._patience is None or not _may_start_threads():
                self._shut_down()
            elif not within(self._patience, self._shut_down):
                logger.warning(
                    "otel_asyncio: nobody took the last spans within %g s: given up. "
                    "With OTEL_EXPORTER_OTLP_TIMEOUT set, the SDK decides how long",
                    self._patience,
                )
        self._stage = Stage.LEFT
        if self._put_off is not None:
            self._die(self._put_off)

    def _flush(self) -> bool:
        """Flush, unless `at_exit` is next: early in their exit 3.12.0 and 3.12.1 start no thread (gh-113964).

        Where a process that runs on can start none, because it has too many, the spans are lost, and the signal is not.
        """
        try:
            if self._stage is Stage.RUNNING:
                self._telemetry.flush()
        except RuntimeError as refused:
            return "interpreter shutdown" not in str(refused)
        return True

    def _shut_down(self) -> None:
        for provider in self._providers:
            provider.shutdown()

    def _die(self, number: int) -> None:
        if self._telemetry.last_words is not None:
            self._telemetry.last_words()
        if signal.getsignal(number) == self.terminate:
            signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def within(seconds: float, work: Callable[[], object]) -> bool:
    """Have another thread do the work, and wait for that so long; whether it was done."""
    done = _thread.allocate_lock()
    done.acquire()

    def do() -> None:
        try:
            work()
        finally:
            done.release()

    _thread.start_new_thread(do, ())
    return done.acquire(timeout=seconds)


def _may_start_threads() -> bool:
    """Whether a thread can be started when the interpreter exits: 3.12.0 and 3.12.1 refuse it (gh-113964)."""
    return not (3, 12) <= sys.version_info < (3, 12, 2)
