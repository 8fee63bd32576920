"""Requests built and responses read, the same for the sync and the asyncio client."""

import operator
from dataclasses import asdict, dataclass, replace
from typing import Literal

from channeltok.errors import ChannelTokError, InternalError, InvalidInput, TooLarge, from_status
from channeltok.quality import Quality, QualityPoint
from channeltok.tokens import TokenBytesError, Tokens
from channeltok.v1 import tokenizer_pb2 as pb

ImageFormat = Literal["png", "jpeg", "webp"]

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
# What is left of a message for the image or the tokens; the rest is for the other fields.
MAX_PAYLOAD_BYTES = MAX_MESSAGE_BYTES - 4096

FORMATS = {
    "png": pb.IMAGE_FORMAT_PNG,
    "jpeg": pb.IMAGE_FORMAT_JPEG,
    "webp": pb.IMAGE_FORMAT_WEBP,
}
_MAX_UINT32 = 2**32 - 1


@dataclass(frozen=True)
class TokenizerInfo:
    """One tokenizer that the service serves.

    name: what `tokenizer=` takes. family: family of models. fingerprint: 16 lower-case hex digits.
    max_tokens: tokens of a whole image, the largest k. bits_per_token: bits that hold any id. vocab_size: how many there are, 0 to vocab_size - 1.
    image_size: side of the square image it sees and makes, in pixels.
    budgets: the k with a decode engine of their own, ascending; a k between two runs on the next larger one.
    """

    name: str
    family: str
    fingerprint: str
    max_tokens: int
    bits_per_token: int
    vocab_size: int
    image_size: int
    budgets: tuple[int, ...]


def check_k(k: int | None) -> None:
    """Refuse a k that the request cannot carry (it is a uint32): InvalidInput, BAD_K. Whether it is a good one the service says."""
    if k is not None and not 0 <= operator.index(k) <= _MAX_UINT32:
        raise InvalidInput("BAD_K", f"k is 1 to the tokenizer's max_tokens, not {k}")


def check_format(format: str) -> None:
    """Refuse a format that is not png, jpeg or webp: InvalidInput, UNSUPPORTED_FORMAT."""
    if format not in FORMATS:
        raise InvalidInput(
            "UNSUPPORTED_FORMAT", f"images are written as {', '.join(FORMATS)}, not {format!r}"
        )


def encode_request(
    image: bytes, k: int | None, tokenizer: str | None, quality: Quality | None
) -> pb.EncodeRequest:
    """Raises InvalidInput, TooLarge."""
    check_k(k)
    _check_size("image", len(image))
    return pb.EncodeRequest(
        image=image,
        k=k,
        tokenizer=tokenizer,
        quality=None if quality is None else pb.Quality(**asdict(quality)),
    )


def decode_request(
    tokens: Tokens | bytes, format: ImageFormat, tokenizer: str | None
) -> pb.DecodeRequest:
    """Bytes go as they are: whether they are token bytes the service says. Raises InvalidInput, TooLarge."""
    check_format(format)
    data = tokens.to_bytes() if isinstance(tokens, Tokens) else tokens
    _check_size("token sequence", len(data))
    return pb.DecodeRequest(tokens=data, format=FORMATS[format], tokenizer=tokenizer)


def encode_item(
    number: int, image: bytes, k: int | None, tokenizer: str | None, quality: Quality | None
) -> pb.EncodeStreamRequest | ChannelTokError:
    """The request for one item of a stream, or the error that is its result."""
    try:
        return pb.EncodeStreamRequest(
            id=number, request=encode_request(image, k, tokenizer, quality)
        )
    except ChannelTokError as error:
        return error


def decode_item(
    number: int, tokens: Tokens | bytes, format: ImageFormat, tokenizer: str | None
) -> pb.DecodeStreamRequest | ChannelTokError:
    """The request for one item of a stream, or the error that is its result."""
    try:
        return pb.DecodeStreamRequest(id=number, request=decode_request(tokens, format, tokenizer))
    except ChannelTokError as error:
        return error


def read_tokens(response: pb.EncodeResponse) -> Tokens:
    """Raises InternalError where the service did not send token bytes."""
    try:
        tokens = Tokens.from_bytes(response.tokens)
    except TokenBytesError as error:
        raise InternalError("INTERNAL", f"the service's answer cannot be read: {error}") from error
    return (
        replace(
            tokens, curve=tuple(QualityPoint(one.k, one.ssim, one.psnr) for one in response.curve)
        )
        if response.curve
        else tokens
    )


def read_image(response: pb.DecodeResponse) -> bytes:
    return response.image


def read_encode_item(response: pb.EncodeStreamResponse) -> Tokens | ChannelTokError:
    match response.WhichOneof("result"):
        case "response":
            try:
                return read_tokens(response.response)
            except InternalError as error:
                return error
        case "error":
            return from_status(response.error)
    return _neither()


def read_decode_item(response: pb.DecodeStreamResponse) -> bytes | ChannelTokError:
    match response.WhichOneof("result"):
        case "response":
            return read_image(response.response)
        case "error":
            return from_status(response.error)
    return _neither()


def read_tokenizers(response: pb.ListTokenizersResponse) -> list[TokenizerInfo]:
    return [
        TokenizerInfo(
            name=t.name,
            family=t.family,
            fingerprint=t.fingerprint,
            max_tokens=t.max_tokens,
            bits_per_token=t.bits_per_token,
            vocab_size=t.vocab_size or 2**t.bits_per_token,  # a service of before it said so
            image_size=t.image_size,
            budgets=tuple(t.budgets),
        )
        for t in response.tokenizers
    ]


def _check_size(what: str, size: int) -> None:
    # gRPC would refuse it too, but in a stream it would end the call for every other item.
    if size > MAX_PAYLOAD_BYTES:
        raise TooLarge(
            "TOO_LARGE",
            f"the {what} has {size} bytes: a message carries at most {MAX_PAYLOAD_BYTES}",
        )


def _neither() -> InternalError:
    return InternalError(
        "INTERNAL", "the service answered an item with neither a result nor an error"
    )
