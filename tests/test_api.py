"""Training, asking and measuring in a notebook are train.py's and evaluate.py's."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import pytest
import torch

import sft
from sft.checkpoint.folder import Pretrained
from sft.errors import InputError
from sft.evaluation.answers import Answer
from sft.gpt2.model import GPT
from sft.prompts import PROMPTS

RECORDS: list[dict[str, Any]] = [
    {
        "instruction": f"Say {'day' if i % 2 else 'fish'}.",
        "input": "",
        "output": "day" if i % 2 else "fish",
    }
    for i in range(24)
]


@pytest.fixture
def gpt2(checkpoint: Path) -> Pretrained:
    return sft.load_pretrained(checkpoint)


def test_finetune_lowers_the_loss_and_records_its_origin(gpt2: Pretrained) -> None:
    before = sft.evaluate(gpt2, RECORDS[:4], max_new_tokens=4)
    losses = sft.finetune(
        gpt2, RECORDS, epochs=20, lr=1e-2, prompt="phi3", precision="32", device="cpu"
    )
    assert len(losses) == 60
    assert losses[-1] < 0.1 * losses[0]
    assert gpt2.prompt == PROMPTS["phi3"]
    assert sft.answer(gpt2, ["Say fish.", {"instruction": "Say day."}], max_new_tokens=9) == [
        "fish",
        "day",
    ]
    after = sft.evaluate(gpt2, RECORDS[:4], max_new_tokens=9)
    assert (before["exact_match"], after["exact_match"]) == (0, 1)
    assert after["loss"] < 0.5 < before["loss"]
    assert after["never_stopped"] == 0


def test_the_losses_are_those_of_a_run(gpt2: Pretrained, checkpoint: Path, tmp_path: Path) -> None:
    import train
    from sft.atomic import read_numbers
    from sft.config.loading import from_dict
    from sft.config.schema import TrainConfig

    (tmp_path / "records.json").write_text(json.dumps(RECORDS))
    data = {
        "source": "json",
        "path": str(tmp_path / "records.json"),
        "split": [1, 0, 0],
        "prompt": "alpaca",
        "mask_prompt": True,
    }
    model = {"checkpoint": str(checkpoint), "allow_untrained": True}
    settings = {"device": "cpu", "precision": "32", "epochs": 1, "logger": "none"}
    config = {
        "model": model,
        "data": data,
        "optim": {"lr": 1e-3},
        "eval": {"every": 0, "sample": False},
        **settings,
    }
    train.fit(from_dict(TrainConfig, config), tmp_path)
    losses = sft.finetune(
        gpt2,
        RECORDS,
        epochs=1,
        lr=1e-3,
        prompt="alpaca",
        mask_prompt=True,
        device="cpu",
        precision="32",
    )
    assert losses == [row["train/loss"] for row in read_numbers(tmp_path / "metrics.csv")]


@pytest.mark.parametrize(
    ("own", "named", "template", "chat"),
    [
        (None, None, PROMPTS["alpaca"], PROMPTS["alpaca"]),
        (PROMPTS["chatml"], None, PROMPTS["chatml"], PROMPTS["chatml"]),
        ("{{ instruction }}:", None, "{{ instruction }}:", None),
        (PROMPTS["chatml"], "phi3", PROMPTS["phi3"], PROMPTS["phi3"]),
    ],
)
def test_finetune_takes_the_models_own_template_unless_one_is_named(
    gpt2: Pretrained, own: str | None, named: str | None, template: str, chat: str | None
) -> None:
    gpt2.prompt = own
    sft.finetune(gpt2, RECORDS[:2], epochs=1, prompt=named, device="cpu", precision="32")
    assert (gpt2.prompt, gpt2.chat_template) == (template, chat)


def test_an_answer_knows_the_turns_before_it(gpt2: Pretrained) -> None:
    gpt2.prompt = PROMPTS["chatml"]
    earlier = [{"role": "user", "content": "day"}, {"role": "assistant", "content": "fish"}]
    last = {"role": "user", "content": "tree"}
    prompts: list[list[int]] = []

    def noted(gpt2: Pretrained, asked: list[list[int]], config: Any) -> list[Answer]:
        prompts.extend(asked)
        return []

    with mock.patch("sft.api._answers", noted), pytest.raises(StopIteration):
        sft.answer(gpt2, {"messages": [*earlier, last]})
    with mock.patch("sft.api._answers", noted), pytest.raises(StopIteration):
        sft.answer(gpt2, {"messages": [*earlier, last, {"role": "assistant", "content": "no"}]})
    assert gpt2.tokenizer.decode(prompts[0]) == (
        "<|im_start|>user\nday<|im_end|>\n<|im_start|>assistant\nfish<|endoftext|>"
        "\n<|im_start|>user\ntree<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompts[0] == prompts[1]
    with pytest.raises(InputError, match=r"^questions: record 1: "):
        sft.answer(gpt2, {"messages": earlier[1:]})


def test_finetune_after_answer_still_has_dropout(checkpoint: Path) -> None:
    first = []
    for look in (False, True):
        gpt2 = sft.load_pretrained(checkpoint, dropout=0.5)
        if look:
            sft.answer(gpt2, ["Say day."], max_new_tokens=1)
        first.append(sft.finetune(gpt2, RECORDS[:8], epochs=1, device="cpu", precision="32")[0])
    assert first[0] == first[1]
    plain = sft.finetune(
        sft.load_pretrained(checkpoint), RECORDS[:8], epochs=1, device="cpu", precision="32"
    )[0]
    assert plain != first[0]


def test_rows_are_padded_to_few_different_shapes(
    gpt2: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training and measuring both pad, as train.py does."""
    widths, scores = [], GPT.token_scores

    def noted(
        model: GPT, ids: torch.Tensor, *rest: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        widths.append(ids.shape[1])
        return scores(model, ids, *rest)

    monkeypatch.setattr(GPT, "token_scores", noted)
    sft.finetune(gpt2, RECORDS[:8], epochs=1, device="cpu", precision="32")
    sft.evaluate(gpt2, RECORDS[:8], max_new_tokens=1, device="cpu")
    assert [width % 16 for width in widths] == [0, 0]


def test_one_question_beyond_the_context_leaves_the_others_answered(
    gpt2: Pretrained, caplog: pytest.LogCaptureFixture
) -> None:
    gpt2.prompt = PROMPTS["phi3"]
    long = {"instruction": "~" * 200, "input": "", "output": "x"}
    found = sft.evaluate(gpt2, [RECORDS[0], long, RECORDS[1]], max_new_tokens=4)
    assert caplog.messages[-1].endswith("too long: record 2")
    alone = sft.evaluate(gpt2, RECORDS[:2], max_new_tokens=4)
    assert (found.pop("not_asked"), alone.pop("not_asked")) == ({"too long": 1}, {})
    assert found == alone
    answers = sft.answer(gpt2, [long["instruction"], "Say day.", "Say fish."], max_new_tokens=4)
    assert caplog.messages[-1].endswith("too long: record 1")
    assert answers == [None, *sft.answer(gpt2, ["Say day.", "Say fish."], max_new_tokens=4)]
    with pytest.raises(InputError, match="none of the 1 records"):
        sft.answer(gpt2, long["instruction"])


def test_sampling_follows_the_seed(gpt2: Pretrained) -> None:
    def said(seed: int) -> list[str]:
        return sft.answer(gpt2, ["Say day."], max_new_tokens=12, temperature=1.5, seed=seed)

    assert said(1) == said(1) != said(2)


def test_an_answer_takes_the_settings_of_evaluation(gpt2: Pretrained) -> None:
    def answer(**settings: Any) -> str:
        [text] = sft.answer(gpt2, "Say day.", max_new_tokens=12, **settings)
        assert text is not None
        return text

    plain = answer()
    for settings in (
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram": 1},
        {"frequency_penalty": 2.0, "presence_penalty": 2.0},
    ):
        assert answer(**settings) != plain, settings
    assert answer(temperature=1.5, min_p=1.0) == answer(temperature=1.5, top_p=1e-9) == plain
    assert answer(stop=plain[4:6]) == answer(stop=["@@", plain[4:6]])
    assert answer(stop=plain[4:6]) == plain[: plain.index(plain[4:6])]
    assert answer(temperature=1.5, best_of=3) != plain
    ended = replace(gpt2, ends=(plain[4:6], "@@"))
    assert sft.answer(ended, "Say day.", max_new_tokens=12) == [answer(stop=plain[4:6])]


def test_an_unusable_argument_is_named(gpt2: Pretrained) -> None:
    before = gpt2.model.wte.weight.clone()
    with pytest.raises(InputError, match=r"^records: record 2: no 'output'"):
        sft.finetune(gpt2, [RECORDS[0], {"instruction": "Say day."}])
    with pytest.raises(InputError, match=r"^data.prompt: unknown value 'chat'"):
        sft.finetune(gpt2, RECORDS, prompt="chat")
    with pytest.raises(InputError, match=r"^epochs: 0 is out of range"):
        sft.finetune(gpt2, RECORDS, epochs=0)
    with pytest.raises(InputError, match=r"^questions: record 1: 'instruction'"):
        sft.answer(gpt2, [{"instruction": ["a", "b"]}])
    assert sft.answer(gpt2, []) == []
    assert torch.equal(gpt2.model.wte.weight, before)


def test_a_single_question_and_a_single_record_are_a_list_of_one(gpt2: Pretrained) -> None:
    def said(questions: Any) -> list[str]:
        return sft.answer(gpt2, questions, max_new_tokens=3, device="cpu")

    gpt2.prompt = PROMPTS["phi3"]
    record = {"instruction": "Say day.", "input": "now"}
    assert len(said("Say day.")) == 1
    assert (
        said("Say day.")
        == said(["Say day."])
        == said(("Say day.",))
        == said(one for one in ["Say day."])
    )
    assert said(record) == said([record]) == said(MappingProxyType(record))
    assert sft.evaluate(gpt2, RECORDS[0], max_new_tokens=1) == sft.evaluate(
        gpt2, RECORDS[:1], max_new_tokens=1
    )


def test_records_from_a_generator_and_from_mappings(checkpoint: Path) -> None:
    losses = []
    for records in (
        RECORDS[:8],
        tuple(RECORDS[:8]),
        (MappingProxyType(one) for one in RECORDS[:8]),
    ):
        gpt2 = sft.load_pretrained(checkpoint)
        losses.append(sft.finetune(gpt2, records, epochs=1, device="cpu", precision="32"))
    assert losses[0] == losses[1] == losses[2]


class DataFrame:
    """Like the one of pandas, it gives the names of its columns."""

    def __iter__(self) -> Iterator[str]:
        return iter(["instruction", "output"])


@pytest.mark.parametrize(
    ("records", "line"),
    [
        ([("Say day.", "day")], "records: record 1: a Python tuple instead of an object"),
        ([RECORDS[0], {"Say day."}], "records: record 2: a Python set instead of an object"),
        (
            [{"instruction": b"a", "output": "b"}],
            "records: record 1: 'instruction' is a Python bytes, expected text",
        ),
        (
            {"instruction": ["a"], "output": ["b"]},
            "records: record 1: 'instruction' is an array, expected text",
        ),
        ({"train": RECORDS}, "records: record 1: no 'instruction'"),
        (
            [{"instruction": "a", "Input": "b", "output": "c"}],
            "records: record 1: 'Input' is not read; ",
        ),
        (
            [{1: "a"}],
            "records: record 1: no 'instruction', expected instruction and output; found 1",
        ),
        (DataFrame(), "records: a DataFrame, expected a list of dicts"),
        (None, "records: found None, expected a list of dicts"),
        (5, "records: found 5, expected a list of dicts"),
        (b"a", "records: found b'a', expected a list of dicts"),
        ("mine.json", "records: 'mine.json'; expected a list"),
        ([], "records: []; expected a list with at least one record"),
        (iter([]), "records: <"),
    ],
)
def test_an_unusable_record_is_named_by_its_number(
    gpt2: Pretrained, records: Any, line: str
) -> None:
    for use in (sft.finetune, sft.evaluate):
        with pytest.raises(InputError) as error:
            use(gpt2, records)
        assert str(error.value).startswith(line)


@pytest.mark.parametrize("questions", [None, 5, b"a", DataFrame(), [("a", "b")], [None], [["a"]]])
def test_an_unusable_question_is_refused(gpt2: Pretrained, questions: Any) -> None:
    with pytest.raises(InputError, match=r"^questions: "):
        sft.answer(gpt2, questions)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"device": "gpu"}, "device: unknown value 'gpu'"),
        ({"device": None}, "device"),
        ({"max_new_tokens": 0}, "generate.max_new_tokens: 0"),
        ({"max_new_tokens": "9"}, "generate.max_new_tokens: found '9'"),
    ],
)
def test_a_setting_out_of_range_is_named_by_its_key(
    gpt2: Pretrained, settings: Any, key: str
) -> None:
    with pytest.raises(InputError, match=f"^{key}"):
        sft.answer(gpt2, "Say day.", **settings)
    with pytest.raises(InputError, match=f"^{key}"):
        sft.evaluate(gpt2, RECORDS[:1], **settings)


def test_an_unusable_model_or_folder_is_refused(gpt2: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^generate.temperature: -1"):
        sft.answer(gpt2, "Say day.", temperature=-1)
    with pytest.raises(InputError, match=r"^batch_size: 0"):
        sft.evaluate(gpt2, RECORDS[:1], batch_size=0)
    with pytest.raises(InputError, match=r"^device: unknown value 'gpu'"):
        sft.finetune(gpt2, RECORDS, device="gpu")
    with pytest.raises(InputError, match=r"^folder: found None"):
        sft.save(gpt2, None)  # type: ignore[arg-type]
    for call in (sft.finetune, sft.answer, sft.evaluate, sft.save):
        with pytest.raises(
            InputError, match=r"^gpt2: found 'gpt2', expected a model from load_pretrained"
        ):
            call("gpt2", RECORDS)  # type: ignore[operator]


def test_unread_keys_are_warned_of_once(gpt2: Pretrained, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("sft").propagate = True
    sft.answer(gpt2, [{"instruction": "a", "context": "b"}, {"instruction": "c"}], max_new_tokens=1)
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "questions: not read: 'context' (to read it: \"data.fields={input: context}\") in 1 of its "
        "records"
    ]


# Adapters, validation, early stop, progress


def quick(gpt2: Pretrained, **options: Any) -> Any:
    settings = {"epochs": 1, "lr": 1e-2, "device": "cpu", "precision": "32"}
    return sft.finetune(gpt2, RECORDS, **(settings | options))


def test_an_adapter_is_trained_beside_frozen_weights_and_saved(
    gpt2: Pretrained, checkpoint: Path, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in gpt2.model.state_dict().items()}
    losses = quick(gpt2, lora=4, epochs=3)
    assert losses[-1] < losses[0]
    after = gpt2.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert (gpt2.base, gpt2.source) == (str(checkpoint), str(checkpoint))
    told = sft.answer(gpt2, ["Say day."], max_new_tokens=9, device="cpu")

    sft.save(gpt2, tmp_path / "adapter", adapter=True)
    sft.save(gpt2, tmp_path / "merged")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    for folder in ("adapter", "merged"):
        again = sft.load_pretrained(tmp_path / folder)
        assert sft.answer(again, ["Say day."], max_new_tokens=9, device="cpu") == told
        assert again.base == str(checkpoint)

    with pytest.raises(InputError, match="has an adapter"):
        quick(gpt2, lora=True)
    assert quick(gpt2)[-1] < losses[0]


def test_a_model_without_an_adapter_has_none_to_save(gpt2: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="adapter: the model has none"):
        sft.save(gpt2, tmp_path / "x", adapter=True)
    with pytest.raises(InputError, match="rank"):
        quick(gpt2, lora=0)


def test_the_weights_with_the_best_validation_loss_are_kept(gpt2: Pretrained) -> None:
    # Validation answers are the opposite of those learned, so that its loss soon rises.
    wrong = [{**RECORDS[0], "output": "zebra"}, {**RECORDS[1], "output": "zebra"}]
    losses = quick(gpt2, validation=wrong, epochs=12, patience=2, mask_prompt=True)
    assert len(losses.validation) < 12
    best = losses.validation.index(min(losses.validation))
    assert len(losses.validation) == best + 1 + 2
    assert [row["epoch"] for row in losses.rows if "val/full_loss" in row] == [
        epoch + 1 for epoch in range(len(losses.validation))
    ]
    found = sft.evaluate(gpt2, wrong, max_new_tokens=1, device="cpu")["loss"]
    assert found < losses.validation[-1]
    assert len(losses.plot().axes) == 1
    with pytest.raises(InputError, match=r"patience: 2; .* with validation="):
        quick(gpt2, patience=2)
    with pytest.raises(InputError, match="validation: record 1"):
        quick(gpt2, validation=[{"instruction": 3}])


def test_progress_is_told_of_each_step(gpt2: Pretrained) -> None:
    steps: list[Any] = []
    losses = quick(gpt2, progress=steps.append)
    assert [(step.number, step.of) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [step.loss for step in steps] == losses


def test_nothing_of_the_base_stays_with_the_tuned_model(checkpoint: Path) -> None:
    gpt2 = sft.load_pretrained(checkpoint)
    old = gpt2.read("wte.weight").clone()
    gpt2.revision = "abc"
    quick(gpt2, prompt="alpaca")
    assert (gpt2.base, gpt2.sha256, gpt2.revision, gpt2.adapter) == (
        str(checkpoint),
        "",
        None,
        None,
    )
    assert torch.equal(gpt2.read("wte.weight"), gpt2.model.wte.weight)
    assert not torch.equal(gpt2.read("wte.weight"), old)
    assert gpt2.chat_template == gpt2.prompt
    quick(gpt2)
    assert gpt2.base == str(checkpoint)
