"""Which loops of one observation are scanned for what hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.scan import Scan
from otel_asyncio.observe.stuck import History, idle_matcher
from otel_asyncio.observe.suspects import Inquiry
from otel_asyncio.observe.watchdog import the_watchdog

if TYPE_CHECKING:
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.stuck import StuckReporter


class Hanging:
    """The scans of one observation.

    `patience`: how many nanoseconds a wait lasts before it is suspected; `idle`: globs of what may be waited for
    without end; `depth`: how many frames of a chain are kept.
    """

    def __init__(self, reporter: StuckReporter, *, patience: int, idle: tuple[str, ...], depth: int) -> None:
        self._reporter = reporter
        self._patience, self._depth = patience, depth
        self._is_idle = idle_matcher(idle)
        self._guard = Guard("hanging")
        self.history = History(patience // 2)
        self.scans: list[Scan] = []

    def attend(self, loop: Any, state: LoopState) -> None:
        """A loop has been taken in."""
        scan = Scan(loop, state, self._inquire, self._reporter, self._guard, self._patience)
        self.scans = [known for known in self.scans if not known.gone]
        self.scans.append(scan)
        the_watchdog().add(scan)

    def _inquire(self, state: LoopState) -> Inquiry:
        return Inquiry(
            state,
            self._reporter,
            self.history,
            self._is_idle,
            patience=self._patience,
            depth=self._depth,
            lost=the_watchdog().stops.within,
        )

    def stop(self) -> None:
        """Look at none of the loops any more."""
        scans, self.scans = self.scans, []
        for scan in scans:
            scan.end()
        the_watchdog().remove(scans)
