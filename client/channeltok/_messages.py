"""Requests built and responses read, the same for the sync and the asyncio client."""

import operator
from dataclasses import asdict, dataclass, replace
from typing import Literal

from channeltok.errors import ChannelTokError, InternalError, InvalidInput, TooLarge, from_status
from channeltok.quality import Measured, Quality
from channeltok.tokens import TokenBytesError, Tokens
from channeltok.v1 import tokenizer_pb2 as pb

PictureFormat = Literal["png", "jpeg", "webp"]

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
# What is left of a message for the picture or the tokens; the rest is for the other fields.
MAX_PAYLOAD_BYTES = MAX_MESSAGE_BYTES - 4096

FORMATS = {
    "png": pb.PICTURE_FORMAT_PNG,
    "jpeg": pb.PICTURE_FORMAT_JPEG,
    "webp": pb.PICTURE_FORMAT_WEBP,
}
_MAX_UINT32 = 2**32 - 1


@dataclass(frozen=True)
class TokenizerInfo:
    """One tokenizer that the service serves.

    name: what `tokenizer=` takes. family: family of models. fingerprint: 16 lower-case hex digits.
    channels: tokens of a whole picture, the largest k. bits_per_token: bits that hold any id. codes: how many there are, 0 to codes - 1.
    picture_size: side of the square picture it sees and makes, in pixels.
    budgets: the k with a decode engine of their own, ascending; a k between two runs on the next larger one.
    """

    name: str
    family: str
    fingerprint: str
    channels: int
    bits_per_token: int
    codes: int
    picture_size: int
    budgets: tuple[int, ...]


def check_k(k: int | None) -> None:
    """Refuse a k that the request cannot carry (it is a uint32): InvalidInput, BAD_K. Whether it is a good one the service says."""
    if k is not None and not 0 <= operator.index(k) <= _MAX_UINT32:
        raise InvalidInput("BAD_K", f"k is 1 to the tokenizer's channels, not {k}")


def check_format(format: str) -> None:
    """Refuse a format that is not png, jpeg or webp: InvalidInput, UNSUPPORTED_FORMAT."""
    if format not in FORMATS:
        raise InvalidInput(
            "UNSUPPORTED_FORMAT", f"pictures are written as {', '.join(FORMATS)}, not {format!r}"
        )


def encode_request(
    picture: bytes, k: int | None, tokenizer: str | None, quality: Quality | None
) -> pb.EncodeRequest:
    """Raises InvalidInput, TooLarge."""
    check_k(k)
    _check_size("picture", len(picture))
    return pb.EncodeRequest(
        picture=picture,
        k=k,
        tokenizer=tokenizer,
        quality=None if quality is None else pb.Quality(**asdict(quality)),
    )


def decode_request(
    tokens: Tokens | bytes, format: PictureFormat, tokenizer: str | None
) -> pb.DecodeRequest:
    """Bytes go as they are: whether they are token bytes the service says. Raises InvalidInput, TooLarge."""
    check_format(format)
    data = tokens.to_bytes() if isinstance(tokens, Tokens) else tokens
    _check_size("token sequence", len(data))
    return pb.DecodeRequest(tokens=data, format=FORMATS[format], tokenizer=tokenizer)


def encode_item(
    number: int, picture: bytes, k: int | None, tokenizer: str | None, quality: Quality | None
) -> pb.EncodeStreamRequest | ChannelTokError:
    """The request for one item of a stream, or the error that is its result."""
    try:
        return pb.EncodeStreamRequest(
            id=number, request=encode_request(picture, k, tokenizer, quality)
        )
    except ChannelTokError as error:
        return error


def decode_item(
    number: int, tokens: Tokens | bytes, format: PictureFormat, tokenizer: str | None
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
        replace(tokens, curve=tuple(Measured(one.k, one.ssim, one.psnr) for one in response.curve))
        if response.curve
        else tokens
    )


def read_picture(response: pb.DecodeResponse) -> bytes:
    return response.picture


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
            return read_picture(response.response)
        case "error":
            return from_status(response.error)
    return _neither()


def read_tokenizers(response: pb.ListTokenizersResponse) -> list[TokenizerInfo]:
    return [
        TokenizerInfo(
            name=t.name,
            family=t.family,
            fingerprint=t.fingerprint,
            channels=t.channels,
            bits_per_token=t.bits_per_token,
            codes=t.codes or 2**t.bits_per_token,  # a service of before it said so
            picture_size=t.picture_size,
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
