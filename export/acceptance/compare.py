"""Compare an engine of a GPU host with fp32 on the CPU, and time it."""

import statistics
import time
from dataclasses import replace

import numpy as np

from export.acceptance.engines import Array, Case, Run
from export.acceptance.report import Report
from tokenizer.models.bsq import BITS

REPEATS = 20
MAX_PIXEL_DIFFERENCE = 2  # fp16 decode against fp32; half of it is rounding to whole values
MAX_FLIPPED_SHARE = 1e-4  # of token bits, fp32 encode: a GPU sums in another order than a CPU


def run_in_batches(run: Run, case: Case, batch: int) -> Array:
    """Outputs of all inputs of a case, in batches of `batch`."""
    return np.concatenate(
        [run(case.name, case.inputs[i : i + batch]) for i in range(0, len(case.inputs), batch)]
    )


def compare(report: Report, engine: str, run: Run, cases: list[Case], batch: int) -> None:
    """Report bits and pixels against fp32, and whether results depend on the rest of a batch."""
    report.add(
        "",
        f"### {engine}",
        "",
        f"| model | against fp32 on the CPU | alone and in a batch of {batch} |",
        "|---|---|---|",
    )
    for case in cases:
        batched = run_in_batches(run, case, batch)
        alone = run_in_batches(run, replace(case, inputs=case.inputs[:32]), 1)
        differing = int((alone != batched[:32]).sum())
        if case.metadata.role == "encode":
            flipped = int(np.unpackbits((batched ^ case.expected).view(np.uint8)).sum())
            share = flipped / (case.expected.size * BITS)
            finding = f"{flipped} of {case.expected.size * BITS:,} bits flipped"
            if share > MAX_FLIPPED_SHARE:
                report.violations.append(f"{engine}, {case.name}: {finding}")
            if differing:
                report.violations.append(
                    f"{engine}, {case.name}: {differing} tokens depend on what shares the batch"
                )
        else:
            difference = np.abs(batched.astype(np.int16) - case.expected)
            finding = f"largest pixel difference {difference.max()}, mean {difference.mean():.4f}"
            if difference.max() > MAX_PIXEL_DIFFERENCE:
                report.violations.append(f"{engine}, {case.name}: {finding}")
        report.add(
            f"| {case.name} | {finding} "
            f"| {'the same' if not differing else f'{differing:,} values differ'} |"
        )


def time_it(
    report: Report,
    engine: str,
    run: Run,
    cases: list[Case],
    batches: list[int],
    repeats: int = REPEATS,
) -> None:
    """Report latency and throughput of one client by batch: encode, and the largest decode."""
    largest = max(
        (case for case in cases if case.metadata.role == "decode"),
        key=lambda case: case.metadata.budget,
    )
    report.add(
        "",
        f"{engine}: ms (images/s) by batch",
        "",
        "| model | " + " | ".join(map(str, batches)) + " |",
        "|---" * (len(batches) + 1) + "|",
    )
    for case in (*(case for case in cases if case.metadata.role == "encode"), largest):
        cells = []
        for batch in batches:
            inputs = np.resize(case.inputs, (batch, *case.inputs.shape[1:]))
            run(case.name, inputs)
            times = []
            for _ in range(repeats):
                started = time.perf_counter()
                run(case.name, inputs)
                times.append(time.perf_counter() - started)
            median = statistics.median(times)
            report.figures[f"{engine.replace(' ', '_')}_{case.metadata.role}_batch_{batch}_ms"] = (
                1000 * median
            )
            cells.append(f"{1000 * median:.1f} ({batch / median:.0f})")
        report.add(f"| {case.name} | " + " | ".join(cells) + " |")
