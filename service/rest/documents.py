"""JSON documents of the REST API: the request and response bodies, as OpenAPI describes them."""

from typing import Annotated, Any, Literal

from channeltok.fit import MAX_SIDE
from pydantic import BaseModel, ConfigDict, FailFast, Field

from service.core.generation import (
    MAX_PREVIEWS,
    MAX_SEED,
    MAX_TEMPERATURE,
    TEMPERATURE,
    TOP_K,
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


class TokensDocument(BaseModel):
    """Tokens as JSON: encode returns it, decode takes it."""

    tokenizer: Annotated[
        str, Field(description="name of the tokenizer that made the tokens; optional for decode")
    ]
    fingerprint: Annotated[
        str, Field(description="16 hex digits that bind the tokens to the training that made them")
    ]
    k: Annotated[
        int, Field(ge=1, description="number of ids; optional for decode, but it must match")
    ]
    tokens: Annotated[
        list[int], Field(description="ids, 0 to 65535, coarse to fine; any prefix can be decoded")
    ]
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
        str | None, Field(description="name of the generator; the default one when absent")
    ] = None
    class_name: Annotated[
        str | None,
        Field(alias="class", description="one of the generator's classes; none when absent"),
    ] = None
    prefix: Annotated[
        dict[str, Any] | None,
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
    top_k: Annotated[
        int | None,
        Field(
            description="sample from this many of the likeliest ids; 0: from all; "
            f"{TOP_K}, or all where there are fewer, when absent"
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
    preview_format: Literal["png", "jpeg", "webp"] = "png"


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
        list[str], Field(description="values that `class` can have; empty where it has no classes")
    ]


class GeneratorsDocument(BaseModel):
    """All served generators, the default one first."""

    generators: list[GeneratorDocument]
