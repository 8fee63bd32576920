"""Starting a service: health, documentation, metrics, an external Triton, failing to start."""

import json
import re
import socket
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from channeltok import ChannelTokError, Client, Unavailable
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.engine.cpu import processor_has_bf16
from tests.support.metrics import families, sample
from tests.support.photographs import jpeg
from tests.support.running import ROOT, Service, eventually, refused_start, running


def test_health(service: Service, rest: httpx.Client) -> None:
    assert rest.get("/livez").status_code == 200
    assert rest.get("/readyz").status_code == 200
    with grpc.insecure_channel(service.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "channeltok.v1.Tokenizer"):
            assert (
                stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
                == health_pb2.HealthCheckResponse.SERVING
            )


def test_reflection_names_the_service(service: Service) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        replies = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10
        )
        names = {one.name for one in next(replies).list_services_response.service}
    assert {"channeltok.v1.Tokenizer", "grpc.health.v1.Health"} <= names


def test_list_tokenizers_describes_the_demo(rest: httpx.Client, client: Client) -> None:
    (document,) = rest.get("/v1/tokenizers").json()["tokenizers"]
    (served,) = client.tokenizers()
    assert document["fingerprint"] == served.fingerprint
    assert re.fullmatch("[0-9a-f]{16}", served.fingerprint)
    assert (served.max_tokens, served.bits_per_token, served.image_size, served.family) == (
        256,
        16,
        128,
        "channeltok",
    )


def test_openapi_document_is_the_committed_one(rest: httpx.Client) -> None:
    assert rest.get("/openapi.json").json() == json.loads((ROOT / "docs/openapi.json").read_text())


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_api_pages_need_no_network(rest: httpx.Client, path: str) -> None:
    page = rest.get(path)
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    files = re.findall(r"(?:src|href)=\"([^\"]+)", page.text)
    assert len(files) == 4
    for file in files:
        if not file.startswith("data:"):
            assert rest.get(f"/{file}").status_code == 200


def test_metrics_count_what_happened(service: Service, client: Client) -> None:
    def counted() -> tuple[float, ...]:
        return (
            sample(service, "channeltok_images_total", rpc="decode"),
            sample(service, "channeltok_tokens_total", rpc="decode"),
            sample(
                service, "channeltok_stage_seconds_count", rpc="decode", stage="engine", budget="32"
            ),
            sample(
                service,
                "channeltok_stage_seconds_count",
                rpc="decode",
                stage="engine_queue",
                budget="32",
            ),
            sample(service, "channeltok_request_seconds_count", rpc="encode", code="BAD_K"),
            sample(service, "channeltok_errors_total", rpc="encode", code="BAD_K"),
        )

    tokens = client.encode(jpeg(), 20)
    before = counted()
    client.decode(tokens)
    with pytest.raises(ChannelTokError):
        client.encode(jpeg(), 999)
    assert [after - earlier for after, earlier in zip(counted(), before, strict=True)] == [
        1,
        20,
        1,
        1,
        1,
        1,
    ]


def test_every_metric_is_documented(service: Service) -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    ours = {name for name in families(service) if name.startswith("channeltok_")}
    assert ours
    assert {name for name in ours if f"`{name}" not in page} == set()


def test_stages_add_up_to_the_duration(client: Client, rest: httpx.Client) -> None:
    reply = rest.post(
        "/v1/decode",
        content=client.encode(jpeg()).to_bytes(),
        headers={"Content-Type": "application/octet-stream"},
    )
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", reply.headers["server-timing"]))
    assert set(stages) == {"admission", "unpack", "engine_queue", "engine", "render"}
    assert sum(map(float, stages.values())) / 1000 <= reply.elapsed.total_seconds()


def test_external_triton_is_used_and_its_end_is_an_outage() -> None:
    with running() as owner, Client(owner.grpc) as direct:
        expected = direct.encode(jpeg())
        with (
            running(triton_url=owner.triton_address(), probe_seconds="0.3") as guest,
            Client(guest.grpc, retries=False) as client,
        ):
            assert not guest.engines()
            assert client.encode(jpeg()) == expected
            assert client.decode(expected) == direct.decode(expected)
            owner.stop()
            eventually(
                lambda: httpx.get(f"{guest.rest}/readyz").status_code == 503,
                30,
                "the end of readiness",
            )
            assert httpx.get(f"{guest.rest}/livez").status_code == 200
            with pytest.raises(Unavailable) as caught:
                client.encode(jpeg())
            assert caught.value.code == "ENGINE_UNAVAILABLE"
            reply = httpx.post(f"{guest.rest}/v1/encode", content=jpeg())
            assert (reply.status_code, reply.json()["code"]) == (503, "ENGINE_UNAVAILABLE")
            assert reply.headers["retry-after"]


def test_start_that_cannot_work_says_why(tmp_path: Path) -> None:
    assert "python -m export" in refused_start(CHANNELTOK_MODEL_REPOSITORY=str(tmp_path))
    assert refused_start(CHANNELTOK_MAX_PIXELS="many").startswith("CHANNELTOK_MAX_PIXELS: ")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "CHANNELTOK_REST_PORT" in refused_start(CHANNELTOK_REST_PORT=port)
        assert "CHANNELTOK_GRPC_PORT" in refused_start(CHANNELTOK_GRPC_PORT=port)


def test_idle_service_is_small(service: Service, client: Client) -> None:
    client.encode(jpeg())
    processes = [psutil.Process(service.process.pid), *service.children()]
    assert len(processes) >= 4  # gateway, tritonserver, a stub for each of encode and decode
    # OpenVINO, where the processor computes in bf16, takes 0.25 GB more than ONNX Runtime.
    most = 1.8e9 if processor_has_bf16() else 1.5e9
    assert sum(process.memory_info().rss for process in processes) < most
