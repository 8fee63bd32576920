"""Peak rates of the device in this process: matrix products and copies."""

from functools import partial

import torch

from export.acceptance.bare.precision import BF16, FP16, FP32, TF32, Precision, computing
from export.acceptance.bare.scale import Scale
from export.acceptance.bare.sections import Sections
from export.acceptance.bare.timing import median_seconds

MAX_SECONDS = 15.0  # for each rate


def measure(sections: Sections, device: torch.device, scale: Scale) -> dict[torch.dtype, float]:
    """Report the rates. Returns FLOP/s of matrix products by dtype; for fp32 that of TF32."""
    rates: dict[torch.dtype, float] = {}
    report = sections.report
    report.add(
        f"Products of two matrices of {scale.matrix} x {scale.matrix}, and a copy.",
        "",
        "| | |",
        "|---|---|",
    )

    def product(precision: Precision) -> None:
        a, b = (
            torch.randn(scale.matrix, scale.matrix, device=device).to(precision.dtype)
            for _ in range(2)
        )
        with computing(precision, device):
            seconds = median_seconds(lambda: a @ b, device, scale)
        rates[precision.dtype] = 2 * scale.matrix**3 / seconds
        report.figures[f"matrix_{precision.name}_tflops"] = rates[precision.dtype] / 1e12
        report.add(f"| {precision.name} | {rates[precision.dtype] / 1e12:.1f} TFLOP/s |")

    def copy() -> None:
        a, b = (torch.empty(scale.copy_bytes, dtype=torch.uint8, device=device) for _ in range(2))
        seconds = median_seconds(lambda: a.copy_(b), device, scale)
        rate = 2 * scale.copy_bytes / seconds
        report.figures["copy_gigabytes_per_second"] = rate / 1e9
        report.add(f"| copy, read and written | {rate / 1e9:.0f} GB/s |")

    for precision in (FP32, TF32, BF16, FP16):
        sections.attempt(f"rate in {precision.name}", partial(product, precision), MAX_SECONDS)
    sections.attempt("rate of a copy", copy, MAX_SECONDS)
    return rates
