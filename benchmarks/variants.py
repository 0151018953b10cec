"""What is compared: names, packages and processes. Standard library only: run.py reads it too."""

from __future__ import annotations

from dataclasses import dataclass

LOOPS = ("asyncio", "uvloop")

PROJECT = "otel-asyncio"
"""The environment with this project in it. Each peer has its own, so that none chooses another's versions."""

BESIDE = {"opentelemetry-instrumentation-asyncio": ("opentelemetry-sdk",)}
"""What a peer does not bring itself and needs to do its work."""


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    `subject` is the class, in module:Class form, that installs it. `share` cuts down the counts of the
    garbage and memory measurements for variants so slow that the full count would take minutes.
    """

    key: str
    title: str
    subject: str
    package: str = PROJECT
    share: float = 1.0
    ours: bool = False

    @property
    def is_peer(self) -> bool:
        """Whether a distribution of somebody else's has to be installed for it."""
        return self.package != PROJECT


VARIANTS = (
    Variant("bare", "bare loop", "subjects:Subject"),
    Variant("unsampled", "otel-asyncio, trace not sampled", "subjects:Unsampled", ours=True),
    Variant("unsampled_metered", "the same, metrics on", "subjects:UnsampledMetered"),
    Variant("unsampled_load", "the same, metrics on, under load", "subjects:UnsampledUnderLoad"),
    Variant("recorded", "otel-asyncio, recorded, steps timed", "subjects:Recorded", ours=True),
    Variant("recorded_metered", "the same, metrics on", "subjects:RecordedMetered"),
    Variant("recorded_load", "the same, metrics on, under load", "subjects:RecordedUnderLoad"),
    Variant("roots", "otel-asyncio, root tasks recorded", "subjects:Roots", ours=True),
    Variant("by_hand", "SDK `start_as_current_span` by hand", "subjects:ByHand"),
    Variant("contrib", "{} (traced by name)", "peers:Contrib", "opentelemetry-instrumentation-asyncio", 0.1),
    Variant("sentry", "{} AsyncioIntegration", "peers:Sentry", "sentry-sdk", 0.05),
    Variant("ddtrace", "{} asyncio patch", "peers:Ddtrace", "ddtrace", 0.1),
    Variant("aiomonitor", "{} task hook", "peers:Aiomonitor", "aiomonitor", 0.05),
    Variant("debug", "asyncio debug mode", "subjects:Debug", share=0.05),
)

BY_KEY = {variant.key: variant for variant in VARIANTS}

LINE_UPS = (
    ("bare",),
    ("unsampled", "unsampled_metered", "unsampled_load"),
    ("recorded", "by_hand", "recorded_metered", "recorded_load"),
    ("roots",),
    ("contrib",),
    ("sentry",),
    ("ddtrace",),
    ("aiomonitor",),
    ("debug",),
)
"""The processes. Variants that a promise compares with each other share one, and so the same seconds."""
