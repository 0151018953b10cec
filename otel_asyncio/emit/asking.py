"""Which samplers need not be asked, because what they say is known."""

from __future__ import annotations

from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased


def samples_children(sampler: object) -> bool:
    """Whether a sampled local parent means a sampled child with nothing added."""
    return sampler is ALWAYS_ON or (
        type(sampler) is ParentBased and getattr(sampler, "_local_parent_sampled", None) is ALWAYS_ON
    )


def samples_roots(sampler: object) -> bool:
    """Whether a span without a parent is sampled, with nothing added."""
    return sampler is ALWAYS_ON or (type(sampler) is ParentBased and getattr(sampler, "_root", None) is ALWAYS_ON)
