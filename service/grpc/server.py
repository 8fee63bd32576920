"""The gRPC server: limits of connections and messages, health, reflection, start and stop."""

import grpc
from channeltok.v1 import tokenizer_pb2 as pb
from channeltok.v1 import tokenizer_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service.core.generation import Generation
from service.core.memory import MemoryBudget
from service.core.refusals import Refusals
from service.core.tokenization import Tokenization
from service.errors import CannotStart
from service.grpc import reflection
from service.grpc.aio_server import make_server
from service.grpc.connections import Connections
from service.grpc.entrance import GuardedServer
from service.grpc.health import HealthServicer
from service.grpc.requests import MessageLimits
from service.grpc.servicer import TokenizerServicer
from service.security.auth import Authenticator
from service.settings import Settings, host_and_port

SERVICE = pb.DESCRIPTOR.services_by_name["Tokenizer"].full_name
_ITEM = pb.EncodeStreamRequest.REQUEST_FIELD_NUMBER
_FILE = (pb.EncodeRequest.IMAGE_FIELD_NUMBER,)
_PIXELS = (pb.EncodeRequest.PIXELS_FIELD_NUMBER, pb.Pixels.RGB_FIELD_NUMBER)
# The RPCs that take images, and in which fields of their messages these may be.
IMAGES: dict[str, tuple[tuple[int, ...], ...]] = {
    f"/{SERVICE}/Encode": (_FILE, _PIXELS),
    f"/{SERVICE}/EncodeStream": ((_ITEM, *_FILE), (_ITEM, *_PIXELS)),
}
MESSAGE_OVERHEAD = 4096  # so that an image of exactly the allowed size fits into its message


class GrpcServer:
    """grpc.aio's server with our services. Health is answered on the event loop, at once."""

    def __init__(
        self,
        tokenization: Tokenization,
        generation: Generation,
        memory: MemoryBudget,
        refusals: Refusals,
        settings: Settings,
        authenticator: Authenticator,
        credentials: grpc.ServerCredentials | None = None,
        *,
        reuse_port: bool = False,
    ) -> None:
        """Raises CannotStart when the port is taken.

        credentials: for TLS; None: plain text. reuse_port: workers share the port.
        """
        self._server = make_server(_options(settings, reuse_port))
        self._health = HealthServicer(
            settings.max_watches, settings.watch_seconds, settings.send_seconds
        )
        connections = Connections()
        guarded = GuardedServer(
            self._server,
            authenticator,
            memory,
            refusals,
            MessageLimits(
                settings.receive_seconds, settings.send_seconds, _max_bytes(settings), IMAGES
            ),
            connections=connections,
        )
        tokenizer_pb2_grpc.add_TokenizerServicer_to_server(
            TokenizerServicer(tokenization, generation, settings), guarded
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, guarded)
        reflection.add_to(guarded, (SERVICE, health.SERVICE_NAME))
        guarded.refuse_other_methods()
        address = host_and_port(settings.host, settings.grpc_port)
        try:
            self.port = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError as error:
            raise CannotStart(
                f"gRPC cannot bind to {address}; is the port taken? Set CHANNELTOK_GRPC_PORT"
            ) from error
        connections.port = self.port

    async def start(self) -> None:
        await self.set_ready(False)
        await self._server.start()

    async def set_ready(self, ready: bool) -> None:
        """Set the status of grpc.health.v1, for the server as a whole and for our service."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            self._health.set(name, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Accept no new calls; those in progress get `grace` seconds."""
        await self._server.stop(grace)


def _max_bytes(settings: Settings) -> int:
    return settings.max_message_bytes + MESSAGE_OVERHEAD


def _options(settings: Settings, reuse_port: bool) -> list[tuple[str, int]]:
    """Channel arguments of gRPC, as its core library documents them."""
    limit = _max_bytes(settings)  # after decompression
    options = {
        "max_receive_message_length": limit,
        "max_send_message_length": limit,
        "max_metadata_size": settings.max_header_bytes,
        "absolute_max_metadata_size": settings.max_header_bytes,
        "max_concurrent_streams": settings.max_streams,
        "max_allowed_incoming_connections": settings.max_connections,
        "server_handshake_timeout_ms": int(settings.receive_seconds * 1000),
        "max_connection_idle_ms": int(settings.idle_seconds * 1000),
        # It would let a fast client send up to 8 MiB that nobody has asked for, in each call.
        "http2.bdp_probe": 0,
        # Our own ping finds connections whose host has gone.
        "keepalive_time_ms": 60_000,
        # A client that pings more often is disconnected after two warnings.
        "http2.min_ping_interval_without_data_ms": 30_000,
        # Off unless workers share the port: a second service on it must fail.
        "so_reuseport": int(reuse_port),
    }
    if settings.grpc_connection_seconds:
        options["max_connection_age_ms"] = int(settings.grpc_connection_seconds * 1000)
    return [(f"grpc.{name}", value) for name, value in options.items()]
