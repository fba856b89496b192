"""Decoding gives what transformers gives, and each row what it gives alone."""

import pytest
import torch

from sft import load_pretrained
from sft.gpt2.generate import AT_ONCE, Decoder, complete, generate
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.padding import attend_plainly
from sft.gpt2.sampling import Sampling

PROMPTS = [[5], [7, 8, 9, 10, 11, 12, 13], [300, 2, 300], list(range(40)), [1, 2]]


@pytest.fixture
def theirs(hf_model):
    return hf_model(n_layer=3, n_head=4, n_embd=32)


@pytest.fixture
def model(theirs, hf_folder) -> GPT:
    return load_pretrained(hf_folder(theirs)).model


def their_answer(theirs, prompt: list[int], max_new_tokens: int, eos_id: int | None) -> list[int]:
    ids = torch.tensor([prompt])
    answer = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=eos_id,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    return answer[:-1] if answer[-1] == eos_id else answer


def test_greedy_tokens_equal_transformers_together_and_alone(theirs, model):
    expected = [their_answer(theirs, prompt, 20, eos_id=None) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in expected}) == len(PROMPTS)
    assert generate(model, PROMPTS, 20) == expected
    assert [generate(model, [prompt], 20)[0] for prompt in PROMPTS] == expected


def test_the_end_token_ends_a_row_and_is_not_part_of_it(theirs, model):
    eos_id = generate(model, PROMPTS[:1], 6)[0][5]
    expected = [their_answer(theirs, prompt, 20, eos_id) for prompt in PROMPTS]
    answers = list(complete(model, PROMPTS, 20, eos_id=eos_id))
    assert [answer.tokens for answer in sorted(answers, key=lambda answer: answer.index)] == expected
    assert {answer.index: answer.finish_reason for answer in answers}[0] == "stop"
    assert all((answer.finish_reason == "length") == (len(answer.tokens) == 20) for answer in answers)


def test_without_an_end_token_nothing_stops(model):
    assert [len(answer) for answer in generate(model, PROMPTS, 9)] == [9] * 5


def test_a_row_that_fills_the_context_ends_there(model):
    prompts = [[1] * 60, [1] * 64, [1] * 63, [2, 3]]
    answers = sorted(complete(model, prompts, 10), key=lambda answer: answer.index)
    assert [len(answer.tokens) for answer in answers] == [4, 0, 1, 10]
    assert {answer.finish_reason for answer in answers} == {"length"}


@pytest.mark.parametrize("slots", [1, 2, 3, 16])
def test_what_is_drawn_for_a_row_does_not_depend_on_its_batch(model, slots):
    sampling, seeds = Sampling(temperature=0.9, top_k=20), [11, 22, 33, 44, 55]
    together = {a.index: a.tokens for a in complete(model, PROMPTS, 12, sampling, seeds=seeds, slots=slots)}
    for index, (prompt, seed) in enumerate(zip(PROMPTS, seeds, strict=True)):
        alone = next(complete(model, [prompt], 12, sampling, seeds=[seed]))
        assert together[index] == alone.tokens


@pytest.mark.parametrize("tokens", [1, 8, 42])
def test_prompts_are_read_some_at_a_time(model, tokens, monkeypatch):
    expected = generate(model, PROMPTS, 12)
    monkeypatch.setitem(AT_ONCE, "cpu", tokens)
    decoder = Decoder(model, slots=5, size=64)
    for prompt in PROMPTS:
        decoder.add(prompt)
    rows = [len(decoder.step()) for _ in range(5)]
    assert rows == {1: [1, 2, 3, 4, 5], 8: [2, 3, 4, 5, 5], 42: [3, 5, 5, 5, 5]}[tokens]
    assert generate(model, PROMPTS, 12) == expected


@pytest.mark.parametrize("tokens", [1, 2, 31, 60])
def test_few_tokens_are_multiplied_another_way_with_the_same_result(model, tokens, monkeypatch):
    model, ids, calls = model.to(torch.bfloat16), torch.arange(tokens).unsqueeze(0), []
    plain = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *given: calls.append(1) or plain(*given))
    with torch.no_grad():
        found = model(ids)
        assert not calls
        monkeypatch.setattr("sft.gpt2.model.FEW", 0)
        torch.testing.assert_close(found, model(ids), atol=0.02, rtol=0.05)
    assert len(calls) == 3 * 4 + 1


def test_seeds_repeat_and_differ(model):
    first, again, other = (generate(model, PROMPTS, 12, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_equal_prompts_draw_different_answers(model):
    answers = generate(model, [[5, 6]] * 3, 12, temperature=1.0)
    assert len({tuple(answer) for answer in answers}) == 3


def test_the_likeliest_alone_is_greedy(model):
    assert generate(model, PROMPTS, 12, temperature=5.0, top_k=1) == generate(model, PROMPTS, 12)


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(4000, -1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    drawn = torch.tensor(Sampling(temperature=2.0, top_k=3).choose(logits, generators))
    expected = torch.softmax(torch.tensor([1.0, 0.5, 0.0, -torch.inf]), 0)
    torch.testing.assert_close(drawn.bincount(minlength=4) / 4000, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-300, 1), (0.4, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.94, 3), (0.96, 4), (1.0, 4)],
)
def test_the_fewest_that_share_top_p_of_the_chances(top_p, kept):
    chances = torch.tensor([0.15, 0.5, 0.05, 0.3])  # 0.5 alone, 0.8 with the second, 0.95 with the third
    logits = chances.log().expand(4000, -1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    drawn = torch.tensor(Sampling(temperature=1.0, top_p=top_p).choose(logits, generators))
    least = chances.sort(descending=True).values[kept - 1]
    expected = chances.where(chances >= least, 0)
    torch.testing.assert_close(drawn.bincount(minlength=4) / 4000, expected / expected.sum(), atol=0.03, rtol=0)


def test_top_p_is_of_the_chances_that_top_k_leaves(model):
    drawn = generate(model, PROMPTS, 12, temperature=1.0, top_k=1, top_p=0.9)
    assert drawn == generate(model, PROMPTS, 12)
    assert generate(model, PROMPTS, 12, temperature=1.0, top_p=1e-9) == drawn
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(500, -1)  # the two likeliest share 0.625 and 0.375
    generators = [torch.Generator().manual_seed(seed) for seed in range(500)]
    assert set(Sampling(1.0, top_k=2, top_p=0.6).choose(logits, generators)) == {0}


def test_each_row_has_its_own_sampling(model):
    samplings = [Sampling(), Sampling(1.0), Sampling(1.0, top_k=5), Sampling(), Sampling(0.7, top_p=0.9)]
    decoder, told = Decoder(model, slots=5, size=64), {}
    for seed, (prompt, sampling) in enumerate(zip(PROMPTS, samplings, strict=True)):
        told[decoder.add(prompt, seed, sampling)] = []
    for _ in range(12):
        for row, token in decoder.step():
            told[row].append(token)
    alone = [
        next(complete(model, [prompt], 12, sampling, seeds=[seed])).tokens
        for seed, (prompt, sampling) in enumerate(zip(PROMPTS, samplings, strict=True))
    ]
    assert list(told.values()) == alone
    assert alone[1] != generate(model, [PROMPTS[1]], 12)[0]


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_sampling_refuses(settings):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}: expected a number"):
        Sampling(**settings)


def test_a_temperature_that_fp32_cannot_divide_by_is_refused():
    with pytest.raises(ValueError, match=r"^temperature: 1e-05 is too near to 0"):
        Sampling(1e-5)
    assert Sampling(1e-4).choose(torch.tensor([[1.0, 3.0, 2.0]]), [torch.Generator()]) == [1]


@pytest.mark.parametrize(
    ("prompts", "tokens", "message"),
    [
        ([[1], [2] * 65], 5, "prompt 1 has 65 tokens, expected 1 to 64, the model's context"),
        ([[]], 5, "prompt 0 has 0 tokens"),
        ([[1]], 0, "max_new_tokens: expected a number from 1 up, found 0"),
    ],
)
def test_generate_refuses(model, prompts, tokens, message):
    with pytest.raises(ValueError, match=message):
        generate(model, prompts, tokens)


def test_no_prompts_no_answers(model):
    assert generate(model, [], 5) == []


def test_dropout_is_off_while_it_answers_and_the_mode_is_kept():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=32, dropout=0.5))
    assert generate(model, [[1, 2]], 8) == generate(model, [[1, 2]], 8)
    assert model.training


def test_rows_come_and_go_between_steps(model):
    decoder = Decoder(model, slots=2, size=32)
    first, second = decoder.add([5]), decoder.add([7, 8, 9])
    with pytest.raises(RuntimeError, match="all 2 slots are taken"):
        decoder.add([1])
    told: dict[int, list[int]] = {first: [], second: []}
    for _ in range(3):
        for row, token in decoder.step():
            told[row].append(token)
    decoder.remove(first)
    third = decoder.add([300, 2, 300])
    told[third] = []
    for _ in range(3):
        for row, token in decoder.step():
            told[row].append(token)
    assert [told[first], told[second], told[third]] == [
        generate(model, [[5]], 3)[0],
        generate(model, [[7, 8, 9]], 6)[0],
        generate(model, [[300, 2, 300]], 3)[0],
    ]
    decoder.remove(second)
    decoder.remove(third)
    assert decoder.step() == []


def test_a_prompt_must_leave_room(model):
    with pytest.raises(ValueError, match="a prompt of 8 tokens: expected 1 to 7"):
        Decoder(model, slots=1, size=8).add([1] * 8)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_attention_written_out_is_torchs_own(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    q, keys, values = (torch.randn(3, 2, length, 8, dtype=dtype) for length in (1, 9, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1]]))[:, None, None]  # (3, 1, 1, 9)
    expected = torch.nn.functional.scaled_dot_product_attention(q, keys, values, mask)
    bias = torch.where(mask, 0.0, -torch.inf).to(dtype).expand(3, 2, 1, 9).flatten(0, 1)
    torch.testing.assert_close(attend_plainly(q, keys, values, bias), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("slots", [1, 2])
def test_decoding_under_autocast(model, slots):
    """As between the epochs of training: fp32 weights, bf16 products, and a single row at the end."""
    with torch.autocast("cpu", torch.bfloat16):
        answers = list(complete(model, PROMPTS, [3, 4, 5, 6, 7], slots=slots))
        first = [model(torch.tensor([prompt]))[0, -1].argmax().item() for prompt in PROMPTS]
    assert {answer.index: len(answer.tokens) for answer in answers} == dict(enumerate([3, 4, 5, 6, 7]))
    assert {answer.index: answer.tokens[0] for answer in answers} == dict(enumerate(first))
