"""One engine of a GPU host against fp32 on the CPU, and how long it takes."""

import statistics
import time

import numpy as np

from export.acceptance.engines import Array, Case, Run
from export.acceptance.report import Report
from tokenizer.models.bsq import BITS

REPEATS = 20
MAX_PIXEL_DIFFERENCE = 2  # fp16 decode against fp32; half of it is the rounding to whole pixels
MAX_FLIPPED_SHARE = 1e-4  # fp32 encode on a GPU adds up in another order than the CPU


def in_batches(run: Run, case: Case, batch: int) -> Array:
    return np.concatenate(
        [run(case.name, case.given[i : i + batch]) for i in range(0, len(case.given), batch)]
    )


def compare(report: Report, engine: str, run: Run, of: list[Case], batch: int) -> None:
    """Bits and pixels against fp32, and whether an image's result depends on its neighbours in a batch."""
    report.say(
        "",
        f"### {engine}",
        "",
        f"| model | against fp32 on the CPU | alone and in a batch of {batch} |",
        "|---|---|---|",
    )
    for case in of:
        together = in_batches(run, case, batch)
        alone = in_batches(
            run, Case(case.name, case.metadata, case.model, case.given[:32], case.due), 1
        )
        differing = int((alone != together[:32]).sum())
        if case.metadata.role == "encode":
            flipped = int(np.unpackbits((together ^ case.due).view(np.uint8)).sum())
            share = flipped / (case.due.size * BITS)
            said = f"{flipped} of {case.due.size * BITS:,} bits flipped"
            if share > MAX_FLIPPED_SHARE:
                report.broken.append(f"{engine}, {case.name}: {said}")
            if differing:
                report.broken.append(
                    f"{engine}, {case.name}: {differing} tokens depend on what shares the batch"
                )
        else:
            difference = np.abs(together.astype(np.int16) - case.due)
            said = f"largest pixel difference {difference.max()}, mean {difference.mean():.4f}"
            if difference.max() > MAX_PIXEL_DIFFERENCE:
                report.broken.append(f"{engine}, {case.name}: {said}")
        report.say(
            f"| {case.name} | {said} | {'the same' if not differing else f'{differing:,} values differ'} |"
        )


def time_it(
    report: Report,
    engine: str,
    run: Run,
    of: list[Case],
    batches: list[int],
    repeats: int = REPEATS,
) -> None:
    """Latency and throughput of one caller by batch: encode, and decode at the largest budget."""
    largest = max(
        (case for case in of if case.metadata.role == "decode"),
        key=lambda case: case.metadata.budget,
    )
    report.say(
        "",
        f"{engine}: ms (images/s) by batch",
        "",
        "| model | " + " | ".join(map(str, batches)) + " |",
        "|---" * (len(batches) + 1) + "|",
    )
    for case in (*(case for case in of if case.metadata.role == "encode"), largest):
        cells = []
        for batch in batches:
            given = np.resize(case.given, (batch, *case.given.shape[1:]))
            run(case.name, given)
            times = []
            for _ in range(repeats):
                started = time.perf_counter()
                run(case.name, given)
                times.append(time.perf_counter() - started)
            median = statistics.median(times)
            report.figures[f"{engine.replace(' ', '_')}_{case.metadata.role}_batch_{batch}_ms"] = (
                1000 * median
            )
            cells.append(f"{1000 * median:.1f} ({batch / median:.0f})")
        report.say(f"| {case.name} | " + " | ".join(cells) + " |")
