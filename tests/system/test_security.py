"""TLS, mutual TLS, bearer tokens, and which ports can be reached."""

import ipaddress
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import trustme
from channeltok import AsyncClient, Client, InvalidInput, Unauthenticated, Unavailable
from channeltok.cli import main as command_line
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.certificates import Files, issue, write_ca
from tests.support.handshakes import TlsClient
from tests.support.metrics import sample
from tests.support.photographs import jpeg
from tests.support.running import ROOT, Service, running

TOKEN, OTHER_TOKEN = "the-first-token-0123456789", "the-second-token-0123456789"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("security")


@pytest.fixture(scope="module")
def ca(folder: Path) -> trustme.CA:
    authority = trustme.CA()
    write_ca(authority, folder, "ca")
    return authority


@pytest.fixture(scope="module")
def caller(ca: trustme.CA, folder: Path) -> Files:
    """The certificate of a caller that the service takes."""
    return issue(ca, folder, "caller")


@pytest.fixture(scope="module")
def guarded(ca: trustme.CA, folder: Path) -> Iterator[Service]:
    """A service with mutual TLS and bearer tokens."""
    server = issue(ca, folder, "server")
    (folder / "tokens").write_text(f"{TOKEN}\n")
    settings = {
        "tls_certificate": server.certificate,
        "tls_key": server.key,
        "tls_client_ca": folder / "ca.pem",
    }
    with running(
        bearer_token_file=str(folder / "tokens"),
        **{name: str(file) for name, file in settings.items()},
    ) as service:
        yield service
        assert not [line for line in service.log if TOKEN in line or OTHER_TOKEN in line]


def credentials(folder: Path, own: Files | None, ca_name: str = "ca") -> grpc.ChannelCredentials:
    key, chain = (
        (None, None) if own is None else (own.key.read_bytes(), own.certificate.read_bytes())
    )
    return grpc.ssl_channel_credentials((folder / f"{ca_name}.pem").read_bytes(), key, chain)


def context(folder: Path, own: Files | None, ca_name: str = "ca") -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=folder / f"{ca_name}.pem")
    if own is not None:
        made.load_cert_chain(own.certificate, own.key)
    return made


def grpc_connects(service: Service, folder: Path, own: Files | None, ca_name: str = "ca") -> bool:
    try:
        with Client(
            service.grpc,
            credentials=credentials(folder, own, ca_name),
            bearer_token=TOKEN,
            retries=False,
        ) as client:
            return bool(client.tokenizers())
    except Unavailable:
        return False


def rest_connects(service: Service, folder: Path, own: Files | None, ca_name: str = "ca") -> bool:
    try:
        return (
            httpx.get(f"{service.rest}/livez", verify=context(folder, own, ca_name)).status_code
            == 200
        )
    except httpx.TransportError:
        return False


def test_ready_line_says_https(guarded: Service) -> None:
    assert guarded.rest.startswith("https://")


async def test_clients_and_command_line_use_tls(
    guarded: Service, folder: Path, caller: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = credentials(folder, caller)
    with Client(guarded.grpc, credentials=own, bearer_token=TOKEN) as client:
        tokens = client.encode(jpeg(), 8)
        assert list(client.encode_stream([jpeg()] * 3, 8)) == [tokens] * 3
    async with AsyncClient(guarded.grpc, credentials=own, bearer_token=TOKEN) as client:
        assert await client.encode(jpeg(), 8) == tokens
        assert [result async for result in client.decode_stream([tokens] * 2)] == [
            await client.decode(tokens)
        ] * 2
    (image := tmp_path / "photo.jpg").write_bytes(jpeg())
    (token := tmp_path / "token").write_text(TOKEN + "\n")
    tls = [
        "--ca",
        str(folder / "ca.pem"),
        "--certificate",
        str(caller.certificate),
        "--key",
        str(caller.key),
    ]
    ask = ["encode", str(image), "-k", "8", "--server", guarded.grpc, *tls]
    assert command_line([*ask, "--bearer-token-file", str(token)]) == 0
    assert (tmp_path / "photo.ctok").read_bytes() == tokens.to_bytes()
    assert command_line(ask) == 1
    monkeypatch.setenv("CHANNELTOK_BEARER_TOKEN", TOKEN)
    assert command_line(ask) == 0


def test_mutual_tls_takes_only_valid_certificates_of_the_ca(
    guarded: Service, folder: Path, ca: trustme.CA, caller: Files
) -> None:
    strangers = {
        "no certificate": None,
        "an expired certificate": issue(ca, folder, "expired", expired=True),
        "a certificate of another CA": issue(trustme.CA(), folder, "stranger"),
    }
    assert grpc_connects(guarded, folder, caller)
    assert rest_connects(guarded, folder, caller)
    for what, own in strangers.items():
        assert not grpc_connects(guarded, folder, own), what
        assert not rest_connects(guarded, folder, own), what


def test_tls_port_does_not_answer_plain_text(guarded: Service) -> None:
    with Client(guarded.grpc, retries=False) as client, pytest.raises(Unavailable):
        client.tokenizers()
    with pytest.raises(httpx.TransportError):
        httpx.get(guarded.rest.replace("https", "http") + "/livez")


@pytest.mark.parametrize("port", ["rest", "grpc"])
def test_mutual_tls_takes_version_1_3_only(guarded: Service, caller: Files, port: str) -> None:
    target = getattr(guarded, port)
    assert TlsClient(ssl.TLSVersion.TLSv1_3, caller).handshake(target)
    assert not TlsClient(ssl.TLSVersion.TLSv1_2, caller).handshake(target)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("port", ["rest", "grpc"])
def test_mutual_tls_resumes_no_session(
    guarded: Service, folder: Path, caller: Files, port: str, version: ssl.TLSVersion
) -> None:
    """A resumed session shows no certificate: it would outlive the certificate and its CA."""
    target, client = getattr(guarded, port), TlsClient(version, caller)
    first = client.handshake(target)
    if first is None:
        return  # this version has no sessions at all
    again = client.handshake(target, first.session)
    assert again
    assert not again.resumed
    kept = (folder / "ca.pem").read_bytes()
    write_ca(trustme.CA(), folder, "ca")
    try:
        assert not client.handshake(target, first.session)
    finally:
        (folder / "ca.pem").write_bytes(kept)
    assert client.handshake(target)


def test_renewed_certificates_need_no_restart(
    guarded: Service, folder: Path, ca: trustme.CA, caller: Files
) -> None:
    new_ca = trustme.CA()
    write_ca(new_ca, folder, "new-ca")
    new_caller = issue(new_ca, folder, "new-caller")
    assert not grpc_connects(guarded, folder, new_caller)
    old_ca = (folder / "ca.pem").read_bytes()
    issue(new_ca, folder, "server")  # over the old one
    os.replace(write_ca(new_ca, folder, "client-ca"), folder / "ca.pem")
    try:
        for connects in (grpc_connects, rest_connects):
            assert connects(guarded, folder, new_caller, "new-ca")
            assert not connects(guarded, folder, caller, "new-ca")
    finally:
        (folder / "ca.pem").write_bytes(old_ca)
        issue(ca, folder, "server")
    assert grpc_connects(guarded, folder, caller)
    assert rest_connects(guarded, folder, caller)


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer wrong", f"Bearer {OTHER_TOKEN}", f"Basic {TOKEN}"]
)
def test_without_a_valid_bearer_token_only_health_answers(
    guarded: Service, folder: Path, caller: Files, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    with httpx.Client(
        base_url=guarded.rest, verify=context(folder, caller), headers=headers
    ) as rest:
        documents = ("/docs", "/redoc", "/openapi.json")
        for path in ("/livez", "/readyz", *documents, "/", "/playground/main.js"):
            assert rest.get(path).status_code == 200, path
        closed = [
            "/metrics",
            "/docs/nothing",
            "/v1/tokenizers",
            "/nothing",
            f"{guarded.rest}//livez",  # without the host, httpx takes //livez for one
            "/livez/",
            "/LIVEZ",
            "/livez/../metrics",
            "/playground/",
            "/playground/../metrics",
        ]
        replies = [rest.get(path) for path in closed] + [
            rest.post("/v1/encode", content=jpeg()),
            rest.post("/v1/decode", content=b""),
        ]
        for reply in replies:
            assert reply.status_code == 401, reply.url
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.json()["code"] == "UNAUTHENTICATED"
    metadata = () if authorization is None else (("authorization", authorization),)
    with grpc.secure_channel(guarded.grpc, credentials(folder, caller)) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), metadata=metadata, timeout=10
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        listing = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.RpcError) as caught:
            list(
                reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                    listing, metadata=metadata, timeout=10
                )
            )
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with Client(
        guarded.grpc,
        credentials=credentials(folder, caller),
        bearer_token=OTHER_TOKEN if authorization else None,
    ) as client:
        for call in (
            lambda: client.encode(jpeg()),
            lambda: list(client.encode_stream([jpeg()])),
            client.tokenizers,
        ):
            with pytest.raises(Unauthenticated):
                call()


def test_bearer_tokens_are_rotated_without_a_restart(
    guarded: Service, folder: Path, caller: Files
) -> None:
    def passing(token: str) -> bool:
        reply = httpx.get(
            f"{guarded.rest}/v1/tokenizers",
            verify=context(folder, caller),
            headers={"Authorization": f"Bearer {token}"},
        )
        try:
            with Client(
                guarded.grpc, credentials=credentials(folder, caller), bearer_token=token
            ) as client:
                client.tokenizers()
            assert reply.status_code == 200
        except Unauthenticated:
            assert reply.status_code == 401
        return reply.status_code == 200

    file = folder / "tokens"
    assert [passing(TOKEN), passing(OTHER_TOKEN)] == [True, False]
    file.write_text(f"# both, for a while\n{TOKEN}\n{OTHER_TOKEN}\n")
    assert [passing(TOKEN), passing(OTHER_TOKEN)] == [True, True]
    file.write_text(f"{OTHER_TOKEN}\n")
    assert [passing(TOKEN), passing(OTHER_TOKEN)] == [False, True]
    file.write_text("")
    assert [passing(TOKEN), passing(OTHER_TOKEN)] == [False, False]
    file.unlink()
    assert [passing(TOKEN), passing(OTHER_TOKEN)] == [False, False]
    file.write_text(f"{TOKEN}\n")
    assert [passing(TOKEN), passing(OTHER_TOKEN)] == [True, False]


def is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    # gRPC binds to ::ffff:127.0.0.1 where 127.0.0.1 is asked for.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_only_the_two_ports_are_reachable_from_another_address() -> None:
    with running(host="0.0.0.0") as service:
        own = {int(address.rsplit(":", 1)[1]) for address in (service.rest, service.grpc)}
        processes = [psutil.Process(service.process.pid), *service.children()]
        listening = [
            one.laddr
            for process in processes
            for one in process.net_connections("inet")
            if one.status == psutil.CONN_LISTEN
        ]
        open_to_all = {address.port for address in listening if not is_loopback(address.ip)}
        assert open_to_all == own
        assert {address.port for address in listening} == own, "Triton has no port, on loopback"
        udp = [
            one.laddr
            for process in processes
            for one in process.net_connections("udp")
            if one.laddr
        ]
        assert not [address for address in udp if not is_loopback(address.ip)]
        assert sample(service, "channeltok_engine_ready") > 0


def test_urls_are_not_fetched(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait, Client(service.grpc) as client:
        bait.settimeout(0.5)
        url = f"http://127.0.0.1:{bait.getsockname()[1]}/image.jpg"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'
        xml = f'<!DOCTYPE svg [<!ENTITY x SYSTEM "{url}">]><svg>&x;</svg>'
        for document in (url, svg, xml, f'{{"url": "{url}"}}'):
            assert httpx.post(f"{service.rest}/v1/encode", content=document).status_code in (
                415,
                422,
            )
            with pytest.raises(InvalidInput):
                client.encode(document.encode())
            httpx.post(
                f"{service.rest}/v1/encode", params={"url": url, "tokenizer": url}, content=jpeg()
            )
        with pytest.raises(TimeoutError):
            bait.accept()


def test_start_with_bad_security_files_says_why(tmp_path: Path) -> None:
    (empty := tmp_path / "empty").write_text("")
    for settings, sentence in (
        (
            {"TLS_CERTIFICATE": "/nowhere.pem", "TLS_KEY": "/nowhere.key"},
            "cannot read /nowhere.pem (No such file or directory)",
        ),
        ({"TLS_CERTIFICATE": "/nowhere.pem"}, "tls_certificate and tls_key need each other"),
        ({"BEARER_TOKEN_FILE": str(empty)}, "has no bearer token"),
    ):
        result = subprocess.run(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env={**os.environ, **{f"CHANNELTOK_{name}": value for name, value in settings.items()}},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 1
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
