"""docs/families.md, from the figures that export.bench.families left."""

from collections.abc import Sequence
from pathlib import Path

from export.bench.generator import LENGTHS
from tokenizer.models.flextok import D12

PAGE = Path("docs/families.md")
TEMPLATE = Path(__file__).with_name("families.template.md")
TITLES = {"demo": "ChannelTok", "cvq": "CVQ", "flextok": "FlexTok"}
NOT_YET = "Not measured yet: `make bench-families`."
Figures = dict[str, float]


def write(found: Figures) -> None:
    """The page. A leg that `found` lacks is said to be missing."""
    PAGE.write_text(TEMPLATE.read_text().format(**_parts(found)))


def tables(found: Figures) -> str:
    """What was measured, as Markdown."""
    return "\n\n".join(part for part in _parts(found).values() if part != NOT_YET)


def _parts(found: Figures) -> dict[str, str]:
    return {
        "quality": _quality(found),
        "use": _use(found),
        "cost": _cost(found),
        "by_k": _by_k(found),
        "size": _size(found),
        "generate": _generate(found),
    }


def _quality(found: Figures) -> str:
    names = [name for name in TITLES if f"quality_{name}_photos" in found]
    sizes = sorted(
        {
            int(key.split("_")[2])
            for key in found
            if key.startswith("quality_") and key.endswith("_bytes_k")
        }
    )
    rows = []
    for size in sizes:
        for name in names:
            prefix = f"quality_{name}_{size}_bytes"
            if f"{prefix}_k" in found:
                figures = [
                    f"{found[f'{prefix}_{measure}']:.{digits}f}"
                    for measure, digits in MEASURES.items()
                ]
                rows.append([str(size), TITLES[name], f"{found[f'{prefix}_k']:.0f}", *figures])
    return _table(("bytes", "family", "k", "PSNR, dB", "SSIM", "perceptual", "independent"), rows)


MEASURES = {"psnr": 2, "ssim": 3, "perceptual": 3, "independent": 1}  # -> digits


def _use(found: Figures) -> str:
    rows = []
    for name, title in TITLES.items():
        prefix = f"quality_{name}"
        if f"{prefix}_photos" in found:
            use, seen = (f"{100 * found[f'{prefix}_{key}']:.1f} %" for key in ("use", "ids_seen"))
            rows.append(
                [
                    title,
                    f"{found[f'{prefix}_photos']:.0f}",
                    use,
                    seen,
                    f"{found[f'{prefix}_id_entropy_bits']:.2f}",
                ]
            )
    return _table(("family", "photos", "use", "ids that occur", "entropy of ids, bits"), rows)


def _cost(found: Figures) -> str:
    rows = [
        [
            title,
            *(
                f"{found[f'cost_{name}_{role}_{unit}'] / scale:.{digits}f}"
                for role in ("encode", "decode")
                for unit, scale, digits in UNITS
            ),
        ]
        for name, title in TITLES.items()
        if f"cost_{name}_encode_ms" in found
    ]
    return _table(("family", "encode, ms", "memory, MB", "decode, ms", "memory, MB"), rows)


UNITS = (("ms", 1.0, 1), ("peak_bytes", 1e6, 0))


def _by_k(found: Figures) -> str:
    prefix = "cost_flextok_decode_k"
    by_k = {
        int(key.removeprefix(prefix).removesuffix("_ms")): value
        for key, value in found.items()
        if key.startswith(prefix) and key.endswith("_ms")
    }
    whole = found.get("cost_flextok_decode_ms")
    if whole is None:
        return NOT_YET
    rows = [[str(k), f"{by_k[k]:.1f}", f"{by_k[k] / whole:.2f}"] for k in sorted(by_k)]
    return _table(
        ("k", "decode, ms", "of the decode of all 64"), [*rows, ["64", f"{whole:.1f}", "1.00"]]
    )


def _size(found: Figures) -> str:
    engines = [
        key.removeprefix("size_channeltok_").removesuffix("_seconds")
        for key in found
        if key.startswith("size_channeltok_") and key.endswith("_seconds")
    ]
    rows = []
    for engine in engines:
        channeltok = found[f"size_channeltok_{engine}_seconds"]
        plain, guided = (
            found[f"size_flextok{suffix}_{engine}_seconds"] for suffix in ("", "_guided")
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
        found[f"channeltok_over_flextok_best_engine{suffix}"] for suffix in ("", "_guided")
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


def _generate(found: Figures) -> str:
    rows = []
    for length in LENGTHS:
        if f"generate_cached_{length}_seconds" in found:
            seconds = [
                f"{1000 * found[f'generate_{way}_{length}_seconds']:.0f}"
                for way in ("cached", "uncached")
            ]
            rows.append(
                [str(length), *seconds, f"{found[f'generate_cached_over_uncached_{length}']:.1f}"]
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
