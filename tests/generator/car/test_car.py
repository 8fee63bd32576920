"""CAR: generation with a cache equals the full forward pass, and each stage trains its part."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from generator.car import model
from generator.car.model import Car, byte_tokenizer, small_language
from generator.car.recipe import AlignRecipe, FinetuneRecipe
from generator.car.train import Align, Finetune
from tests.support.photographs import crops
from tests.support.random_car import CODES, random_car
from tests.support.training import write_shard
from tokenizer import checkpoint
from tokenizer.models.channeltok import ChannelTok, ShuffleShape
from tokenizer.models.cvq import Cvq, CvqShape

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # webdataset leaves its tar files open
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
BACKBONE = ShuffleShape(channels=32, widths=(32, 32, 32, 32))
TEXTS = ["a photo", "a photo of pied wagtail"]


@pytest.fixture
def car() -> Car:
    return random_car()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    write_shard(tmp_path / "photos.tar", crops(4), ["cat", "bee", "cat", "ant"])
    torch.manual_seed(0)
    checkpoint.save(
        Cvq(CvqShape(backbone=BACKBONE, vocab_size=CODES)), tmp_path / "cvq.safetensors"
    )
    return tmp_path


def settings(folder: Path, samples: int) -> dict[str, object]:
    return {
        "tokenizer": folder / "cvq.safetensors",
        "tokens": folder / "tokens",
        "train": str(folder / "photos.tar"),
        "validation": str(folder / "photos.tar"),
        "passes": 1,
        "width": 32,
        "layers": 1,
        "heads": 2,
        "ffn_dim": 32,
        "samples": samples,
        "batch": 4,
        "warmup_steps": 5,
        "evaluate_every": 40,
    }


def test_car_greedy_tokens_are_the_likeliest_under_the_full_forward_pass(car: Car) -> None:
    tokens = car.generate(TEXTS, 32, seed=0, temperature=0)
    labels = torch.tensor([-1, 1])
    with torch.inference_mode():
        likeliest = car(tokens, labels)
        for other in torch.randint(CODES, (20, 2, 32), dtype=torch.int32):
            for at in (0, 1, 13, 31):
                changed = tokens.clone()
                changed[:, at] = other[:, at]
                assert (car(changed, labels)[:, at] >= likeliest[:, at] - 1e-4).all()


def test_car_generates_the_same_image_alone_and_in_a_batch(car: Car) -> None:
    together = car.generate(TEXTS, 32, seed=0, temperature=0)
    assert torch.equal(car.generate(TEXTS[:1], 32, seed=0, temperature=0), together[:1])
    tokens = torch.randint(CODES, (2, 32))
    with torch.inference_mode():
        both = car(tokens, torch.tensor([-1, 1]))
        torch.testing.assert_close(
            car(tokens[:1], torch.tensor([-1])), both[:1], atol=1e-4, rtol=1e-4
        )


def test_car_generate_is_deterministic_per_seed(car: Car) -> None:
    assert torch.equal(car.generate(TEXTS, 8, seed=1), car.generate(TEXTS, 8, seed=1))
    assert not torch.equal(car.generate(TEXTS, 8, seed=1), car.generate(TEXTS, 8, seed=2))
    assert car.generate(TEXTS, 8, seed=1).dtype == torch.int32


def test_car_generate_guides_away_from_the_text_of_no_class(car: Car) -> None:
    tokens = car.generate(TEXTS[1:], 8, seed=0, temperature=0, guidance=3)
    assert not torch.equal(tokens, car.generate(TEXTS[1:], 8, seed=0, temperature=0))
    with torch.inference_mode():
        without, of = (car.logits(tokens, [text]) for text in TEXTS)
        assert torch.equal((without + 3 * (of - without)).argmax(-1), tokens)


def test_car_generate_goes_to_the_final_temperature_by_position(car: Car) -> None:
    hot = car.generate(TEXTS, 32, seed=2, temperature=3)
    cooling = car.generate(TEXTS, 32, seed=2, temperature=3, final_temperature=0)
    assert torch.equal(hot[:, 0], cooling[:, 0])
    with torch.inference_mode():
        assert torch.equal(car.logits(cooling, TEXTS)[:, -1].argmax(-1), cooling[:, -1])


def test_car_is_trained_on_every_template_and_evaluated_on_the_first(car: Car) -> None:
    tokens = torch.randint(CODES, (1, 32), dtype=torch.int32)
    label = torch.tensor([1])

    def loss(text: str) -> float:
        return F.cross_entropy(car.logits(tokens, [text])[0], tokens[0].long()).item()

    with torch.inference_mode():
        expected = [loss(model.text_of("pied_wagtail", form)) for form in model.TEMPLATES]
        assert car(tokens, label).mean().item() == pytest.approx(expected[0], abs=1e-4)
        car.train()
        drawn = [car(tokens, label).mean().item() for _ in range(60)]
        assert car(tokens, torch.tensor([-1])).mean().item() == pytest.approx(
            loss(model.NO_CLASS_TEXT), abs=1e-4
        )
    assert len(set(expected)) == len(model.TEMPLATES)
    for text in expected:
        assert any(one == pytest.approx(text, abs=1e-4) for one in drawn)
    assert all(any(one == pytest.approx(text, abs=1e-4) for text in expected) for one in drawn)


@pytest.mark.parametrize("k", [0, 33])
def test_car_generate_refuses_k_out_of_range(car: Car, k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be 1 to 32, not {k}"):
        car.generate(TEXTS, k, seed=0)


def test_byte_tokenizer_round_trips_any_text() -> None:
    text = byte_tokenizer()
    assert (
        text.decode(text("a photo of Müller's café 🐝")["input_ids"])
        == "a photo of Müller's café 🐝"
    )


def test_car_checkpoint_round_trips(car: Car, tmp_path: Path) -> None:
    model.save(car, tmp_path / "car", {"views": "7"})
    for file in (tmp_path / "car").rglob("*.*"):
        assert file.stat().st_mode & 0o044 == 0o044, f"others cannot read {file}"
    again = model.load(tmp_path / "car")
    assert model.facts(tmp_path / "car")["views"] == "7"
    assert (again.tokenizer, again.channels, again.classes) == (
        car.tokenizer,
        car.channels,
        car.classes,
    )
    for name, value in car.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert torch.equal(again.generate(TEXTS, 8, seed=1), car.generate(TEXTS, 8, seed=1))


def test_car_load_refuses_other_folders(car: Car, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no language model that transformers can read"):
        model.load(tmp_path)
    model.save(car, tmp_path / "car")
    (tmp_path / "car" / model.REST).unlink()
    with pytest.raises(ValueError, match=r"was not written by generator\.car"):
        model.load(tmp_path / "car")


def test_car_align_trains_projector_and_head_then_finetune_trains_all(photos: Path) -> None:
    align = Align(AlignRecipe.model_validate({**settings(photos, 200), "run": photos / "align"}))
    before = {name: value.clone() for name, value in align.model.state_dict().items()}
    align.run()
    changed = {
        name.split(".")[0]
        for name, value in align.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"projector", "begin", "head"}

    recipe = {
        **settings(photos, 400),
        "run": photos / "finetune",
        "start_from": photos / "align/car",
    }
    finetune = Finetune(FinetuneRecipe.model_validate(recipe))
    before = {name: value.clone() for name, value in finetune.model.state_dict().items()}
    finetune.run()
    changed = {
        name.split(".")[0]
        for name, value in finetune.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"language", "projector", "begin", "head"}

    rows = [
        json.loads(line)
        for run in ("align", "finetune")
        for line in (photos / run / "log.jsonl").read_text().splitlines()
    ]
    bits = [row["bits_32"] for row in rows]
    assert 8.3 > bits[0] > bits[4] > bits[-1]  # 300 codewords are 8.23 bits; four photos, by heart
    facts = model.facts(photos / "finetune/car")
    assert facts["views"] == "400"
    assert json.loads(facts["recipe"])["batch"] == 4


def test_car_align_starts_from_a_local_language_model(photos: Path) -> None:
    language, text = small_language(48, 1, 2, 32)
    language.save_pretrained(photos / "qwen")
    text.save_pretrained(photos / "qwen")
    recipe = {**settings(photos, 4), "run": photos / "align", "language": photos / "qwen"}
    align = Align(AlignRecipe.model_validate(recipe))
    align.run()
    kept = model.load(photos / "align/car").language.state_dict()
    for name, value in language.half().float().state_dict().items():
        assert torch.equal(kept[name], value), name


def test_car_stages_refuse_mismatched_tokenizers(photos: Path) -> None:
    checkpoint.save(ChannelTok(BACKBONE), photos / "channeltok.safetensors")
    with pytest.raises(ValueError, match="is of the family channeltok: it needs cvq"):
        Align(
            AlignRecipe.model_validate(
                {
                    **settings(photos, 4),
                    "run": photos / "a",
                    "tokenizer": photos / "channeltok.safetensors",
                }
            )
        )

    Align(AlignRecipe.model_validate({**settings(photos, 4), "run": photos / "align"})).run()
    recipe = {**settings(photos, 4), "run": photos / "b", "start_from": photos / "align/car"}
    checkpoint.save(
        Cvq(CvqShape(backbone=BACKBONE, vocab_size=CODES)), photos / "other.safetensors"
    )
    with pytest.raises(ValueError, match=r"was trained on tokens of tokenizer .*, but"):
        Finetune(
            FinetuneRecipe.model_validate({**recipe, "tokenizer": photos / "other.safetensors"})
        )


def test_car_sample_command_draws_images_and_checks_the_tokenizer(car: Car, tmp_path: Path) -> None:
    torch.manual_seed(0)
    cvq = Cvq(CvqShape(backbone=BACKBONE, vocab_size=CODES))
    checkpoint.save(cvq, tmp_path / "cvq.safetensors")
    car.tokenizer = checkpoint.fingerprint(cvq)
    model.save(car, tmp_path / "car")
    output = str(tmp_path / "bee.png")
    command = [sys.executable, "-m", "generator.car", "sample", str(tmp_path / "car"), "-o", output]
    texts = ["a photo of bee", "a photo"]
    tokenizer = ["--tokenizer", str(tmp_path / "cvq.safetensors")]
    subprocess.run([*command, *texts, *tokenizer], check=True)
    assert (tmp_path / "bee.png").read_bytes()[:4] == b"\x89PNG"
    subprocess.run([*command, "--random", "--k", "8", *tokenizer], check=True)
    with Image.open(output) as sheet:
        assert sheet.width / sheet.height == pytest.approx(1, rel=0.15)
    refused = subprocess.run([*command, *texts], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "generates tokens of tokenizer" in refused.stderr
