"""GPT: the paper's size, causality, and equality with and without the cache."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from generator import checkpoint
from generator.gpt import Gpt, paper_shape
from generator.token_model import channel_weights
from tests.support.random_generator import CLASSES, random_generator
from tokenizer.checkpoint import save as save_any
from tokenizer.models.blocks import parameter_count

BOTH = pytest.mark.parametrize("prediction", ["bits", "softmax"])


def test_gpt_l_has_the_papers_342_917_120_parameters() -> None:
    """Separate embedding and head, 1000 ImageNet classes and 'no class'."""
    with torch.device("meta"):
        assert parameter_count(Gpt(paper_shape())) == 342_917_120


def tokens_of(model: Gpt, batch: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(model.shape.vocab_size, (batch, model.shape.channels), dtype=torch.int32)


@BOTH
def test_gpt_with_cache_equals_gpt_without(prediction: str) -> None:
    model = random_generator(prediction=prediction).model
    inputs, classes = F.pad(tokens_of(model)[:, :-1], (1, 0), value=-1), torch.tensor([2, -1])
    with torch.inference_mode():
        whole, whole_cache = model.hidden(inputs, classes, model.empty_cache(2), 0)
        cache, parts, before = model.empty_cache(2, room=40), [], 0
        for part in inputs.split([1, 7, 1, 23], dim=1):
            hidden, fresh = model.hidden(part, classes, cache, before)
            for stored, new in zip(cache, fresh, strict=True):
                stored[:, :, before : before + part.shape[1]] = new
            before += part.shape[1]
            parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        [tensor[:, :, :before] for tensor in cache], whole_cache, atol=1e-4, rtol=1e-4
    )


@BOTH
def test_gpt_token_depends_on_class_and_previous_tokens_only(prediction: str) -> None:
    model = random_generator(prediction=prediction).model
    tokens = tokens_of(model)
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % model.shape.vocab_size
    with torch.inference_mode():
        before, after = model(tokens, torch.tensor([0, 1])), model(changed, torch.tensor([0, 1]))
        torch.testing.assert_close(after[:, :10], before[:, :10])
        assert (after[:, 10:] != before[:, 10:]).any(dim=0).all()
        prefix = model(tokens[:, :5], torch.tensor([0, 1]))
        torch.testing.assert_close(prefix, before[:, :5], atol=1e-4, rtol=1e-4)
        other, none = model(tokens, torch.tensor([2, 2])), model(tokens, torch.tensor([-1, -1]))
        assert (other != before).all()
        assert (none != other).all()


def test_channel_weights_fall_from_two_to_one() -> None:
    torch.testing.assert_close(channel_weights(5, 1.0), torch.tensor([2, 1.75, 1.5, 1.25, 1]))
    assert channel_weights(1, 1.0).tolist() == [2]


def test_generator_checkpoint_round_trips(tmp_path: Path) -> None:
    generator = random_generator()
    checkpoint.save(generator, tmp_path / "g.safetensors", {"views": "7"})
    loaded = checkpoint.load(tmp_path / "g.safetensors")
    assert (loaded.tokenizer, loaded.classes) == (generator.tokenizer, CLASSES)
    assert checkpoint.fingerprint(loaded.model) == checkpoint.fingerprint(generator.model)
    assert checkpoint.fingerprint(random_generator(seed=1).model) != checkpoint.fingerprint(
        generator.model
    )
    save_any(generator.model, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="does not describe a generator"):
        checkpoint.load(tmp_path / "bare.safetensors")
