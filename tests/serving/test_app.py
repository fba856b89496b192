"""The server over real HTTP, asked by the official client and by callers that misbehave."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import openai
import pytest
import requests
import torch

from sft.config.schema import DataConfig
from sft.data.sources import load_source
from sft.gpt2.generate import generate
from sft.gpt2.tokenizer import decode
from sft.serving.engine import Engine
from sft.serving.web import BODY_LIMIT
from tests.serving.running import Brake, running, wait_until

HELLO = [{"role": "user", "content": "hello"}]


@contextmanager
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture
def post(tiny, engine) -> Iterator[Callable[..., requests.Response]]:
    """Run a server of the tiny model; post requests to it."""
    with running({"tuned": engine(tiny)}) as url:

        def send(
            body: object = None, path: str = "/v1/chat/completions", **options
        ) -> requests.Response:
            content = {"model": "tuned", "messages": HELLO} if body is None else body
            return requests.post(url + path, json=content, timeout=120, **options)

        yield send


def test_twenty_callers_at_once_are_answered_as_generate_does(nano, engine):
    records = load_source(DataConfig()).records[:20]
    prompts = [nano.prompt(record.instruction, record.input) for record in records]
    answers = generate(nano.model, prompts, 32, eos_id=nano.tokenizer.eot_token)
    expected = [decode(nano.tokenizer, tokens) for tokens in answers]
    assert len(set(expected)) > 10
    with (
        running({"tuned": engine(nano, slots=8)}) as url,
        client(url) as official,
        ThreadPoolExecutor(20) as callers,
    ):

        def whole(number: int) -> str:
            record = records[number]
            completion = official.chat.completions.create(
                model="tuned",
                messages=[{"role": "user", "content": record.instruction}],
                max_tokens=32,
                extra_body={"input": record.input},
            )
            assert completion.usage.prompt_tokens == len(prompts[number])
            assert completion.usage.completion_tokens <= 32
            return completion.choices[0].message.content

        def streamed(number: int) -> str:
            record = records[number]
            stream = official.chat.completions.create(
                model="tuned",
                messages=[{"role": "user", "content": record.instruction}],
                max_tokens=32,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"input": record.input},
            )
            chunks = list(stream)
            assert chunks[0].choices[0].delta.role == "assistant"
            assert chunks[-2].choices[0].finish_reason in ("stop", "length")
            assert chunks[-1].choices == []
            assert chunks[-1].usage.prompt_tokens == len(prompts[number])
            assert len({chunk.id for chunk in chunks}) == 1
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])

        assert list(callers.map(whole, range(20))) == expected
        assert list(callers.map(streamed, range(20))) == expected


def test_models_are_listed_and_an_unknown_one_is_refused(tiny, engine):
    with running({"tuned": engine(tiny), "base": engine(tiny)}) as url, client(url) as official:
        assert [model.id for model in official.models.list()] == ["tuned", "base"]
        assert official.models.retrieve("base").owned_by == "sft"
        with pytest.raises(openai.NotFoundError, match=r"'gpt-5'.*tuned, base") as error:
            official.chat.completions.create(model="gpt-5", messages=HELLO)
        assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_health_counts_the_answers_of_each_model(tiny, engine):
    with running({"tuned": engine(tiny), "base": engine(tiny)}) as url:
        models = requests.get(f"{url}/health", timeout=60).json()["models"]
    idle = {"running": 0, "waiting": 0}
    assert models == {"tuned": idle, "base": idle}


def test_stop_strings_and_seeds_change_the_answer(tiny, engine):
    with running({"tuned": engine(tiny)}) as url, client(url) as official:

        def ask(**options) -> tuple[str, str]:
            completion = official.chat.completions.create(model="tuned", messages=HELLO, **options)
            [choice] = completion.choices
            return choice.message.content, choice.finish_reason

        text, finish_reason = ask()
        assert finish_reason == "length"
        stop = text[5:8]
        assert ask(stop=[stop]) == (text[: text.index(stop)], "stop")

        drawn = [ask(temperature=1.0, seed=seed)[0] for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert ask(temperature=1.0) != ask(temperature=1.0)


@pytest.mark.parametrize(
    ("changes", "status", "param", "code"),
    [
        ({"n": 129}, 400, "n", "invalid_value"),
        ({"model": None}, 400, "model", "missing_required_parameter"),
        ({"model": "\ud800"}, 404, "model", "model_not_found"),
        (
            {"messages": [{"role": "user", "content": "a b " * 300}]},
            400,
            "messages",
            "context_length_exceeded",
        ),
        (
            {"messages": [{"role": "user", "content": "x" * BODY_LIMIT}]},
            413,
            None,
            "request_too_large",
        ),
    ],
)
def test_errors_have_openais_form(post, changes, status, param, code):
    response = post({"model": "tuned", "messages": HELLO} | changes)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_half_a_surrogate_pair_in_a_question_is_answered(post):
    response = post({"model": "tuned", "messages": [{"role": "user", "content": "a\ud800"}]})
    assert response.json()["choices"][0]["finish_reason"] == "length"


def test_a_prompt_that_leaves_room_for_one_token_gets_one(post):
    content = post({"model": "tuned", "messages": [{"role": "user", "content": "!" * 127}]}).json()
    assert content["usage"] == {"prompt_tokens": 127, "completion_tokens": 1, "total_tokens": 128}
    assert content["choices"][0]["finish_reason"] == "length"


def test_an_unknown_path_or_method_is_refused_in_openais_form(post):
    assert post(path="/v1/embeddings").json()["error"]["code"] == "not_found"
    assert post(path="/v1/models").json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:80"},
        {"host": "["},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
    ],
)
def test_other_sites_are_kept_out(post, headers):
    response = post(headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")


def test_named_origins_and_hosts_are_let_in(tiny, engine):
    site = "https://me.example"
    with running({"tuned": engine(tiny)}, origins=(site,), hosts=("box",)) as url:
        asked = {"model": "tuned", "messages": HELLO}
        path = f"{url}/v1/chat/completions"
        wants = {"access-control-request-method": "POST", "access-control-request-headers": "a"}
        before = requests.options(path, headers={"origin": site, **wants}, timeout=60)
        assert before.headers["access-control-allow-origin"] == site
        answer = requests.post(
            path, json=asked, headers={"origin": site, "host": "box"}, timeout=60
        )
        assert answer.headers["access-control-allow-origin"] == site
        assert answer.status_code == 200
        for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
            assert requests.post(path, json=asked, headers=headers, timeout=60).status_code == 403


def test_the_key_is_asked_for(tiny, engine):
    with running({"tuned": engine(tiny)}, key="sésame") as url:
        for given in ({}, {"authorization": "Bearer sesame"}, {"authorization": "sésame"}):
            headers = {name: value.encode() for name, value in given.items()}
            answer = requests.get(f"{url}/v1/models", headers=headers, timeout=60)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        headers = {"authorization": "Bearer sésame".encode()}
        assert requests.get(f"{url}/v1/models", headers=headers, timeout=60).status_code == 200
        assert requests.get(f"{url}/health", timeout=60).status_code == 200
        assert requests.get(url, timeout=60).status_code == 200


@pytest.mark.parametrize("host", ["localhost:99", "127.0.0.1", "[::1]:80"])
def test_this_machines_names_are_let_in(post, host):
    assert post(headers={"host": host, "origin": f"http://{host}"}).status_code == 200


def test_the_page_is_served_with_its_policy_and_its_files(tiny, engine):
    with running({"tuned": engine(tiny)}) as url:
        page = requests.get(url, timeout=60)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "Ask the tuned model" in page.text
        for name, kind in (("page.css", "text/css"), ("page.js", "javascript")):
            assert kind in requests.get(f"{url}/{name}", timeout=60).headers["content-type"]


def test_a_full_queue_and_a_closing_server_refuse_new_questions(tiny, engine):
    one = engine(tiny, slots=1, queue=1)
    brake = Brake(one)
    with running({"tuned": one}) as url, client(url) as official, ThreadPoolExecutor(2) as callers:
        create = official.chat.completions.create
        taken = [callers.submit(create, model="tuned", messages=HELLO) for _ in range(2)]
        wait_until(lambda: sum(one.load) == 2)
        with pytest.raises(openai.RateLimitError) as error:
            create(model="tuned", messages=HELLO)
        assert error.value.response.headers["retry-after"] == "1"
        assert error.value.code == "queue_full"

        one.closing = True
        with pytest.raises(openai.InternalServerError) as error:
            create(model="tuned", messages=HELLO)
        assert (error.value.status_code, error.value.code) == (503, "shutting_down")
        brake.release()
        assert [call.result().choices[0].finish_reason for call in taken] == ["length"] * 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_leaves_frees_the_slot(tiny, engine, stream):
    one = engine(tiny, slots=1)
    brake = Brake(one)
    with running({"tuned": one}) as url:
        body = json.dumps({"model": "tuned", "messages": HELLO, "stream": stream}).encode()
        host, port = url.removeprefix("http://").split(":")
        head = [
            "POST /v1/chat/completions HTTP/1.1",
            f"host: {host}",
            f"content-length: {len(body)}",
        ]
        with socket.create_connection((host, int(port))) as caller:
            caller.sendall("\r\n".join([*head, "", ""]).encode() + body)
            brake.steps.release(3)
            wait_until(lambda: len(brake.rows) == 3)
            if stream:
                assert caller.recv(100).startswith(b"HTTP/1.1 200")
        [generation] = one._running.values()
        wait_until(lambda: generation.cancelled)
        brake.release()
        wait_until(lambda: one.load == (0, 0))
        assert sum(brake.rows) <= 4
        assert (
            requests.post(f"{url}/v1/chat/completions", data=body, timeout=120).status_code == 200
        )


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_fails_is_an_error_and_the_next_question_is_answered(tiny, engine, stream):
    one: Engine = engine(tiny)

    def fail() -> list[tuple[int, int]]:
        raise RuntimeError("out of memory")

    one._decoder.step = fail  # type: ignore[method-assign]
    with running({"tuned": one}) as url, client(url) as official:
        create = official.chat.completions.create
        with pytest.raises(openai.APIError) as error:
            list(create(model="tuned", messages=HELLO, stream=stream))
        assert error.value.code == "model_failed"
        time.sleep(0.05)
        answer = create(model="tuned", messages=HELLO)
        assert answer.choices[0].finish_reason == "length"


# Several answers, log-probabilities, plain text


def reference(chat_model, prompt: list[int], count: int) -> tuple[list[int], torch.Tensor]:
    """Return the likeliest tokens after a prompt, and the log-probabilities at every place."""
    [tokens] = generate(chat_model.model, [prompt], count, eos_id=chat_model.tokenizer.eot_token)
    with torch.no_grad():
        logits = chat_model.model(torch.tensor([prompt + tokens]))[0]
    return tokens, logits.log_softmax(-1)


def test_a_chat_has_log_probabilities_and_several_answers(nano, engine):
    prompt = nano.prompt("What is the plural of box?")
    tokens, logprobs = reference(nano, prompt, 16)
    with running({"tuned": engine(nano)}) as url, client(url) as official:
        ask = partial(
            official.chat.completions.create,
            model="tuned",
            messages=[{"role": "user", "content": "What is the plural of box?"}],
            logprobs=True,
            top_logprobs=3,
            max_tokens=16,
        )
        found = ask(n=2, presence_penalty=0)
        streamed = [chunk.choices[0] for chunk in ask(stream=True)]
        drawn = ask(n=3, temperature=2.0, seed=5)
        again = ask(temperature=2.0, seed=6)

    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.usage.completion_tokens == 2 * len(tokens)
    for choice in found.choices:
        content = choice.logprobs.content
        assert "".join(one.token for one in content) == choice.message.content
        assert len(content) == len(tokens)
        for place, one in enumerate(content):
            expected = logprobs[len(prompt) - 1 + place]
            assert one.logprob == pytest.approx(float(expected[tokens[place]]), abs=1e-4)
            assert [other.logprob for other in one.top_logprobs] == pytest.approx(
                expected.topk(3).values.tolist(), abs=1e-4
            )
            assert bytes(one.bytes).decode() == one.token
    parts = [one for choice in streamed if choice.logprobs for one in choice.logprobs.content]
    whole = found.choices[0].logprobs.content
    assert [one.token for one in parts] == [one.token for one in whole]
    texts = [choice.message.content for choice in drawn.choices]
    assert len(set(texts)) == 3
    assert texts[1] == again.choices[0].message.content


def test_penalties_change_an_answer(nano, engine):
    with running({"tuned": engine(nano)}) as url, client(url) as official:
        texts = []
        for options in ({}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}):
            found = official.completions.create(model="tuned", prompt="a a a a", **options)
            texts.append(found.choices[0].text)
    assert len(set(texts)) > 1


def test_plain_text_is_continued_as_generate_does(nano, engine):
    text = "The plural of box is"
    prompt = nano.tokenizer.encode_ordinary(text)
    tokens, logprobs = reference(nano, prompt, 6)
    answer = decode(nano.tokenizer, tokens)
    with running({"base": engine(nano)}) as url, client(url) as official:
        create = partial(official.completions.create, model="base", max_tokens=6)
        found = create(prompt=[text, "a b"], n=2)
        assert [choice.text for choice in found.choices[:2]] == [answer, answer]
        assert found.choices[2].text == found.choices[3].text != answer
        assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
        assert create(prompt=prompt).choices[0].text == answer
        assert create(prompt=[prompt, prompt]).choices[1].text == answer

        [echo] = create(prompt=prompt, echo=True, logprobs=2).choices
        assert echo.text == text + answer
        assert "".join(echo.logprobs.tokens) == echo.text
        assert echo.logprobs.token_logprobs[0] is echo.logprobs.top_logprobs[0] is None
        ids = prompt + tokens
        expected = [float(logprobs[place, id]) for place, id in enumerate(ids[1:])]
        assert echo.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
        for place, top in enumerate(echo.logprobs.top_logprobs[1:]):
            assert max(top.values()) == pytest.approx(float(logprobs[place].max()), abs=1e-4)
        starts = [len(decode(nano.tokenizer, ids[:place])) for place in range(len(ids))]
        assert echo.logprobs.text_offset == starts

        [alone] = create(prompt=text, echo=True, logprobs=0, max_tokens=0).choices
        assert (alone.text, alone.finish_reason) == (text, "length")
        assert alone.logprobs.top_logprobs is None
        chunks = list(create(prompt=text, echo=True, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == text + answer

        stop = answer[3:6]
        [stopped] = create(prompt=text, stop=stop, logprobs=1).choices
        assert (stopped.text, stopped.finish_reason) == (answer[: answer.index(stop)], "stop")
        assert len("".join(stopped.logprobs.tokens)) < len(answer)


@pytest.mark.parametrize(
    ("prompt", "code"),
    [([5000], "invalid_value"), ([-1], "invalid_value"), ("a " * 300, "context_length_exceeded")],
)
def test_plain_text_that_cannot_be_continued_is_refused(post, prompt, code):
    response = post({"model": "tuned", "prompt": prompt}, path="/v1/completions")
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "prompt", code)


def test_more_answers_than_the_queue_takes_are_refused(tiny, engine):
    with running({"tuned": engine(tiny, slots=2, queue=3)}) as url, client(url) as official:
        create = partial(official.completions.create, model="tuned", prompt="a")
        assert len(create(n=5).choices) == 5
        with pytest.raises(openai.BadRequestError, match=r"6 answers in all.* at most 5"):
            create(n=6)


def test_the_asynchronous_client_is_answered(tiny, engine):
    async def ask(url: str) -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as official:
            create = official.chat.completions.create
            whole = await create(model="tuned", messages=HELLO)
            parts = [
                chunk.choices[0].delta.content or ""
                async for chunk in await create(model="tuned", messages=HELLO, stream=True)
            ]
            return whole.choices[0].message.content, "".join(parts)

    with running({"tuned": engine(tiny)}) as url:
        whole, streamed = asyncio.run(ask(url))
    assert whole == streamed != ""
