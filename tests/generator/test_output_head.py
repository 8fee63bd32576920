"""Output heads: probabilities sum to 1, and sampling draws from them."""

import pytest
import torch

from generator.output_head import Bits, Sampling, choose, guided
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
        tokens, logits = prediction.sample(hidden, Sampling.of(count, temperature=3.0), noise)
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
    drawn = choose(logits.expand(count, 5), Sampling.of(count, 0.7, top_k=3), noise)
    expected = torch.cat([torch.softmax(logits[:3] / 0.7, 0), torch.zeros(2)])
    torch.testing.assert_close(
        drawn.long().bincount(minlength=5) / count, expected, atol=0.01, rtol=0
    )
    assert drawn.dtype == torch.int32


def test_choose_is_greedy_without_temperature_or_choice() -> None:
    torch.manual_seed(0)
    logits, noise = torch.randn(100, 50), 100 * torch.randn(100, 50)
    best = logits.argmax(dim=1).int()
    assert torch.equal(choose(logits, Sampling.of(100, temperature=0.0), noise), best)
    assert torch.equal(choose(logits, Sampling.of(100, 0.0, top_k=7, top_p=0.5), noise), best)
    assert torch.equal(choose(logits, Sampling.of(100, top_k=1), noise), best)
    assert torch.equal(choose(logits, Sampling.of(100, top_p=1e-6), noise), best)
    assert not torch.equal(choose(logits, Sampling.of(100, top_k=1000), noise), best)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"), [(0, 0.6, 2), (0, 0.4, 1), (0, 1.0, 5), (3, 0.8, 2), (2, 1.0, 2)]
)
def test_choose_keeps_the_likeliest_that_have_top_p(top_k: int, top_p: float, kept: int) -> None:
    """0.5, 0.25, 0.125, 0.0625 twice; of the first three together 0.57, 0.29, 0.14."""
    torch.manual_seed(0)
    count = 2_000
    logits = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log()
    noise = -torch.empty(count, 5).exponential_().log()
    drawn = choose(logits.expand(count, 5), Sampling.of(count, 1.0, top_k, top_p), noise)
    assert set(drawn.tolist()) == set(range(kept))


def test_choose_samples_each_row_by_its_own_rule() -> None:
    torch.manual_seed(0)
    logits, noise = torch.randn(6, 50), torch.randn(6, 50)
    rules = [
        (0.0, 0, 1.0),
        (1.0, 5, 1.0),
        (2.0, 0, 0.5),
        (1.0, 0, 1.0),
        (0.5, 9, 0.3),
        (1.0, 1, 1.0),
    ]
    each = [Sampling.of(1, *rule) for rule in rules]
    order = torch.arange(6, dtype=torch.int32)
    together = Sampling(*(torch.cat(parts) for parts in zip(*each, strict=True)))
    drawn = choose(logits, together._replace(partner=order, leader=order), noise)
    assert drawn.tolist() == [
        int(choose(logits[[row]], each[row], noise[[row]])) for row in range(6)
    ]


def test_guided_leads_away_from_the_partner_and_leaves_others_alone() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.5, 0.25], [3.0, 4.0], [0.1, 0.7]])
    partner = torch.tensor([2, 1, 2, 1], dtype=torch.int32)
    sampling = Sampling.of(4, guidance=3.0)._replace(partner=partner)
    led = guided(logits, sampling)
    assert torch.equal(led[[1, 2]], logits[[1, 2]])
    torch.testing.assert_close(led[0], logits[2] + 3 * (logits[0] - logits[2]))
    torch.testing.assert_close(led[3], logits[1] + 3 * (logits[3] - logits[1]))


def test_bits_head_refuses_other_vocabularies() -> None:
    with pytest.raises(ValueError, match="needs a vocabulary of 65,536"):
        Bits(64_000, 0, 64)
