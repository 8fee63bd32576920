"""`make flame-graph`: profile the gateway with py-spy under load, and print Triton's statistics.

16 clients keep the gateway busy. py-spy samples it without stopping it; native frames would need
it stopped and slow it to 7 images/s, so time spent in C counts for the Python function that called
it. The flame graph is docs/images/gateway-flame.svg (clickable in a browser); the printed table has
the innermost frames of a second recording of the same load, as shares of one core.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.harness.service_process import Service, running
from loadtest.load.capacity_search import CLIENTS
from loadtest.load.open_loop import Generators, Mixed
from loadtest.load.targets import gateway_targets

SAMPLES_PER_SECOND = 250
IMAGE = Path("docs/images/gateway-flame.svg")
SITE_PACKAGES = re.compile(r"/\S*/site-packages/")


def main() -> None:
    """Record, draw and print."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.flame_graph", description=__doc__
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="length of each recording (%(default)s)"
    )
    options = parser.parse_args()
    with (
        running(max_queue_seconds="30") as service,
        Generators(1) as generators,
        tempfile.TemporaryDirectory() as folder,
    ):
        load = Mixed(tuple(gateway_targets(service.grpc).values()))
        stacks = Path(folder) / "stacks"
        for form, file in (("flamegraph", IMAGE), ("raw", stacks)):
            report = generators.closed_loop(load, CLIENTS, options.seconds + 4)
            record(service, form, file, options.seconds)
            print(
                f"{CLIENTS} clients, Encode and Decode in turn: "
                f"{report.result().goodput:.1f} images/s while py-spy sampled"
            )
        samples = options.seconds * SAMPLES_PER_SECOND
        print(f"wrote {IMAGE}\n\nshare of one core, by innermost frame\n")
        for place, count in leaves(stacks.read_text()).most_common(25):
            print(f"{count / samples:7.1%}  {place}")
        print(f"\nTriton's statistics: ms per request, images per run\n{statistics(service)}")


def record(service: Service, form: str, file: Path, seconds: float) -> None:
    """Sample all busy threads of the gateway into `file`. form: py-spy's --format."""
    options = (
        f"record --pid {service.process.pid} --format {form} --output {file} "
        f"--duration {round(seconds)} --rate {SAMPLES_PER_SECOND} --nonblocking"
    )
    subprocess.run(["py-spy", *options.split()], check=True, stdout=subprocess.DEVNULL)


def leaves(stacks: str) -> Counter[str]:
    """Samples by innermost frame, without line numbers and the path to site-packages.

    stacks: py-spy's raw format, lines of `outer;inner COUNT`.
    """
    samples: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, count = line.rsplit(" ", 1)
        leaf = re.sub(r":\d+\)$", ")", frames.rsplit(";", 1)[-1])
        samples[SITE_PACKAGES.sub("", leaf)] += int(count)
    return samples


def statistics(service: Service) -> str:
    """Triton's totals since its start: ms per request by stage, and images per run of the model."""
    with grpc.insecure_channel(service.triton_address()) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelStatistics(service_pb2.ModelStatisticsRequest())
    lines = [f"{'model':24}{'queue':>8}{'input':>8}{'model':>8}{'output':>8}{'images/run':>14}"]
    for model in response.model_stats:
        line = f"{model.name:24}"
        for name in ("queue", "compute_input", "compute_infer", "compute_output"):
            stage = getattr(model.inference_stats, name)
            line += f"{1e-6 * stage.ns / max(1, stage.count):8.2f}"
        lines.append(f"{line}{model.inference_count / max(1, model.execution_count):14.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
