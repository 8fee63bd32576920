"""One trace leads from the caller's span through the gateway into Triton, as OTLP shows it."""

import asyncio
import json
import socket
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import grpc
import httpx
import pytest
from channeltok import AsyncClient, ChannelTokError, Client
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Tracer, format_span_id, format_trace_id

from tests.support.photographs import jpeg
from tests.support.running import Service, eventually, refused_start, running
from tests.support.trace_collector import Collector, Span, collecting

GATEWAY, TRITON, CALLER = "channeltok-gateway", "triton", "caller"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Service]:
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # for this service alone
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # ms; for the gateway and Triton alike
            service = stack.enter_context(running(probe_seconds="0.3", log_level="debug"))
        yield service


@pytest.fixture
def tracer(collector: Collector) -> Iterator[Tracer]:
    """The caller's own OpenTelemetry."""
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: CALLER}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))
    yield provider.get_tracer("test")
    provider.shutdown()


def trace_of(collector: Collector, count: int, call: Callable[[], str]) -> dict[str, Span]:
    """The spans by name of the trace whose id `call` returns, when `count` of them have come.

    An exporter may lose a batch, which OpenTelemetry allows: then the call is repeated, at most
    three times.
    """
    for _ in range(3):
        trace = call()
        with suppress(AssertionError):
            eventually(
                lambda trace=trace: sum(span.trace == trace for span in collector.spans) >= count,
                10,
            )  # type: ignore[misc]
            break
    found = [span for span in collector.spans if span.trace == trace]
    assert len(found) == count, [span.name for span in found]
    return {span.name: span for span in found}


def parents(spans: dict[str, Span]) -> dict[str, str]:
    """Name of span -> name of its parent; "" for a root."""
    names = {span.id: name for name, span in spans.items()} | {"": ""}
    return {name: names[span.parent] for name, span in spans.items()}


@pytest.mark.parametrize(
    "tracestate",
    [
        ",".join(f"k{number:02}={'v' * 251}" for number in range(32)),  # 8 KiB, as the W3C allows
        ",".join(f"k{number:02}={'v' * 300}" for number in range(25)),  # values that it does not
        "stranger's text",
    ],
)
def test_strange_tracestates_fail_no_call_and_reach_no_log(
    traced: Service, tracestate: str
) -> None:
    headers = {"traceparent": f"00-{uuid.uuid4().hex}-b7ad6b7169203331-01"}
    headers["tracestate"] = tracestate
    before = len(traced.log)
    with httpx.Client(base_url=traced.rest) as rest:
        for _ in range(40):  # Triton refuses one in thirteen calls with 8 KiB
            reply = rest.post("/v1/encode", content=jpeg(), headers=headers)
            assert reply.status_code == 200, reply.text
    with grpc.insecure_channel(traced.grpc) as channel:
        tokenizer_pb2_grpc.TokenizerStub(channel).Encode(
            pb.EncodeRequest(image=jpeg()), metadata=tuple(headers.items()), timeout=30
        )
    lines = traced.log[before:]
    assert not [line for line in lines if '"warning"' in line or '"error"' in line]
    assert not [line for line in lines if tracestate[:20] in line]


def test_encode_is_one_trace_from_caller_to_engine(
    traced: Service, collector: Collector, tracer: Tracer
) -> None:
    def call() -> str:
        with Client(traced.grpc) as client, tracer.start_as_current_span("shop") as shop:
            client.encode(jpeg(), 20)
        return format_trace_id(shop.get_span_context().trace_id)

    spans = trace_of(collector, 8, call)
    assert parents(spans) == {
        "shop": "",
        "encode": "shop",
        "admission": "encode",
        "unpack": "encode",
        "engine": "encode",
        "InferRequest": "engine",
        "demo_encode": "InferRequest",
        "compute": "demo_encode",
    }
    assert {name: span.service for name, span in spans.items() if span.service != GATEWAY} == {
        "shop": CALLER,
        **dict.fromkeys(("InferRequest", "demo_encode", "compute"), TRITON),
    }
    assert spans["encode"].attributes == {
        "channeltok.k": 20,
        "channeltok.tokenizer": "demo",
        "channeltok.code": "OK",
    }
    assert spans["engine"].attributes == {"channeltok.model": "demo_encode"}
    for name, parent in parents(spans).items():
        if parent:
            assert spans[parent].start <= spans[name].start <= spans[name].end
            # Triton's end when its answer was sent, which may be after it was read.
            assert spans[name].end <= spans[parent].end or spans[name].service == TRITON


def test_rest_decode_and_streams_are_traced(
    traced: Service, collector: Collector, tracer: Tracer
) -> None:
    with Client(traced.grpc) as client:
        tokens = client.encode(jpeg(), 20)

        def decode() -> str:
            trace = uuid.uuid4().hex
            headers = {
                "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
                "content-type": "application/octet-stream",
            }
            httpx.post(
                f"{traced.rest}/v1/decode", content=tokens.to_bytes(), headers=headers
            ).raise_for_status()
            return trace

        spans = trace_of(collector, 8, decode)
        assert spans["decode"].parent == "00f067aa0ba902b7"
        assert {name for name, span in spans.items() if span.parent == spans["decode"].id} == {
            "admission",
            "unpack",
            "engine",
            "render",
        }
        assert spans["compute"].service == TRITON
        with tracer.start_as_current_span("bulk") as bulk:
            assert len(list(client.encode_stream([jpeg()] * 3, k=4))) == 3
        eventually(
            lambda: len(bulk_spans(collector, bulk)) == 3,
            20,
            "a span for each image of the stream",
        )
        assert {span.parent for span in bulk_spans(collector, bulk)} == {
            format_span_id(bulk.get_span_context().span_id)
        }


def bulk_spans(collector: Collector, bulk: object) -> list[Span]:
    trace = format_trace_id(bulk.get_span_context().trace_id)  # type: ignore[attr-defined]
    return [span for span in collector.of(GATEWAY, "encode_stream") if span.trace == trace]


def test_async_client_passes_its_trace_context_on(
    traced: Service, collector: Collector, tracer: Tracer
) -> None:
    async def encode() -> str:
        async with AsyncClient(traced.grpc) as client:
            with tracer.start_as_current_span("shop") as shop:
                await client.encode(jpeg(), 20)
        return format_trace_id(shop.get_span_context().trace_id)

    spans = trace_of(collector, 8, lambda: asyncio.run(encode()))
    assert parents(spans)["encode"] == "shop"


def test_spans_have_the_error_code_and_log_lines_the_trace_id(
    traced: Service, collector: Collector, tracer: Tracer
) -> None:
    trace = ""

    def call() -> str:
        nonlocal trace
        with (
            Client(traced.grpc) as client,
            tracer.start_as_current_span("shop") as shop,
            pytest.raises(ChannelTokError),
        ):
            client.encode(b"no image", 20)
        trace = format_trace_id(shop.get_span_context().trace_id)
        return trace

    spans = trace_of(collector, 2, call)  # refused before it waits for the engine
    assert spans["encode"].attributes["channeltok.code"] == "BAD_IMAGE"
    assert (
        spans["encode"].status == 0
    )  # a caller's fault is no error of the server's, by OpenTelemetry's conventions
    assert trace in {json.loads(line).get("trace_id") for line in list(traced.log)}


def test_unsampled_calls_health_checks_and_probes_have_no_spans(
    traced: Service, collector: Collector
) -> None:
    unsampled = "5bf92f3577b34da6a3ce929d0e0e4736"
    before = len(collector.spans)
    for path in ("/livez", "/readyz", "/metrics"):
        httpx.get(
            traced.rest + path,
            headers={"traceparent": "00-6bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        )
    headers = {"traceparent": f"00-{unsampled}-00f067aa0ba902b7-00"}
    httpx.post(f"{traced.rest}/v1/encode", content=jpeg(), headers=headers).raise_for_status()
    time.sleep(2)  # many probes, and many exports
    assert [span.name for span in collector.spans[before:]] == []


def test_trace_begins_in_the_service_without_a_context(
    traced: Service, collector: Collector
) -> None:
    def call() -> str:
        before = {span.trace for span in collector.spans}
        httpx.post(
            f"{traced.rest}/v1/encode", content=jpeg(), headers={"traceparent": "00-rubbish"}
        ).raise_for_status()
        with suppress(AssertionError):
            eventually(lambda: {span.trace for span in collector.spans} - before, 10)
        begun = {span.trace for span in collector.spans} - before
        assert len(begun) <= 1
        return begun.pop() if begun else ""

    assert trace_of(collector, 7, call)["encode"].parent == ""


def test_tracing_is_off_by_default(collector: Collector, tracer: Tracer, service: Service) -> None:
    with Client(service.grpc) as client, tracer.start_as_current_span("shop") as shop:
        client.encode(jpeg(), 20)
    (triton,) = service.children("tritonserver")
    assert not [word for word in triton.cmdline() if "trace" in word]
    time.sleep(1)
    trace = format_trace_id(shop.get_span_context().trace_id)
    assert [span.name for span in collector.spans if span.trace == trace] == ["shop"]


def test_unreachable_collector_harms_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # takes connections and never answers: worse than a closed port
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64")
        with running() as service, Client(service.grpc) as client:
            expected = client.encode(jpeg())
            seconds = []
            for _ in range(100):  # 400 spans for a queue of 64
                started = time.perf_counter()
                assert client.encode(jpeg()) == expected
                seconds.append(time.perf_counter() - started)
            assert max(seconds) < 2
            assert statistics.median(seconds) < 0.3
            started = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - started < 8
            assert [json.loads(line) for line in service.log]


def test_unsupported_otlp_protocol_is_refused() -> None:
    said = refused_start(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
    )
    assert "http/protobuf" in said
