"""`make perf-analyzer`: Triton's own load generator on the embedded Triton, in turns with our closed loop on the gateway before it.

perf_analyzer sends pixels and ids that are ready, so what the gateway does (JPEG, resize, admission, a second hop) is the difference. Its
binary comes from tritonclient's wheel: `make` puts it, and the two libraries that it is linked to, into build/perf-analyzer.
"""

import argparse
import base64
import csv
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from channeltok import Client, Tokens

import imaging
from loadtest.bench.capacity import targets
from loadtest.bench.throughput import REPOSITORY, photos
from loadtest.harness.service_process import running
from loadtest.load.open_loop import Generators

FOLDER = Path("build/perf-analyzer").absolute()
CALLERS = (1, 4, 16, 64)
MODELS = {"encode": "*_encode", "decode": "*_decode_k*"}
REPORT = Path("build/perf-analyzer.json")


def main() -> None:
    """Measure, print, and write build/perf-analyzer.json."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.perf_analyzer", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        help="of each stretch; perf_analyzer takes three of a third; %(default)s",
    )
    options = parser.parse_args()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with (
        running(max_queue_seconds="30") as service,
        Generators(1) as generators,
        tempfile.TemporaryDirectory() as folder,
    ):
        jpegs = photos(16)
        with Client(service.grpc) as client:
            size = client.tokenizers()[0].image_size
            tokens = [client.encode(jpeg) for jpeg in jpegs]
        for role, target in targets(service.grpc).items():
            (model,) = (path.name for path in REPOSITORY.glob(MODELS[role]))
            data = Path(folder) / f"{role}.json"
            data.write_text(json.dumps({"data": inputs(role, jpegs, tokens, size)}))
            print(
                f"\n{role}, images/s\n{'callers':>8}{'Triton':>10}{'gateway':>10}{'gateway / Triton':>18}"
            )
            figures[role] = {}
            for callers in CALLERS:
                triton, gateway = list[float](), list[float]()
                for _ in range(options.rounds):
                    triton.append(
                        perf_analyzer(
                            model, service.triton_address(), data, callers, options.seconds
                        )
                    )
                    gateway.append(
                        generators.closed_loop(target, callers, options.seconds).result().goodput
                    )
                row = {"triton": statistics.median(triton), "gateway": statistics.median(gateway)}
                row["ratio"] = statistics.median(
                    ours / bare for ours, bare in zip(gateway, triton, strict=True)
                )
                figures[role][f"{callers}"] = row
                print(
                    f"{callers:8}{row['triton']:10.1f}{row['gateway']:10.1f}{row['ratio']:18.2f}",
                    flush=True,
                )
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nwrote {REPORT}")


def inputs(
    role: str, jpegs: list[bytes], tokens: list[Tokens], size: int
) -> list[dict[str, dict[str, str]]]:
    """What perf_analyzer sends in turn: its --input-data."""
    if role == "encode":
        name, arrays = "picture", [imaging.prepare(jpeg, size) for jpeg in jpegs]
    else:
        name, arrays = "tokens", [one.ids.astype(np.int32) for one in tokens]
    return [{name: {"b64": base64.b64encode(array.tobytes()).decode()}} for array in arrays]


def perf_analyzer(model: str, address: str, data: Path, callers: int, seconds: float) -> float:
    """Inferences/s of a closed loop. SystemExit, with what it wrote, where it fails."""
    table = data.with_suffix(".csv")
    table.unlink(missing_ok=True)
    command: list[str | Path] = [
        FOLDER / "bin/perf_analyzer",
        "-m",
        model,
        "-u",
        address,
        "-i",
        "grpc",
        "--input-data",
        data,
        "-f",
        table,
    ]
    # Three windows, whatever they say: the median over our own rounds decides what is stable.
    load: list[str | Path] = [
        "--concurrency-range",
        f"{callers}",
        "-p",
        f"{round(1000 * seconds / 3)}",
        "-r",
        "3",
        "-s",
        "999",
    ]
    done = subprocess.run(
        [*command, *load],
        env={**os.environ, "LD_LIBRARY_PATH": f"{FOLDER}/lib"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not table.exists():
        raise SystemExit(f"perf_analyzer failed: {done.stdout}{done.stderr}")
    (row,) = csv.DictReader(table.read_text().splitlines())
    return float(row["Inferences/Second"])


if __name__ == "__main__":
    main()
