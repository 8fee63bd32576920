"""Prometheus metrics of the gateway; docs/metrics.md lists them. Their names are final."""

import contextlib
import socket
import urllib.request
from contextlib import closing
from functools import cache
from http.client import HTTPConnection, HTTPException

from channeltok.loopback import url_reaches_loopback
from prometheus_client import (
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from service.observability import metrics_folder

disable_created_metrics()  # would add an unused series to each metric
metrics_folder.use()

# 1 ms to 10 s, four buckets per decade
DURATION_BUCKETS = tuple(round(10 ** (exponent / 4), 6) for exponent in range(-12, 5))

REQUEST_SECONDS = Histogram(
    "channeltok_request_seconds",
    "Time from a call's arrival to its reply, by rpc and code (OK or an error's)",
    ["rpc", "code"],
    buckets=DURATION_BUCKETS,
)
STAGE_SECONDS = Histogram(
    "channeltok_stage_seconds",
    "Time in one stage (admission, unpack, engine_queue, engine, render, ...), by rpc and budget"
    " (k rounded up to a power of two)",
    ["rpc", "stage", "budget"],
    buckets=DURATION_BUCKETS,
)
IMAGES_IN_FLIGHT = Gauge(
    "channeltok_images_in_flight",
    "Images admitted and not yet answered",
    ["rpc"],
    multiprocess_mode="livesum",
)
IMAGES_IN_FLIGHT_LIMIT = Gauge(
    "channeltok_images_in_flight_limit",
    "Limit of images in flight",
    multiprocess_mode="livesum",
)
IMAGES_WAITING = Gauge(
    "channeltok_images_waiting",
    "Images that wait for a permit, by priority (interactive or bulk)",
    ["priority"],
    multiprocess_mode="livesum",
)
for _priority in ("interactive", "bulk"):
    IMAGES_WAITING.labels(_priority)  # starts the series at 0
IMAGE_WORKERS = Gauge(
    "channeltok_image_workers",
    "Processes that decode images, by lane (light or heavy images)",
    ["lane"],
    multiprocess_mode="livesum",
)
IMAGE_DECODES = Gauge(
    "channeltok_image_decodes",
    "Images that a worker process is decoding, by lane",
    ["lane"],
    multiprocess_mode="livesum",
)
IMAGE_DECODES_WAITING = Gauge(
    "channeltok_image_decodes_waiting",
    "Images that wait for a worker process, by lane",
    ["lane"],
    multiprocess_mode="livesum",
)
IMAGE_DECODE_SECONDS = Histogram(
    "channeltok_image_decode_seconds",
    "Time that a worker process took for an image, by lane",
    ["lane"],
    buckets=DURATION_BUCKETS,
)
IMAGE_WORKER_RESTARTS = Counter(
    "channeltok_image_worker_restarts_total",
    "Worker processes that were replaced, by reason",
    ["reason"],
)
for _lane in ("light", "heavy"):
    IMAGE_DECODES.labels(_lane)
    IMAGE_DECODES_WAITING.labels(_lane)
    IMAGE_DECODE_SECONDS.labels(_lane)
for _reason in ("cancelled", "cpu", "memory", "crash", "killed", "bug"):
    IMAGE_WORKER_RESTARTS.labels(_reason)
MEMORY_LIMIT = Gauge(
    "channeltok_memory_limit_bytes",
    "Memory that messages and images may take",
    multiprocess_mode="livesum",
)
MEMORY_RESERVED = Gauge(
    "channeltok_memory_reserved_bytes",
    "Memory reserved for messages or images",
    ["use"],
    multiprocess_mode="livesum",
)
MEMORY_WAITING = Gauge(
    "channeltok_memory_waiting",
    "Messages or images that wait for memory",
    ["use"],
    multiprocess_mode="livesum",
)
for _use in ("messages", "images"):
    MEMORY_RESERVED.labels(_use)
    MEMORY_WAITING.labels(_use)
MEMORY_REFUSED = Counter(
    "channeltok_memory_refused_total",
    "Calls and stream items refused because memory was in use",
)
GENERATIONS_IN_FLIGHT = Gauge(
    "channeltok_generations_in_flight",
    "Images being generated",
    multiprocess_mode="livesum",
)
GENERATIONS_IN_FLIGHT_LIMIT = Gauge(
    "channeltok_generations_in_flight_limit",
    "Limit of generations in flight",
    multiprocess_mode="livesum",
)
TIME_TO_FIRST_TOKEN_SECONDS = Histogram(
    "channeltok_time_to_first_token_seconds",
    "Time from the arrival of a Generate call to its first new token, by generator",
    ["generator"],
    buckets=DURATION_BUCKETS,
)
INTER_TOKEN_LATENCY_SECONDS = Histogram(
    "channeltok_inter_token_latency_seconds",
    "Time between two tokens of one generation, by generator",
    ["generator"],
    buckets=DURATION_BUCKETS,
)
ERRORS = Counter(
    "channeltok_errors_total",
    "Calls and stream items that ended in an error, by rpc and error code",
    ["rpc", "code"],
)
BATCH_SIZE = Histogram(
    "channeltok_batch_size",
    "Size of the batch in which an image was computed, by Triton model; one observation per image",
    ["model"],
    buckets=[2**exponent for exponent in range(8)],
)
IMAGES = Counter("channeltok_images_total", "Images encoded, decoded or generated", ["rpc"])
TOKENS = Counter(
    "channeltok_tokens_total",
    "Tokens returned by encode, taken by decode or generated",
    ["rpc"],
)
IMAGE_BYTES = Counter(
    "channeltok_image_bytes_total",
    "Bytes of images taken by encode, returned by decode or as previews",
    ["rpc"],
)
READY = Gauge("channeltok_ready", "1 while the service is ready", multiprocess_mode="livemin")
ENGINE_READY = Gauge(
    "channeltok_engine_ready",
    "1 when the last real inference through the model succeeded",
    ["model"],
    multiprocess_mode="livemin",
)
ENGINE_INFO = Gauge(
    "channeltok_engine_info",
    "1 for the engine that runs this model, 0 for previous ones",
    ["model", "engine"],
    multiprocess_mode="livemax",
)
TOKENIZER_INFO = Gauge(
    "channeltok_tokenizer_info",
    "1 for the current version of this tokenizer, 0 for previous ones",
    ["tokenizer", "fingerprint"],
    multiprocess_mode="livemax",
)
ENGINE_RESTARTS = Counter(
    "channeltok_engine_restarts_total",
    "Restarts of the embedded Triton, of one of its models or of a worker",
    ["component"],
)
for _component in ("triton", "worker"):
    # Starts the series at 0: Prometheus sees no increase in a counter that appears at 1.
    ENGINE_RESTARTS.labels(_component)
LOG_LINES_LOST = Counter(
    "channeltok_log_lines_lost_total",
    "Lines of the log, and of what is printed, that nobody took",
)


# `labels` checks, converts and locks in each call, and an image needs a dozen of them.
for _metric in (
    BATCH_SIZE,
    ERRORS,
    IMAGES,
    IMAGES_IN_FLIGHT,
    IMAGE_BYTES,
    REQUEST_SECONDS,
    STAGE_SECONDS,
    TOKENS,
):
    _metric.labels = cache(_metric.labels)  # type: ignore[assignment]


def exposition(triton_url: str | None = None) -> bytes:
    """The text of /metrics: for this process, or for all workers if they share a folder.

    triton_url: http:// address or unix:PATH of Triton's own metrics, appended to ours when they can
    be had within two seconds; nobody else reaches the embedded Triton's. Blocks: call it in a
    thread.
    """
    text = metrics_folder.exposition() or generate_latest()
    if triton_url is not None:
        with contextlib.suppress(OSError, HTTPException):
            text += _get(triton_url, timeout=2)
    return text


def _get(url: str, timeout: float) -> bytes:
    """Raises OSError, HTTPException."""
    if not url.startswith("unix:"):
        with _opener(url).open(url, timeout=timeout) as reply:
            return bytes(reply.read())
    with closing(HTTPConnection("localhost")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        connection.sock.connect(url.removeprefix("unix:"))
        connection.request("GET", "/metrics")
        return connection.getresponse().read()


def _opener(url: str) -> urllib.request.OpenerDirector:
    if url_reaches_loopback(url):
        return urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener()


@cache
def budget_label(k: int) -> str:
    """k rounded up to a power of two, so that the label has ten values instead of 500."""
    return str(1 << (k - 1).bit_length())
