"""Write the figures of a benchmark as a JSON report, and name the machine they are of."""

import json
import os
from pathlib import Path

import psutil

from service.engine.cpu import processor_flags


def write_report(path: Path, figures: object) -> None:
    """Write `figures` as indented JSON, creating the folder, and print the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nwrote {path}", flush=True)


def machine() -> str:
    """`AMD EPYC, 2 cores, 24 GB`"""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 1e9
    return f"{names[0] if names else 'unknown processor'}, {cores} cores, {memory:.0f} GB"


def features() -> str:
    """What of the processor decides how fast its engines are: `AMX`, `avx512_bf16` or `AVX2`."""
    known = {"amx_bf16": "AMX", "avx512_bf16": "avx512_bf16"}
    return next((name for flag, name in known.items() if flag in processor_flags()), "AVX2")
