"""Build protobuf requests and read responses, for both clients; limits of a message."""

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

from channeltok import images
from channeltok.errors import ChannelTokError, InternalError, InvalidInput, TooLarge, from_status
from channeltok.fit import Aspect, Fit, check_aspect, check_fit
from channeltok.images import DecodedImage, ImageLike
from channeltok.quality import Quality, QualityPoint
from channeltok.tokens import ImageView, TokenBytesError, Tokens
from channeltok.v1 import tokenizer_pb2 as pb

ImageFormat = Literal["png", "jpeg", "webp"]
Value = TypeVar("Value")

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
# Of a message, for the image or the tokens; the rest is for the other fields.
MAX_PAYLOAD_BYTES = MAX_MESSAGE_BYTES - 4096
# Pixels cost no time to write and to read, but 3 bytes each: a PNG has about half of that.
MAX_RAW_PIXELS = 1024 * 1024

FORMATS = {
    "png": pb.IMAGE_FORMAT_PNG,
    "jpeg": pb.IMAGE_FORMAT_JPEG,
    "webp": pb.IMAGE_FORMAT_WEBP,
}
FITS: dict[Fit, pb.Fit] = {"crop": pb.FIT_CROP, "pad": pb.FIT_PAD}
_MAX_UINT32 = 2**32 - 1


@dataclass(frozen=True)
class TokenizerInfo:
    """A tokenizer that the service serves.

    Attributes:
        name: pass it as `tokenizer`.
        family: family of models: "channeltok", "cvq", "flextok".
        fingerprint: 16 lower-case hex digits that identify its training.
        max_tokens: number of tokens of a whole image, the largest k.
        bits_per_token: bits that hold any token id.
        vocab_size: number of ids; they are 0 to vocab_size - 1.
        image_size: side of the square image it reads and makes, in pixels.
        budgets: values of k with a decode engine of their own, ascending; any other k runs on the
            next larger one.
        relative_costs: for each of `budgets`: multiply-adds to decode an image, as a share of those
            at the largest. Empty where a service is older and does not say.
    """

    name: str
    family: str
    fingerprint: str
    max_tokens: int
    bits_per_token: int
    vocab_size: int
    image_size: int
    budgets: tuple[int, ...]
    relative_costs: tuple[float, ...] = ()


def check_k(k: int | None) -> None:
    """Raise InvalidInput (BAD_K) for a k outside uint32. The service checks the rest."""
    if k is not None and not 0 <= operator.index(k) <= _MAX_UINT32:
        raise InvalidInput("BAD_K", f"k is 1 to the tokenizer's max_tokens, not {k}")


def check_format(format: str) -> None:
    """Raise InvalidInput (UNSUPPORTED_FORMAT) unless png, jpeg or webp."""
    if format not in FORMATS:
        raise InvalidInput(
            "UNSUPPORTED_FORMAT", f"format is one of {', '.join(FORMATS)}, not {format!r}"
        )


def encode_request(
    image: ImageLike, k: int | None, tokenizer: str | None, quality: Quality | None, fit: Fit
) -> pb.EncodeRequest:
    """Pixels are sent as they are, those of large images as a PNG.

    Raises InvalidInput for image, k and fit, TooLarge for the image.
    """
    check_k(k)
    file, pixels = b"", None
    match images.read_image(image):
        case bytes() as read:
            file = read
        case array if array.size > 3 * MAX_RAW_PIXELS:
            file = images.encode_png(array)
        case array:
            height, width, _ = array.shape
            pixels = pb.Pixels(width=width, height=height, rgb=array.tobytes())
    _check_size("image", len(file))
    return pb.EncodeRequest(
        image=file,
        pixels=pixels,
        k=k,
        tokenizer=tokenizer,
        quality=None if quality is None else pb.Quality(**asdict(quality)),
        fit=FITS[check_fit(fit)],
    )


def decode_request(
    tokens: Tokens | bytes, format: ImageFormat, tokenizer: str | None, aspect: Aspect | None
) -> pb.DecodeRequest:
    """aspect: None for that of the tokens, where they have one.

    Bytes are sent unchecked: the service reads them. Raises InvalidInput, TooLarge.
    """
    check_format(format)
    if isinstance(tokens, Tokens):
        aspect = tokens.aspect if aspect is None else aspect
    data = tokens.to_bytes() if isinstance(tokens, Tokens) else tokens
    _check_size("token sequence", len(data))
    ratio = None
    if aspect is not None:
        width, height = check_aspect(aspect)
        ratio = pb.AspectRatio(width=width, height=height)
    return pb.DecodeRequest(tokens=data, format=FORMATS[format], tokenizer=tokenizer, aspect=ratio)


def decode_progressive_request(
    tokens: Tokens | bytes,
    ks: Sequence[int],
    format: ImageFormat,
    tokenizer: str | None,
    aspect: Aspect | None,
) -> pb.DecodeProgressiveRequest:
    """Raises InvalidInput, TooLarge; the service checks the rest."""
    for k in ks:
        check_k(k)
    return pb.DecodeProgressiveRequest(
        request=decode_request(tokens, format, tokenizer, aspect), k=ks
    )


def encode_item(
    number: int,
    image: ImageLike,
    k: int | None,
    tokenizer: str | None,
    quality: Quality | None,
    fit: Fit,
) -> pb.EncodeStreamRequest | ChannelTokError:
    """The request for a stream item, or the error that is its result."""
    try:
        return pb.EncodeStreamRequest(
            id=number, request=encode_request(image, k, tokenizer, quality, fit)
        )
    except ChannelTokError as error:
        return error


def decode_item(
    number: int,
    tokens: Tokens | bytes,
    format: ImageFormat,
    tokenizer: str | None,
    aspect: Aspect | None,
) -> pb.DecodeStreamRequest | ChannelTokError:
    """The request for a stream item, or the error that is its result."""
    try:
        return pb.DecodeStreamRequest(
            id=number, request=decode_request(tokens, format, tokenizer, aspect)
        )
    except ChannelTokError as error:
        return error


def read_tokens(response: pb.EncodeResponse, fit: Fit) -> Tokens:
    """Raises InternalError if the service did not send token bytes, or ignored `fit`."""
    try:
        tokens = Tokens.from_bytes(response.tokens)
    except TokenBytesError as error:
        raise InternalError("INTERNAL", f"the service's answer cannot be read: {error}") from error
    curve = tuple(from_message(QualityPoint, point) for point in response.curve)
    view = from_message(ImageView, response.view) if response.HasField("view") else None
    if fit == "pad" and view is None:
        raise InternalError("INTERNAL", "the service is older than this client: it can only crop")
    return replace(tokens, curve=curve, view=view)


def read_image(response: pb.DecodeResponse) -> DecodedImage:
    return DecodedImage(response.image)


def read_encode_item(response: pb.EncodeStreamResponse, fit: Fit) -> Tokens | ChannelTokError:
    match response.WhichOneof("result"):
        case "response":
            try:
                return read_tokens(response.response, fit)
            except InternalError as error:
                return error
        case "error":
            return from_status(response.error)
    return _empty_item()


def read_decode_item(response: pb.DecodeStreamResponse) -> DecodedImage | ChannelTokError:
    match response.WhichOneof("result"):
        case "response":
            return read_image(response.response)
        case "error":
            return from_status(response.error)
    return _empty_item()


def read_tokenizers(response: pb.ListTokenizersResponse) -> list[TokenizerInfo]:
    infos = [from_message(TokenizerInfo, tokenizer) for tokenizer in response.tokenizers]
    # Older services leave vocab_size at 0.
    return [replace(info, vocab_size=info.vocab_size or 2**info.bits_per_token) for info in infos]


def from_message(kind: type[Value], message: Any) -> Value:
    """A dataclass from a message whose fields have the same names; repeated fields as tuples."""

    def read(name: str) -> Any:
        value = getattr(message, name)
        return value if isinstance(value, (str, bytes, int, float)) else tuple(value)

    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: read(name) for name in names})


def _check_size(payload: str, size: int) -> None:
    # gRPC would refuse it too, but in a stream that would end the call for all items.
    if size > MAX_PAYLOAD_BYTES:
        raise TooLarge(
            "TOO_LARGE",
            f"the {payload} has {size} bytes: a message carries at most {MAX_PAYLOAD_BYTES}",
        )


def _empty_item() -> InternalError:
    return InternalError(
        "INTERNAL", "the service answered an item with neither a result nor an error"
    )
