"""One gateway process: start everything, say when it is ready, drain on SIGTERM."""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Coroutine

import structlog

from service.core.generation import Generation
from service.core.image_codec import ImageCodec
from service.core.rate_limit import RateLimit
from service.core.tokenization import Tokenization
from service.engine.embedded_triton import EmbeddedTriton
from service.engine.supervisor import Supervisor
from service.errors import CannotStart
from service.grpc.server import GrpcServer
from service.observability import metrics, tracing
from service.rest import generate
from service.rest.app import create_app
from service.rest.middleware import AuthMiddleware, RequestMiddleware
from service.rest.server import HttpServer
from service.security.auth import Authenticator
from service.security.tls import Tls
from service.settings import Settings
from service.triton.client import Triton
from service.triton.health import EngineHealth

log = structlog.get_logger()
# gRPC answers a call that meets a closing port with a bare CANCELLED, which no client repeats: calls on their way get a STOPPING first.
REFUSAL_SECONDS = 0.3
REPORT_SECONDS = 0.5  # between a worker's signs of life
LAST_REPLIES_SECONDS = (
    2  # for what is on its way to callers when the work is done and the ports close
)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises CannotStart."""
    started = time.monotonic()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    tls, authenticator = Tls.of(settings), Authenticator.of(settings)
    _allow_open_files(2 * settings.max_connections)
    _warn_of_plain_text(settings)
    rest_socket = bind(settings.host, settings.rest_port, "REST", reuse=settings.reuse_port)
    embedded = EmbeddedTriton(settings) if settings.triton_url is None else None
    triton = Triton(embedded.url if embedded is not None else str(settings.triton_url))
    supervisor = Supervisor(triton, embedded, settings)
    images = ImageCodec(settings.image_threads, settings.max_pixels)
    rate_limit = RateLimit(settings.rate_limit, settings.rate_burst)
    tokenization = Tokenization(triton, supervisor.registry, images, rate_limit, settings)
    generation = Generation(triton, supervisor.registry, images, rate_limit, settings)
    grpc_server = _grpc_server(tokenization, generation, settings, tls, authenticator)
    supervisor.readiness.subscribe(grpc_server.set_ready)

    async def exposition() -> bytes:
        url = settings.triton_metrics_url if embedded is None else embedded.metrics_url
        return metrics.exposition() + (
            b"" if url is None else await asyncio.to_thread(_triton_metrics, url)
        )

    app = create_app(
        tokenization, settings, lambda: supervisor.readiness.ready and not stop.is_set(), exposition
    )
    generate.add_routes(app, generation, settings)
    rest_server = HttpServer(
        RequestMiddleware(AuthMiddleware(app, authenticator)),
        settings,
        None if tls is None else tls.rest_context(),
        LAST_REPLIES_SECONDS,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(tracing.stop)
        stack.push_async_callback(triton.close)
        if embedded is not None:
            stack.push_async_callback(embedded.stop)
            await _unless(stop, embedded.start(triton))
        watch = asyncio.create_task(supervisor.watch())
        stack.callback(watch.cancel)
        if settings.report:
            stack.callback(asyncio.create_task(_report(triton.health)).cancel)
        await grpc_server.start()
        rest = asyncio.create_task(rest_server.serve([rest_socket]))
        await _unless(stop, supervisor.readiness.wait())
        if not stop.is_set():
            # What lives now lives for ever: keep the collector from walking it again and again.
            gc.collect()
            gc.freeze()
            say_ready(
                settings, rest_socket.getsockname()[1], grpc_server.port, time.monotonic() - started
            )
        await stop.wait()
        # The order matters: fail readiness, refuse new work, finish what was accepted, close the ports, and only then take the engine away.
        log.info("draining", delay=settings.drain_delay_seconds, seconds=settings.drain_seconds)
        watch.cancel()
        await grpc_server.set_ready(False)
        await asyncio.sleep(settings.drain_delay_seconds)
        admissions = (tokenization.admission, generation.admission)
        for admission in admissions:
            admission.close()
        unfinished = sum(
            await asyncio.gather(
                *(admission.idle(settings.drain_seconds) for admission in admissions)
            )
        )
        await asyncio.sleep(REFUSAL_SECONDS)
        rest_server.should_exit = True
        await asyncio.gather(grpc_server.stop(LAST_REPLIES_SECONDS), rest)
    log.info("stopped", unfinished=unfinished)


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Await `work`, or drop it when `stop` is set first."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    done, pending = await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for other in pending:
        other.cancel()
    if task in done:
        task.result()


def _grpc_server(
    tokenization: Tokenization,
    generation: Generation,
    settings: Settings,
    tls: Tls | None,
    authenticator: Authenticator,
) -> GrpcServer:
    try:
        return GrpcServer(
            tokenization,
            generation,
            settings,
            authenticator,
            None if tls is None else tls.grpc_credentials(),
        )
    except RuntimeError as error:
        raise CannotStart(
            f"gRPC port {settings.grpc_port} on {settings.host} is taken: set CHANNELTOK_GRPC_PORT"
        ) from error


def bind(host: str, port: int, face: str, *, reuse: bool) -> socket.socket:
    """A TCP socket that does not listen yet. face: REST or gRPC. reuse: other sockets may have the same port. Raises CannotStart."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if reuse else socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        raise CannotStart(
            f"cannot bind {face} to {host}:{port} ({error.strerror}): set CHANNELTOK_{face.upper()}_PORT"
        ) from error
    return bound


def _allow_open_files(connections: int) -> None:
    """Room for so many, where the system allows it: the usual soft limit of 1,024 would run out before our own limits speak."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 1024
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _warn_of_plain_text(settings: Settings) -> None:
    if (
        settings.bearer_token_file is not None
        and settings.tls_certificate is None
        and settings.host not in ("127.0.0.1", "::1", "localhost")
    ):
        log.warning(
            "bearer_tokens_in_plain_text",
            why="no CHANNELTOK_TLS_CERTIFICATE: whoever listens on the network can read them",
        )


def _triton_metrics(url: str) -> bytes:
    """Triton's own metrics: the embedded one listens on a port nobody knows, so they are passed on beside ours."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bytes(reply.read())
    except OSError:
        return b""


def say_ready(settings: Settings, rest_port: int, grpc_port: int, seconds: float) -> None:
    """The line that people and scripts wait for."""
    rest = f"{'https' if settings.tls_certificate else 'http'}://{settings.host}:{rest_port}"
    print(
        f"\nready in {seconds:.1f} s   REST {rest}  ({rest}/docs)   gRPC {settings.host}:{grpc_port}\n\n"
        f"    curl --data-binary @docs/images/cat.jpg '{rest}/v1/encode?k=64'\n",
        flush=True,
    )


async def _report(health: EngineHealth) -> None:
    """To whoever started this worker, in lines: that its event loop turns; and which engines failed its callers, and when, for that is
    where they are healed."""
    said: dict[str, float] = {}
    while True:
        print("alive")
        for model, sent in health.suspected_at.items() - said.items():
            print("suspect", model, sent)
        sys.stdout.flush()
        said = dict(health.suspected_at)
        await asyncio.sleep(REPORT_SECONDS)
