"""The chat, at a terminal and in a pipe."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from sft import generate, load_pretrained
from sft.chat import Chat, converse, pipe
from sft.checkpoint.folder import save_pretrained
from sft.data.prompt import render
from sft.data.records import Record
from sft.errors import InputError
from sft.gpt2.sampling import Sampling
from sft.inference.models import Placement, load_tuned
from sft.prompts import PROMPTS

QUESTIONS = ["What is the plural of box?", "Name an animal."]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As train.py leaves it: the embedded model, slightly changed, as what was tuned from it."""
    nano = load_pretrained("gpt2-nano")
    nano.model.ln_f.bias.data[0] += 0.01
    folder = tmp_path_factory.mktemp("run")
    save_pretrained(nano.model, folder / "model", nano.tokenizer, PROMPTS["alpaca"], "gpt2-nano")
    return folder


@pytest.fixture(autouse=True)
def no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history of whoever runs the tests is left alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def chat(run: Path) -> Chat:
    placement = Placement("cpu", "32-true")
    return Chat(load_tuned(str(run), placement), placement, Sampling())


def expected(run: Path, instruction: str, input: str = "", tokens: int = 256) -> str:
    found = load_tuned(str(run), Placement("cpu", "32-true"))
    [answer] = generate(
        found.model, [found.prompt(instruction, input)], tokens, eos_id=found.tokenizer.eot_token
    )
    return found.tokenizer.decode(answer)


@contextmanager
def terminal(run: Path, state: Path) -> Iterator[pexpect.spawn]:
    command = [sys.executable, "-m", "sft.chat", str(run), "--device", "cpu", "--precision", "32"]
    env = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "dumb"}
    with pexpect.spawn(
        command[0], command[1:], env=env, encoding="utf-8", timeout=60, dimensions=(50, 400)
    ) as child:
        child.expect("tuned> ")
        yield child


def test_a_conversation(run: Path, tmp_path: Path) -> None:
    with terminal(run, tmp_path) as child:
        assert "4M parameters, on cpu in 32-true; /help lists" in child.before
        child.sendline("/max_new_tokens 20")
        child.expect("at most 20 tokens\r\n\r\ntuned> ")
        child.sendline(QUESTIONS[0])
        child.expect("tuned> ")
        assert lines(expected(run, QUESTIONS[0], tokens=20)) in lines(child.before)
        child.sendline("/base")
        child.expect("asking the base, gpt2-nano, 4M parameters\r\n\r\nbase> ")
        child.sendline("/frobnicate")
        child.expect("/frobnicate: no such command; /help lists them")
        child.expect("base> ")
        child.sendline("/max_new_tokens 100000")
        child.expect("base> ")
        child.sendline("/temperature 1.5")
        child.expect("temperature 1.5, top_k off, top_p off\r\n\r\nbase> ")
        child.sendline("/quit")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0
    assert QUESTIONS[0] in (tmp_path / "sft" / "chat_history").read_text()


def lines(text: str) -> list[str] | str:
    return "\n".join(text.split("\r\n")).replace("\r", "").strip()


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(run: Path, tmp_path: Path) -> None:
    with terminal(run, tmp_path) as child:
        child.kill(signal.SIGINT)  # at the prompt: drops the line
        child.expect(r"\(stopped\)\r\n\r\ntuned> ")
        child.sendline("/top_k 7")
        child.expect("top_k 7")
        child.expect("tuned> ")
        child.sendeof()
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0


def test_ctrl_c_stops_the_answer_alone(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = iter(["Hello.", "/input box", "Hello.", "/quit"])
    answer, calls = chat.answer, []

    def stopped(instruction: str) -> Iterator[str]:
        calls.append(chat.input)
        yield "begun"
        if len(calls) == 1:
            raise KeyboardInterrupt
        yield from answer(instruction)

    chat.max_new_tokens = 5
    monkeypatch.setattr(chat, "answer", stopped)
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    converse(chat)
    assert calls == ["", "box"]
    assert "begun (stopped)\n" in capsys.readouterr().out
    assert list(said) == []


def piped(run: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sft.chat", *arguments, "--device", "cpu", "--precision", "32"]
    return subprocess.run(command, cwd=run, input=text, capture_output=True, text=True, timeout=120)


def test_a_pipe(run: Path) -> None:
    found = piped(run, "\n".join([QUESTIONS[0], "", QUESTIONS[1]]), "--quiet", ".")
    answers = [" ".join(expected(run, question).strip().splitlines()) for question in QUESTIONS]
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.split("\n") == [answers[0], "", answers[1], ""]


def test_a_pipe_keeps_all_but_line_breaks(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", ["code?\n"])
    monkeypatch.setattr(
        chat, "answer", lambda _: iter(["\ndef f():\r", "\n\treturn  1\n", "\n    # one\n"])
    )
    pipe(chat)
    assert capsys.readouterr().out == "def f(): \treturn  1      # one\n"


def test_a_question_too_long_for_a_pipe_keeps_the_lines_in_step(run: Path) -> None:
    found = piped(run, f"{'why ' * 3000}\n{QUESTIONS[0]}\n", "--quiet", ".")
    assert found.returncode == 1
    assert found.stdout.split("\n") == [
        "",
        " ".join(expected(run, QUESTIONS[0]).strip().splitlines()),
        "",
    ]
    assert re.fullmatch(
        r"error: line 1: \d+ tokens leave no room in the model's context of \d+\n", found.stderr
    )


def test_errors_are_one_line(run: Path) -> None:
    missing = piped(run, "", "--quiet")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == (
        "error: outputs/latest: not there; train first (python train.py), or name a run or a Hugging Face folder\n"
    )
    long = piped(run, "a b " * 300, "--quiet", ".")
    assert long.returncode == 1
    assert long.stderr.startswith("error: ")
    assert long.stderr.endswith("tokens leave no room in the model's context of 256\n")


def test_commands_change_what_is_asked(chat: Chat, run: Path) -> None:
    chat.run_command("/max_new_tokens 12")
    assert (
        chat.run_command("/input box") == "the next instruction is about this; now the instruction"
    )
    assert "".join(chat.answer("Give the plural.")) == expected(
        run, "Give the plural.", "box", tokens=12
    )
    assert "".join(chat.answer("Give the plural.")) == expected(run, "Give the plural.", tokens=12)
    chat.run_command("/temperature 0.8")
    chat.run_command("/top_k 5")
    assert chat.run_command("/top_p 0.9") == "temperature 0.8, top_k 5, top_p 0.9"
    assert chat.sampling == Sampling(0.8, 5, 0.9)
    assert len({"".join(chat.answer("Tell me something.")) for _ in range(5)}) > 1
    assert chat.run_command("/top_k") == "temperature 0.8, top_k off, top_p 0.9"
    assert "/temperature X" in chat.run_command("/help")


def test_the_base_is_asked_in_the_same_words(chat: Chat) -> None:
    chat.run_command("/base")
    chat.run_command("/max_new_tokens 12")
    nano = load_pretrained("gpt2-nano")
    prompt = nano.tokenizer.encode_ordinary(render(PROMPTS["alpaca"], Record("Hello.", "", "")))
    [tokens] = generate(nano.model, [prompt], 12, eos_id=nano.tokenizer.eot_token)
    assert "".join(chat.answer("Hello.")) == nano.tokenizer.decode(tokens)
    chat.run_command("/tuned")
    assert chat.target == "tuned"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temperature hot", "/temperature: expected a number, found 'hot'"),
        ("/temperature -1", "/temperature: expected a number from 0 up, found -1.0"),
        ("/top_k 0", "/top_k: expected a number from 1 up, found 0"),
        ("/max_new_tokens 0", "/max_new_tokens: expected a number from 1 to 255, found 0"),
        ("/max_new_tokens", "/max_new_tokens: expected a number, found ''"),
    ],
)
def test_commands_that_are_refused_change_nothing(chat: Chat, line: str, message: str) -> None:
    assert chat.run_command(line) == message
    assert (chat.sampling, chat.max_new_tokens) == (Sampling(), 256)


def test_a_model_without_a_base(tmp_path: Path) -> None:
    nano = load_pretrained("gpt2-nano")
    save_pretrained(nano.model, tmp_path / "model", nano.tokenizer, PROMPTS["alpaca"])
    placement = Placement("cpu", "32-true")
    chat = Chat(load_tuned(str(tmp_path / "model"), placement), placement, Sampling())
    assert chat.run_command("/base").endswith("model does not name its base")
    assert chat.target == "tuned"


# What a terminal is shown


def test_weights_that_are_nan_are_refused_at_once(run: Path, tmp_path: Path) -> None:
    broken = load_pretrained(run)
    broken.model.h[1].mlp.c_fc.weight.data[0, :3] = float("nan")
    save_pretrained(broken.model, tmp_path / "nan", broken.tokenizer, PROMPTS["alpaca"])
    found = piped(tmp_path, "Hello.\n", "--quiet", "nan")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("error: nan: tensor 'h.1.mlp.c_fc.weight': 3 of ")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("value", [float("inf"), 1e6])
def test_weights_that_fp16_cannot_hold_are_refused_in_it_alone(
    run: Path, tmp_path: Path, value: float
) -> None:
    large = load_pretrained(run)
    large.model.ln_f.bias.data[7] = value
    save_pretrained(large.model, tmp_path / "large", large.tokenizer, PROMPTS["alpaca"])
    cause = (
        "too large for torch.float16; give --precision 32" if value == 1e6 else "NaN or infinite"
    )
    with pytest.raises(InputError, match=rf"'ln_f.bias': 1 .*{cause}"):
        load_tuned(str(tmp_path / "large"), Placement("cpu", "16-mixed"))
    if value == 1e6:
        assert load_tuned(str(tmp_path / "large"), Placement("cpu", "32-true")).context == 256


def test_escape_sequences_do_not_reach_the_terminal(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = iter(["Hello.", "/\x1b]0;title\x07", "/quit"])
    monkeypatch.setattr(
        chat, "answer", lambda _: iter(["\x1b", "[2J\tgone\n", "\x9b2J\u202e", "é"])
    )
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    converse(chat)
    shown = capsys.readouterr().out
    assert "\\x1b[2J\tgone\n\\x9b2J\\u202eé\n" in shown
    assert "/\\x1b]0;title\\x07: no such command" in shown


def test_a_pipe_gets_the_answer_as_it_is_but_a_terminal_does_not(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chat, "answer", lambda _: iter(["\x1b[2J"]))
    for terminal in (False, True):
        monkeypatch.setattr("sys.stdin", ["?\n"])
        monkeypatch.setattr(sys.stdout, "isatty", lambda found=terminal: found)
        pipe(chat)
    assert capsys.readouterr().out == "\x1b[2J\n\\x1b[2J\n"


# Streams that are not UTF-8, or not there


def in_bytes(
    run: Path, text: bytes, encoding: str, shell: str = ""
) -> subprocess.CompletedProcess[bytes]:
    command = f"{sys.executable} -m sft.chat --quiet . --device cpu --precision 32 {shell}"
    env = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(
        ["sh", "-c", command], cwd=run, input=text, capture_output=True, timeout=120, env=env
    )


def test_input_that_is_not_utf8_is_read_with_replacements(run: Path) -> None:
    found = in_bytes(run, b"caf\xe9\n", "utf-8:strict")
    assert (found.returncode, found.stderr) == (0, b"")
    answer = " ".join(expected(run, "caf\ufffd").strip().splitlines())
    assert found.stdout.decode() == answer + "\n"


def test_a_closed_input_is_an_empty_one(run: Path) -> None:
    found = in_bytes(run, b"", "utf-8", "<&-")
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_a_closed_output_is_nobodys_error(run: Path) -> None:
    found = in_bytes(run, b"Hello.\n", "utf-8", ">&-")
    assert (found.returncode, found.stderr) == (0, b"")
