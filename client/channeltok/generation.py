"""Generate's requests built and its events read, the same for both clients."""

from collections.abc import Sequence
from dataclasses import dataclass

from channeltok._messages import FORMATS, ImageFormat, check_format, check_k
from channeltok.errors import InternalError, InvalidInput
from channeltok.tokens import TokenBytesError, Tokens
from channeltok.v1 import tokenizer_pb2 as pb

_MAX_UINT64 = 2**64 - 1


@dataclass(frozen=True)
class GeneratorInfo:
    """One generator that the service serves.

    name: what `generator=` takes. family: family of models. generator_fingerprint: names its training. tokenizer, fingerprint: of the
    tokenizer that decodes what it makes. max_tokens: the largest k. classes: what `class_name=` takes; empty where it knows none.
    """

    name: str
    family: str
    generator_fingerprint: str
    tokenizer: str
    fingerprint: str
    max_tokens: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Started:
    """The first event. seed: with it the same request gives the same tokens. k: tokens of the whole sequence."""

    generator: str
    tokenizer: str
    fingerprint: str
    seed: int
    k: int


@dataclass(frozen=True)
class NewTokens:
    """Tokens just made. index: place of the first in the sequence, from 0 on. ids: 0 to 65535 each."""

    index: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Preview:
    """The image that the first k tokens make, in the format asked for."""

    k: int
    image: bytes


@dataclass(frozen=True)
class Generated:
    """The last event. tokens: the whole sequence, the prefix included. engine: what computed it, such as "onnxruntime f32"."""

    tokens: Tokens
    engine: str


GenerationEvent = Started | NewTokens | Preview | Generated


def generate_request(
    class_name: str | None,
    k: int | None,
    seed: int | None,
    prefix: Tokens | bytes | None,
    temperature: float | None,
    top_k: int | None,
    previews: Sequence[int],
    preview_format: ImageFormat,
    generator: str | None,
) -> pb.GenerateRequest:
    """Whether it can be served the service says; refused here is what the message cannot carry. Raises InvalidInput."""
    for budget in (k, *previews):
        check_k(budget)
    check_format(preview_format)
    if seed is not None and not 0 <= seed <= _MAX_UINT64:
        raise InvalidInput("BAD_SAMPLING", f"seed is 0 to 2^63 - 1, not {seed}")
    if top_k is not None and not 0 <= top_k < 2**32:
        raise InvalidInput("BAD_SAMPLING", f"top_k is 0 to the tokenizer's vocab_size, not {top_k}")
    return pb.GenerateRequest(
        generator=generator,
        class_name=class_name,
        prefix=prefix.to_bytes() if isinstance(prefix, Tokens) else prefix,
        k=k,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        previews=previews,
        preview_format=FORMATS[preview_format],
    )


def read_event(response: pb.GenerateResponse) -> GenerationEvent:
    """Raises InternalError for an answer that cannot be read."""
    match response.WhichOneof("event"):
        case "started":
            one = response.started
            return Started(one.generator, one.tokenizer, one.fingerprint, one.seed, one.k)
        case "tokens":
            return NewTokens(response.tokens.index, tuple(response.tokens.ids))
        case "preview":
            return Preview(response.preview.k, response.preview.image)
        case "finished":
            try:
                return Generated(
                    Tokens.from_bytes(response.finished.tokens), response.finished.engine
                )
            except TokenBytesError as error:
                raise InternalError(
                    "INTERNAL", f"the service's answer cannot be read: {error}"
                ) from error
    raise InternalError(
        "INTERNAL", "the service answered with an event that this release does not know"
    )


def read_generators(response: pb.ListGeneratorsResponse) -> list[GeneratorInfo]:
    return [
        GeneratorInfo(
            g.name,
            g.family,
            g.generator_fingerprint,
            g.tokenizer,
            g.fingerprint,
            g.max_tokens,
            tuple(g.classes),
        )
        for g in response.generators
    ]
