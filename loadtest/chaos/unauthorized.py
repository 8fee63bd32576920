"""Unauthorized clients against a service with mutual TLS and bearer tokens on all interfaces."""

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

from loadtest.chaos.attack import Row, Rows, tally
from loadtest.chaos.clients import IMAGES
from loadtest.harness.service_process import Service, running

TOKEN = "valid-bearer-token-0123456789abcdef"
WRONG_TOKEN = "guessed-bearer-token-0123456789abcdef"
ADMITTED = "ADMITTED"
# The expected refusals of each case: a service that refused everything for another reason would
# prove nothing.
NO_TOKEN = ("UNAUTHENTICATED", "401")
NO_CONNECTION = ("UNAVAILABLE", "ConnectError", "ReadError", "RemoteProtocolError")
NOT_FOUND = ("UNIMPLEMENTED", "404", "405")
REST_PATHS = (
    ("POST", "/v1/encode"),
    ("POST", "/v1/decode"),
    ("GET", "/v1/tokenizers"),
    ("POST", "/v1/generate"),
    ("GET", "/metrics"),
)
# Calls that would act on the engine if the gateway passed them on.
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
class Certificate:
    """Paths of a certificate and its key, PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Credentials:
    """The client certificate and bearer token of a client."""

    certificate: Certificate | None
    token: str | None = TOKEN

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """The token as a header."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []


class Ports:
    """Calls to both ports of a service with given credentials."""

    def __init__(self, service: Service, ca: Path) -> None:
        self._ca = ca
        self._grpc, self._rest = (  # it listens on 0.0.0.0
            f"127.0.0.1:{url.rsplit(':', 1)[1]}" for url in (service.grpc, service.rest)
        )

    def _channel(self, credentials: Credentials) -> grpc.Channel:
        pair = credentials.certificate
        own = (pair.key.read_bytes(), pair.certificate.read_bytes()) if pair else (None, None)
        # Do not share a connection that was admitted with other credentials.
        options = [("grpc.use_local_subchannel_pool", 1)]
        tls = grpc.ssl_channel_credentials(self._ca.read_bytes(), *own)
        return grpc.secure_channel(self._grpc, tls, options)

    def grpc(
        self,
        credentials: Credentials,
        method: str = "channeltok.v1.Tokenizer/ListTokenizers",
        *,
        tls: bool = True,
    ) -> str:
        """ADMITTED, or the status of the refusal."""
        channel = self._channel(credentials) if tls else grpc.insecure_channel(self._grpc)
        with channel:
            try:
                call = channel.unary_unary(f"/{method}")
                call(b"", timeout=5, metadata=credentials.metadata)
            except grpc.RpcError as error:
                # A method that ran and rejected its empty message has admitted the client.
                admitted = error.code() is grpc.StatusCode.INVALID_ARGUMENT
                return ADMITTED if admitted else str(error.code().name)
            return ADMITTED

    def stream(self, credentials: Credentials) -> str:
        """The same for EncodeStream."""
        with self._channel(credentials) as channel:
            item = pb.EncodeStreamRequest(request=pb.EncodeRequest(image=IMAGES[0]))
            try:
                stub = TokenizerStub(channel)  # type: ignore[no-untyped-call]
                next(stub.EncodeStream(iter([item]), timeout=5, metadata=credentials.metadata))
            except grpc.RpcError as error:
                return str(error.code().name)
            return ADMITTED

    def rest(
        self,
        credentials: Credentials,
        method: str = "GET",
        path: str = "/v1/tokenizers",
        *,
        tls: bool = True,
    ) -> str:
        """ADMITTED, the status of the refusal, or the name of the connection error."""
        context = ssl.create_default_context(cafile=self._ca)
        if credentials.certificate is not None:
            pair = credentials.certificate
            context.load_cert_chain(pair.certificate, pair.key)
        url = f"{'https' if tls else 'http'}://{self._rest}{path}"
        try:
            reply = httpx.request(
                method, url, headers=credentials.metadata, verify=context, timeout=5
            )
        except httpx.TransportError as error:
            return type(error).__name__
        return str(reply.status_code) if reply.status_code in (401, 404, 405) else ADMITTED

    def both(self, credentials: Credentials, *, tls: bool = True) -> list[str]:
        """One call on each protocol."""
        return [self.grpc(credentials, tls=tls), self.rest(credentials, tls=tls)]


def unauthorized(short: bool) -> Rows:
    """The same in both forms: it takes seconds."""
    with tempfile.TemporaryDirectory(prefix="channeltok-chaos-") as name:
        folder = Path(name)
        ca, other_ca = trustme.CA(), trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        server = _issue(ca, folder, "server")
        valid = Credentials(_issue(ca, folder, "client"))
        expired = Credentials(_issue(ca, folder, "expired", days=-1))
        foreign = Credentials(_issue(other_ca, folder, "foreign"))
        (folder / "tokens").write_text(f"{TOKEN}\n")
        settings = {
            "tls_certificate": server.certificate,
            "tls_key": server.key,
            "tls_client_ca": folder / "ca.pem",
            "bearer_token_file": folder / "tokens",
            "host": "0.0.0.0",
        }
        with running(**{key: str(value) for key, value in settings.items()}) as service:
            ports = Ports(service, folder / "ca.pem")
            refused = [code for code in ports.both(valid) if code != ADMITTED]
            label = "authorized clients that were refused"
            yield Row("unauthorized_valid_refused", label, len(refused), 0, note=tally(refused))
            for case, refusals, outcomes in (
                ("no_token", NO_TOKEN, _with_token(ports, valid, None)),
                ("wrong_token", NO_TOKEN, _with_token(ports, valid, WRONG_TOKEN)),
                ("expired_certificate", NO_CONNECTION, ports.both(expired)),
                ("foreign_certificate", NO_CONNECTION, ports.both(foreign)),
                ("no_certificate", NO_CONNECTION, ports.both(Credentials(None))),
                ("plain_text", NO_CONNECTION, ports.both(valid, tls=False)),
                ("triton_through_the_ports", NOT_FOUND, _triton_calls(ports, valid)),
                ("other_ports_from_outside", ("refused",), list(_other_ports(service))),
            ):
                admitted = [code for code in outcomes if code not in refusals]
                label = f"{case.replace('_', ' ')}: not refused"
                note = tally(admitted) or f"of {len(outcomes)}"
                yield Row(f"unauthorized_{case}", label, len(admitted), 0, note=note)


def _issue(ca: trustme.CA, folder: Path, name: str, days: int = 365) -> Certificate:
    """Issue a certificate that expires in `days`, and write it to `folder`."""
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    issued = ca.issue_cert("127.0.0.1", not_after=until)
    files = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    files.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    files.key.write_bytes(issued.private_key_pem.bytes())
    return files


def _with_token(ports: Ports, valid: Credentials, token: str | None) -> list[str]:
    credentials = Credentials(valid.certificate, token)
    methods = ("Encode", "Decode", "ListTokenizers")
    return [
        ports.stream(credentials),
        *(ports.grpc(credentials, f"channeltok.v1.Tokenizer/{method}") for method in methods),
        *(ports.rest(credentials, method, path) for method, path in REST_PATHS),
    ]


def _triton_calls(ports: Ports, valid: Credentials) -> list[str]:
    return [
        *(ports.grpc(valid, f"inference.GRPCInferenceService/{name}") for name in TRITON_METHODS),
        *(ports.rest(valid, method, path) for method in ("GET", "POST") for path in TRITON_PATHS),
    ]


def _other_ports(service: Service) -> Iterator[str]:
    """Connect to each port of the service's processes but its own two, from outside loopback."""
    own = {
        urllib.parse.urlsplit(url if "//" in url else f"//{url}").port
        for url in (service.rest, service.grpc)
    }
    addresses = [
        address.address
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family == socket.AF_INET and address.address[:4] != "127."
    ]
    for process in (psutil.Process(service.process.pid), *service.children()):
        for connection in process.net_connections(kind="tcp"):
            port = connection.laddr.port
            if connection.status != psutil.CONN_LISTEN or port in own:
                continue
            for address in addresses:
                with socket.socket() as client:
                    client.settimeout(2)
                    connected = client.connect_ex((address, port)) == 0
                    yield f"{ADMITTED} to port {port}" if connected else "refused"
