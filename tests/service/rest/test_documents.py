"""REST documents have the fields of the client's value types that they are built from."""

from dataclasses import fields
from typing import Any

import pytest
from channeltok import GenerateParams, GeneratorInfo, ImageView, QualityPoint, TokenizerInfo
from pydantic import BaseModel

from service.rest.documents import (
    GenerateDocument,
    GeneratorDocument,
    QualityPointDocument,
    TokenizerDocument,
    ViewDocument,
)


@pytest.mark.parametrize(
    ("document", "value"),
    [
        (GenerateDocument, GenerateParams),
        (GeneratorDocument, GeneratorInfo),
        (QualityPointDocument, QualityPoint),
        (TokenizerDocument, TokenizerInfo),
        (ViewDocument, ImageView),
    ],
)
def test_document_has_every_field_of_its_value_type(document: type[BaseModel], value: Any) -> None:
    assert set(document.model_fields) == {field.name for field in fields(value)}
