"""A run trains, stops, goes on where it stopped, and leaves the averaged weights."""

import json
import signal
from pathlib import Path

import pytest
import torch

from tokenizer import checkpoint
from tokenizer.channeltok import ChannelTok, ShuffleShape
from tokenizer.train import TrainConfig, Trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def config(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Two steps of two photos, from a small random model: the sizes by name are too large to train in a test."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    torch.manual_seed(0)
    checkpoint.save(ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))), tmp_path / "start.safetensors")
    return TrainConfig(
        run=tmp_path / "run",
        train=str(shard),
        validation=str(shard),
        start_from=tmp_path / "start.safetensors",
        views=4,
        batch=2,
        entropy_weight=0.01,
        commitment_weight=0.01,
    )


def test_a_run_leaves_weights_a_log_and_a_curve(config: TrainConfig) -> None:
    trainer = Trainer(config)
    before = checkpoint.fingerprint(trainer.model)
    trainer.run()
    assert checkpoint.fingerprint(trainer.model) != before
    shipped = checkpoint.load(config.run / "weights.safetensors")
    assert checkpoint.fingerprint(shipped) == checkpoint.fingerprint(trainer.averaged)
    facts = checkpoint.facts(config.run / "weights.safetensors")
    assert facts["views"] == "4"
    assert json.loads(facts["recipe"])["batch"] == 2
    (row,) = map(json.loads, (config.run / "log.jsonl").read_text().splitlines())
    assert row["views"] == 4
    assert row["psnr_8"] > 0
    assert (config.run / "curve.png").stat().st_size > 0


def test_the_same_command_goes_on(config: TrainConfig) -> None:
    first = Trainer(config)
    first.run()
    longer = config.model_copy(update={"views": 8, "start_from": config.run.parent / "start.safetensors"})
    second = Trainer(longer)
    assert second.views == 4
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    assert [len(o.state) for o in second.optimisers] == [len(o.state) for o in first.optimisers]
    second.run()
    assert second.views == 8
    assert checkpoint.facts(config.run / "weights.safetensors")["views"] == "8"


def test_a_run_that_is_asked_to_stop_saves_first(config: TrainConfig) -> None:
    trainer = Trainer(config)
    trainer._ask_to_stop(signal.SIGTERM, None)
    trainer.run()
    assert trainer.views == 0
    assert (config.run / "last.pt").exists()


def test_the_rate_rises_stays_and_falls_to_a_tenth(config: TrainConfig) -> None:
    trainer = Trainer(config.model_copy(update={"views": 1000, "batch": 1, "warmup_steps": 100}))
    rates = []
    for views in (0, 49, 99, 500, 750, 875, 999):
        trainer.views = views
        rates.append(trainer._schedule())
    assert rates == pytest.approx([0.01, 0.5, 1, 1, 1, 0.55, 0.1036])
