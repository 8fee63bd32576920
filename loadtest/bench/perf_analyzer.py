"""`make perf-analyzer`: Triton's perf_analyzer on the embedded Triton against our load generator
on the gateway, in turn.

perf_analyzer sends prepared pixels and ids, so the difference is the gateway's work: JPEG, resize,
admission and a second hop. Its binary comes from tritonclient's wheel; `make` unpacks it, with the
two libraries that it is linked to, into build/perf-analyzer.
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
from loadtest.harness import images
from loadtest.harness.bare_graph import REPOSITORY
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running
from loadtest.load.open_loop import Generators
from loadtest.load.targets import gateway_targets

FOLDER = Path("build/perf-analyzer").absolute()
CLIENTS = (1, 4, 16, 64)
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
        help="length of each run; perf_analyzer splits it into three windows (%(default)s)",
    )
    options = parser.parse_args()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with (
        running(max_queue_seconds="30") as service,
        Generators(1) as generators,
        tempfile.TemporaryDirectory() as folder,
    ):
        jpegs = images.crops(16)
        with Client(service.grpc) as client:
            size = client.tokenizers()[0].image_size
            tokens = [client.encode(jpeg) for jpeg in jpegs]
        for role, target in gateway_targets(service.grpc).items():
            (model,) = (path.name for path in REPOSITORY.glob(MODELS[role]))
            data = Path(folder) / f"{role}.json"
            data.write_text(json.dumps({"data": input_data(role, jpegs, tokens, size)}))
            print(f"\n{role}, images/s")
            print(f"{'clients':>8}{'Triton':>10}{'gateway':>10}{'gateway / Triton':>18}")
            figures[role] = {}
            for clients in CLIENTS:
                triton, gateway = list[float](), list[float]()
                for _ in range(options.rounds):
                    address = service.triton_address()
                    triton.append(perf_analyzer(model, address, data, clients, options.seconds))
                    report = generators.closed_loop(target, clients, options.seconds).result()
                    gateway.append(report.goodput)
                row = {"triton": statistics.median(triton), "gateway": statistics.median(gateway)}
                row["ratio"] = statistics.median(
                    ours / bare for ours, bare in zip(gateway, triton, strict=True)
                )
                figures[role][f"{clients}"] = row
                print(
                    f"{clients:8}{row['triton']:10.1f}{row['gateway']:10.1f}{row['ratio']:18.2f}",
                    flush=True,
                )
    write_report(REPORT, figures)


def input_data(
    role: str, jpegs: list[bytes], tokens: list[Tokens], size: int
) -> list[dict[str, dict[str, str]]]:
    """Requests for perf_analyzer's --input-data, which sends them in turn."""
    if role == "encode":
        name, arrays = "picture", [imaging.prepare(jpeg, size) for jpeg in jpegs]
    else:
        name, arrays = "tokens", [sequence.ids.astype(np.int32) for sequence in tokens]
    return [{name: {"b64": base64.b64encode(array.tobytes()).decode()}} for array in arrays]


def perf_analyzer(model: str, address: str, data: Path, clients: int, seconds: float) -> float:
    """Inferences/s of a closed loop. SystemExit with perf_analyzer's output if it fails."""
    table = data.with_suffix(".csv")
    table.unlink(missing_ok=True)
    # -r and -s: three windows, however unstable; the caller takes the median over its rounds.
    options = (
        f"-m {model} -u {address} -i grpc --input-data {data} -f {table} "
        f"--concurrency-range {clients} -p {round(1000 * seconds / 3)} -r 3 -s 999"
    )
    result = subprocess.run(
        [FOLDER / "bin/perf_analyzer", *options.split()],
        env={**os.environ, "LD_LIBRARY_PATH": f"{FOLDER}/lib"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not table.exists():
        raise SystemExit(f"perf_analyzer failed: {result.stdout}{result.stderr}")
    (row,) = csv.DictReader(table.read_text().splitlines())
    return float(row["Inferences/Second"])


if __name__ == "__main__":
    main()
