"""How large the acceptance is: for a GPU, and for its rehearsal on a CPU."""

from dataclasses import dataclass
from typing import Literal

from generator.gpt import GptShape, paper_shape
from tokenizer.models.channeltok import SIZES, PaperShape, ShuffleShape
from tokenizer.models.flextok import D12, FlexShape

Role = Literal["encode", "decode"]
ROLES: tuple[Role, ...] = ("encode", "decode")


@dataclass(frozen=True)
class Scale:
    """photos, large_photos: compared at most, of the small and of the full tokenizer.
    full, flextok, gpt: with random weights.

    small: with random weights, in the place of the trained tokenizer; None: the trained one.
    batches: of the speed tables. some_batches: of the slower engines. compiled_batches: of the
    models in `compiled`, in the roles of compiled_roles, for each batch anew.
    lengths: tokens that the GPT makes.
    matrix: side of the products whose rate is measured. copied: bytes of the copy, likewise.
    repeats: of a call that is timed, at most. enough: seconds of one cell of a table.
    reference: seconds that a model may take for fp32 on the CPU.
    patience: see Sections.
    """

    photos: int
    large_photos: int
    small: ShuffleShape | None
    full: PaperShape | ShuffleShape
    flextok: FlexShape
    gpt: GptShape
    batches: tuple[int, ...]
    some_batches: tuple[int, ...]
    compiled: tuple[str, ...]
    compiled_roles: tuple[Role, ...]
    compiled_batches: tuple[int, ...]
    lengths: tuple[int, ...]
    matrix: int
    copied: int
    repeats: int
    enough: float
    reference: float
    patience: float


GPU = Scale(
    photos=200,
    large_photos=64,
    small=None,
    full=SIZES["full"],
    flextok=D12,
    gpt=paper_shape(),
    batches=(1, 2, 4, 8, 16, 32, 64, 128),
    some_batches=(1, 32, 128),
    compiled=("full", "demo"),
    compiled_roles=("decode", "encode"),
    compiled_batches=(1, 32),
    lengths=(32, 256),
    matrix=8192,
    copied=2**30,
    repeats=20,
    enough=0.2,
    reference=15.0,
    patience=1.0,
)

REHEARSAL = Scale(
    photos=2,
    large_photos=2,
    small=ShuffleShape(channels=32, widths=(32, 32, 32, 32), full_size_channels=8),
    full=PaperShape(
        image_size=8,
        channels=32,
        encoder_widths=(32, 32),
        decoder_widths=(32, 32),
        level_attention=True,
    ),
    flextok=D12.model_copy(
        update={
            "image_size": 8,
            "registers": 16,
            "width": 64,
            "encoder_depth": 1,
            "decoder_depth": 1,
            "steps": 3,
        }
    ),
    gpt=paper_shape(classes=10).model_copy(
        update={"channels": 8, "width": 64, "layers": 2, "heads": 2, "inside": 64}
    ),
    batches=(2,),
    some_batches=(2,),
    compiled=("full",),
    compiled_roles=("encode",),
    compiled_batches=(2,),
    lengths=(4, 8),
    matrix=128,
    copied=2**20,
    repeats=2,
    enough=0.0,
    reference=20.0,
    patience=20.0,
)
