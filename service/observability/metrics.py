"""What Prometheus sees. Names are final; docs/metrics.md lists them."""

import os
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

disable_created_metrics()  # a second series for each, of no use here

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own environment variable: several processes count into files there

# 1 ms ~ 10 s, four to a decade
SECONDS = tuple(round(10 ** (exponent / 4), 6) for exponent in range(-12, 5))

REQUEST_SECONDS = Histogram(
    "channeltok_request_seconds",
    "Time from a call's arrival to its reply, by rpc and code (OK or an error's)",
    ["rpc", "code"],
    buckets=SECONDS,
)
STAGE_SECONDS = Histogram(
    "channeltok_stage_seconds",
    "Time in one stage (admission, unpack, engine_queue, engine, render, ...), by rpc and budget (k rounded up to a power of two)",
    ["rpc", "stage", "budget"],
    buckets=SECONDS,
)
IN_FLIGHT = Gauge(
    "channeltok_images_in_flight",
    "Images admitted and not yet answered",
    ["rpc"],
    multiprocess_mode="livesum",
)
MAX_IN_FLIGHT = Gauge(
    "channeltok_images_in_flight_limit",
    "The limit that images in flight run against",
    multiprocess_mode="livesum",
)
WAITING = Gauge(
    "channeltok_images_waiting",
    "Images that wait for a place, by priority (interactive or bulk)",
    ["priority"],
    multiprocess_mode="livesum",
)
for _priority in ("interactive", "bulk"):
    WAITING.labels(_priority)  # from 0 on
GENERATIONS = Gauge(
    "channeltok_generations_in_flight",
    "Images that are being generated",
    multiprocess_mode="livesum",
)
MAX_GENERATIONS = Gauge(
    "channeltok_generations_in_flight_limit",
    "The limit that generations in flight run against",
    multiprocess_mode="livesum",
)
TIME_TO_FIRST_TOKEN = Histogram(
    "channeltok_time_to_first_token_seconds",
    "Time from the arrival of a call of Generate to its first new token, by generator",
    ["generator"],
    buckets=SECONDS,
)
INTER_TOKEN_LATENCY = Histogram(
    "channeltok_inter_token_latency_seconds",
    "Time between two tokens of one generation, by generator",
    ["generator"],
    buckets=SECONDS,
)
ERRORS = Counter(
    "channeltok_errors_total",
    "Calls and stream items that ended in an error, by rpc and error code",
    ["rpc", "code"],
)
BATCH_SIZE = Histogram(
    "channeltok_batch_size",
    "Images in the batch that an image was computed in, by Triton model; one observation per image",
    ["model"],
    buckets=[2**exponent for exponent in range(8)],
)
IMAGES = Counter("channeltok_images_total", "Images encoded, decoded or generated", ["rpc"])
TOKENS = Counter(
    "channeltok_tokens_total",
    "Tokens returned by encode, taken by decode or made by generate",
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
TOKENIZER_INFO = Gauge(
    "channeltok_tokenizer_info",
    "1 for the fingerprint that calls by this tokenizer's name are answered with now, 0 for those before it",
    ["tokenizer", "fingerprint"],
    multiprocess_mode="livemax",
)
ENGINE_RESTARTS = Counter(
    "channeltok_engine_restarts_total",
    "Restarts of the embedded Triton, of a model in it or of a worker",
    ["component"],
)
for _component in ("triton", "worker"):
    ENGINE_RESTARTS.labels(
        _component
    )  # from 0 on: Prometheus sees no increase in a counter that appears at 1


def exposition() -> bytes:
    """The text of /metrics: of this process, or of all workers together where they share their counts."""
    if SHARED_FOLDER not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


@cache
def budget_label(k: int) -> str:
    """k rounded up to a power of two, so that the label has ten values and not five hundred."""
    return str(1 << (k - 1).bit_length())
