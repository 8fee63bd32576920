"""`make performance-report`: docs/performance.md and its plot, from each benchmark's newest run.

Reports that benchmarks left in build/ are first recorded in performance.json, each with its day and
this machine, and their ratios in history.csv. Page and plot show what is recorded, so that figures
of a machine that is not at hand stay until the benchmark runs again.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from loadtest.bench import history
from loadtest.harness.report import features, machine
from loadtest.peers.__main__ import PEERS

BUILD = Path("build")
RECORDS = Path(__file__).with_name("performance.json")
TEMPLATE = Path(__file__).with_name("performance.template.md")
PAGE = Path("docs/performance.md")
BENCHMARKS = {
    "serving": "the service against the bare graph, an older commit and other servers",
    "workers": "what a core of the gateway carries",
    "calls": "batches over REST, several k in one call, pixels",
    "page": "how fast the playground follows its slider",
    "in-process": "`channeltok.Tokenizer`",
    "datasets": "a whole dataset, and sources of many kinds",
    "images": "images of cameras",
    "engines": "every engine that runs on a processor",
}
WITHOUT_TARGET = {"page": "python -m loadtest.bench.page"}  # of the Makefile
IMAGES = {
    "jpeg_256": "JPEG 256 x 256",
    "jpeg_1024": "JPEG 1024 x 768",
    "jpeg_3mp": "JPEG 2048 x 1536",
    "jpeg_12mp": "JPEG 4000 x 3000",
    "png_2mp": "PNG 1600 x 1200",
    "png_2mp_alpha": "PNG with alpha, 1600 x 1200",
    "webp_2mp": "WebP 1600 x 1200",
    "webp_2mp_alpha": "WebP with alpha, 1600 x 1200",
}
TOKENIZED = {"tokenize_12mp_served": "through the service", "tokenize_12mp": "in process"}
ENGINES = {
    "torch_f32": "torch f32",
    "torch_f32_channels_last": "torch f32, channels-last",
    "torch_bf16_channels_last": "torch bf16, channels-last",
    "onnxruntime_f32": "ONNX Runtime f32",
    "openvino_f32": "OpenVINO f32",
    "openvino_bf16": "OpenVINO bf16",
    "openvino_int8": "OpenVINO int8",
}
# Aims of the older commit's comparison, by role and callers.
AIMS = {
    "encode": {1: "p50 at most 0.75", 16: "gateway at most 0.75", 64: ""},
    "decode": {1: "", 16: "gateway at most 0.67", 64: ""},
}


@dataclass(frozen=True)
class Record:
    """The newest run of a benchmark. features: of its processor, as in history.csv."""

    date: str
    machine: str
    features: str
    figures: dict[str, Any]


def main() -> None:
    """Record the reports in build/, and write page and plot."""
    records = record(BUILD, read())
    RECORDS.write_text(
        json.dumps({name: asdict(one) for name, one in records.items()}, indent=1) + "\n"
    )
    PAGE.write_text(render(records))
    history.draw(history.read(history.HISTORY), history.IMAGE)
    print(f"wrote {RECORDS}, {PAGE} and {history.IMAGE}")


def read() -> dict[str, Record]:
    """What is recorded, by benchmark."""
    return {name: Record(**one) for name, one in json.loads(RECORDS.read_text()).items()}


def record(folder: Path, records: dict[str, Record]) -> dict[str, Record]:
    """The records, with those of a folder's reports in place of older ones.

    Ratios of a new report are added to the history.
    """
    newest = {}
    for name in BENCHMARKS:
        newest[name] = old = records[name]
        report = folder / f"bench-{name}.json"
        if not report.is_file():
            continue
        day = datetime.fromtimestamp(report.stat().st_mtime, UTC).date().isoformat()
        figures = json.loads(report.read_text())
        if day < old.date or figures == old.figures:
            continue
        newest[name] = Record(day, machine(), features(), figures)
        history.add(day, features(), figures)
    return newest


def render(records: dict[str, Record]) -> str:
    """The page. Raises jinja2.UndefinedError where a figure of the template is not recorded."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["n"] = lambda value, digits=0: f"{float(value):,.{digits}f}"
    return environment.from_string(TEMPLATE.read_text()).render(
        runs=[
            (WITHOUT_TARGET.get(name, f"make bench-{name}"), measures, records[name])
            for name, measures in BENCHMARKS.items()
        ],
        before_aims=AIMS,
        image_kinds=IMAGES,
        tokenized=TOKENIZED,
        peer_versions=_peer_versions(records["serving"].figures["versions"]),
        engine_tables=list(_engine_tables(records["engines"].figures)),
        **{name.replace("-", "_"): one.figures for name, one in records.items()},
    )


def _peer_versions(versions: dict[str, str]) -> dict[str, str]:
    """Versions by a peer's name: that of the package whose name is alike."""
    by_letters = {re.sub("[^a-z]", "", name): version for name, version in versions.items()}
    letters = {name: re.sub("[^a-z]", "", name.lower()) for name in PEERS}
    return {name: by_letters[key] for name, key in letters.items() if key in by_letters}


def _engine_tables(
    figures: dict[str, float],
) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    """(size, role, rows of engines) of each graph that was measured."""
    for size in ("demo", "full"):
        for role in ("encode", "decode"):
            rows = []
            for key, name in ENGINES.items():
                engine = f"{size}_{role}_{key}_"
                if f"{engine}peak_bytes" not in figures:
                    continue
                rates = [figures[f"{engine}batch_{batch}_images_per_s"] for batch in (1, 4)]
                error = figures.get(f"{engine}error")
                measure = "{:.2%} of bits" if role == "encode" else "{:.1f} dB"
                rows.append(
                    {
                        "name": name,
                        "batch_1": f"{rates[0]:.1f}" if rates[0] > 10 else f"{rates[0]:.2f}",
                        "batch_4": f"{rates[1]:.1f}" if rates[1] > 10 else f"{rates[1]:.2f}",
                        "peak": f"{figures[f'{engine}peak_bytes'] / 1e6:,.0f}",
                        "error": "" if error is None else measure.format(error),
                    }
                )
            if rows:
                yield size, role, rows


if __name__ == "__main__":
    main()
