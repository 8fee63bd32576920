"""Tracing without a collector; tests/system/test_tracing.py has whole traces."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from service.observability import tracing

ENDPOINT = "http://collector:4318"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_EXPORTER",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, f"{ENDPOINT}/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": f"{ENDPOINT}/"}, f"{ENDPOINT}/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://other/t"}, "http://other/t"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_endpoint_follows_the_standard_variables(
    environment: dict[str, str], url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing.endpoint() == url
    arguments = tracing.triton_arguments()
    assert (f"--trace-config=opentelemetry,url={url}" in arguments) is (url is not None)
    assert bool(arguments) is (url is not None)


def test_start_refuses_another_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(tracing.UnsupportedProtocol, match="only http/protobuf"):
        tracing.start()


def test_without_an_endpoint_spans_do_nothing() -> None:
    tracing.start()
    tracing.attach_parent({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    span = tracing.start_image_span("encode")
    span.add_stage("unpack", 0.1)
    with tracing.engine_span("m") as metadata:
        assert metadata is None
    span.end("OK", False, {})
    assert tracing.add_trace_id(None, "info", {"event": "e"}) == {"event": "e"}


async def test_spans_of_an_image_are_children_of_the_callers(
    exporter: InMemorySpanExporter,
) -> None:
    trace, caller = "a" * 32, "b" * 16
    tracing.attach_parent({"traceparent": f"00-{trace}-{caller}-01"})
    image = tracing.start_image_span("encode")
    image.add_stage("unpack", 0.1)
    with tracing.engine_span("cat_encode") as metadata:
        assert metadata is not None
        assert dict(metadata)["traceparent"].startswith(f"00-{trace}-")
        assert tracing.add_trace_id(None, "info", {})["trace_id"] == trace
    image.end("INTERNAL", True, {"k": 3})
    stage, engine, root = exporter.get_finished_spans()
    assert [span.name for span in (stage, engine, root)] == ["unpack", "engine", "encode"]
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == caller
    assert {span.parent and span.parent.span_id for span in (stage, engine)} == {
        root.context.span_id
    }
    assert root.status.status_code is StatusCode.ERROR
    assert root.attributes == {"channeltok.code": "INTERNAL", "channeltok.k": 3}


def test_unsampled_calls_send_no_context_to_triton(exporter: InMemorySpanExporter) -> None:
    with tracing.engine_span("probe") as metadata:
        assert metadata is None
    assert exporter.get_finished_spans() == ()
