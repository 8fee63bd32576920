"""Callers who must not get in: to a service with mutual TLS and bearer tokens that listens on every address of the machine."""

import datetime
import socket
import ssl
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil
import trustme
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1.tokenizer_pb2_grpc import TokenizerStub

from loadtest.chaos.attack import Row, Rows, counted
from loadtest.chaos.callers import PHOTOS
from loadtest.harness.service_process import Service, running

TOKEN, WRONG_TOKEN = (
    "a-token-of-those-who-may-0123456789",
    "a-token-that-somebody-guessed-0123456789",
)
LET_IN = "LET IN"
# Each is refused for its own reason: a service that let nobody in would be no proof.
NO_TOKEN = ("UNAUTHENTICATED", "401")
NO_CONNECTION = ("UNAVAILABLE", "ConnectError", "ReadError", "RemoteProtocolError")
NO_SUCH_THING = ("UNIMPLEMENTED", "404", "405")
REST_PATHS = (
    ("POST", "/v1/encode"),
    ("POST", "/v1/decode"),
    ("GET", "/v1/tokenizers"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
)
# What would move the engine, were it passed on.
TRITON_METHODS = (
    "RepositoryModelUnload",
    "RepositoryModelLoad",
    "RepositoryIndex",
    "ModelInfer",
    "SystemSharedMemoryRegister",
)
TRITON_PATHS = (
    "/v2",
    "/v2/repository/index",
    "/v2/repository/models/demo_encode/unload",
    "/v2/models/demo_encode/infer",
)


@dataclass(frozen=True)
class Files:
    """A certificate and its key, PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Papers:
    """What a caller shows."""

    files: Files | None
    token: str | None = TOKEN

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """The token as a header."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []


class Port:
    """Both ports of a service, as seen by a caller with papers."""

    def __init__(self, service: Service, ca: Path) -> None:
        self._ca = ca
        self._grpc, self._rest = (
            f"127.0.0.1:{url.rsplit(':', 1)[1]}" for url in (service.grpc, service.rest)
        )  # it listens on 0.0.0.0

    def _channel(self, papers: Papers) -> grpc.Channel:
        own = (
            (None, None)
            if papers.files is None
            else (papers.files.key.read_bytes(), papers.files.certificate.read_bytes())
        )
        options = [
            ("grpc.use_local_subchannel_pool", 1)
        ]  # a connection that was let in with other papers is not shared
        return grpc.secure_channel(
            self._grpc, grpc.ssl_channel_credentials(self._ca.read_bytes(), *own), options
        )

    def grpc(
        self,
        papers: Papers,
        method: str = "ListTokenizers",
        package: str = "channeltok.v1.Tokenizer",
        *,
        tls: bool = True,
    ) -> str:
        """LET_IN, or the status of the refusal."""
        with self._channel(papers) if tls else grpc.insecure_channel(self._grpc) as channel:
            try:
                channel.unary_unary(f"/{package}/{method}")(
                    b"", timeout=5, metadata=papers.metadata
                )
            except grpc.RpcError as error:
                # A method that was run and did not like its empty message let the caller in.
                return (
                    LET_IN
                    if error.code() is grpc.StatusCode.INVALID_ARGUMENT
                    else str(error.code().name)
                )
            return LET_IN

    def stream(self, papers: Papers) -> str:
        """The same for EncodeStream."""
        with self._channel(papers) as channel:
            item = pb.EncodeStreamRequest(request=pb.EncodeRequest(image=PHOTOS[0]))
            try:
                stub = TokenizerStub(channel)  # type: ignore[no-untyped-call]
                next(stub.EncodeStream(iter([item]), timeout=5, metadata=papers.metadata))
            except grpc.RpcError as error:
                return str(error.code().name)
            return LET_IN

    def rest(
        self, papers: Papers, verb: str = "GET", path: str = "/v1/tokenizers", *, tls: bool = True
    ) -> str:
        """LET_IN, the status of the refusal, or the name of what broke the connection."""
        context = ssl.create_default_context(cafile=self._ca)
        if papers.files is not None:
            context.load_cert_chain(papers.files.certificate, papers.files.key)
        url = f"{'https' if tls else 'http'}://{self._rest}{path}"
        try:
            status = httpx.request(
                verb, url, headers=papers.metadata, verify=context, timeout=5
            ).status_code
        except httpx.TransportError as error:
            return type(error).__name__
        return str(status) if status in (401, 404, 405) else LET_IN


def intruders(short: bool) -> Rows:
    """The same in both forms: it takes seconds."""
    with tempfile.TemporaryDirectory(prefix="channeltok-chaos-") as name:
        folder = Path(name)
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        server, welcome = _issue(ca, folder, "server"), Papers(_issue(ca, folder, "caller"))
        expired, stranger = (
            Papers(_issue(*of))
            for of in ((ca, folder, "expired", -1), (trustme.CA(), folder, "stranger"))
        )
        (folder / "tokens").write_text(f"{TOKEN}\n")
        settings = {
            "tls_certificate": server.certificate,
            "tls_key": server.key,
            "tls_client_ca": folder / "ca.pem",
            "bearer_token_file": folder / "tokens",
            "host": "0.0.0.0",
        }
        with running(**{key: str(value) for key, value in settings.items()}) as service:
            port = Port(service, folder / "ca.pem")
            shut_out = [
                f"{how}: {code}"
                for how, code in (("grpc", port.grpc(welcome)), ("rest", port.rest(welcome)))
                if code != LET_IN
            ]
            yield Row(
                "intruders_welcome_refused",
                "callers with all papers who were refused",
                len(shut_out),
                0,
                note=counted(shut_out),
            )
            for what, refusals, outcomes in (
                ("no_token", NO_TOKEN, _without_token(port, welcome, None)),
                ("wrong_token", NO_TOKEN, _without_token(port, welcome, WRONG_TOKEN)),
                ("expired_certificate", NO_CONNECTION, _both(port, expired)),
                ("strange_certificate", NO_CONNECTION, _both(port, stranger)),
                ("no_certificate", NO_CONNECTION, _both(port, Papers(None))),
                (
                    "plain_text",
                    NO_CONNECTION,
                    [port.grpc(welcome, tls=False), port.rest(welcome, tls=False)],
                ),
                ("triton_through_the_ports", NO_SUCH_THING, _triton_methods(port, welcome)),
                ("other_ports_from_outside", ("refused",), list(_reachable(service))),
            ):
                not_refused = [code for code in outcomes if code not in refusals]
                title = f"{what.replace('_', ' ')}: not refused"
                yield Row(
                    f"intruders_{what}",
                    title,
                    len(not_refused),
                    0,
                    note=counted(not_refused) or f"of {len(outcomes)}",
                )


def _issue(ca: trustme.CA, folder: Path, name: str, days: int = 365) -> Files:
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    issued = ca.issue_cert("127.0.0.1", not_after=until)
    files = Files(folder / f"{name}.pem", folder / f"{name}.key")
    files.certificate.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
    files.key.write_bytes(issued.private_key_pem.bytes())
    return files


def _without_token(port: Port, welcome: Papers, token: str | None) -> list[str]:
    papers = Papers(welcome.files, token)
    grpc_methods = ("Encode", "Decode", "ListTokenizers")
    return [
        port.stream(papers),
        *(port.grpc(papers, method) for method in grpc_methods),
        *(port.rest(papers, verb, path) for verb, path in REST_PATHS),
    ]


def _both(port: Port, papers: Papers) -> list[str]:
    return [port.grpc(papers), port.rest(papers)]


def _triton_methods(port: Port, welcome: Papers) -> list[str]:
    over_grpc = [
        port.grpc(welcome, method, "inference.GRPCInferenceService") for method in TRITON_METHODS
    ]
    return over_grpc + [
        port.rest(welcome, verb, path) for verb in ("GET", "POST") for path in TRITON_PATHS
    ]


def _reachable(service: Service) -> Iterator[str]:
    """Ports of the service's processes, but its own two, that an address other than loopback reaches."""
    own = {
        urllib.parse.urlsplit(url if "//" in url else f"//{url}").port
        for url in (service.rest, service.grpc)
    }
    addresses = [
        one.address
        for ones in psutil.net_if_addrs().values()
        for one in ones
        if one.family == socket.AF_INET and one.address[:4] != "127."
    ]
    for process in (psutil.Process(service.process.pid), *service.children()):
        for connection in process.net_connections(kind="tcp"):
            port = connection.laddr.port
            if connection.status != psutil.CONN_LISTEN or port in own:
                continue
            for address in addresses:
                with socket.socket() as caller:
                    caller.settimeout(2)
                    yield (
                        f"{LET_IN} to port {port}"
                        if caller.connect_ex((address, port)) == 0
                        else "refused"
                    )
