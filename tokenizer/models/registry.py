"""Registry of tokenizer models: named sizes (`--size`), and shapes as checkpoints store them."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from tokenizer.models import channeltok
from tokenizer.models.base import Tokenizer
from tokenizer.models.channeltok import PaperShape, ShuffleShape
from tokenizer.models.cvq import CvqShape
from tokenizer.models.flextok import FlexShape

Shape = Annotated[PaperShape | ShuffleShape | CvqShape | FlexShape, Field(discriminator="kind")]
SHAPE: TypeAdapter[PaperShape | ShuffleShape | CvqShape | FlexShape] = TypeAdapter(Shape)

SIZES: dict[str, PaperShape | ShuffleShape | CvqShape | FlexShape] = {
    **channeltok.SIZES,
    "cvq": CvqShape(),
    "flextok": FlexShape(),
}


def build(size: str) -> Tokenizer:
    """A model of a named size with fresh weights. Raises ValueError for an unknown size."""
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: choose one of {', '.join(SIZES)}")
    return SIZES[size].build()
