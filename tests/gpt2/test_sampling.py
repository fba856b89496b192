"""What is drawn follows the distribution that temperature, top-k and top-p leave."""

import pytest
import torch
from torch import Tensor

from sft.gpt2.sampling import Sampling

DRAWS = 4000


def draw(sampling: Sampling, logits: Tensor) -> Tensor:
    """Return the share of draws of each token, for logits (V,)."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(DRAWS)]
    drawn = torch.tensor(sampling.choose(logits.expand(DRAWS, -1), generators))
    return drawn.bincount(minlength=len(logits)) / DRAWS


def test_draws_follow_the_logits_divided_by_temperature_among_the_top_k():
    shares = draw(Sampling(temperature=2.0, top_k=3), torch.tensor([2.0, 1.0, 0.0, -1.0]))
    expected = torch.softmax(torch.tensor([1.0, 0.5, 0.0, -torch.inf]), 0)
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)
    assert shares[3] == 0


# In order, the chances below add up to 0.5, 0.8, 0.95 and 1.
@pytest.mark.parametrize(
    ("top_p", "count"),
    [
        (1e-300, 1),
        (0.4, 1),
        (0.5, 1),
        (0.51, 2),
        (0.8, 2),
        (0.81, 3),
        (0.94, 3),
        (0.96, 4),
        (1.0, 4),
    ],
)
def test_draws_are_among_the_fewest_tokens_that_reach_top_p(top_p, count):
    chances = torch.tensor([0.15, 0.5, 0.05, 0.3])
    shares = draw(Sampling(temperature=1.0, top_p=top_p), chances.log())
    least = chances.sort(descending=True).values[count - 1]
    expected = chances.where(chances >= least, 0)
    torch.testing.assert_close(shares, expected / expected.sum(), atol=0.03, rtol=0)


def test_top_p_counts_the_chances_that_top_k_leaves():
    # Of all tokens the likeliest has 0.5; of the two likeliest it has 0.625, which is enough.
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    assert draw(Sampling(1.0, top_k=2, top_p=0.6), logits).tolist() == [1, 0, 0]
    assert draw(Sampling(1.0, top_p=0.6), logits)[1] > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
    ],
)
def test_a_value_out_of_range_is_refused_by_key_and_value(key, value):
    with pytest.raises(ValueError, match=f"^{key}: expected .* found {value}"):
        Sampling(**{key: value})


def test_a_temperature_too_small_for_fp32_is_refused():
    with pytest.raises(ValueError, match=r"^temperature: 1e-05 "):
        Sampling(1e-5)
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert Sampling(1e-4).choose(logits, [torch.Generator()]) == [1]
