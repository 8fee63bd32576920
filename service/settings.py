"""Every setting of the service: an environment variable CHANNELTOK_<NAME> or a flag --<name>."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_CORES = len(os.sched_getaffinity(0))


class EngineSettings(BaseSettings):
    """Settings of the engines alone: for the service, and for engines in process without it."""

    model_config = SettingsConfigDict(
        env_prefix="CHANNELTOK_", cli_kebab_case=True, frozen=True, extra="ignore"
    )

    model_repository: Annotated[
        Path,
        Field(
            description="What the embedded Triton serves: point it at the output of `python -m export` to serve your own tokenizer."
        ),
    ] = Path(__file__).parent.parent / "model_repository"
    default_tokenizer: Annotated[
        str | None,
        Field(
            description="Tokenizer that answers calls naming none. Set it when several are served; unset: the first by name."
        ),
    ] = None
    engine: Annotated[
        Literal["auto", "onnxruntime", "openvino"],
        Field(
            description="What runs the graphs in the embedded Triton. auto: OpenVINO where it computes in bf16, ONNX Runtime elsewhere."
        ),
    ] = "auto"
    encode_precision: Annotated[
        Literal["f32", "bf16"],
        Field(
            description="Arithmetic of encode. bf16 is faster on processors that have it, and flips a few of the tokens' bits."
        ),
    ] = "f32"
    decode_precision: Annotated[
        Literal["auto", "f32", "bf16", "int8"],
        Field(
            description="Arithmetic of decode. auto: bf16 where the processor has it (the demo moves by 3 of 255 at most), else f32, "
            "as always for FlexTok. int8 is faster still and less exact; its graph comes from `python -m export tokenizer CHECKPOINT --int8`."
        ),
    ] = "auto"
    max_pixels: Annotated[
        int,
        Field(
            ge=1,
            description="Largest width x height a header may claim, checked before decoding. Raise it for larger cameras.",
        ),
    ] = 36_000_000

    @model_validator(mode="after")
    def _the_engine_has_the_precision(self) -> Self:
        for precision in (self.encode_precision, self.decode_precision):
            if self.engine == "onnxruntime" and precision in ("bf16", "int8"):
                raise ValueError(
                    f"ONNX Runtime does not compute in {precision} here: ask for f32, or for the engine openvino"
                )
        return self


class Settings(EngineSettings):
    """ChannelTok Serving: images to short, ordered token sequences and back, over gRPC and REST.

    Each flag is also an environment variable: --grpc-port is CHANNELTOK_GRPC_PORT.
    """

    host: Annotated[
        str,
        Field(
            description="Address both ports bind to. 0.0.0.0 opens the service to the network: put it behind your own gateway."
        ),
    ] = "127.0.0.1"
    tls_certificate: Annotated[
        Path | None,
        Field(
            description="PEM certificate of both ports, leaf first; with it they speak TLS only. Set it unless a proxy does TLS for you."
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        Field(
            description="PEM private key of tls_certificate, unencrypted. Both are read again when they change."
        ),
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Field(
            description="PEM certificates of CAs (mutual TLS): only callers with a certificate of one of them connect, probes included."
        ),
    ] = None
    bearer_token_file: Annotated[
        Path | None,
        Field(
            description="Bearer tokens of those who may call, one a line; read again when it changes. Unset: whoever reaches it may call."
        ),
    ] = None
    rate_limit: Annotated[
        float | None,
        Field(
            gt=0,
            description="Images a second for each client (its token, else its address). Set it so that one cannot starve the rest.",
        ),
    ] = None
    rate_burst: Annotated[
        int,
        Field(
            ge=1,
            description="Images a client may send at once before rate_limit slows it. Raise it for callers that come in bursts.",
        ),
    ] = 64
    rest_port: Annotated[
        int,
        Field(
            ge=0,
            le=65535,
            description="REST port; change it when 8080 is taken. 0 picks a free one.",
        ),
    ] = 8080
    grpc_port: Annotated[
        int,
        Field(
            ge=0,
            le=65535,
            description="gRPC port; change it when 50051 is taken. 0 picks a free one.",
        ),
    ] = 50051
    grpc_connection_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="After so long a gRPC client is told to connect anew; what runs goes on. 0: never. "
            "Set it where services come and go behind one name: only then do clients find new ones.",
        ),
    ] = 0.0
    triton_url: Annotated[
        str | None,
        Field(
            description="gRPC HOST:PORT of a Triton that runs elsewhere (a GPU host), or dns:///HOST:PORT of several, to be used in turn. "
            "Unset: the service starts and watches its own."
        ),
    ] = None
    triton_metrics_url: Annotated[
        str | None,
        Field(
            description="HTTP address of that Triton's metrics, to be shown on /metrics beside ours. Unset: scrape it where it runs."
        ),
    ] = None
    workers: Annotated[
        int,
        Field(
            ge=1,
            description="Gateway processes that share both ports and one Triton. Raise it when one process is the limit (a GPU).",
        ),
    ] = 1
    default_generator: Annotated[
        str | None,
        Field(
            description="Generator that answers calls naming none. Set it when several are served; unset: the first by name."
        ),
    ] = None
    engine_instances: Annotated[
        int,
        Field(
            ge=1,
            description="Copies of each engine in the embedded Triton: as many as cores for throughput, 1 with more threads for latency.",
        ),
    ] = _CORES
    engine_threads: Annotated[
        int,
        Field(
            ge=1,
            description="Threads inside one engine copy. Raise it, and lower the instances, when single requests matter most.",
        ),
    ] = 1
    image_threads: Annotated[
        int,
        Field(
            ge=1,
            description="Threads that decode and write images. Raise it when the engine runs on a GPU and these are the limit.",
        ),
    ] = _CORES
    max_in_flight: Annotated[
        int | None,
        Field(
            ge=1,
            description="Images in work at once. Lower it for shorter waits, raise it when the engine's batches do not fill. "
            "Unset: 8 for each engine instance, 256 with a Triton elsewhere.",
        ),
    ] = None
    max_queue_size: Annotated[
        int,
        Field(
            ge=0,
            description="Single images that may wait for a place; the next is refused with a retry hint. It bounds memory.",
        ),
    ] = 256
    max_queue_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="Seconds that a single image may have to wait for a place; the next is refused with a retry hint. "
            "Raise it for callers that come in bursts and can wait. StreamingClient wait as long as they like.",
        ),
    ] = 0.1
    stream_window: Annotated[
        int,
        Field(
            ge=1,
            description="Images one stream may have in flight. Raise it when a bulk client far away does not fill the engine.",
        ),
    ] = 64
    max_generations: Annotated[
        int | None,
        Field(
            ge=1,
            description="Images that are generated at once; the next is refused with a retry hint. Raise it where the engine joins them. "
            "Unset: one for each engine instance, 64 with a Triton elsewhere.",
        ),
    ] = None
    max_message_bytes: Annotated[
        int,
        Field(
            ge=1024,
            description="Largest image or message taken, in bytes. Raise it only for larger originals: it bounds memory.",
        ),
    ] = 16 * 2**20
    max_header_bytes: Annotated[
        int,
        Field(
            ge=1024,
            description="Largest headers (REST) or metadata (gRPC) of a call, in bytes. Raise it for proxies that add many.",
        ),
    ] = 16 * 2**10
    max_connections: Annotated[
        int,
        Field(
            ge=1,
            description="Connections to each port. REST then closes the longest silent one, gRPC the new one. It bounds memory.",
        ),
    ] = 1000
    max_streams: Annotated[
        int,
        Field(
            ge=1,
            description="Calls under way on one gRPC connection. Keep it above max_queue_size, or callers queue where no one sees it.",
        ),
    ] = 1024
    receive_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="Seconds for a caller's TLS handshake, its headers, and again its body. Raise it for callers on slow lines.",
        ),
    ] = 20.0
    idle_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="Seconds a connection without calls is kept. Above those of a proxy in front, or it meets closed connections.",
        ),
    ] = 75.0
    request_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="Seconds a call may take when its caller sets no deadline. Raise it for slow engines.",
        ),
    ] = 30.0
    drain_delay_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="Seconds between failing readiness and refusing new work after SIGTERM. "
            "Set it to what your load balancer takes to notice (Kubernetes: 5).",
        ),
    ] = 0.0
    drain_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="Seconds accepted work then gets to finish. Keep the sum of both below your orchestrator's kill delay.",
        ),
    ] = 20.0
    probe_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="Time between the small real inferences that decide readiness. Shorter notices a dead engine sooner.",
        ),
    ] = 2.0
    engine_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="Seconds without one answer after which an engine counts as hung and is restarted. Raise it for slow ones.",
        ),
    ] = 60.0
    retire_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="Seconds that a tokenizer stays loaded after a newer version took its place in the repository: "
            "its tokens are decoded until then.",
        ),
    ] = 600.0
    slow_call_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="A call that takes longer gets a line in the log, with its stages. Lower it to see where slow ones spend it.",
        ),
    ] = 5.0
    log_level: Annotated[
        str,
        Field(
            pattern="^(debug|info|warning|error)$",
            description="Least severe line written to the log (JSON on stderr). Set warning where every line costs.",
        ),
    ] = "info"

    @property
    def places(self) -> int:
        """`max_in_flight`, or its default."""
        return self.max_in_flight or (256 if self.triton_url else 8 * self.engine_instances)

    @property
    def generation_places(self) -> int:
        """`max_generations`, or its default."""
        return self.max_generations or (64 if self.triton_url else self.engine_instances)

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None) or (
            self.tls_client_ca and not self.tls_certificate
        ):
            raise ValueError(
                "tls_certificate and tls_key go together, and tls_client_ca needs both"
            )
        return self
