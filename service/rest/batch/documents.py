"""JSON lines of batches: the items of their bodies and replies."""

from typing import Annotated

from pydantic import BaseModel, Field

from service.rest.documents import TokensDocument, ViewDocument
from service.rest.problems import Problem

_Id = Annotated[
    str | int | None,
    Field(description="of the caller's choice; repeated in the reply. Strings: 200 characters"),
]


class ImageItemDocument(BaseModel):
    """An image in the body of encode:batch."""

    id: _Id = None
    image: Annotated[
        str,
        Field(
            description="a JPEG, PNG or WebP file in base64",
            json_schema_extra={"contentEncoding": "base64"},
        ),
    ]


class TokensItemDocument(BaseModel):
    """Tokens in the body of decode:batch; a line that encode:batch returns will do."""

    id: _Id = None
    tokens: Annotated[
        str | list[int],
        Field(description="token bytes in base64; or ids, and then `fingerprint` is required"),
    ]
    fingerprint: Annotated[
        str | None, Field(description="16 hex digits, as encode returns them")
    ] = None
    tokenizer: Annotated[
        str | None, Field(description="name of the tokenizer; found by fingerprint when absent")
    ] = None
    view: Annotated[
        ViewDocument | None, Field(description="gives the image the proportions of this part")
    ] = None


class _ReplyDocument(BaseModel):
    index: Annotated[int, Field(ge=0, description="position of the item in the body, from 0")]
    id: Annotated[str | int | None, Field(description="of the item, or the name of its file")] = (
        None
    )


class EncodedItemDocument(TokensDocument, _ReplyDocument):
    """The tokens of an item of encode:batch."""


class DecodedItemDocument(_ReplyDocument):
    """The image of an item of decode:batch."""

    tokenizer: str
    k: Annotated[int, Field(description="number of tokens that were decoded")]
    media_type: Annotated[str, Field(description="of the image")]
    image: Annotated[
        str,
        Field(
            description="an image file in base64", json_schema_extra={"contentEncoding": "base64"}
        ),
    ]


class ItemProblemDocument(Problem):
    """The problem of an item; of the rest of the batch, where it has no `index`."""

    index: Annotated[
        int | None, Field(ge=0, description="position of the item in the body, from 0")
    ] = None
    id: Annotated[str | int | None, Field(description="as in the result of an item")] = None
