"""OpenTelemetry tracing, one span per image. Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

    caller's span                               its context arrives in the W3C headers of the call
      └─ encode                                 one image: k, tokenizer, code
           ├─ admission
           ├─ unpack
           └─ engine                            its context goes to Triton
                └─ InferRequest ─ model ─ compute    Triton's own spans, exported by it

OpenTelemetry's standard environment variables apply (sampler, headers, service name, batching);
headers and batching apply to the embedded Triton too. When tracing is off, nothing of
OpenTelemetry is imported. Health checks, probes and metrics have no spans.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from channeltok.loopback import url_reaches_loopback
from structlog.typing import EventDict, WrappedLogger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

Metadata = tuple[tuple[str, str], ...]
# OpenTelemetry's default and Triton's only transport, so one address serves both.
PROTOCOL = "http/protobuf"
# Characters, as many as the W3C asks for. Callers write it, and Triton refuses calls with 8 KiB.
MAX_TRACESTATE = 512
FLUSH_SECONDS = 2.0  # for the last spans at exit, so that a dead collector does not block it
_TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_ALL_SIGNALS = "OTEL_EXPORTER_OTLP_ENDPOINT"

_provider: "TracerProvider | None" = None
_tracer: "Tracer | None" = None  # None: off
_NOTHING: AbstractContextManager[None] = nullcontext()


class UnsupportedProtocol(RuntimeError):
    """The environment asks for an unsupported transport; the message names the supported one."""


class ImageSpan(Protocol):
    """The span of one image, current until it ends."""

    def add_stage(self, name: str, seconds: float) -> None:
        """Add a child span for a stage that took `seconds` and ended now."""

    def end(self, code: str, failed: bool, attributes: Mapping[str, str | int]) -> None:
        """End the span. failed: through a fault of the service. attributes: without prefix."""


def endpoint() -> str | None:
    """Return the URL that spans are posted to, None if tracing is off."""
    if (
        os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none"
    ):
        return None
    if url := os.environ.get(_TRACES):
        return url
    base = os.environ.get(_ALL_SIGNALS)
    return f"{base.rstrip('/')}/v1/traces" if base else None


def start() -> None:
    """Start exporting if the environment names an endpoint. Raises UnsupportedProtocol."""
    global _provider, _tracer
    url = endpoint()
    if url is None:
        return
    protocol = (
        os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or PROTOCOL
    )
    if protocol != PROTOCOL:
        raise UnsupportedProtocol(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; only {PROTOCOL} is supported,"
            " usually on port 4318"
        )
    # It quotes headers that it cannot read, which strangers write.
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or "channeltok-gateway"
    _provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False
    )
    session = requests.Session()
    session.trust_env = not url_reaches_loopback(url)  # proxies and .netrc
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=session)))
    _tracer = _provider.get_tracer("channeltok")


async def stop() -> None:
    """Send the remaining spans, for FLUSH_SECONDS at most."""
    if _provider is not None:
        flush = threading.Thread(target=_provider.shutdown, name="last-spans", daemon=True)
        flush.start()
        await asyncio.to_thread(flush.join, FLUSH_SECONDS)


def triton_arguments() -> list[str]:
    """Return the options with which tritonserver adds its spans to ours.

    Triton traces every call with a context; count=0 excludes the calls without, our probes. It
    ignores the context's sampled flag, so `engine_span` sends no context that is not sampled.
    """
    url = endpoint()
    if url is None:
        return []
    settings = [
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "count=0",
        f"opentelemetry,url={url}",
        "opentelemetry,resource=service.name=triton",
    ]
    return [f"--trace-config={setting}" for setting in settings]


def attach_parent(headers: Mapping[str, str]) -> None:
    """Make the caller's context the parent of this task's spans. headers: with lower-case names."""
    if _tracer is not None and "traceparent" in headers:
        from opentelemetry import context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        names = ["traceparent"]
        if len(headers.get("tracestate", "")) <= MAX_TRACESTATE:
            names.append("tracestate")
        known = {name: headers[name] for name in names if name in headers}
        context.attach(TraceContextTextMapPropagator().extract(known))


def start_image_span(rpc: str) -> ImageSpan:
    """Start the span of one image."""
    return _NO_SPAN if _tracer is None else _RecordedSpan(_tracer, rpc)


def engine_span(model: str) -> AbstractContextManager[Metadata | None]:
    """Span around one inference; its value is the metadata that carries its context to Triton."""
    return _NOTHING if _tracer is None else _engine_span(model, _tracer)


@contextmanager
def _engine_span(model: str, tracer: "Tracer") -> Iterator[Metadata | None]:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not trace.get_current_span().is_recording():  # a probe or an unsampled call
        yield None
        return
    with tracer.start_as_current_span(
        "engine", kind=trace.SpanKind.CLIENT, attributes={"channeltok.model": model}
    ):
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        yield tuple(carrier.items())


def add_trace_id(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """structlog processor: add `trace_id` to lines written within a span."""
    if _tracer is not None:
        from opentelemetry import trace

        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = trace.format_trace_id(context.trace_id)
    return line


class _NoSpan:
    def add_stage(self, name: str, seconds: float) -> None: ...

    def end(self, code: str, failed: bool, attributes: Mapping[str, str | int]) -> None: ...


_NO_SPAN = _NoSpan()


class _RecordedSpan:
    def __init__(self, tracer: "Tracer", rpc: str) -> None:
        from opentelemetry import context, trace

        self._tracer = tracer
        self._started = time.time_ns()
        self._span = tracer.start_span(rpc, kind=trace.SpanKind.SERVER, start_time=self._started)
        self._detach = context.detach
        self._token = context.attach(trace.set_span_in_context(self._span))

    def add_stage(self, name: str, seconds: float) -> None:
        if self._span.is_recording():
            now = time.time_ns()
            # The first stage started a moment before the span did.
            start = max(now - int(seconds * 1e9), self._started)
            self._tracer.start_span(name, start_time=start).end(now)

    def end(self, code: str, failed: bool, attributes: Mapping[str, str | int]) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attributes(
            {f"channeltok.{name}": value for name, value in {"code": code, **attributes}.items()}
        )
        if failed:
            self._span.set_status(StatusCode.ERROR, code)
        self._span.end()
        self._detach(self._token)
