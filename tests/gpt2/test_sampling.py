"""Draws follow the distribution that the settings leave, as in transformers and at OpenAI."""

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process as theirs

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
        ("min_p", 0.0),
        ("min_p", float("nan")),
        ("repetition_penalty", 0.0),
        ("no_repeat_ngram", 0),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("logprobs", -1),
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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("penalty", "ngram"), [(1.3, None), (0.7, None), (1.0, 1), (1.0, 2), (1.0, 3), (1.2, 2)]
)
def test_penalized_logits_are_those_of_transformers(seed, penalty, ngram):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, generator=generator)
    prompt = torch.randint(4, (30,), generator=generator).tolist()
    answer = torch.randint(4, (20,), generator=generator).tolist()

    processors = LogitsProcessorList()
    if penalty != 1:
        processors.append(theirs.RepetitionPenaltyLogitsProcessor(penalty))
    if ngram:
        processors.append(theirs.NoRepeatNGramLogitsProcessor(ngram))
    expected = processors(torch.tensor([prompt + answer]), logits[None].clone())[0]
    assert not torch.equal(expected, logits)

    Sampling(repetition_penalty=penalty, no_repeat_ngram=ngram).penalize(logits, prompt, answer)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(None, 0.7, None), (None, None, 0.2), (12, 0.8, None), (None, 0.9, 0.1), (9, 0.9, 0.3)],
)
def test_chances_are_those_of_transformers(seed, top_k, top_p, min_p):
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed)) * 2
    warpers = LogitsProcessorList([theirs.TemperatureLogitsWarper(0.8)])
    if top_k:
        warpers.append(theirs.TopKLogitsWarper(top_k))
    if top_p:
        warpers.append(theirs.TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(theirs.MinPLogitsWarper(min_p))
    expected = warpers(None, logits).softmax(-1)

    chances = Sampling(0.8, top_k, top_p, min_p).chances(logits)
    torch.testing.assert_close(chances / chances.sum(-1, keepdim=True), expected)
    assert 0 < (expected > 0).sum() < expected.numel() / 2


def test_frequency_and_presence_penalty_follow_openais_formula():
    # The prompt does not count. Token 3 came three times and token 1 once.
    logits = torch.zeros(5)
    sampling = Sampling(frequency_penalty=0.5, presence_penalty=0.25)
    sampling.penalize(logits, prompt=[0, 3, 3], answer=[3, 1, 3, 3])
    assert logits.tolist() == [0, -0.75, 0, -1.75, 0]

    logits = torch.zeros(5)
    sampling.penalize(logits, prompt=[0], answer=[])
    assert logits.tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.1},
        {"no_repeat_ngram": 3},
        {"frequency_penalty": -0.1},
        {"presence_penalty": 0.1},
    ],
)
def test_each_penalty_is_noticed(settings):
    assert Sampling(**settings).penalizes
    assert not Sampling(0.7, 5, 0.9, 0.1, logprobs=3).penalizes
