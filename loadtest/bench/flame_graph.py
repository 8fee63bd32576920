"""`make flame-graph`: where the gateway's time goes while 16 callers keep it busy, and what Triton says of its own.

py-spy samples the gateway's process without stopping it; with native frames it would have to, and let 7 images/s through. What C does
counts for the Python that called it. The flame graph is docs/images/gateway-flame.svg: open it in a browser, it can be clicked into. The
table beside it has the leaves of the same load by where they are, as shares of one core.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.bench.capacity import CALLERS, targets
from loadtest.harness.service_process import Service, running
from loadtest.load.open_loop import Generators, Mixed

SAMPLES_PER_SECOND = 250
IMAGE = Path("docs/images/gateway-flame.svg")
SITE_PACKAGES = re.compile(r"/\S*/site-packages/")


def main() -> None:
    """Record, draw and print."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.flame_graph", description=__doc__
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of each of the two recordings; %(default)s"
    )
    options = parser.parse_args()
    with (
        running(max_queue_seconds="30") as service,
        Generators(1) as generators,
        tempfile.TemporaryDirectory() as folder,
    ):
        load = Mixed(tuple(targets(service.grpc).values()))
        stacks = Path(folder) / "stacks"
        for form, file in (("flamegraph", IMAGE), ("raw", stacks)):
            answers = generators.closed_loop(load, CALLERS, options.seconds + 4)
            record(service, form, file, options.seconds)
            print(
                f"{CALLERS} callers, Encode and Decode by turns: {answers.result().goodput:.1f} images/s while py-spy watched"
            )
        samples = options.seconds * SAMPLES_PER_SECOND
        print(f"wrote {IMAGE}\n\nof one core, by leaf\n")
        for place, count in leaves(stacks.read_text()).most_common(25):
            print(f"{count / samples:7.1%}  {place}")
        print(
            f"\nTriton's statistics, ms of a request but in the last column\n{statistics(service)}"
        )


def record(service: Service, form: str, file: Path, seconds: float) -> None:
    """All threads of the gateway that work, into `file`. form: py-spy's."""
    command = [
        "py-spy",
        "record",
        "--pid",
        str(service.process.pid),
        "--format",
        form,
        "--output",
        str(file),
    ]
    settings = [
        "--duration",
        str(round(seconds)),
        "--rate",
        str(SAMPLES_PER_SECOND),
        "--nonblocking",
    ]
    subprocess.run([*command, *settings], check=True, stdout=subprocess.DEVNULL)


def leaves(stacks: str) -> Counter[str]:
    """Samples by the innermost frame, without line numbers and the way to site-packages. stacks: py-spy's raw form, `a;b COUNT` a line."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, count = line.rsplit(" ", 1)
        leaf = re.sub(r":\d+\)$", ")", frames.rsplit(";", 1)[-1])
        found[SITE_PACKAGES.sub("", leaf)] += int(count)
    return found


def statistics(service: Service) -> str:
    """What Triton counted since it started: time in its queue and in the model, and how many images a run of the model took."""
    with grpc.insecure_channel(service.triton_address()) as channel:
        asked = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStatistics(
            service_pb2.ModelStatisticsRequest()
        )
    rows = [f"{'model':24}{'queue':>8}{'input':>8}{'model':>8}{'output':>8}{'images/run':>14}"]
    for model in asked.model_stats:
        stages = model.inference_stats
        times = [
            1e-6 * stage.ns / max(1, stage.count)
            for stage in (
                stages.queue,
                stages.compute_input,
                stages.compute_infer,
                stages.compute_output,
            )
        ]
        each = "".join(f"{time:8.2f}" for time in times)
        rows.append(
            f"{model.name:24}{each}{model.inference_count / max(1, model.execution_count):14.2f}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
