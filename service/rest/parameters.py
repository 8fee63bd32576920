"""Query parameters that several routes share."""

from typing import Annotated

from fastapi import Query

from service.rest.openapi import STRING

EncodeTokenizer = Annotated[
    str | None,
    STRING,
    Query(description="name of the tokenizer; the default one when absent"),
]
DecodeTokenizer = Annotated[
    str | None,
    STRING,
    Query(description="name of the tokenizer; found by fingerprint when absent"),
]
