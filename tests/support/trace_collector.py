"""Receives OTLP traces over HTTP, as protobuf (from the gateway) and as JSON (from Triton)."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Span:
    """Ids are hex; parent is "" for a root. start, end: ns. status: 0 unset, 1 ok, 2 error."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    status: int
    attributes: dict[str, Any]


@dataclass
class Collector:
    """url: for OTEL_EXPORTER_OTLP_ENDPOINT. spans: all received so far."""

    url: str
    spans: list[Span] = field(default_factory=list)

    def of(self, service: str, name: str | None = None) -> list[Span]:
        return [
            span for span in self.spans if span.service == service and name in (None, span.name)
        ]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Start a collector on a free port."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces", self.path
            kind = self.headers["Content-Type"]
            collector.spans += (
                _from_json(body) if kind == "application/json" else _from_protobuf(body)
            )
            reply = (
                b"{}"
                if kind == "application/json"
                else ExportTraceServiceResponse().SerializeToString()
            )
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.daemon_threads = True
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _from_protobuf(body: bytes) -> Iterator[Span]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = next(
            pair.value.string_value
            for pair in group.resource.attributes
            if pair.key == "service.name"
        )
        for span in (span for scope in group.scope_spans for span in scope.spans):
            attributes = {
                pair.key: getattr(pair.value, str(pair.value.WhichOneof("value")))
                for pair in span.attributes
            }
            ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
            yield Span(
                service,
                span.name,
                *ids,
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                span.status.code,
                attributes,
            )


def _from_json(body: bytes) -> Iterator[Span]:
    for group in json.loads(body)["resourceSpans"]:
        service = next(
            pair["value"]["stringValue"]
            for pair in group["resource"]["attributes"]
            if pair["key"] == "service.name"
        )
        for span in (span for scope in group["scopeSpans"] for span in scope["spans"]):
            attributes = {
                pair["key"]: next(iter(pair["value"].values()))
                for pair in span.get("attributes", [])
            }
            ids = span["traceId"], span["spanId"], span.get("parentSpanId", "")
            times = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
            yield Span(
                service,
                span["name"],
                *ids,
                *times,
                span.get("status", {}).get("code", 0),
                attributes,
            )
