"""The logic of `make test-gpt2`, on random models and without the network."""

import json
import math
import os
from itertools import islice
from pathlib import Path

import pytest
import tiktoken
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import sft
from tests.gpt2_released import __main__ as released
from tests.gpt2_released import book
from tests.gpt2_released.__main__ import Checks, alpaca_sample, check_tokens

REAL = Path(os.environ["SFT_DATA_DIR"]) if "SFT_DATA_DIR" in os.environ else None
CONTEXT = 256


@pytest.fixture(scope="module")
def records() -> list[dict[str, str]]:
    """The published instructions where they are, else 120 made-up ones of different lengths."""
    if REAL is not None:
        return json.loads((REAL / "instruction-data.json").read_text(encoding="utf-8"))
    words = ["the", "chef", "cooks", "a", "meal", "every", "day", "and", "it", "rains", "on"]
    return [
        {
            "instruction": " ".join(words[: 1 + number % 7]),
            "input": words[number % 11] if number % 3 else "",
            "output": " ".join(words[: 1 + number % 5]),
        }
        for number in range(120)
    ]


@pytest.fixture(scope="module")
def folder(bpe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 as transformers writes it, with GPT-2's own vocabulary or a tiny one."""
    vocabulary = bpe if REAL is None else REAL / "gpt2-vocab"
    folder = tmp_path_factory.mktemp("released")
    tokens = json.loads((vocabulary / "vocab.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    size = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        n_positions=CONTEXT,
        vocab_size=len(tokens),
        initializer_range=0.3,
    )
    GPT2LMHeadModel(size).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((vocabulary / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> tiktoken.Encoding:
    return sft.load_pretrained(folder).tokenizer


def test_targets_count_the_first_end_token_alone() -> None:
    inputs, targets = book.collate([[1, 2, 3], [4]], end=9, context=8)
    assert inputs.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert targets.tolist() == [[2, 3, 9], [9, -100, -100]]
    inputs, targets = book.collate([[1, 2, 3]], end=9, context=2)
    assert (inputs.tolist(), targets.tolist()) == ([[1, 2]], [[2, 3]])


def test_the_prompt_is_the_books() -> None:
    text = book.text_of({"instruction": "Add.", "input": "1 and 2", "output": "3"})
    assert text.endswith(
        "the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n3"
    )
    text = book.text_of({"instruction": "Hi", "input": "", "output": "Ho"})
    assert text.endswith("### Instruction:\nHi\n\n### Response:\nHo")


@pytest.mark.skipif(REAL is None, reason="needs the 1,100 instructions in SFT_DATA_DIR")
def test_batches_have_the_published_widths(
    records: list[dict[str, str]], tokenizer: tiktoken.Encoding
) -> None:
    parts = book.split(records, 0.85, 0.1)
    assert [len(part) for part in parts.values()] == [935, 110, 55]
    batches = book.loader(parts["train"], tokenizer, 1024, train=True)
    assert len(batches) == 116  # of 8; the 7 records left over are dropped
    torch.manual_seed(123)
    widths = [inputs.shape[1] for inputs, _ in islice(batches, 8)]
    assert widths == [61, 76, 73, 68, 65, 72, 80, 67]


def test_losses_are_those_of_each_record_by_itself(
    folder: Path, records: list[dict[str, str]], tokenizer: tiktoken.Encoding
) -> None:
    gpt2 = sft.load_pretrained(folder)
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    parts = book.split(records, 0.85, 0.1)
    found = book.initial_losses(gpt2.model.eval(), parts, tokenizer, CONTEXT)

    # A shuffled DataLoader draws one number for its workers, then the seed of its order.
    torch.manual_seed(123)
    torch.empty((), dtype=torch.int64).random_()
    seed = int(torch.empty((), dtype=torch.int64).random_())
    drawn = torch.randperm(len(parts["train"]), generator=torch.Generator().manual_seed(seed))
    orders = {"train": drawn.tolist(), "validation": list(range(len(parts["validation"])))}

    for name, loss in zip(orders, found, strict=True):
        batches = [orders[name][start : start + 8] for start in range(0, 40, 8)]
        means = []
        for rows in filter(None, batches):
            summed, count = 0.0, 0
            for row in rows:
                text = tokenizer.encode_ordinary(book.text_of(parts[name][row]))
                targets = torch.tensor([*text[1:], tokenizer.eot_token])
                with torch.no_grad():
                    logits = theirs(torch.tensor([text])).logits[0]
                summed += float(F.cross_entropy(logits, targets, reduction="sum"))
                count += len(targets)
            means.append(summed / count)
        assert loss == pytest.approx(sum(means) / len(means), abs=1e-4), name


def test_greedy_tokens_are_those_of_transformers(folder: Path) -> None:
    checks = Checks()
    check_tokens(checks, str(folder))
    assert checks.failed == []


def test_a_difference_fails(capsys: pytest.CaptureFixture[str]) -> None:
    checks = Checks()
    checks.near("a loss", 3.83, 3.8, 0.02)
    checks.near("a loss", math.nan, 3.8, 0.02)
    checks.same("tokens", [1, 2], [1, 3])
    assert len(checks.failed) == 3
    checks.near("a loss", 3.81, 3.8, 0.02)
    checks.same("tokens", [1, 2], [1, 2])
    assert len(checks.failed) == 3
    verdicts = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert verdicts == ["FAILED", "FAILED", "FAILED", "ok", "ok"]


def test_the_whole_command(
    folder: Path,
    records: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a random model in place of the released ones, the losses fail and the tokens agree."""
    many = [records[number % len(records)] for number in range(1200)]
    monkeypatch.setattr(released, "download", lambda data: many if data == "alpaca" else records)
    monkeypatch.setattr(released, "SMALL", str(folder))
    monkeypatch.setattr(released, "MEDIUM", str(folder))
    monkeypatch.setattr(book, "BATCHES", 1)
    monkeypatch.setattr("sys.argv", ["tests.gpt2_released"])
    with pytest.raises(SystemExit, match="4 checks failed"):
        released.main()
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    assert failed == [line for line in lines if "loss" in line]
    assert len(lines) == 4 + 2 * len(released.PROMPTS)


def test_alpacas_sample_is_drawn_once_and_split_800_100_100() -> None:
    made = [{"instruction": str(number), "input": "", "output": "x"} for number in range(5000)]
    parts = book.split(alpaca_sample(made), 0.8, 0.1)
    assert [len(part) for part in parts.values()] == [800, 100, 100]
    assert alpaca_sample(made) == alpaca_sample(made)
