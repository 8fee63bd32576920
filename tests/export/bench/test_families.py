"""Figures of `make bench-families` on small models, and the page rendered from them."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from export.bench import families, families_page
from export.graphs.random_model import random_of
from tests.support.photographs import crops
from tokenizer.models.channeltok import ShuffleShape
from tokenizer.models.cvq import CvqShape
from tokenizer.models.flextok import FlexShape

BACKBONE = ShuffleShape(channels=64, widths=(32, 32, 32, 32))
SMALL = {
    "demo": BACKBONE,
    "cvq": CvqShape(backbone=BACKBONE, vocab_size=300),
    "flextok": FlexShape(width=64, encoder_depth=1, decoder_depth=1, steps=1),
}
FOUND = {
    **{
        f"quality_demo_{key}": value
        for key, value in {
            "photos": 24,
            "use": 0.99,
            "ids_seen": 0.1,
            "id_entropy_bits": 11.5,
        }.items()
    },
    **{
        f"quality_demo_64_bytes_{key}": value
        for key, value in {
            "k": 32,
            "psnr": 20.3,
            "ssim": 0.5,
            "perceptual": 0.4,
            "independent": 127,
        }.items()
    },
    **{
        f"cost_flextok_decode{k}_ms": value
        for k, value in {"_k16": 5.0, "_k32": 8.0, "": 10.0}.items()
    },
    **{
        f"size_{key}_onnxruntime_f32_seconds": value
        for key, value in {"channeltok": 2.0, "flextok": 2.5, "flextok_guided": 5.0}.items()
    },
    **{
        f"channeltok_over_flextok_best_engine{suffix}": value
        for suffix, value in {"": 1.25, "_guided": 2.5}.items()
    },
}


def test_page_has_measured_parts_and_marks_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families_page, "PAGE", tmp_path / "families.md")
    families_page.write(FOUND)
    page = (tmp_path / "families.md").read_text()
    for row in (
        "| 64 | ChannelTok | 32 | 20.30 | 0.500 | 0.400 | 127.0 |",
        "| ChannelTok | 24 | 99.0 % | 10.0 % | 11.50 |",
        "| 16 | 5.0 | 0.50 |\n| 32 | 8.0 | 0.80 |\n| 64 | 10.0 | 1.00 |",
        "| onnxruntime f32 | 2.00 | 2.50 | 5.00 | 1.25 | 2.50 |\n"
        "| each in its best |  |  |  | 1.25 | 2.50 |",
    ):
        assert row in page
    assert page.count(families_page.NOT_YET) == 2  # what an image costs, and generation
    assert families_page.tables({}) == ""


def test_quality_compares_at_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "trained", lambda name: random_of(SMALL[name]))
    for number, photo in enumerate(crops(2)):
        (tmp_path / f"{number}.jpg").write_bytes(photo)
    figures = families.quality(str(tmp_path), None)
    assert [figures[f"{name}_64_bytes_k"] for name in SMALL] == [32, 56, 32]  # 300 ids are 9 bits
    assert "cvq_128_bytes_k" not in figures  # it would take 113 tokens of 64
    assert {f"demo_128_bytes_{measure}" for measure in families_page.MEASURES} <= figures.keys()


@pytest.mark.slow  # a process with an engine for each graph
def test_cost_measures_every_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "trained", lambda name: random_of(SMALL[name]))
    for number, photo in enumerate(crops(4)):
        (tmp_path / f"{number}.jpg").write_bytes(photo)
    figures = families.cost(str(tmp_path), rounds=1)
    keys = {
        "demo_encode",
        "demo_decode",
        "cvq_encode",
        "cvq_decode",
        "flextok_encode",
        "flextok_decode",
        "flextok_decode_k16",
        "flextok_decode_k32",
    }
    assert {f"{key}_{unit}" for key in keys for unit in ("ms", "peak_bytes")} == figures.keys()
    assert min(figures.values()) > 0


@pytest.mark.slow  # five exports
def test_size_adds_further_steps_to_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(families, "D12", SMALL["flextok"].model_copy(update={"steps": 3}))
    monkeypatch.setattr(families, "random_model", lambda _: random_of(BACKBONE))
    seconds = {
        "channeltok": 2.0,
        "flextok_1": 3.0,
        "flextok_2": 5.0,
        "flextok_guided_1": 3.0,
        "flextok_guided_2": 7.0,
    }
    monkeypatch.setattr(
        families, "EngineProcess", lambda engine, task: SimpleNamespace(peak_bytes=0)
    )  # nothing is timed here
    monkeypatch.setattr(
        families,
        "_measure_alternating",
        lambda engines, rounds: {key: seconds[key] for key in engines},
    )
    figures = families.size(1, ("onnxruntime f32",))
    assert (
        figures["flextok_onnxruntime_f32_seconds"],
        figures["flextok_guided_onnxruntime_f32_seconds"],
    ) == (7.0, 11.0)
    assert (
        figures["channeltok_over_flextok_same_engine"],
        figures["channeltok_over_flextok_best_engine_guided"],
    ) == (3.5, 5.5)
