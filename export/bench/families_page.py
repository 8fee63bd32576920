"""Render docs/families.md from the figures of export.bench.families."""

from collections.abc import Sequence
from pathlib import Path

from export.bench.generator import LENGTHS
from tokenizer.models.flextok import D12

PAGE = Path("docs/families.md")
TEMPLATE = Path(__file__).with_name("families.template.md")
TITLES = {"demo": "ChannelTok", "cvq": "CVQ", "flextok": "FlexTok"}
NOT_YET = "Not measured yet: `make bench-families`."
Figures = dict[str, float]


def write(figures: Figures) -> None:
    """Write the page; parts without figures are marked as not measured."""
    PAGE.write_text(TEMPLATE.read_text().format(**_parts(figures)))


def tables(figures: Figures) -> str:
    """The tables of all measured parts, as Markdown."""
    return "\n\n".join(part for part in _parts(figures).values() if part != NOT_YET)


def _parts(figures: Figures) -> dict[str, str]:
    return {
        "quality": _quality(figures),
        "use": _use(figures),
        "cost": _cost(figures),
        "by_k": _by_k(figures),
        "size": _size(figures),
        "generate": _generate(figures),
    }


def _quality(figures: Figures) -> str:
    names = [name for name in TITLES if f"quality_{name}_photos" in figures]
    sizes = sorted(
        {
            int(key.split("_")[2])
            for key in figures
            if key.startswith("quality_") and key.endswith("_bytes_k")
        }
    )
    rows = []
    for size in sizes:
        for name in names:
            prefix = f"quality_{name}_{size}_bytes"
            if f"{prefix}_k" in figures:
                values = [
                    f"{figures[f'{prefix}_{measure}']:.{digits}f}"
                    for measure, digits in MEASURES.items()
                ]
                rows.append([str(size), TITLES[name], f"{figures[f'{prefix}_k']:.0f}", *values])
    return _table(("bytes", "family", "k", "PSNR, dB", "SSIM", "perceptual", "independent"), rows)


MEASURES = {"psnr": 2, "ssim": 3, "perceptual": 3, "independent": 1}  # -> digits


def _use(figures: Figures) -> str:
    rows = []
    for name, title in TITLES.items():
        prefix = f"quality_{name}"
        if f"{prefix}_photos" in figures:
            use, seen = (f"{100 * figures[f'{prefix}_{key}']:.1f} %" for key in ("use", "ids_seen"))
            rows.append(
                [
                    title,
                    f"{figures[f'{prefix}_photos']:.0f}",
                    use,
                    seen,
                    f"{figures[f'{prefix}_id_entropy_bits']:.2f}",
                ]
            )
    return _table(("family", "photos", "use", "ids that occur", "entropy of ids, bits"), rows)


def _cost(figures: Figures) -> str:
    rows = [
        [
            title,
            *(
                f"{figures[f'cost_{name}_{role}_{unit}'] / scale:.{digits}f}"
                for role in ("encode", "decode")
                for unit, scale, digits in UNITS
            ),
        ]
        for name, title in TITLES.items()
        if f"cost_{name}_encode_ms" in figures
    ]
    return _table(("family", "encode, ms", "memory, MB", "decode, ms", "memory, MB"), rows)


UNITS = (("ms", 1.0, 1), ("peak_bytes", 1e6, 0))


def _by_k(figures: Figures) -> str:
    prefix = "cost_flextok_decode_k"
    by_k = {
        int(key.removeprefix(prefix).removesuffix("_ms")): value
        for key, value in figures.items()
        if key.startswith(prefix) and key.endswith("_ms")
    }
    whole = figures.get("cost_flextok_decode_ms")
    if whole is None:
        return NOT_YET
    rows = [[str(k), f"{by_k[k]:.1f}", f"{by_k[k] / whole:.2f}"] for k in sorted(by_k)]
    return _table(
        ("k", "decode, ms", "of the decode of all 64"), [*rows, ["64", f"{whole:.1f}", "1.00"]]
    )


def _size(figures: Figures) -> str:
    engines = [
        key.removeprefix("size_channeltok_").removesuffix("_seconds")
        for key in figures
        if key.startswith("size_channeltok_") and key.endswith("_seconds")
    ]
    rows = []
    for engine in engines:
        channeltok = figures[f"size_channeltok_{engine}_seconds"]
        plain, guided = (
            figures[f"size_flextok{suffix}_{engine}_seconds"] for suffix in ("", "_guided")
        )
        rows.append(
            [
                engine.replace("_", " "),
                f"{channeltok:.2f}",
                f"{plain:.2f}",
                f"{guided:.2f}",
                f"{plain / channeltok:.2f}",
                f"{guided / channeltok:.2f}",
            ]
        )
    if not rows:
        return NOT_YET
    best, guided_best = (
        figures[f"channeltok_over_flextok_best_engine{suffix}"] for suffix in ("", "_guided")
    )
    rows.append(["each in its best", "", "", "", f"{best:.2f}", f"{guided_best:.2f}"])
    columns = (
        "engine",
        "ChannelTok, s",
        f"FlexTok, {D12.steps} steps, s",
        "with guidance, s",
        "ChannelTok is faster by",
        "than with guidance by",
    )
    return _table(columns, rows)


def _generate(figures: Figures) -> str:
    rows = []
    for length in LENGTHS:
        if f"generate_cached_{length}_seconds" in figures:
            seconds = [
                f"{1000 * figures[f'generate_{way}_{length}_seconds']:.0f}"
                for way in ("cached", "uncached")
            ]
            rows.append(
                [str(length), *seconds, f"{figures[f'generate_cached_over_uncached_{length}']:.1f}"]
            )
    return _table(("tokens", "with the cache, ms", "without, ms", "faster by"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return NOT_YET
    lines = [
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)
