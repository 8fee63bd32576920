"""Sizes of the acceptance test: for a GPU, and for its rehearsal on a CPU."""

from dataclasses import dataclass
from typing import Literal

from generator.gpt import GptShape, paper_shape
from tokenizer.models.channeltok import SIZES, PaperShape, ShuffleShape
from tokenizer.models.flextok import D12, FlexShape

Role = Literal["encode", "decode"]
ROLES: tuple[Role, ...] = ("encode", "decode")


@dataclass(frozen=True)
class Scale:
    """How much the acceptance measures.

    photos, large_photos: most photos to compare, for the small and for the full tokenizer.
    small: random weights of this shape replace the trained tokenizer; None: the trained one.
    full, flextok, gpt: shapes of the models with random weights.
    batches: of the speed tables. some_batches: of the slower engines.
    compiled, compiled_roles, compiled_batches: what torch.compile runs, compiled per batch.
    lengths: tokens that the GPT generates.
    matrix: side of the measured matrix products. copy_bytes: size of the measured copy.
    repeats: most repeats of a timed call. cell_seconds: time for one cell of a table.
    reference_seconds: time for one model's fp32 reference on the CPU.
    time_factor: see Sections.
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
    copy_bytes: int
    repeats: int
    cell_seconds: float
    reference_seconds: float
    time_factor: float


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
    copy_bytes=2**30,
    repeats=20,
    cell_seconds=0.2,
    reference_seconds=15.0,
    time_factor=1.0,
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
        update={"channels": 8, "width": 64, "layers": 2, "heads": 2, "ffn_dim": 64}
    ),
    batches=(2,),
    some_batches=(2,),
    compiled=("full",),
    compiled_roles=("encode",),
    compiled_batches=(2,),
    lengths=(4, 8),
    matrix=128,
    copy_bytes=2**20,
    repeats=2,
    cell_seconds=0.0,
    reference_seconds=20.0,
    time_factor=20.0,
)
