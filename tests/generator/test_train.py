"""Photos become tokens once; a run trains on them, stops, goes on where it stopped, and leaves the averaged weights."""

import io
import json
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import pictures
from generator import checkpoint
from generator.recipe import GeneratorRecipe
from generator.tokens import NO_CLASS, encoded
from generator.train import GptTrainer
from tests.photographs import crops
from tokenizer import checkpoint as tokenizer_checkpoint
from tokenizer import inference
from tokenizer.channeltok import ChannelTok, ShuffleShape

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # webdataset leaves its tar files open
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FOLDERS = ["cat", "bee", "cat", "ant"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> ChannelTok:
    torch.manual_seed(0)
    model = ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32)))
    tokenizer_checkpoint.save(model, tmp_path / "tokenizer.safetensors")
    return tokenizer_checkpoint.load(tmp_path / "tokenizer.safetensors")  # type: ignore[return-value]


@pytest.fixture
def recipe(tmp_path: Path, tokenizer: ChannelTok, monkeypatch: pytest.MonkeyPatch) -> GeneratorRecipe:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for i, (folder, data) in enumerate(zip(FOLDERS, crops(4), strict=True)):
            member = tarfile.TarInfo(f"{folder}/{i}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return GeneratorRecipe(
        run=tmp_path / "run",
        tokenizer=tmp_path / "tokenizer.safetensors",
        tokens=tmp_path / "tokens",
        train=str(tmp_path / "photos.tar"),
        validation=str(tmp_path / "photos.tar"),
        passes=3,
        width=32,
        layers=1,
        heads=2,
        inside=32,
        views=400,
        batch=4,
        warmup_steps=5,
        evaluate_every=40,
    )


def test_photos_are_encoded_once(recipe: GeneratorRecipe, tokenizer: ChannelTok, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, mirrored, cropped = encoded(tokenizer, recipe.train, 3, recipe.tokens)
    photos = np.stack([pictures.prepare(data, 128) for data in crops(4)])
    assert np.array_equal(plain.tokens, inference.encode(tokenizer, photos).numpy())
    assert np.array_equal(mirrored.tokens, inference.encode(tokenizer, photos[:, :, ::-1].copy()).numpy())
    assert not np.array_equal(cropped.tokens, plain.tokens)
    assert plain.classes == FOLDERS
    assert plain.labels(["bee", "cat"]).tolist() == [1, 0, 1, NO_CLASS]
    monkeypatch.setattr(inference, "encode", lambda *_: pytest.fail("encoded again"))
    again = encoded(tokenizer, recipe.train, 3, recipe.tokens)
    assert np.array_equal(again[2].tokens, cropped.tokens)


def test_a_run_learns_and_leaves_weights_and_a_log(recipe: GeneratorRecipe) -> None:
    GptTrainer(recipe).run()
    rows = [json.loads(line) for line in (recipe.run / "log.jsonl").read_text().splitlines()]
    assert [row["views"] for row in rows] == list(range(40, 401, 40))
    assert rows[-1]["bits_32"] < rows[0]["bits_32"] < 16.1  # four photos, by heart
    shipped = checkpoint.load(recipe.run / "weights.safetensors")
    assert shipped.classes == ["ant", "bee", "cat"]
    assert shipped.tokenizer == tokenizer_checkpoint.fingerprint(tokenizer_checkpoint.load(recipe.tokenizer))
    facts = tokenizer_checkpoint.facts(recipe.run / "weights.safetensors")
    assert facts["views"] == "400"
    assert json.loads(facts["recipe"])["batch"] == 4


def test_the_same_command_goes_on(recipe: GeneratorRecipe) -> None:
    first = GptTrainer(recipe.model_copy(update={"views": 8}))
    first.run()
    second = GptTrainer(recipe.model_copy(update={"views": 12}))
    assert second.views == 8
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    assert [len(o.state) for o in second.optimisers] == [len(o.state) for o in first.optimisers]
    second.run()
    assert tokenizer_checkpoint.facts(recipe.run / "weights.safetensors")["views"] == "12"


def test_a_run_that_is_asked_to_stop_saves_first(recipe: GeneratorRecipe) -> None:
    trainer = GptTrainer(recipe)
    trainer._ask_to_stop(signal.SIGTERM, None)
    trainer.run()
    assert trainer.views == 0
    assert (recipe.run / "last.pt").exists()
