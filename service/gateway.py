"""One gateway process: builds and starts everything, serves until SIGTERM, then drains."""

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Coroutine

import structlog

from service import machine, systemd
from service.core.generation import Generation
from service.core.image_codec import ImageCodec
from service.core.memory import MemoryBudget, memory_for_requests
from service.core.rate_limit import RateLimit
from service.core.refusals import Refusals
from service.core.tokenization import Tokenization
from service.engine.embedded_triton import EmbeddedTriton
from service.engine.supervisor import Supervisor
from service.grpc.server import GrpcServer
from service.observability import metrics, metrics_folder, tracing
from service.ports import allow_open_files, bind_all, print_ready
from service.rest.app import create_app
from service.rest.middleware import guarded
from service.rest.pages import add_folder, add_playground
from service.rest.requests import Bodies
from service.rest.server import HttpServer
from service.security.auth import Authenticator
from service.security.browsers import BrowserPolicy
from service.security.tls import Tls
from service.settings import Settings
from service.triton.client import Triton
from service.worker_pipe import Event, ParentPipe

log = structlog.get_logger()
# gRPC answers a call that meets a closing port with a bare CANCELLED, which no client repeats: for
# this long, late calls get a STOPPING instead.
REFUSAL_SECONDS = 0.3
LAST_REPLIES_SECONDS = 2  # for replies still on their way when the ports close


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises CannotStart, CannotContinue."""
    started = time.monotonic()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    parent = ParentPipe.from_environment()  # None, except in a worker
    tls, authenticator = Tls.of(settings), Authenticator.of(settings)
    settings = _with_connections_that_fit(settings)
    _warn_of_plain_text(settings)
    rest_sockets = bind_all(settings.host, settings.rest_port, "REST", reuse=parent is not None)
    if parent is None:
        # gRPC itself would not wait for it, nor say what is wrong.
        for probe in bind_all(settings.host, settings.grpc_port, "gRPC"):
            probe.close()
    embedded = EmbeddedTriton(settings) if settings.triton_url is None else None
    metrics_url = settings.triton_metrics_url if embedded is None else embedded.metrics_url
    triton = Triton(embedded.url if embedded is not None else str(settings.triton_url))
    supervisor = Supervisor(triton, embedded, settings)
    # Measured again once all of the service has started.
    memory = MemoryBudget(memory_for_requests(settings, machine.memory_in_use()))
    images = ImageCodec(settings.image_workers, settings.max_pixels)
    refusals = Refusals()
    rate_limit = RateLimit(settings.rate_limit, settings.rate_burst)
    tokenization = Tokenization(triton, supervisor.registry, images, rate_limit, memory, settings)
    generation = Generation(triton, supervisor.registry, images, rate_limit, settings)
    grpc_server = GrpcServer(
        tokenization,
        generation,
        memory,
        refusals,
        settings,
        authenticator,
        None if tls is None else tls.grpc_credentials(),
        reuse_port=parent is not None,
    )
    supervisor.readiness.subscribe(grpc_server.set_ready)
    app = create_app(
        tokenization,
        generation,
        Bodies(settings, memory),
        refusals,
        settings,
        authenticator,
        lambda: supervisor.readiness.ready and not stop.is_set(),
        lambda: asyncio.to_thread(metrics.exposition, metrics_url),
    )
    page_paths: frozenset[str] = frozenset()
    if settings.page:
        page_paths = add_folder(app, "shared") | add_playground(app, lambda: grpc_server.port)
        page_paths |= add_folder(app, "live", "/live")
    rest_server = HttpServer(
        guarded(app, authenticator, BrowserPolicy.of(settings), page_paths),
        settings,
        None if tls is None else tls.rest_context(),
        LAST_REPLIES_SECONDS,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(tracing.stop)
        stack.push_async_callback(triton.close)
        stack.push_async_callback(images.stop)
        await images.start()
        if embedded is not None:
            stack.push_async_callback(embedded.stop)
            await _unless(stop, embedded.start(triton))
        watch = asyncio.create_task(supervisor.watch(stop))
        stack.callback(watch.cancel)
        if parent is not None:
            stack.callback(asyncio.create_task(parent.report(triton.health)).cancel)
            stack.callback(asyncio.create_task(metrics_folder.keep()).cancel)
        await grpc_server.start()
        rest = asyncio.create_task(rest_server.serve(rest_sockets))
        await _unless(stop, images.ready())
        await _unless(stop, supervisor.readiness.wait())
        if not stop.is_set():
            in_use = await asyncio.to_thread(machine.memory_in_use)
            memory.limit = memory_for_requests(settings, in_use)
            log.info("memory", max=settings.memory, at_rest=in_use, for_requests=memory.limit)
            # Objects that live now live as long as the process: keep the collector off them.
            gc.collect()
            gc.freeze()
            if parent is None:
                rest_port = rest_sockets[0].getsockname()[1]
                print_ready(settings, rest_port, grpc_server.port, time.monotonic() - started)
            else:
                parent.send(Event("ready"))
        await stop.wait()
        if parent is None:
            systemd.notify("STOPPING=1")
        # In this order: fail readiness, refuse new work, finish accepted work, close the ports,
        # and only then stop the engine.
        log.info("draining", delay=settings.drain_delay_seconds, seconds=settings.drain_seconds)
        watch.cancel()
        await grpc_server.set_ready(False)
        await asyncio.sleep(settings.drain_delay_seconds)
        tokenization.close()
        generation.admission.close()
        refusals.close()
        unfinished = sum(
            await asyncio.gather(
                tokenization.drain(settings.drain_seconds),
                generation.admission.drain(settings.drain_seconds),
            )
        )
        await images.stop()  # kills what is still being decoded
        await asyncio.sleep(REFUSAL_SECONDS)
        rest_server.should_exit = True
        await asyncio.gather(grpc_server.stop(LAST_REPLIES_SECONDS), rest)
    log.info("stopped", unfinished=unfinished)
    with contextlib.suppress(asyncio.CancelledError):
        await watch


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Await `work`, or cancel it when `stop` is set first.

    Its errors count only while `stop` is not set: the same signal may have ended a child process.
    """
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    done, pending = await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for other in pending:
        other.cancel()
    if task in done and not stop.is_set():
        task.result()


def _with_connections_that_fit(settings: Settings) -> Settings:
    """The settings, with fewer connections where the limit of open files is too low for all.

    So callers cannot take the descriptors that healing, logs and metrics need.
    """
    # On the REST port twice max_connections may be open for a moment.
    fit = allow_open_files(3 * settings.max_connections) // 3
    if fit >= settings.max_connections:
        return settings
    log.warning(
        "fewer_connections",
        wanted=settings.max_connections,
        possible=fit,
        why="the hard limit of open files is too low",
    )
    return settings.model_copy(update={"max_connections": max(1, fit)})


def _warn_of_plain_text(settings: Settings) -> None:
    if (
        settings.bearer_token_file is not None
        and settings.tls_certificate is None
        and not settings.is_loopback
    ):
        log.warning(
            "bearer_tokens_in_plain_text",
            why="CHANNELTOK_TLS_CERTIFICATE is not set: anyone on the network can read them",
        )
