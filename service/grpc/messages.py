"""Protobuf messages to and from the values of service.core."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from channeltok import Aspect, Fit, GeneratorInfo, NewTokens, Preview, Started, TokenizerInfo
from channeltok.fit import check_aspect
from channeltok.quality import Quality
from channeltok.v1 import tokenizer_pb2 as pb

import imaging
from service.core.call_record import Stages
from service.core.generation import Event, Finished
from service.core.progressive import DecodeEvent, DecodeFinished
from service.core.tokenization import Decoded, Encoded
from service.errors import BadRequest, UnsupportedFormat

_FITS: dict[int, Fit] = {pb.FIT_UNSPECIFIED: "crop", pb.FIT_CROP: "crop", pb.FIT_PAD: "pad"}


def pillow_format(format: pb.ImageFormat) -> str:
    """ "PNG", "JPEG" or "WEBP"; PNG where unspecified. Raises UnsupportedFormat."""
    format = format or pb.IMAGE_FORMAT_PNG
    try:
        return str(pb.ImageFormat.Name(format)).removeprefix("IMAGE_FORMAT_")
    except ValueError:
        raise UnsupportedFormat(
            f"image format {format} is unknown; 1 is PNG, 2 JPEG, 3 WebP"
        ) from None


def read_image(request: pb.EncodeRequest) -> bytes | imaging.Pixels:
    """Raises BadRequest."""
    image: bytes = request.image
    if not request.HasField("pixels"):
        return image
    if image:
        raise BadRequest("a request has image or pixels, not both")
    return imaging.Pixels(request.pixels.width, request.pixels.height, request.pixels.rgb)


def read_quality(quality: pb.Quality) -> Quality:
    """Raises BadRequest."""
    try:
        return Quality(**{field.name: value for field, value in quality.ListFields()})
    except ValueError as error:
        raise BadRequest(str(error)) from error


def read_fit(fit: pb.Fit) -> Fit:
    """Crop where unspecified. Raises BadRequest."""
    try:
        return _FITS[fit]
    except KeyError:
        raise BadRequest(f"fit {fit} is unknown; 1 is crop, 2 pad") from None


def read_aspect(request: pb.DecodeRequest) -> Aspect | None:
    """Raises InvalidInput."""
    aspect = request.aspect
    return check_aspect((aspect.width, aspect.height)) if request.HasField("aspect") else None


def read_generate_request(request: pb.GenerateRequest) -> dict[str, Any]:
    """The fields of GenerateParams, which have the same names. Raises UnsupportedFormat."""
    fields = {field.name: value for field, value in request.ListFields()}
    fields["preview_format"] = pillow_format(request.preview_format).lower()
    return fields


def encode_response(encoded: Encoded) -> pb.EncodeResponse:
    view = encoded.tokens.view
    return pb.EncodeResponse(
        tokenizer=encoded.tokenizer.name,
        fingerprint=encoded.tokenizer.fingerprint,
        k=encoded.tokens.k,
        tokens=encoded.tokens.to_bytes(),
        stages=_stage_times(encoded.stages),
        engine=encoded.engine,
        curve=[pb.QualityPoint(**asdict(point)) for point in encoded.curve],
        # Not asdict, which copies: every Encode comes here.
        view=None
        if view is None
        else pb.ImageView(
            width=view.width,
            height=view.height,
            left=view.left,
            top=view.top,
            right=view.right,
            bottom=view.bottom,
        ),
    )


def decode_response(decoded: Decoded, format: pb.ImageFormat) -> pb.DecodeResponse:
    return pb.DecodeResponse(
        image=decoded.image,
        format=format,
        tokenizer=decoded.tokenizer.name,
        k=decoded.k,
        stages=_stage_times(decoded.stages),
        engine=decoded.engine,
    )


def decode_progressive_response(event: DecodeEvent) -> pb.DecodeProgressiveResponse:
    match event:
        case Preview(k, image):
            return pb.DecodeProgressiveResponse(preview=pb.Preview(k=k, image=image))
        case DecodeFinished(tokenizer, stages, engine):
            finished = pb.DecodeFinished(
                tokenizer=tokenizer.name,
                fingerprint=tokenizer.fingerprint,
                stages=_stage_times(stages),
                engine=engine,
            )
            return pb.DecodeProgressiveResponse(finished=finished)


def generate_response(event: Event) -> pb.GenerateResponse:
    match event:
        case Started():
            return pb.GenerateResponse(started=pb.GenerationStarted(**asdict(event)))
        case NewTokens(index, ids):
            return pb.GenerateResponse(tokens=pb.NewTokens(index=index, ids=ids))
        case Preview(k, image):
            return pb.GenerateResponse(preview=pb.Preview(k=k, image=image))
        case Finished():
            finished = pb.GenerationFinished(
                tokens=event.tokens.to_bytes(),
                stages=_stage_times(event.stages),
                engine=event.engine,
            )
            return pb.GenerateResponse(finished=finished)


def list_tokenizers_response(infos: Iterable[TokenizerInfo]) -> pb.ListTokenizersResponse:
    return pb.ListTokenizersResponse(tokenizers=[pb.TokenizerInfo(**asdict(i)) for i in infos])


def list_generators_response(infos: Iterable[GeneratorInfo]) -> pb.ListGeneratorsResponse:
    return pb.ListGeneratorsResponse(generators=[pb.GeneratorInfo(**asdict(i)) for i in infos])


def _stage_times(stages: Stages) -> list[pb.StageTime]:
    return [pb.StageTime(stage=stage, seconds=seconds) for stage, seconds in stages.items()]
