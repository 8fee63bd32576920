"""JSON documents of the REST API: the request and response bodies, as OpenAPI describes them."""

from typing import Annotated, Literal

from channeltok.fit import FITS, MAX_SIDE
from pydantic import BaseModel, ConfigDict, FailFast, Field, SkipValidation

from service.core.generation import (
    MAX_GUIDANCE,
    MAX_PREVIEWS,
    MAX_SEED,
    MAX_TEMPERATURE,
    TEMPERATURE,
    TOP_K,
)

QUALITY = (
    "instead of k: ssim=0.6, psnr=24, ssim_per_token=0.001, max_bytes=128, or max_bytes with one "
    "of the others"
)
FIT = (
    "what the tokenizer sees of an image that is not square: crop, the centred square; pad, the "
    "whole image with two bands that make it square. crop when absent"
)


class QualityPointDocument(BaseModel):
    """Quality of the image that the first k tokens decode to."""

    k: int
    ssim: Annotated[
        float,
        Field(description="structural similarity to the image as the tokenizer sees it, at most 1"),
    ]
    psnr: Annotated[float, Field(description="peak signal-to-noise ratio, dB")]


_Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
_Edge = Annotated[float, Field(ge=0, le=MAX_SIDE)]


class ViewDocument(BaseModel):
    """What the tokenizer saw of an image, in the image's own pixels."""

    model_config = ConfigDict(strict=True)

    width: Annotated[_Side, Field(description="of the whole image, after its EXIF rotation")]
    height: _Side
    left: Annotated[_Edge, Field(description="of the part that was seen, as the next three")]
    top: _Edge
    right: _Edge
    bottom: _Edge


_Id = Annotated[int, Field(ge=0, le=65535)]
_Ids = Annotated[
    list[_Id],
    Field(
        min_length=1,
        max_length=65535,
        description="ids, 0 to 65535, coarse to fine; any prefix can be decoded",
    ),
]
_Fingerprint = Annotated[
    str,
    Field(
        pattern="^[0-9a-f]{16}$",
        description="16 hex digits that bind the tokens to the training that made them",
    ),
]
_Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
_Stages = Annotated[
    dict[str, float], Field(description="seconds of each stage, in the order they happened")
]
_Engine = Annotated[str, Field(description="what computed the result, such as `openvino bf16`")]


class DecodeDocument(BaseModel):
    """Tokens as JSON for decode, as encode returns them. Other fields are ignored, because callers
    store tokens with fields of their own."""

    tokenizer: Annotated[
        str | None,
        Field(description="name of the tokenizer; found by the fingerprint when absent"),
    ] = None
    fingerprint: _Fingerprint
    k: Annotated[
        int | None, Field(ge=1, description="number of ids; may be absent, but it must match")
    ] = None
    tokens: _Ids
    view: Annotated[
        ViewDocument | None,
        Field(description="what was seen; the image gets the proportions of this part"),
    ] = None


class TokensDocument(BaseModel):
    """Tokens as JSON: encode returns it, decode takes it."""

    tokenizer: Annotated[str, Field(description="name of the tokenizer that made the tokens")]
    fingerprint: _Fingerprint
    k: Annotated[int, Field(ge=1, description="number of ids")]
    tokens: _Ids
    curve: Annotated[
        list[QualityPointDocument] | None,
        Field(
            description="every k that was tried, when the request had a quality; ignored by decode"
        ),
    ] = None
    view: Annotated[
        ViewDocument | None,
        Field(description="what was seen; decode gives the image the proportions of this part"),
    ] = None


class EncodeDocument(BaseModel):
    """Request of encode in JSON: an image in base64, and what else the query may say."""

    model_config = ConfigDict(strict=True, extra="forbid")

    image: Annotated[
        _Base64,
        Field(
            description="the image file in base64 (RFC 4648), with padding and without line breaks"
        ),
    ]
    k: Annotated[int | None, Field(description="number of tokens to keep; all when absent")] = None
    quality: Annotated[str | None, Field(description=QUALITY)] = None
    fit: Annotated[
        str | None, Field(description=FIT, json_schema_extra={"enum": [*FITS, None]})
    ] = None
    tokenizer: Annotated[
        str | None, Field(description="name of the tokenizer; the default one when absent")
    ] = None


class ImageDocument(BaseModel):
    """An image as JSON: decode returns it, and it is the data of the event `preview`."""

    k: Annotated[int, Field(ge=1, description="number of tokens that were decoded")]
    media_type: Annotated[str, Field(description="of the image: image/png, image/jpeg, image/webp")]
    image: Annotated[_Base64, Field(description="the image file in base64")]


class DecodeDone(BaseModel):
    """Data of the event `done` of decode."""

    tokenizer: str
    fingerprint: _Fingerprint
    engine: _Engine
    stages: _Stages


class TokenizerDocument(BaseModel):
    """One served tokenizer."""

    name: str
    family: str
    fingerprint: str
    max_tokens: Annotated[int, Field(description="tokens of a whole image: the largest k")]
    bits_per_token: int
    vocab_size: Annotated[
        int, Field(description="number of distinct ids: they are 0 to vocab_size - 1")
    ]
    image_size: Annotated[
        int, Field(description="side of the square image it encodes and decodes, in pixels")
    ]
    budgets: Annotated[list[int], Field(description="budgets with a decode engine, ascending")]
    relative_costs: Annotated[
        list[float],
        Field(
            description="for each of `budgets`: multiply-adds to decode an image, as a share of "
            "those at the largest"
        ),
    ]


class LimitsDocument(BaseModel):
    """Most that one call may have."""

    max_message_bytes: Annotated[int, Field(description="bytes of an image")]
    max_document_bytes: Annotated[
        int, Field(description="bytes of tokens: of the body, or of a line of a batch")
    ]
    max_prefixes: Annotated[int, Field(description="values of k in one call of decode")]
    max_batch_items: Annotated[
        int, Field(description="items in one call of encode:batch or decode:batch")
    ]


class TokenizersDocument(BaseModel):
    """All served tokenizers, the default one first, and the limits of calls."""

    tokenizers: list[TokenizerDocument]
    limits: LimitsDocument


class GenerateDocument(BaseModel):
    """Parameters of a generation; {} takes every default."""

    model_config = ConfigDict(strict=True, extra="forbid")

    generator: Annotated[
        str | None,
        Field(
            description="name of the generator; when absent the default one, or for a prompt, a "
            "class or a prefix the first that takes it"
        ),
    ] = None
    class_name: Annotated[
        str | None,
        Field(alias="class", description="one of the generator's classes; none when absent"),
    ] = None
    prompt: Annotated[
        str | None,
        Field(
            description="what the image shall show, of a generator that takes texts; "
            "at most its max_prompt_bytes in UTF-8; any image when absent or empty"
        ),
    ] = None
    prefix: Annotated[
        SkipValidation[DecodeDocument | None],  # read_tokens reads it, as it reads decode's body
        Field(description="tokens to continue from, as encode returns them; at most k"),
    ] = None
    k: Annotated[
        int | None,
        Field(description="length of the whole sequence; the generator's max_tokens when absent"),
    ] = None
    seed: Annotated[
        int | None,
        Field(
            description=f"0 to {MAX_SEED}; the same seed gives the same tokens. "
            "Drawn at random when absent, and returned in `start`"
        ),
    ] = None
    temperature: Annotated[
        float | None,
        Field(
            description=f"0 (always the likeliest id) to {MAX_TEMPERATURE:g}; "
            f"{TEMPERATURE} when absent"
        ),
    ] = None
    final_temperature: Annotated[
        float | None,
        Field(
            description="temperature of the last of the generator's max_tokens, to which that of "
            "each token goes linearly by its position; `temperature` when absent"
        ),
    ] = None
    top_k: Annotated[
        int | None,
        Field(
            description="sample from this many of the likeliest ids; 0: from all; "
            f"{TOP_K}, or all where there are fewer, when absent"
        ),
    ] = None
    top_p: Annotated[
        float | None,
        Field(
            description="of those, sample from the likeliest that together have this share of the "
            "probability, over 0 to 1; 1: from all, when absent"
        ),
    ] = None
    guidance: Annotated[
        float | None,
        Field(
            description=f"0 to {MAX_GUIDANCE:g}: more follows class or prompt more closely, with "
            "less variety; 1, none, when absent. Any other value doubles the cost of a token. "
            "Without class and prompt it changes nothing"
        ),
    ] = None
    previews: Annotated[
        list[int],
        FailFast(),  # pydantic would describe each of 30,000 wrong items
        Field(
            description=f"at most {MAX_PREVIEWS} budgets; "
            "the image so far is decoded and sent at each"
        ),
    ] = []
    preview_format: Annotated[
        Literal["png", "jpeg", "webp"], Field(description="png when absent")
    ] = "png"


class GenerateStart(BaseModel):
    """Data of the event `start`: the parameters in effect."""

    generator: str
    tokenizer: str
    fingerprint: _Fingerprint
    seed: Annotated[int, Field(description="gives the same tokens when it is sent again")]
    k: Annotated[int, Field(ge=1, description="length of the whole sequence")]


class GenerateToken(BaseModel):
    """Data of the event `token`: new tokens."""

    index: Annotated[int, Field(ge=0, description="of the first of them in the sequence")]
    ids: list[_Id]


class GenerateDone(BaseModel):
    """Data of the event `done` of generate: all tokens; decode takes it as it is."""

    tokenizer: str
    fingerprint: _Fingerprint
    k: Annotated[int, Field(ge=1, description="number of ids")]
    tokens: _Ids
    engine: _Engine
    stages: _Stages


class GeneratorDocument(BaseModel):
    """One served generator."""

    name: str
    family: str
    generator_fingerprint: Annotated[
        str, Field(description="16 hex digits that identify its training")
    ]
    tokenizer: Annotated[
        str, Field(description="name of the tokenizer that decodes the generated tokens")
    ]
    fingerprint: Annotated[str, Field(description="fingerprint of that tokenizer")]
    max_tokens: Annotated[int, Field(description="the largest k")]
    classes: Annotated[
        list[str],
        Field(
            description="values that `class` can have; empty where it has no classes. Of a "
            "generator that takes prompts: what it was trained on, as 'a photo of CLASS'"
        ),
    ]
    max_prompt_bytes: Annotated[
        int, Field(description="longest `prompt` in UTF-8; 0 where it takes a `class`")
    ]


class GeneratorsDocument(BaseModel):
    """All served generators, the default one first."""

    generators: list[GeneratorDocument]
