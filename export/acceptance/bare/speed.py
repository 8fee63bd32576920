"""Time of encode and decode by batch, precision, memory layout and torch.compile mode."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from export.acceptance.bare.precision import (
    BF16,
    BF16_THROUGHOUT,
    FP16_THROUGHOUT,
    FP32,
    TF32,
    Precision,
    computing,
    prepared,
)
from export.acceptance.bare.scale import Role, Scale
from export.acceptance.bare.sections import Sections
from export.acceptance.bare.timing import median_seconds, operations
from export.graphs.graph import Decode, Encode
from tokenizer.models.base import Tokenizer

EAGER_SECONDS, COMPILED_SECONDS = 15.0, 60.0  # limits for one cell of a table


@dataclass(frozen=True)
class Variant:
    """A way to run a model. mode: of torch.compile; None = eager."""

    precision: Precision
    channels_last: bool = True
    mode: str | None = None

    @property
    def name(self) -> str:
        """Name in the report."""
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.precision.name}, {layout}, {self.mode or 'eager'}"


MAIN = (Variant(BF16_THROUGHOUT),)
OTHERS = (
    Variant(BF16),
    Variant(BF16_THROUGHOUT, channels_last=False),
    Variant(FP16_THROUGHOUT),
    Variant(TF32),
    Variant(FP32),
)
COMPILED = (
    Variant(BF16_THROUGHOUT, mode="reduce-overhead"),  # with CUDA graphs
    Variant(BF16_THROUGHOUT, mode="max-autotune-no-cudagraphs"),
)


@dataclass
class Speeds:
    """Measured images per second by (model, role, variant, batch)."""

    images_per_second: dict[tuple[str, Role, str, int], float] = field(default_factory=dict)

    def best(self, model: str, role: Role) -> tuple[float, str, int] | None:
        """The highest rate with its variant and batch; None if nothing was measured."""
        rates = [
            (rate, variant, batch)
            for (of_model, of_role, variant, batch), rate in self.images_per_second.items()
            if (of_model, of_role) == (model, role)
        ]
        return max(rates, default=None)


def measure(
    sections: Sections,
    models: dict[str, Tokenizer],
    roles: tuple[Role, ...],
    variants: tuple[Variant, ...],
    batches: tuple[int, ...],
    device: torch.device,
    scale: Scale,
    rates: dict[torch.dtype, float],
    speeds: Speeds,
) -> None:
    """Report a table per model and role: a row per variant, a column per batch.

    Times are from a tensor on the device to a tensor on the device. rates: FLOP/s of matrix
    products by dtype, see bare.rates. Adds the rates to `speeds`.
    """
    report = sections.report
    for name, model in models.items():
        for role in roles:
            work = _operations(model, role)
            report.add(
                "",
                f"{name}, {role}: ms (images/s, share of the matrix-product rate) by batch; "
                f"{work / 1e9:,.2f} GFLOP an image",
                "",
                "| | " + " | ".join(map(str, batches)) + " |",
                "|---" * (len(batches) + 1) + "|",
            )
            for variant in variants:
                cells: dict[int, float] = {}
                ready: list[Tokenizer] = []  # filled by the first cell, within its time limit
                for batch in batches:

                    def cell(
                        model: Tokenizer = model,
                        role: Role = role,
                        variant: Variant = variant,
                        batch: int = batch,
                        cells: dict[int, float] = cells,
                        ready: list[Tokenizer] = ready,
                    ) -> None:
                        if not ready:
                            layout = variant.channels_last
                            ready.append(
                                prepared(model, variant.precision, device, channels_last=layout)
                            )
                        cells[batch] = _seconds(ready[0], role, variant, batch, device, scale)

                    sections.attempt(
                        f"speed, {name}, {role}, {variant.name}, batch {batch}",
                        cell,
                        EAGER_SECONDS if variant.mode is None else COMPILED_SECONDS,
                    )
                for batch, seconds in cells.items():
                    speeds.images_per_second[name, role, variant.name, batch] = batch / seconds
                    key = f"{name}_{role}_{variant.name}_batch_{batch}_ms"
                    report.figures[key.replace(",", "").replace(" ", "_")] = 1000 * seconds
                rate = rates.get(variant.precision.dtype)
                report.add(
                    f"| {variant.name} | "
                    + " | ".join(_cell(cells.get(batch), batch, work, rate) for batch in batches)
                    + " |"
                )
                report.write(sections.folder)


def _cell(seconds: float | None, batch: int, work: int, rate: float | None) -> str:
    if seconds is None:
        return "not run"
    share = "" if rate is None else f", {batch * work / seconds / rate:.0%}"
    return f"{1000 * seconds:.2f} ({batch / seconds:,.0f}{share})"


def _seconds(
    model: Tokenizer, role: Role, variant: Variant, batch: int, device: torch.device, scale: Scale
) -> float:
    run = _module(model, role)
    inputs = _inputs(model, role, batch, device)
    with computing(variant.precision, device):
        if variant.mode is not None:
            run(inputs)  # moves constants to the device: a CUDA graph cannot record that copy
            torch._dynamo.reset()
            run = torch.compile(run, mode=variant.mode, dynamic=False)  # type: ignore[assignment]
        return median_seconds(lambda: run(inputs), device, scale)


def _module(model: Tokenizer, role: Role) -> nn.Module:
    return Encode(model) if role == "encode" else Decode(model)


def _inputs(model: Tokenizer, role: Role, batch: int, device: torch.device) -> Tensor:
    size, channels = model.shape.image_size, model.shape.channels
    if role == "encode":
        return torch.randint(256, (batch, size, size, 3), dtype=torch.uint8, device=device)
    return torch.randint(model.vocab_size, (batch, channels), dtype=torch.int32, device=device)


def _operations(model: Tokenizer, role: Role) -> int:
    meta = torch.device("meta")
    return operations(_module(copy.deepcopy(model).to(meta), role), _inputs(model, role, 1, meta))
