"""Image generation: parameters, events, and their protobuf messages (shared by both clients)."""

from collections.abc import Sequence
from dataclasses import dataclass

from channeltok._messages import FORMATS, ImageFormat, check_format, check_k, from_message
from channeltok.errors import InternalError, InvalidInput
from channeltok.images import DecodedImage
from channeltok.tokens import TokenBytesError, Tokens
from channeltok.v1 import tokenizer_pb2 as pb

_MAX_UINT64 = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class GenerateParams:
    """Parameters of one generated image. None stands for the default.

    Attributes:
        generator: a name from `Client.generators()`. Default: the service's default generator; for
            a prompt, a class or a prefix, the first that takes it.
        class_name: one of the generator's `classes`. Default: no class.
        prompt: what the image shall show, of a generator that takes texts: at most its
            `max_prompt_bytes` in UTF-8. Default: any image.
        prefix: tokens (or token bytes) to continue from, at most k, of the generator's tokenizer.
        k: length of the whole sequence, 1 to the generator's max_tokens (default).
        seed: 0 to 2^63 - 1. The same parameters with the same seed give the same tokens. Default:
            the service draws one and returns it in `Started`.
        temperature: 0 (always the most likely token) to 10. Default: 0.85.
        final_temperature: temperature of the last of the generator's max_tokens; that of each token
            goes from `temperature` to it, linearly by position. Default: `temperature`.
        top_k: sample from this many of the most likely ids, 0 (no limit) to the tokenizer's
            vocab_size. Default: 200.
        top_p: of those, sample from the most likely ids that together have this share of the
            probability, over 0 to 1. Default: 1, all.
        guidance: classifier-free guidance, 0 to 20. Over 1 follows class or prompt more closely,
            with less variety; any value but 1 doubles the cost of a token. Default: 1, none.
        previews: at most 8 values of k at which the image so far is decoded and sent.
        preview_format: format of the previews.

    Raises:
        InvalidInput: a value cannot be sent (BAD_K, BAD_PROMPT, BAD_SAMPLING, UNSUPPORTED_FORMAT).
            The service checks the ranges that depend on its generator.
    """

    generator: str | None = None
    class_name: str | None = None
    prompt: str | None = None
    prefix: Tokens | bytes | None = None
    k: int | None = None
    seed: int | None = None
    temperature: float | None = None
    final_temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    guidance: float | None = None
    previews: Sequence[int] = ()
    preview_format: ImageFormat = "png"

    def __post_init__(self) -> None:
        for k in (self.k, *self.previews):
            check_k(k)
        check_format(self.preview_format)
        try:
            (self.prompt or "").encode()
        except UnicodeEncodeError as error:
            raise InvalidInput("BAD_PROMPT", f"the prompt is not valid Unicode: {error}") from error
        if self.seed is not None and not 0 <= self.seed <= _MAX_UINT64:
            raise InvalidInput("BAD_SAMPLING", f"seed is 0 to 2^63 - 1, not {self.seed}")
        if self.top_k is not None and not 0 <= self.top_k < 2**32:
            raise InvalidInput(
                "BAD_SAMPLING", f"top_k is 0 to the tokenizer's vocab_size, not {self.top_k}"
            )


@dataclass(frozen=True)
class GeneratorInfo:
    """A generator that the service serves.

    Attributes:
        name: pass it as `generator`.
        family: family of models: "gpt" or "car".
        generator_fingerprint: 16 hex digits that identify its training.
        tokenizer: name of the tokenizer that decodes its tokens.
        fingerprint: fingerprint of that tokenizer.
        max_tokens: the largest k.
        classes: values for `class_name`; empty for a generator without classes. Of one that takes
            prompts: what it was trained on, as "a photo of CLASS".
        max_prompt_bytes: longest `prompt` in UTF-8; 0 for a generator that takes a class.
    """

    name: str
    family: str
    generator_fingerprint: str
    tokenizer: str
    fingerprint: str
    max_tokens: int
    classes: tuple[str, ...]
    max_prompt_bytes: int = 0


@dataclass(frozen=True)
class Started:
    """The first event: the parameters in effect.

    seed repeats the image when passed again; k is the length of the whole sequence.
    """

    generator: str
    tokenizer: str
    fingerprint: str
    seed: int
    k: int


@dataclass(frozen=True)
class NewTokens:
    """New tokens. index: position of the first in the sequence, from 0. ids: 0 to 65535 each."""

    index: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Preview:
    """The image decoded from the first k tokens, in the requested format."""

    k: int
    image: DecodedImage


@dataclass(frozen=True)
class Generated:
    """The last event.

    tokens: the whole sequence with its prefix. engine: what ran, such as "onnxruntime f32".
    """

    tokens: Tokens
    engine: str


GenerationEvent = Started | NewTokens | Preview | Generated


def generate_request(params: GenerateParams) -> pb.GenerateRequest:
    """The message for `params`; what is None stays absent in it."""
    prefix = params.prefix
    return pb.GenerateRequest(
        generator=params.generator,
        class_name=params.class_name,
        prompt=params.prompt,
        prefix=prefix.to_bytes() if isinstance(prefix, Tokens) else prefix,
        k=params.k,
        seed=params.seed,
        temperature=params.temperature,
        final_temperature=params.final_temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        guidance=params.guidance,
        previews=params.previews,
        preview_format=FORMATS[params.preview_format],
    )


def read_event(response: pb.GenerateResponse) -> GenerationEvent:
    """Raises InternalError for an unreadable reply."""
    match response.WhichOneof("event"):
        case "started":
            return from_message(Started, response.started)
        case "tokens":
            return from_message(NewTokens, response.tokens)
        case "preview":
            return _preview(response.preview)
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


def read_preview(response: pb.DecodeProgressiveResponse) -> Preview | None:
    """The preview of a reply; None for the last reply."""
    return _preview(response.preview) if response.HasField("preview") else None


def _preview(message: pb.Preview) -> Preview:
    return Preview(message.k, DecodedImage(message.image))


def read_generators(response: pb.ListGeneratorsResponse) -> list[GeneratorInfo]:
    return [from_message(GeneratorInfo, generator) for generator in response.generators]
