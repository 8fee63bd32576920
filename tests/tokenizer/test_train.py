"""Training of a tokenizer: steps, resume, stop, time limit and shipped weights."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenizer import checkpoint, parts
from tokenizer.models.channeltok import ChannelTok, NarrowDecoder, ShuffleShape
from tokenizer.train import TokenizerTrainer
from tokenizer.training import distributed
from tokenizer.training.distributed import ProcessGroup
from tokenizer.training.recipe import TokenizerRecipe

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def recipe(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenizerRecipe:
    """Two steps of two photos, from a small random model: named sizes are too large for a test."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    torch.manual_seed(0)
    checkpoint.save(
        ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))),
        tmp_path / "start.safetensors",
    )
    return TokenizerRecipe(
        run=tmp_path / "run",
        train=str(shard),
        validation=str(shard),
        start_from=tmp_path / "start.safetensors",
        samples=4,
        batch=2,
        entropy_weight=0.01,
        commitment_weight=0.01,
    )


def test_trainer_writes_weights_a_log_and_a_curve(recipe: TokenizerRecipe) -> None:
    trainer = TokenizerTrainer(recipe)
    before = checkpoint.fingerprint(trainer.model)
    trainer.run()
    assert checkpoint.fingerprint(trainer.model) != before
    shipped = checkpoint.load(recipe.run / "weights.safetensors")
    assert checkpoint.fingerprint(shipped) == checkpoint.fingerprint(trainer.averaged)
    facts = checkpoint.facts(recipe.run / "weights.safetensors")
    assert facts["views"] == "4"
    assert json.loads(facts["recipe"])["batch"] == 2
    (row,) = map(json.loads, (recipe.run / "log.jsonl").read_text().splitlines())
    assert row["views"] == 4
    assert row["psnr_8"] > 0
    assert (recipe.run / "curve.png").stat().st_size > 0


def test_trainer_resumes_from_its_run_folder(recipe: TokenizerRecipe) -> None:
    first = TokenizerTrainer(recipe)
    first.run()
    longer = recipe.model_copy(
        update={"samples": 8, "start_from": recipe.run.parent / "start.safetensors"}
    )
    second = TokenizerTrainer(longer)
    assert second.samples_seen == 4
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    assert [len(o.state) for o in second.optimisers] == [len(o.state) for o in first.optimisers]
    second.run()
    assert second.samples_seen == 8
    assert checkpoint.facts(recipe.run / "weights.safetensors")["views"] == "8"


def test_trainer_trains_narrow_decoders_behind_a_frozen_tokenizer(recipe: TokenizerRecipe) -> None:
    start = recipe.start_from
    assert start is not None
    narrow = (NarrowDecoder(budget=8, widths=(32, 32, 32, 32)),)
    facts = {"views": "7", "seconds": "3", "recipe": "{}"}
    checkpoint.save(checkpoint.load(start), start, facts)
    settings = recipe.model_copy(update={"narrow_decoders": narrow})
    trainer = TokenizerTrainer(settings)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    weights = recipe.run / "weights.safetensors"
    shipped, written = checkpoint.load(weights), checkpoint.facts(weights)
    assert shipped.narrow_budgets == (8,)
    for name, value in shipped.state_dict().items():
        kept = torch.equal(value, before[name].half().float())
        assert kept or name.startswith("narrow_decoders"), name
    assert checkpoint.fingerprint(shipped) != checkpoint.fingerprint(checkpoint.load(start))
    assert facts.items() <= written.items()
    assert written["narrow_views"] == "4"

    # The whole tokenizer can be trained on without them; with them, they go on alone.
    again = recipe.model_copy(update={"start_from": weights, "run": recipe.run / "again"})
    further = TokenizerTrainer(again)
    assert (further.model.narrow_budgets, further.samples_seen) == ((8,), 4)
    dropped = TokenizerTrainer(again.model_copy(update={"narrow_decoders": ()}))
    assert dropped.model.narrow_budgets == ()
    assert dropped.samples_seen == 7
    assert next(dropped.model.encoder.parameters()).requires_grad


def test_trainer_refuses_narrow_decoders_without_a_trained_tokenizer(
    recipe: TokenizerRecipe,
) -> None:
    narrow = (NarrowDecoder(budget=8, widths=(32, 32, 32, 32)),)
    with pytest.raises(ValueError, match="--start-from"):
        TokenizerTrainer(recipe.model_copy(update={"start_from": None, "narrow_decoders": narrow}))


def test_trainer_ends_at_the_time_limit_with_the_last_rate(recipe: TokenizerRecipe) -> None:
    trainer = TokenizerTrainer(
        recipe.model_copy(update={"samples": 10**9, "minutes": 1.0, "warmup_steps": 0})
    )
    trainer.started -= 59.999  # nearly over: the first step is the last
    trainer.run()
    assert trainer.samples_seen == recipe.batch
    assert trainer.time_share >= 1
    assert trainer.recipe.rate_at(trainer.samples_seen, 0, trainer.time_share) == pytest.approx(
        recipe.rate * recipe.final_rate
    )
    (row,) = map(json.loads, (recipe.run / "log.jsonl").read_text().splitlines())
    assert row["views"] == recipe.batch
    assert checkpoint.facts(recipe.run / "weights.safetensors")["views"] == str(recipe.batch)


def test_trainer_delivers_weights_in_parts(recipe: TokenizerRecipe, tmp_path: Path) -> None:
    trainer = TokenizerTrainer(recipe.model_copy(update={"deliver": tmp_path / "kept"}))
    trainer.run()
    found = sorted((tmp_path / "kept").iterdir())
    assert [path.name for path in found] == ["curve.png", "log.jsonl", "weights-1-of-1.safetensors"]
    parts.join(found[2:], recipe.run / "joined.safetensors")
    assert checkpoint.fingerprint(
        checkpoint.load(recipe.run / "joined.safetensors")
    ) == checkpoint.fingerprint(trainer.averaged)


def test_trainer_with_photos_in_memory_and_compile_trains_the_same_weights(
    recipe: TokenizerRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    trainer = TokenizerTrainer(
        recipe.model_copy(update={"photos_in_memory": True, "compile": True})
    )
    trainer.run()
    assert compiled == [trainer.model]
    assert trainer.samples_seen == 4


def test_join_chooses_or_refuses_the_device() -> None:
    assert distributed.join("cpu").device == torch.device("cpu")
    assert distributed.join("auto").device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="there is no GPU to train on"):
            distributed.join("cuda")


def test_trainer_saves_when_stopped(recipe: TokenizerRecipe) -> None:
    trainer = TokenizerTrainer(recipe)
    trainer.request_stop(signal.SIGTERM, None)
    trainer.run()
    assert trainer.samples_seen == 0
    assert (recipe.run / "last.pt").exists()


def test_trainer_adds_discriminator_and_perceptual_loss_to_a_run(
    recipe: TokenizerRecipe,
) -> None:
    TokenizerTrainer(recipe).run()
    richer = recipe.model_copy(
        update={"samples": 8, "gan_weight": 0.1, "gan_from": 6, "perceptual_weight": 0.5}
    )
    second = TokenizerTrainer(richer)
    assert second.losses.discriminator is not None
    before = [weight.clone() for weight in second.losses.discriminator.parameters()]
    second.run()
    assert not all(
        torch.equal(a, b)
        for a, b in zip(before, second.losses.discriminator.parameters(), strict=True)
    )
    third = TokenizerTrainer(richer)
    assert third.losses.discriminator is not None
    for a, b in zip(
        third.losses.discriminator.parameters(),
        second.losses.discriminator.parameters(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_trainer_without_muon_uses_adamw_alone(recipe: TokenizerRecipe) -> None:
    trainer = TokenizerTrainer(recipe.model_copy(update={"optimiser": "adamw"}))
    assert [type(optimiser) for optimiser in trainer.optimisers] == [torch.optim.AdamW]
    trainer.run()
    assert trainer.samples_seen == 4


def test_trainer_refuses_a_batch_that_processes_cannot_share(recipe: TokenizerRecipe) -> None:
    with pytest.raises(ValueError, match="a batch of 2 photos cannot be divided over 3 processes"):
        TokenizerTrainer(recipe, ProcessGroup(0, 3, torch.device("cpu")))
