"""`make loadtest`: locust users over gRPC and REST who encode and decode; every answer is checked.

    python -m locust -f loadtest/load/locustfile.py --host http://HOST:8080 --grpc HOST:50051

serves a web UI on port 8089, unless --headless. Requests come from workload.py. Closed loop: a user
calls again when its last call was answered. One process uses one core; --processes -1 uses all.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import gevent
import grpc
import grpc.experimental.gevent
from channeltok import ChannelTokError, Client, Tokens
from channeltok._channel import DEFAULT_TARGET
from locust import FastHttpUser, User, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest.load.workload import FULL, Failure, Workload

Answer = TypeVar("Answer")

# Before the first channel. Otherwise a gRPC call blocks all users of the process.
grpc.experimental.gevent.init_gevent()

TIMEOUT = 30.0
WORKLOAD = Workload()
# gevent's clock stood still during imports, and --run-time would end too early by as much.
gevent.get_hub().loop.update_now()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--grpc",
        metavar="HOST:PORT",
        env_var="LOCUST_GRPC",
        default=DEFAULT_TARGET,
        help="address for gRPC users",
    )


class TokenizerUser(User):
    """A user that encodes and decodes equally often; subclasses choose the protocol."""

    abstract = True
    wait_time = between(0, 0.1)  # do not flood a service that refuses at once

    @task
    def encode(self) -> None:
        """Encode an image to k tokens."""
        self.send_encode(WORKLOAD.draw_image(), WORKLOAD.draw_budget())

    @task
    def decode(self) -> None:
        """Decode the first k tokens of an image; encode it first if its tokens are unknown."""
        image, k = WORKLOAD.draw_image(), WORKLOAD.draw_budget()
        tokens = WORKLOAD.known_tokens(image) or self.send_encode(image, FULL)
        WORKLOAD.image_size = WORKLOAD.image_size or self.send_tokenizers()
        if tokens is not None and WORKLOAD.image_size is not None:
            self.send_decode(tokens.prefix(k))

    def send_encode(self, image: bytes, k: int) -> Tokens | None:
        """The tokens; None if the call failed, which is reported (here and below)."""
        raise NotImplementedError

    def send_decode(self, tokens: Tokens) -> bytes | None:
        """The image as JPEG."""
        raise NotImplementedError

    def send_tokenizers(self) -> int | None:
        """Side of the default tokenizer's images."""
        raise NotImplementedError


class GrpcUser(TokenizerUser):
    """Calls over gRPC with the project's client, as a backend does."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        assert environment.parsed_options is not None
        # Channels of a process to one address share a connection.
        self._client = Client(environment.parsed_options.grpc, TIMEOUT, retries=False)

    def on_stop(self) -> None:
        """Close the channel."""
        self._client.close()

    def send_encode(self, image: bytes, k: int) -> Tokens | None:
        """Encode."""
        return self._send(
            f"Encode k={k}",
            lambda: self._client.encode(image, k),
            partial(WORKLOAD.check_tokens, image, k),
        )

    def send_decode(self, tokens: Tokens) -> bytes | None:
        """Decode."""
        return self._send(
            f"Decode k={tokens.k}",
            lambda: self._client.decode(tokens, "jpeg"),
            WORKLOAD.check_image,
        )

    def send_tokenizers(self) -> int | None:
        """ListTokenizers."""
        served = self._send("ListTokenizers", self._client.tokenizers)
        return served[0].image_size if served is not None else None

    def _send(
        self,
        name: str,
        call: Callable[[], Answer],
        check: Callable[[Answer], None] = lambda _: None,
    ) -> Answer | None:
        answer: Answer | None = None
        failure: Failure | None = None
        started, clock = time.time(), time.perf_counter()
        try:
            answer = call()
        except ChannelTokError as error:
            failure = Failure(" ".join(dict.fromkeys((_status(error), error.code))))
        elapsed = time.perf_counter() - clock
        if answer is not None:
            try:
                check(answer)
            except Failure as wrong:
                answer, failure = None, wrong
        self.environment.events.request.fire(
            request_type="gRPC",
            name=name,
            start_time=started,
            response_time=1000 * elapsed,
            response_length=_length(answer),
            exception=failure,
            context=self.context(),
        )
        return answer


class RestUser(TokenizerUser, FastHttpUser):
    """Calls over REST as a script does: an image up, JSON in both directions, a JPEG down."""

    host = "http://127.0.0.1:8080"
    network_timeout = connection_timeout = TIMEOUT

    def send_encode(self, image: bytes, k: int) -> Tokens | None:
        """POST /v1/encode."""

        def read(body: bytes) -> Tokens:
            document = json.loads(body)
            tokens = Tokens(document["tokens"], document["fingerprint"])
            WORKLOAD.check_tokens(image, k, tokens)
            return tokens

        headers = {"Content-Type": "image/jpeg"}
        return self._send("POST", f"/v1/encode?k={k}", f"/v1/encode k={k}", read, image, headers)

    def send_decode(self, tokens: Tokens) -> bytes | None:
        """POST /v1/decode."""

        def read(body: bytes) -> bytes:
            WORKLOAD.check_image(body)
            return body

        document = json.dumps(
            {"fingerprint": tokens.fingerprint, "tokens": tokens.ids.tolist()}
        ).encode()
        headers = {"Content-Type": "application/json", "Accept": "image/jpeg"}
        return self._send("POST", "/v1/decode", f"/v1/decode k={tokens.k}", read, document, headers)

    def send_tokenizers(self) -> int | None:
        """GET /v1/tokenizers."""
        return self._send(
            "GET",
            "/v1/tokenizers",
            "/v1/tokenizers",
            lambda body: int(json.loads(body)["tokenizers"][0]["image_size"]),
        )

    def _send(
        self,
        method: str,
        path: str,
        name: str,
        read: Callable[[bytes], Answer],
        body: Any = None,  # bytes; locust's annotation says str
        headers: dict[str, str] | None = None,
    ) -> Answer | None:
        with self.client.request(
            method, path, name, body, headers=headers, catch_response=True
        ) as response:
            if response.status_code == 0:  # no answer; locust reports the reason
                return None
            try:
                if response.status_code != 200:
                    raise Failure(f"{response.status_code} {_problem_code(response.content)}")
                return read(response.content)
            except Failure as failure:
                response.failure(failure)
            except (ValueError, LookupError, TypeError):
                response.failure(Failure("wrong answer: not the JSON of the contract"))
        return None


def _status(error: ChannelTokError) -> str:
    """Name of the gRPC status; OK if the client rejected the response."""
    return error.__cause__.code().name if isinstance(error.__cause__, grpc.RpcError) else "OK"


def _length(answer: object) -> int:
    """Size in bytes of tokens or an image."""
    if isinstance(answer, Tokens):
        return len(answer.to_bytes())
    return len(answer) if isinstance(answer, bytes) else 0


def _problem_code(body: bytes) -> str:
    """The service's stable error code; a proxy's response may have none."""
    try:
        return str(json.loads(body)["code"])
    except (ValueError, LookupError, TypeError):
        return "without a code"
