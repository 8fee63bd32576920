"""All families by name: the shapes that `python -m tokenizer.train --size` knows, and which shape a checkpoint's metadata says."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from tokenizer.models import channeltok
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
