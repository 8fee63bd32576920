"""`make bench-quality`: Encode with a quality target against Encode with all tokens, in turns.

A target asks for the fewest tokens whose image has that quality: the service decodes several
prefixes of an image and compares each with the image. 16 gRPC clients with JPEGs, closed loop.
"""

import argparse
import statistics
from pathlib import Path

from channeltok import AsyncClient, Quality

from loadtest.bench.throughput import CLIENTS, served_load
from loadtest.harness import images
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running

TARGETS = (None, Quality(psnr=20.0), Quality(ssim=0.5))
SECONDS = 4.0
REPORT = Path("build/bench-quality.json")


def main() -> None:
    """Measure, print, and write build/bench-quality.json."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.quality", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (%(default)s)")
    write_report(REPORT, measure(parser.parse_args().rounds))


def measure(rounds: int) -> dict[str, float]:
    """Measure and print; returns the figures by name."""
    jpegs = images.crops()
    rates: list[list[float]] = [[] for _ in TARGETS]
    with running() as service:
        for _ in range(rounds):
            for target, measured in zip(TARGETS, rates, strict=True):

                async def call(
                    client: AsyncClient, number: int, target: Quality | None = target
                ) -> None:
                    await client.encode(jpegs[number % len(jpegs)], quality=target)

                measured.append(served_load(service, call, SECONDS).throughput)
    whole, psnr, ssim = (statistics.median(measured) for measured in rates)
    print(
        f"\nencode, {CLIENTS} clients, medians of {rounds} runs, images/s: all tokens {whole:.1f}, "
        f"a PSNR of 20 dB {psnr:.1f}, an SSIM of 0.5 {ssim:.1f}"
    )
    return {
        "quality_psnr_encode_per_second": psnr,
        "quality_encode_per_second": ssim,
        "quality_encode_over_encode": ssim / whole,
    }


if __name__ == "__main__":
    main()
