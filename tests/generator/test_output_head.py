"""Output heads: probabilities sum to 1, and sampling draws from them."""

import pytest
import torch

from generator.output_head import Bits, choose
from tests.support.random_generator import random_generator


@pytest.mark.parametrize("prediction", ["bits", "softmax"])
def test_output_head_probabilities_of_all_ids_sum_to_1(prediction: str) -> None:
    model = random_generator(prediction=prediction).model
    codes = model.shape.vocab_size
    torch.manual_seed(0)
    hidden = torch.randn(1, 1, model.shape.width).expand(1, codes, -1)
    nll = model.prediction.nll(hidden, torch.arange(codes)[None])
    assert torch.logsumexp(-nll, dim=1).item() == pytest.approx(
        0, abs=1e-3 if prediction == "bits" else 0.02
    )


def test_bits_head_samples_from_the_distribution_it_was_trained_on() -> None:
    """Training scores the bits of one id, sampling all values of a byte at once."""
    prediction = random_generator().model.prediction
    torch.manual_seed(0)
    count = 200
    hidden, noise = torch.randn(count, 64), torch.randn(count, 2, 256)
    with torch.inference_mode():
        tokens, logits = prediction.sample(hidden, torch.tensor([3.0]), torch.tensor([0]), noise)
        high, low = (tokens // 256).long(), (tokens % 256).long()
        log_p = logits[:, 0].gather(1, high[:, None]) + logits[:, 1].gather(1, low[:, None])
        torch.testing.assert_close(
            log_p[:, 0],
            -prediction.nll(hidden[:, None], tokens[:, None])[:, 0],
            atol=1e-3,
            rtol=1e-4,
        )
    torch.testing.assert_close(logits.logsumexp(dim=2), torch.zeros(count, 2), atol=1e-3, rtol=0)
    assert len(set(tokens.tolist())) > 100


def test_choose_draws_from_the_top_k_softmax_at_a_temperature() -> None:
    torch.manual_seed(0)
    count, logits = 40_000, torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    noise = -torch.empty(count, 5).exponential_().log()
    drawn = choose(logits.expand(count, 5), torch.tensor([3]), 0.7 * noise)
    expected = torch.cat([torch.softmax(logits[:3] / 0.7, 0), torch.zeros(2)])
    torch.testing.assert_close(
        drawn.long().bincount(minlength=5) / count, expected, atol=0.01, rtol=0
    )
    assert drawn.dtype == torch.int32


def test_choose_is_greedy_without_temperature_or_choice() -> None:
    torch.manual_seed(0)
    logits, noise = torch.randn(100, 50), 100 * torch.randn(100, 50)
    best = logits.argmax(dim=1).int()
    assert torch.equal(choose(logits, torch.tensor([0]), 0 * noise), best)
    assert torch.equal(choose(logits, torch.tensor([1]), noise), best)
    assert not torch.equal(choose(logits, torch.tensor([1000]), noise), best)


def test_bits_head_refuses_other_vocabularies() -> None:
    with pytest.raises(ValueError, match="needs a vocabulary of 65,536"):
        Bits(64_000, 0, 64)
