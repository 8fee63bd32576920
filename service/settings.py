"""Every setting of the service: an environment variable CHANNELTOK_<NAME> or a flag --<name>."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.machine import cores, default_max_memory

_CORES = cores()

Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
SecondsOrZero = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=1024)]
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_HOST_NAME = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def _split(text: object) -> object:
    if not isinstance(text, str):
        return text
    return tuple(part.strip().lower() for part in text.split(",") if part.strip())


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Written with commas between them."""


# The string below each setting is its help text: what it does, and why one would change it.
class EngineSettings(BaseSettings):
    """Settings of the engines alone: for the service, and for engines in process without it."""

    model_config = SettingsConfigDict(
        env_prefix="CHANNELTOK_",
        env_ignore_empty=True,
        cli_kebab_case=True,
        cli_prog_name="channeltok serve",
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    model_repository: Path = Path(__file__).parent.parent / "model_repository"
    """Folder of models that the embedded Triton serves. Set it to the output of `python -m export`
    to serve your own tokenizer."""

    default_tokenizer: str | None = None
    """Tokenizer for requests that name none. Set it when several are served. Unset: the first by
    name."""

    engine: Literal["auto", "onnxruntime", "openvino"] = "auto"
    """Inference engine of the embedded Triton. auto: OpenVINO where it computes in bf16 and, on a
    processor with AVX-512, for models whose config.pbtxt says so (avx512_engine), ONNX Runtime
    elsewhere. Set it to compare the two, or when one fails on your processor."""

    encode_precision: Literal["f32", "bf16"] = "f32"
    """Arithmetic of encode. bf16 is faster on processors that support it, but flips a few of the
    tokens' bits."""

    decode_precision: Literal["auto", "f32", "bf16", "int8"] = "auto"
    """Arithmetic of decode. auto: bf16 where the processor supports it (it changes the demo's
    pixels by 3 of 255 at most), else f32; always f32 for FlexTok. int8 is faster still and less
    exact; it needs the graph of `python -m export tokenizer CHECKPOINT --int8`."""

    max_pixels: Count = 36_000_000
    """Largest width x height of an image, checked in its header before decoding. Raise it for
    cameras with more pixels."""

    @model_validator(mode="after")
    def _engine_supports_precision(self) -> Self:
        for precision in (self.encode_precision, self.decode_precision):
            if self.engine == "onnxruntime" and precision in ("bf16", "int8"):
                raise ValueError(
                    f"engine onnxruntime does not compute in {precision} here: "
                    "set the precision f32, or the engine openvino"
                )
        return self


def explain(error: ValidationError) -> str:
    """A line for each wrong setting: its variable, what is wrong and what is allowed."""
    lines = []
    for detail in error.errors(include_url=False):
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "byte_size":
            message = "Input should be a number of bytes, or one with a unit such as 3GiB"
        if not detail["loc"]:  # several settings that do not fit together: the message names them
            lines.append(f"CHANNELTOK settings: {message}")
            continue
        variable = "CHANNELTOK_" + "_".join(map(str, detail["loc"])).upper()
        lines.append(f"{variable}: {message}, not {detail['input']!r}")
    return "\n".join(lines)


def host_and_port(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Settings(EngineSettings):
    """ChannelTok Serving: images to short, ordered token sequences and back, over gRPC and REST.

    Each flag is also an environment variable: --grpc-port is CHANNELTOK_GRPC_PORT.
    """

    host: str = "127.0.0.1"
    """Address that both ports bind to, IPv4 or IPv6, or a name. 0.0.0.0, or :: for IPv6 too, opens
    the service to the network: put it behind your own gateway."""

    tls_certificate: Path | None = None
    """PEM certificate chain of both ports, leaf first; with it they accept TLS only. Set it unless
    a proxy terminates TLS for you."""

    tls_key: Path | None = None
    """PEM private key of tls_certificate, unencrypted. Both files are read again when they
    change."""

    tls_client_ca: Path | None = None
    """PEM certificates of CAs, for mutual TLS: only clients with a certificate of one of them
    connect, health probes included."""

    bearer_token_file: Path | None = None
    """File of accepted bearer tokens, one per line, read again when it changes. Unset: everybody
    who reaches the service may call it."""

    allowed_origins: Names = ()
    """Origins of web pages, with commas between them, that may call the REST port beside pages that
    the service itself serves: https://app.example, or * for any. Set it for a web page of yours
    that is served elsewhere."""

    allowed_hosts: Names | None = None
    """Names, with commas between them, under which browsers reach the REST port: tok.example,
    *.example, or * for any. localhost and addresses always count. Unset: none on loopback, else
    any. Set it against DNS rebinding, or behind a proxy on this machine that keeps the name."""

    page: bool = True
    """Whether the REST port serves two web pages: the playground at /, to try the service with, and
    the live view at /live, of its metrics. They need no token, as they hold no data; their calls
    need one. Set it to false to serve neither."""

    rate_limit: Annotated[float | None, Field(gt=0)] = None
    """Images per second and client (its token, else its address). Set it so that one client cannot
    starve the others."""

    rate_burst: Count = 64
    """Images that a client may send at once before rate_limit slows it. Raise it for clients that
    send in bursts."""

    rest_port: Port = 8080
    """REST port. Change it when 8080 is taken; 0 picks a free one."""

    grpc_port: Port = 50051
    """gRPC port. Change it when 50051 is taken; 0 picks a free one."""

    grpc_connection_seconds: SecondsOrZero = 0.0
    """Age at which a gRPC client is asked to reconnect; calls in progress finish. 0: never. Set it
    where instances come and go behind one name: only then do clients find new ones."""

    triton_url: str | None = None
    """gRPC HOST:PORT of a Triton elsewhere (a GPU host), dns:///HOST:PORT of several, used in turn,
    or unix:PATH of one here. Unset: the service starts and heals an embedded Triton."""

    triton_metrics_url: str | None = None
    """HTTP address of that Triton's metrics, or unix:PATH, appended to ours on /metrics. Unset:
    scrape Triton directly."""

    workers: Count = 1
    """Gateway processes that share both ports and one Triton. Raise it when one process is the
    bottleneck (with a GPU)."""

    default_generator: str | None = None
    """Generator for requests that name none. Set it when several are served. Unset: the first by
    name. One that cannot take a request's prompt, class or prefix leaves it to the first that
    can."""

    engine_instances: Count = _CORES
    """Copies of each engine in the embedded Triton: one per core for throughput, 1 with more
    engine_threads for latency. Cores are those that the container's CPU limit allows."""

    engine_threads: Count = 1
    """Threads of one engine copy. Raise it, and lower engine_instances, when the latency of single
    requests matters most."""

    engine_threads_alone: Count = _CORES
    """Threads of one copy of each engine in ONNX Runtime where no other copy computes, so that a
    lone request uses all cores. It holds its graph twice for that, if it is below 64 MB; 1 saves
    the memory."""

    image_workers: Count = _CORES
    """Processes that decode images, as many again for images that take long, and threads that write
    images. Raise it when the engine runs on a GPU and these are the bottleneck."""

    max_in_flight: Annotated[int | None, Field(ge=1)] = None
    """Images in progress at once. Lower it for shorter waits, raise it when the engine's batches do
    not fill. Unset: twice what all engine instances compute at once, as Triton describes its
    models, in larger batches where many images wait."""

    max_queue_size: Annotated[int, Field(ge=0)] = 256
    """Single images that may wait for a permit; further ones are refused with a retry time. It
    bounds memory: raise it only with memory to spare."""

    max_queue_seconds: SecondsOrZero = 5.0
    """Longest expected wait of a single image for a permit; beyond it images are refused with a
    retry time. Lower it to hold a latency objective under overload: 0.1 for one of 250 ms. Streams
    always wait."""

    stream_window: Count = 64
    """Images in flight per stream. Raise it when a distant bulk client does not fill the engine."""

    max_generations: Annotated[int | None, Field(ge=1)] = None
    """Images generated at once; further requests are refused with a retry time. The engine samples
    a token of up to 16 in one step: raise it for more tokens/s in all, at fewer for each. Unset:
    four per engine instance, 64 with a Triton elsewhere."""

    max_memory: Annotated[ByteSize | None, Field(ge=2**20)] = None
    """Memory of the whole service: its workers, and an embedded Triton. A number of bytes, or 3GiB.
    What it does not take at rest is for messages and images; calls beyond it wait, or are refused
    with a retry time. Unset: 90 % of the container's limit, else 75 % of the machine's memory."""

    max_batch_items: Count = 1000
    """Most items in one REST call of encode:batch or decode:batch. Raise it for longer calls; the
    tokens wait in memory for the end of the body, 2 KiB each."""

    max_message_bytes: Bytes = 16 * 2**20
    """Largest image or message. Raise it only for larger originals."""

    max_header_bytes: Bytes = 16 * 2**10
    """Largest headers (REST) or metadata (gRPC) of a call. Raise it for proxies that add many."""

    max_connections: Count = 1000
    """Connections per port. Beyond it REST closes the longest idle one, gRPC refuses the new one.
    It bounds memory: raise it for many clients."""

    max_streams: Count = 1024
    """Calls in progress per gRPC connection. Keep it above max_queue_size, or calls queue inside
    gRPC, where no limit or metric sees them."""

    receive_seconds: Seconds = 20.0
    """Time for a TLS handshake, for the headers, and again for the body. Raise it for clients on
    slow networks."""

    send_seconds: Seconds = 60.0
    """Time that a client may go without reading its reply; then its connection is closed. Raise it
    for clients on slow networks."""

    max_watches: Count = 256
    """Watches of gRPC health checks at once, 4 of them on one connection. Raise it for clients that
    check the health of each connection."""

    watch_seconds: Seconds = 3600.0
    """Age at which such a Watch ends with UNAVAILABLE; clients start another one. Lower it to free
    what vanished clients hold sooner."""

    idle_seconds: Seconds = 75.0
    """Time that a connection without calls is kept. Keep it above the idle time of a proxy in
    front, or the proxy sends requests into closed connections."""

    request_timeout_seconds: Seconds = 30.0
    """Deadline of calls whose client sets none. Raise it for slow engines."""

    drain_delay_seconds: SecondsOrZero = 0.0
    """Time between failing readiness and refusing new work after SIGTERM. Set it to what your load
    balancer takes to notice (Kubernetes: 5)."""

    drain_seconds: SecondsOrZero = 20.0
    """Time that accepted work then gets to finish. Keep the sum of both below the time after which
    your orchestrator kills the process."""

    probe_seconds: Seconds = 2.0
    """Interval of the small real inferences that decide readiness. Lower it to notice a dead engine
    sooner."""

    engine_timeout_seconds: Seconds = 60.0
    """Time without any answer after which an engine counts as hung and is restarted. Raise it for
    slow engines."""

    retire_seconds: SecondsOrZero = 600.0
    """Time that a tokenizer stays loaded after a newer version replaced it in the repository. Raise
    it when tokens of the old version are decoded for longer."""

    slow_call_seconds: Seconds = 5.0
    """Duration above which a call is logged, with its stages. Lower it to see where slow calls
    spend their time."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity that is logged (JSON on stderr). Set warning when log volume matters."""

    @property
    def host_names(self) -> tuple[str, ...]:
        """`allowed_hosts`, or its default."""
        if self.allowed_hosts is not None:
            return self.allowed_hosts
        return () if self.is_loopback else ("*",)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the ports."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def memory(self) -> int:
        """`max_memory` in bytes, or its default."""
        return int(self.max_memory or default_max_memory())

    @property
    def generation_permits(self) -> int:
        """`max_generations`, or its default."""
        return self.max_generations or (64 if self.triton_url else 4 * self.engine_instances)

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "an origin is *, or like https://app.example or http://localhost:3000"
                )
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _are_host_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(
                    "a host is *, or a name without a port, like tok.example or *.example"
                )
        return names

    @field_validator("host")
    @classmethod
    def _without_brackets(cls, host: str) -> str:
        return host.removeprefix("[").removesuffix("]")

    @model_validator(mode="after")
    def _tls_settings_are_complete(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None) or (
            self.tls_client_ca and not self.tls_certificate
        ):
            raise ValueError(
                "tls_certificate and tls_key need each other; tls_client_ca needs both"
            )
        return self
