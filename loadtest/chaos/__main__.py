"""`make chaos`: run every attack, print a table, write build/chaos.json; exits 1 if a limit fails.

--write also writes docs/reliability.md.
"""

import argparse
import sys

from loadtest.chaos import (
    bomb_flood,
    bombs,
    bulk,
    engine_faults,
    environment,
    fuzz,
    local_user,
    memory,
    mixed_calls,
    overload,
    readers,
    report,
    short_deadlines,
    shutdown,
    stampede,
    unauthorized,
    version_switch,
    watchers,
)
from loadtest.chaos.attack import Attack, Row

ATTACKS = [
    Attack(
        "overload",
        "Open-loop load above capacity (a heavier model on one core, docs/decisions/0019)",
        overload.open_loop,
    ),
    Attack(
        "stampede", "Many connections that call again at once, also when refused", stampede.stampede
    ),
    Attack("bulk", "A bulk stream beside single calls", bulk.bulk),
    Attack(
        "short_deadlines", "Clients whose deadlines are too short", short_deadlines.short_deadlines
    ),
    Attack(
        "kill_stub",
        "kill -9 and SIGSTOP of engine processes in the middle of a batch",
        engine_faults.stubs,
    ),
    Attack("kill_triton", "kill -9 and SIGSTOP of tritonserver", engine_faults.triton),
    Attack(
        "environment",
        "Bare environments, dead proxies, IPv6, a log that nobody reads, removed files",
        environment.environment,
    ),
    Attack("sigterm", "SIGTERM under load", shutdown.sigterm),
    Attack("switch", "Switch of tokenizer version under load", version_switch.switch),
    Attack(
        "mixed",
        "Valid, invalid, oversized, slow and disconnecting calls on both protocols",
        mixed_calls.mixed,
    ),
    Attack("fuzz", "Fuzzing", fuzz.fuzz),
    Attack("bomb_flood", "Images that are costly to decode", bomb_flood.bomb_flood),
    Attack("bombs", "Decompression bombs, huge bodies, silent connections", bombs.bombs),
    Attack("memory", "More memory wanted than there is", memory.memory),
    Attack(
        "local_user", "Another user of the host, and kill -9 of the gateway", local_user.local_user
    ),
    Attack("readers", "Strangers that do not read, and floods of connections", readers.readers),
    Attack("watchers", "Strangers that watch, and bad metadata", watchers.watchers),
    Attack("unauthorized", "Unauthorized clients", unauthorized.unauthorized),
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
            label, measured, limit, holds = row.cells()
            suffix = f"   (limit {limit})" if limit else ""
            print(f"  {holds:<4}{label:<66} {measured}{suffix}", flush=True)
        results.append((attack, rows))
    report.write_figures(results)
    if options.write:
        report.write_page(results)
    failing = [row for _, rows in results for row in rows if not row.holds]
    print(f"{len(failing)} limits do not hold", flush=True)
    for row in failing:
        print(f"  NO  {row.label}: {row.cells()[1]}, limit {row.cells()[2]}")
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
        "--short", action="store_true", help="the form that the tests run: seconds per attack"
    )
    parser.add_argument(
        "--write", action="store_true", help="write docs/reliability.md from this run"
    )
    options = parser.parse_args()
    if options.write and (options.only or options.short):
        parser.error("--write needs a complete run: drop --only and --short")
    return options


if __name__ == "__main__":
    main()
