"""What Prometheus sees. Names are final; docs/metrics.md lists them."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # a second series for each, of no use here

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
    "Time in one stage (admission, unpack, engine_queue, engine, render), by rpc and budget (k rounded up to a power of two)",
    ["rpc", "stage", "budget"],
    buckets=SECONDS,
)
IN_FLIGHT = Gauge("channeltok_in_flight_pictures", "Pictures admitted and not yet answered", ["rpc"])
REJECTED = Counter("channeltok_rejected_total", "Calls and stream items refused, by rpc and error code", ["rpc", "reason"])
PICTURES = Counter("channeltok_pictures_total", "Pictures encoded or decoded", ["rpc"])
TOKENS = Counter("channeltok_tokens_total", "Tokens returned by encode or taken by decode", ["rpc"])
PICTURE_BYTES = Counter("channeltok_picture_bytes_total", "Bytes of pictures taken by encode or returned by decode", ["rpc"])
ENGINE_READY = Gauge("channeltok_engine_ready", "1 when the last real inference through the model succeeded", ["model"])
ENGINE_RESTARTS = Counter("channeltok_engine_restarts_total", "Restarts of the embedded Triton or reloads of a model in it", ["what"])
ENGINE_RESTARTS.labels("triton")  # from 0 on: Prometheus sees no increase in a counter that appears at 1
READY = Gauge("channeltok_ready", "1 while /readyz answers 200")
MAX_IN_FLIGHT = Gauge("channeltok_max_in_flight_pictures", "Most pictures that may be in flight")
TOKENIZER_INFO = Gauge("channeltok_tokenizer_info", "1: what calls by this name are answered with now", ["tokenizer", "fingerprint"])


@cache
def budget_label(k: int) -> str:
    """k rounded up to a power of two, so that the label has ten values and not five hundred."""
    return str(1 << (k - 1).bit_length())
