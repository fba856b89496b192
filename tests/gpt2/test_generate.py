"""Decoding gives what transformers gives, and each row what it gives alone."""

import pytest
import torch

from sft import load_pretrained
from sft.gpt2.generate import Decoder, complete, generate
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.sampling import Sampling

PROMPTS = [[5], [7, 8, 9, 10, 11, 12, 13], [300, 2, 300], list(range(40)), [1, 2]]


@pytest.fixture
def theirs(hf_model):
    return hf_model(n_layer=3, n_head=4, n_embd=32)


@pytest.fixture
def model(theirs, hf_folder) -> GPT:
    return load_pretrained(hf_folder(theirs)).model


def their_answer(
    theirs, prompt: list[int], max_new_tokens: int, eos_id: int | None, **settings
) -> list[int]:
    ids = torch.tensor([prompt])
    answer = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=eos_id,
        pad_token_id=0,
        **settings,
    )[0, len(prompt) :].tolist()
    return answer[:-1] if answer[-1] == eos_id else answer


def step(decoder: Decoder, answers: dict[int, list[int]], times: int) -> None:
    """Step so many times, and append each row's tokens to its answer."""
    for _ in range(times):
        for row, token in decoder.step():
            answers[row].append(token)


def test_greedy_tokens_equal_transformers_together_and_alone(theirs, model):
    expected = [their_answer(theirs, prompt, 20, eos_id=None) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in expected}) == len(PROMPTS)
    assert generate(model, PROMPTS, 20) == expected
    assert [generate(model, [prompt], 20)[0] for prompt in PROMPTS] == expected


def test_the_end_token_ends_a_row_and_is_not_part_of_it(theirs, model):
    eos_id = generate(model, PROMPTS[:1], 6)[0][5]
    expected = [their_answer(theirs, prompt, 20, eos_id) for prompt in PROMPTS]
    answers = sorted(complete(model, PROMPTS, 20, eos_id=eos_id), key=lambda answer: answer.index)
    assert [answer.tokens for answer in answers] == expected
    assert answers[0].finish_reason == "stop"
    for answer in answers:
        assert (answer.finish_reason == "length") == (len(answer.tokens) == 20)


def test_without_an_end_token_every_answer_has_max_new_tokens(model):
    assert [len(answer) for answer in generate(model, PROMPTS, 9)] == [9] * 5


def test_a_row_that_fills_the_context_ends_there(model):
    prompts = [[1] * 60, [1] * 64, [1] * 63, [2, 3]]
    answers = sorted(complete(model, prompts, 10), key=lambda answer: answer.index)
    assert [len(answer.tokens) for answer in answers] == [4, 0, 1, 10]
    assert {answer.finish_reason for answer in answers} == {"length"}


@pytest.mark.parametrize("slots", [1, 2, 3, 16])
def test_draws_of_a_row_do_not_depend_on_its_batch(model, slots):
    sampling = Sampling(temperature=0.9, top_k=20)
    seeds = [11, 22, 33, 44, 55]
    answers = complete(model, PROMPTS, 12, sampling, seeds=seeds, slots=slots)
    together = {answer.index: answer.tokens for answer in answers}
    for index, (prompt, seed) in enumerate(zip(PROMPTS, seeds, strict=True)):
        alone = next(complete(model, [prompt], 12, sampling, seeds=[seed]))
        assert together[index] == alone.tokens


# For each limit, the number of rows that have a token after each of five steps.
@pytest.mark.parametrize(
    ("prompt_tokens", "rows"),
    [(1, [1, 2, 3, 4, 5]), (8, [2, 3, 4, 5, 5]), (42, [3, 5, 5, 5, 5])],
)
def test_a_step_reads_prompts_up_to_its_limit(model, prompt_tokens, rows, change_limits):
    expected = generate(model, PROMPTS, 12)
    change_limits(prompt_tokens=prompt_tokens)
    decoder = Decoder(model, slots=5, size=64)
    for prompt in PROMPTS:
        decoder.add(prompt)
    assert [len(decoder.step()) for _ in range(5)] == rows
    assert generate(model, PROMPTS, 12) == expected


def test_a_seed_repeats_its_draws_and_another_one_differs(model):
    first, again, other = (
        generate(model, PROMPTS, 12, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_equal_prompts_draw_different_answers(model):
    answers = generate(model, [[5, 6]] * 3, 12, temperature=1.0)
    assert len({tuple(answer) for answer in answers}) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 5.0, "top_k": 1},
        {"temperature": 1.0, "top_k": 1, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 1e-9},
    ],
)
def test_drawing_among_one_token_is_greedy(model, settings):
    assert generate(model, PROMPTS, 12, **settings) == generate(model, PROMPTS, 12)


def test_each_row_has_its_own_sampling(model):
    samplings = [
        Sampling(),
        Sampling(1.0),
        Sampling(1.0, top_k=5),
        Sampling(),
        Sampling(0.7, top_p=0.9),
    ]
    decoder = Decoder(model, slots=5, size=64)
    answers: dict[int, list[int]] = {}
    alone = []
    for seed, (prompt, sampling) in enumerate(zip(PROMPTS, samplings, strict=True)):
        answers[decoder.add(prompt, seed, sampling)] = []
        alone.append(next(complete(model, [prompt], 12, sampling, seeds=[seed])).tokens)
    step(decoder, answers, 12)
    assert list(answers.values()) == alone
    assert alone[1] != generate(model, [PROMPTS[1]], 12)[0]


def test_penalties_of_each_row_give_the_tokens_of_transformers(theirs, model):
    settings = [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
        {"no_repeat_ngram_size": 1},
    ]
    expected = [
        their_answer(theirs, prompt, 20, eos_id=None, **one)
        for prompt, one in zip(PROMPTS, settings, strict=True)
    ]
    plain = generate(model, PROMPTS, 20)
    assert [one == other for one, other in zip(expected, plain, strict=True)].count(True) == 1

    decoder = Decoder(model, slots=5, size=64)
    answers: dict[int, list[int]] = {}
    for prompt, one in zip(PROMPTS, settings, strict=True):
        sampling = Sampling(
            repetition_penalty=one.get("repetition_penalty", 1.0),
            no_repeat_ngram=one.get("no_repeat_ngram_size"),
        )
        answers[decoder.add(prompt, sampling=sampling)] = []
    step(decoder, answers, 20)
    assert list(answers.values()) == expected


def test_logprobs_are_the_models_own_for_the_rows_that_ask(model):
    decoder = Decoder(model, slots=2, size=64)
    asking = decoder.add(PROMPTS[1], 3, Sampling(2.0, repetition_penalty=3.0, logprobs=2))
    decoder.add(PROMPTS[0])
    tokens = list(PROMPTS[1])
    for _ in range(4):
        found = dict(decoder.step())
        assert decoder.logprobs.keys() == {asking}
        expected = model(torch.tensor([tokens]))[0, -1].log_softmax(-1)
        likeliest = expected.topk(2)
        logprobs = decoder.logprobs[asking]
        tokens.append(found[asking])
        assert logprobs.chosen == pytest.approx(expected[tokens[-1]].item(), abs=1e-4)
        assert [token for token, _ in logprobs.likeliest] == likeliest.indices.tolist()
        assert [value for _, value in logprobs.likeliest] == pytest.approx(
            likeliest.values.tolist(), abs=1e-4
        )


def test_an_answer_ends_where_the_caller_says(model):
    whole = generate(model, PROMPTS, 12)
    ending = [answer[:4] == whole[0][:4] for answer in whole]
    assert set(ending) == {True, False}

    answers = complete(model, PROMPTS, 12, ends=lambda tokens: tokens == whole[0][:4])
    for answer in answers:
        ends_early = ending[answer.index]
        assert answer.tokens == whole[answer.index][: 4 if ends_early else 12]
        assert answer.finish_reason == ("stop" if ends_early else "length")


@pytest.mark.parametrize(
    ("prompts", "tokens", "message"),
    [
        ([[1], [2] * 65], 5, "^prompt 1 .*65.* 1 to 64"),
        ([[]], 5, "^prompt 0 has 0 tokens"),
        ([[1]], 0, "^max_new_tokens: .*found 0"),
    ],
)
def test_prompts_and_limits_out_of_range_are_refused(model, prompts, tokens, message):
    with pytest.raises(ValueError, match=message):
        generate(model, prompts, tokens)


def test_no_prompts_have_no_answers(model):
    assert generate(model, [], 5) == []


def test_dropout_is_off_while_decoding_and_training_mode_comes_back():
    torch.manual_seed(0)
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=32, dropout=0.5)
    model = GPT(config)
    assert generate(model, [[1, 2]], 8) == generate(model, [[1, 2]], 8)
    assert model.training
    with pytest.raises(ValueError, match=r"^prompt 0"):
        generate(model, [[]], 8)
    assert model.training


def test_rows_come_and_go_between_steps(model):
    decoder = Decoder(model, slots=2, size=32)
    first = decoder.add([5])
    second = decoder.add([7, 8, 9])
    with pytest.raises(RuntimeError, match="all 2 slots"):
        decoder.add([1])

    answers: dict[int, list[int]] = {first: [], second: []}
    step(decoder, answers, 3)
    decoder.remove(first)
    third = decoder.add([300, 2, 300])
    answers[third] = []
    step(decoder, answers, 3)
    assert answers == {
        first: generate(model, [[5]], 3)[0],
        second: generate(model, [[7, 8, 9]], 6)[0],
        third: generate(model, [[300, 2, 300]], 3)[0],
    }

    decoder.remove(second)
    decoder.remove(third)
    assert decoder.step() == []


def test_a_row_that_waits_can_be_removed(model):
    decoder = Decoder(model, slots=2, size=32)
    first = decoder.add([5])
    second = decoder.add([7, 8, 9])
    decoder.remove(first)
    assert [row for row, _ in decoder.step()] == [second]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(model):
    decoder = Decoder(model, slots=1, size=8)
    with pytest.raises(ValueError, match=r"8 tokens: .*1 to 7"):
        decoder.add([1] * 8)
    with pytest.raises(ValueError, match=r"0 tokens: .*1 to 7"):
        decoder.add([])


@pytest.mark.parametrize("slots", [1, 2])
def test_decoding_under_autocast_equals_the_model_under_autocast(model, slots):
    """Validation decodes with fp32 weights and bf16 products, down to a single row at the end."""
    limits = [3, 4, 5, 6, 7]
    with torch.autocast("cpu", torch.bfloat16):
        answers = {answer.index: answer for answer in complete(model, PROMPTS, limits, slots=slots)}
        first = [model(torch.tensor([prompt]))[0, -1].argmax().item() for prompt in PROMPTS]
    assert [len(answers[index].tokens) for index in range(5)] == limits
    assert [answers[index].tokens[0] for index in range(5)] == first
