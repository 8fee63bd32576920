"""Cores of gateway and tritonserver that keep one device busy."""

from export.acceptance.bare.scale import ROLES, Role
from export.acceptance.bare.speed import Speeds
from export.acceptance.report import Report

# Milliseconds of a core per image: docs/performance.md, "Where the core time of a served image
# goes", latest run, an AMD EPYC with avx512_bf16.
GATEWAY_MS: dict[Role, float] = {"encode": 1.47, "decode": 1.02}
TRITON_MS: dict[Role, float] = {"encode": 0.20, "decode": 0.18}


def add(report: Report, models: list[str], speeds: Speeds) -> None:
    """Report the cores of gateway and tritonserver for one device at its best measured rate."""
    report.add(
        "An image costs the gateway "
        + " and ".join(f"{GATEWAY_MS[role]} ms of a core ({role})" for role in ROLES)
        + ", and tritonserver "
        + " and ".join(f"{TRITON_MS[role]} ms" for role in ROLES)
        + " (docs/performance.md, measured on another processor; see also "
        "docs/decisions/0026-gateway-cost.md).",
        "",
        "| | best images/s of the device | with | gateway cores | tritonserver cores |",
        "|---|---|---|---|---|",
    )
    for model in models:
        for role in ROLES:
            best = speeds.best(model, role)
            if best is None:
                report.add(f"| {model}, {role} | not measured | | | |")
                continue
            rate, variant, batch = best
            gateway, triton = (ms[role] * rate / 1000 for ms in (GATEWAY_MS, TRITON_MS))
            report.figures[f"{model}_{role}_best_images_per_second"] = rate
            report.figures[f"{model}_{role}_gateway_cores"] = gateway
            report.add(
                f"| {model}, {role} | {rate:,.0f} | {variant}, batch {batch} "
                f"| {gateway:.1f} | {triton:.1f} |"
            )
