"""What the device does at best in this process: matrix products and copies."""

from functools import partial

import torch

from export.acceptance.bare.precision import BF16, FP16, FP32, TF32, Precision, computing
from export.acceptance.bare.scale import Scale
from export.acceptance.bare.sections import Sections
from export.acceptance.bare.timing import median_seconds

AT_MOST = 15.0  # seconds for each


def measure(sections: Sections, device: torch.device, scale: Scale) -> dict[torch.dtype, float]:
    """Say the rates. Returns operations per second of matrix products by dtype, fp32 as tf32's."""
    rates: dict[torch.dtype, float] = {}
    report = sections.report
    report.say(
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
        report.say(f"| {precision.name} | {rates[precision.dtype] / 1e12:.1f} TFLOP/s |")

    def copy() -> None:
        a, b = (torch.empty(scale.copied, dtype=torch.uint8, device=device) for _ in range(2))
        seconds = median_seconds(lambda: a.copy_(b), device, scale)
        rate = 2 * scale.copied / seconds
        report.figures["copy_gigabytes_per_second"] = rate / 1e9
        report.say(f"| copy, read and written | {rate / 1e9:.0f} GB/s |")

    for precision in (FP32, TF32, BF16, FP16):
        sections.attempt(f"rate in {precision.name}", partial(product, precision), AT_MOST)
    sections.attempt("rate of a copy", copy, AT_MOST)
    return rates
