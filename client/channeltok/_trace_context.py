"""OpenTelemetry without depending on it: a call made within a span of the caller's carries its context, so that both are one trace."""

import sys


def trace_context() -> tuple[tuple[str, str], ...]:
    """gRPC metadata with the active span's context, as OpenTelemetry's propagator writes it (W3C traceparent); empty without one."""
    if (
        "opentelemetry.trace" not in sys.modules
    ):  # whoever has a span has imported it; importing it here would cost everybody
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((key.lower(), value) for key, value in carrier.items())
