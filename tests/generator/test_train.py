"""Training of a GPT: encoded datasets, steps, resume, stop and shipped weights."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import imaging
from generator import checkpoint
from generator.recipe import GptRecipe
from generator.tokens import NO_CLASS, encode_dataset
from generator.train import GptTrainer
from tests.support.photographs import crops
from tests.support.random_generator import random_generator
from tests.support.training import write_shard
from tokenizer import checkpoint as tokenizer_checkpoint
from tokenizer import inference
from tokenizer.models.channeltok import ChannelTok, ShuffleShape

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # webdataset leaves its tar files open
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FOLDERS = ["cat", "bee", "cat", "ant"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> ChannelTok:
    torch.manual_seed(0)
    model = ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32)))
    tokenizer_checkpoint.save(model, tmp_path / "tokenizer.safetensors")
    loaded = tokenizer_checkpoint.load(tmp_path / "tokenizer.safetensors")
    assert isinstance(loaded, ChannelTok)
    return loaded


@pytest.fixture
def recipe(tmp_path: Path, tokenizer: ChannelTok, monkeypatch: pytest.MonkeyPatch) -> GptRecipe:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    write_shard(tmp_path / "photos.tar", crops(4), FOLDERS)
    return GptRecipe(
        run=tmp_path / "run",
        tokenizer=tmp_path / "tokenizer.safetensors",
        tokens=tmp_path / "tokens",
        train=str(tmp_path / "photos.tar"),
        validation=str(tmp_path / "photos.tar"),
        passes=3,
        width=32,
        layers=1,
        heads=2,
        ffn_dim=32,
        samples=400,
        batch=4,
        warmup_steps=5,
        evaluate_every=40,
    )


def test_encode_dataset_caches_each_pass(
    recipe: GptRecipe, tokenizer: ChannelTok, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, mirrored, cropped = encode_dataset(tokenizer, recipe.train, 3, recipe.tokens)
    photos = np.stack([imaging.prepare(data, 128) for data in crops(4)])
    assert np.array_equal(plain.tokens, inference.encode(tokenizer, photos).numpy())
    assert np.array_equal(
        mirrored.tokens, inference.encode(tokenizer, photos[:, :, ::-1].copy()).numpy()
    )
    assert not np.array_equal(cropped.tokens, plain.tokens)
    assert plain.classes == FOLDERS
    assert plain.labels(["bee", "cat"]).tolist() == [1, 0, 1, NO_CLASS]
    monkeypatch.setattr(inference, "encode", lambda *_: pytest.fail("encoded again"))
    again = encode_dataset(tokenizer, recipe.train, 3, recipe.tokens)
    assert np.array_equal(again[2].tokens, cropped.tokens)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch"
)  # torch.compile imports what torch itself calls old
def test_gpt_trainer_compiled_learns_the_same(recipe: GptRecipe) -> None:
    losses = []
    for compiled in (False, True):
        some = recipe.model_copy(
            update={"samples": 40, "run": recipe.run / str(compiled), "compile": compiled}
        )
        GptTrainer(some).run()
        losses.append(json.loads((some.run / "log.jsonl").read_text())["bits_32"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_gpt_trainer_learns_and_writes_weights_and_a_log(recipe: GptRecipe) -> None:
    GptTrainer(recipe).run()
    rows = [json.loads(line) for line in (recipe.run / "log.jsonl").read_text().splitlines()]
    assert [row["views"] for row in rows] == list(range(40, 401, 40))
    assert rows[-1]["bits_32"] < rows[0]["bits_32"] < 16.1  # four photos, by heart
    shipped = checkpoint.load(recipe.run / "weights.safetensors")
    assert shipped.classes == ["ant", "bee", "cat"]
    assert shipped.tokenizer == tokenizer_checkpoint.fingerprint(
        tokenizer_checkpoint.load(recipe.tokenizer)
    )
    facts = tokenizer_checkpoint.facts(recipe.run / "weights.safetensors")
    assert facts["views"] == "400"
    assert json.loads(facts["recipe"])["batch"] == 4


def test_gpt_trainer_resumes_from_its_run_folder(recipe: GptRecipe) -> None:
    first = GptTrainer(recipe.model_copy(update={"samples": 8}))
    first.run()
    second = GptTrainer(recipe.model_copy(update={"samples": 12}))
    assert second.samples_seen == 8
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    assert [len(o.state) for o in second.optimisers] == [len(o.state) for o in first.optimisers]
    second.run()
    assert tokenizer_checkpoint.facts(recipe.run / "weights.safetensors")["views"] == "12"


def test_gpt_trainer_starts_from_shipped_weights(recipe: GptRecipe, tmp_path: Path) -> None:
    """Their samples count, their size is kept, and the new optimiser warms up again."""
    first = GptTrainer(recipe.model_copy(update={"samples": 40}))
    first.run()
    shipped = recipe.run / "weights.safetensors"
    longer = {"run": tmp_path / "longer", "start_from": shipped, "samples": 80, "width": 48}
    second = GptTrainer(recipe.model_copy(update=longer))
    assert (second.samples_seen, second.warm_from) == (40, 40)
    for name, value in checkpoint.load(shipped).model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    second.run()
    assert tokenizer_checkpoint.facts(tmp_path / "longer/weights.safetensors")["views"] == "80"
    third = GptTrainer(recipe.model_copy(update={**longer, "samples": 120}))
    assert (third.samples_seen, third.warm_from) == (80, 40)  # the run's own checkpoint comes first


def test_gpt_trainer_refuses_weights_of_another_tokenizer(
    recipe: GptRecipe, tokenizer: ChannelTok, tmp_path: Path
) -> None:
    GptTrainer(recipe.model_copy(update={"samples": 4})).run()
    other = ChannelTok(tokenizer.shape)
    tokenizer_checkpoint.save(other, tmp_path / "other.safetensors")
    start = {
        "run": tmp_path / "b",
        "start_from": recipe.run / "weights.safetensors",
        "tokenizer": tmp_path / "other.safetensors",
    }
    with pytest.raises(ValueError, match=r"was trained on tokens of tokenizer .*, but"):
        GptTrainer(recipe.model_copy(update=start))


def test_gpt_trainer_takes_over_weights_of_another_tokenizer_and_other_classes(
    recipe: GptRecipe, tokenizer: ChannelTok, tmp_path: Path
) -> None:
    source = random_generator()
    checkpoint.save(replace(source, classes=["ant", "dog", "cat"]), tmp_path / "source.safetensors")
    transfer = {"transfer_from": tmp_path / "source.safetensors", "samples": 4}
    trainer = GptTrainer(recipe.model_copy(update=transfer))
    old, new = source.model.state_dict(), trainer.model.state_dict()
    ant, _, cat, none = old.pop("classes.weight")
    assert trainer.classes == ["ant", "bee", "cat"]
    assert torch.equal(new.pop("classes.weight"), torch.stack([ant, none, cat, none]))
    for name, value in old.items():
        assert torch.equal(new[name], value), name
    trainer.run()
    shipped = recipe.run / "weights.safetensors"
    assert checkpoint.load(shipped).tokenizer == tokenizer_checkpoint.fingerprint(
        tokenizer_checkpoint.load(recipe.tokenizer)
    )
    assert tokenizer_checkpoint.facts(shipped)["views"] == "4"


def test_gpt_trainer_takes_over_no_weights_of_other_sequences(
    recipe: GptRecipe, tmp_path: Path
) -> None:
    checkpoint.save(random_generator(channels=16), tmp_path / "source.safetensors")
    transfer = {"transfer_from": tmp_path / "source.safetensors"}
    with pytest.raises(ValueError, match=r"makes 16 tokens of 65536 values, and .* has 32 of"):
        GptTrainer(recipe.model_copy(update=transfer))
    both = {**transfer, "start_from": tmp_path / "source.safetensors"}
    with pytest.raises(ValueError, match="start_from or transfer_from, not both"):
        GptTrainer(recipe.model_copy(update=both))


def test_photos_of_small_classes_count_as_of_no_class(recipe: GptRecipe) -> None:
    trainer = GptTrainer(recipe.model_copy(update={"members": 2}))
    assert trainer.classes == [name for name in sorted(set(FOLDERS)) if FOLDERS.count(name) > 1]
    expected = [trainer.classes.index(n) if n in trainer.classes else NO_CLASS for n in FOLDERS]
    assert trainer.labels.tolist() == expected
    assert NO_CLASS in expected


def test_gpt_trainer_saves_when_stopped(recipe: GptRecipe) -> None:
    trainer = GptTrainer(recipe)
    trainer.request_stop(signal.SIGTERM, None)
    trainer.run()
    assert trainer.samples_seen == 0
    assert (recipe.run / "last.pt").exists()
