"""Program that runs on this checkout's packages or on an older one's: see `checkout.run_with`.

    old_or_new.py prepare FOLDER OUTPUT SIZE SECONDS    every image of FOLDER to pixels; their times
    old_or_new.py tokenize FOLDER [HOST:PORT]           with the engines in process, or of a service

It imports only what every commit has. Prints JSON.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def prepare(folder: Path, output: Path, size: int, seconds: float) -> dict[str, float]:
    """Write the pixels, uint8 [files, size, size, 3], in the order of the files' names.

    Returns the median milliseconds of each file, repeated for `seconds`, once at least.
    """
    import imaging

    pixels, times = [], {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        pixels.append(imaging.prepare(data, size))
        taken: list[float] = []
        while not taken or sum(taken) < seconds:
            started = time.perf_counter()
            imaging.prepare(data, size)
            taken.append(time.perf_counter() - started)
        times[path.name] = 1000 * statistics.median(taken)
    np.save(output, np.stack(pixels))
    return times


def tokenize(folder: str, address: str | None) -> float:
    """Images per second, from the first byte read to the last shard in place."""
    from channeltok import Client, datasets

    from service.engine.in_process import InProcessEngine
    from service.settings import EngineSettings

    engine = Client(address) if address else InProcessEngine(EngineSettings())
    with tempfile.TemporaryDirectory() as destination:
        summary = datasets.tokenize(folder, destination, [engine])
    engine.close()
    if summary.rejects:
        raise SystemExit(f"{summary.rejects} images could not be tokenized")
    return summary.new_images / summary.seconds


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "prepare":
        source, target, side, duration = arguments
        print(json.dumps(prepare(Path(source), Path(target), int(side), float(duration))))
    else:
        print(json.dumps(tokenize(arguments[0], arguments[1] if len(arguments) > 1 else None)))
