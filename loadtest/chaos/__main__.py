"""`make chaos`: every attack, a table, build/chaos.json; exits with 1 when a line does not hold.

--write also writes docs/reliability.md.
"""

import argparse
import sys

from loadtest.chaos import (
    bombs,
    engine_faults,
    fuzz,
    impatient,
    intruders,
    mixed_calls,
    overload,
    report,
    shutdown,
    version_switch,
)
from loadtest.chaos.attack import Attack, Row
from loadtest.harness.service_process import ROOT

ATTACKS = [
    Attack(
        "overload",
        "Open-loop load above capacity (a heavier model on one core, docs/decisions/0019)",
        overload.open_loop,
    ),
    Attack("impatient", "Callers whose deadlines are too short", impatient.impatient),
    Attack(
        "kill_stub",
        "kill -9 and SIGSTOP of engine processes in the middle of a batch",
        engine_faults.stubs,
    ),
    Attack("kill_triton", "kill -9 and SIGSTOP of tritonserver", engine_faults.triton),
    Attack("sigterm", "SIGTERM under load", shutdown.sigterm),
    Attack("switch", "Switch of tokenizer version under load", version_switch.switch),
    Attack(
        "mixed",
        "Good, bad, oversized, slow and vanishing calls on both protocols",
        mixed_calls.mixed,
    ),
    Attack("fuzz", "Fuzzing", fuzz.fuzz),
    Attack("bombs", "Bombs, huge bodies, silent connections", bombs.bombs),
    Attack("intruders", "Callers who must not get in", intruders.intruders),
]


def main() -> None:
    options = _options()
    chosen = [attack for attack in ATTACKS if not options.only or attack.name in options.only]
    results: report.Results = []
    for attack in chosen:
        print(f"\n{attack.title}", flush=True)
        rows: list[Row] = []
        for row in attack.rows(options.short):
            rows.append(row)
            what, measured, limit, holds = row.cells()
            print(
                f"  {holds:<4}{what:<66} {measured}{f'   (limit {limit})' if limit else ''}",
                flush=True,
            )
        results.append((attack, rows))
    report.write_figures(results)
    if options.write:
        report.write_page(results)
    failing = [row for _, rows in results for row in rows if not row.holds]
    print(
        f"\nwrote {report.FIGURES.relative_to(ROOT)}; {len(failing)} lines do not hold", flush=True
    )
    for row in failing:
        print(f"  NO  {row.what}: {row.cells()[1]}, limit {row.cells()[2]}")
    sys.exit(bool(failing))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="ATTACK",
        choices=[attack.name for attack in ATTACKS],
        help="only these attacks",
    )
    parser.add_argument(
        "--short", action="store_true", help="the form that CI runs: seconds for each"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write docs/reliability.md from this run, which must be a whole one",
    )
    options = parser.parse_args()
    if options.write and (options.only or options.short):
        parser.error("--write takes a whole run: neither --only nor --short")
    return options


if __name__ == "__main__":
    main()
