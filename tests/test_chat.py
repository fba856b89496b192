"""The chat, at a terminal and in a pipe."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pexpect
import pytest

from sft import generate, load_pretrained
from sft.chat import Chat, converse, handle, pipe
from sft.checkpoint.folder import save_pretrained
from sft.data.prompt import render
from sft.data.records import Record
from sft.errors import InputError
from sft.gpt2.sampling import Sampling
from sft.inference.models import ChatModel, Placement, load_tuned
from sft.prompts import PROMPTS
from tests.forked import Command

QUESTIONS = ["What is the plural of box?", "Name an animal."]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as train.py leaves it: the embedded model, slightly changed, and its base."""
    nano = load_pretrained("gpt2-nano")
    nano.model.ln_f.bias.data[0] += 0.01
    folder = tmp_path_factory.mktemp("run")
    save_pretrained(nano.model, folder / "model", nano.tokenizer, PROMPTS["alpaca"], "gpt2-nano")
    return folder


@pytest.fixture(autouse=True)
def no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests out of the history of whoever runs them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def chat(run: Path) -> Chat:
    placement = Placement("cpu", "32-true")
    return Chat(load_tuned(str(run), placement), placement, Sampling())


def expected(run: Path, instruction: str, input: str = "", tokens: int = 256) -> str:
    """Return the answer that `generate` gives."""
    found = load_tuned(str(run), Placement("cpu", "32-true"))
    [answer] = generate(
        found.model, [found.prompt(instruction, input)], tokens, eos_id=found.tokenizer.eot_token
    )
    return found.tokenizer.decode(answer)


@contextmanager
def terminal(run: Path, state: Path) -> Iterator[pexpect.spawn]:
    command = [sys.executable, "-m", "sft.chat", str(run), "--device", "cpu", "--precision", "32"]
    env = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "dumb"}
    # Tests that run in the background may have been started with Ctrl-C ignored.
    with pexpect.spawn(
        command[0],
        command[1:],
        env=env,
        encoding="utf-8",
        timeout=300,
        dimensions=(50, 400),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:
        child.expect("tuned> ")
        yield child


def test_a_conversation_at_a_terminal(run: Path, tmp_path: Path) -> None:
    with terminal(run, tmp_path) as child:
        assert "4M parameters, on cpu in 32-true" in child.before
        child.sendline("/max_new_tokens 20")
        child.expect("20 tokens\r\n\r\ntuned> ")
        child.sendline(QUESTIONS[0])
        child.expect("tuned> ")
        assert lines(expected(run, QUESTIONS[0], tokens=20)) in lines(child.before)
        child.sendline("/base")
        child.expect("gpt2-nano, 4M parameters\r\n\r\nbase> ")
        child.sendline("/frobnicate")
        child.expect("/frobnicate: no such command")
        child.expect("base> ")
        child.sendline("/max_new_tokens 100000")
        child.expect("base> ")
        child.sendline("/temperature 1.5")
        child.expect("temperature 1.5, top_k off, top_p off\r\n\r\nbase> ")
        child.sendline("/quit")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0
    assert QUESTIONS[0] in (tmp_path / "sft" / "chat_history").read_text()


def lines(text: str) -> str:
    """Return a text without the line ends that a terminal adds."""
    return "\n".join(text.split("\r\n")).replace("\r", "").strip()


def test_ctrl_c_drops_the_line_and_ctrl_d_leaves(run: Path, tmp_path: Path) -> None:
    with terminal(run, tmp_path) as child:
        child.kill(signal.SIGINT)
        child.expect(r"\(stopped\)\r\n\r\ntuned> ")
        child.sendline("/top_k 7")
        child.expect("top_k 7")
        child.expect("tuned> ")
        child.sendeof()
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["Hello.", "/input box", "Hello.", "/quit"])
    answer = chat.answer
    inputs = []

    def stopped(instruction: str) -> Iterator[str]:
        inputs.append(chat.input)
        yield "begun"
        if len(inputs) == 1:
            raise KeyboardInterrupt
        yield from answer(instruction)

    chat.max_new_tokens = 5
    monkeypatch.setattr(chat, "answer", stopped)
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    converse(chat)
    assert inputs == ["", "box"]
    assert "begun (stopped)\n" in capsys.readouterr().out
    assert list(typed) == []


def piped(run: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = in_bytes(run, text.encode(), "utf-8", arguments)
    return subprocess.CompletedProcess(
        [], found.returncode, found.stdout.decode(), found.stderr.decode()
    )


def in_bytes(
    run: Path,
    text: bytes,
    encoding: str,
    arguments: tuple[str, ...] = ("--quiet", "."),
    **streams: Any,
) -> subprocess.CompletedProcess[bytes]:
    given = ("-m", "sft.chat", *arguments, "--device", "cpu", "--precision", "32")
    started = Command(*given, folder=run, given=text, PYTHONIOENCODING=encoding, **streams)
    return started.finish()


def on_one_line(answer: str) -> str:
    return " ".join(answer.strip().splitlines())


def test_a_pipe_gets_one_line_for_each_line(run: Path) -> None:
    found = piped(run, "\n".join([QUESTIONS[0], "", QUESTIONS[1]]), "--quiet", ".")
    answers = [on_one_line(expected(run, question)) for question in QUESTIONS]
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


def test_a_question_too_long_gets_an_empty_line_in_a_pipe(run: Path) -> None:
    found = piped(run, f"{'why ' * 3000}\n{QUESTIONS[0]}\n", "--quiet", ".")
    assert found.returncode == 1
    assert found.stdout.split("\n") == ["", on_one_line(expected(run, QUESTIONS[0])), ""]
    assert re.fullmatch(r"error: line 1: \d+ tokens .* context of 256\n", found.stderr)


def test_a_run_that_is_missing_is_refused_in_one_line(run: Path) -> None:
    missing = piped(run, "", "--quiet")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("error: outputs/latest: not there")
    assert missing.stderr.count("\n") == 1


def test_an_input_belongs_to_the_next_instruction_alone(chat: Chat, run: Path) -> None:
    chat.run_command("/max_new_tokens 12")
    chat.run_command("/input box")
    with_input = expected(run, "Give the plural.", "box", tokens=12)
    without = expected(run, "Give the plural.", tokens=12)
    assert with_input != without
    assert "".join(chat.answer("Give the plural.")) == with_input
    assert "".join(chat.answer("Give the plural.")) == without


def test_the_sampling_commands_change_how_tokens_are_drawn(chat: Chat) -> None:
    chat.run_command("/max_new_tokens 12")
    chat.run_command("/temperature 0.8")
    chat.run_command("/top_k 5")
    assert chat.run_command("/top_p 0.9") == "temperature 0.8, top_k 5, top_p 0.9"
    assert chat.sampling == Sampling(0.8, 5, 0.9)
    assert len({"".join(chat.answer("Tell me something.")) for _ in range(5)}) > 1
    assert chat.run_command("/top_k") == "temperature 0.8, top_k off, top_p 0.9"


def test_set_changes_any_setting_and_shows_those_that_are_on(chat: Chat) -> None:
    main = "temperature 0, top_k off, top_p off"
    assert chat.run_command("/set") == (
        f"{main}, min_p off, repetition_penalty off, no_repeat_ngram off, frequency_penalty off, "
        "presence_penalty off, stop off, max_new_tokens 256"
    )
    chat.run_command("/set repetition_penalty 1.2")
    chat.run_command("/set no_repeat_ngram 3")
    chat.run_command("/set frequency_penalty 0.5")
    chat.run_command("/set presence_penalty=0.5")
    shown = chat.run_command("/set min_p 0.1")
    assert shown.removeprefix(main) == (
        ", min_p 0.1, repetition_penalty 1.2, no_repeat_ngram 3, frequency_penalty 0.5, "
        "presence_penalty 0.5"
    )
    assert chat.sampling == Sampling(0.0, None, None, 0.1, 1.2, 3, 0.5, 0.5)
    chat.run_command("/set no_repeat_ngram")
    chat.run_command("/set max_new_tokens 5")
    assert (chat.sampling.no_repeat_ngram, chat.max_new_tokens) == (None, 5)


def test_a_stop_text_ends_the_answers_of_a_chat(chat: Chat) -> None:
    chat.run_command("/max_new_tokens 12")
    whole = "".join(chat.answer("Tell me something."))
    stop = whole[4:7].strip()
    assert stop
    assert chat.run_command(f"/set stop {stop}").endswith(f"stop {stop!r}")
    assert "".join(chat.answer("Tell me something.")) == whole[: whole.index(stop)]
    chat.run_command("/set stop")
    assert "".join(chat.answer("Tell me something.")) == whole

    # So does an end token of the checkpoint's own.
    chat.tuned.checkpoint.ends = (stop,)
    assert "".join(chat.answer("Tell me something.")) == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/set min_p 2", "min_p: expected .* found 2.0"),
        ("/set heat 2", "no setting 'heat'; there are temperature, .*, stop, max_new_tokens"),
        ("/set top_k x", "expected a number, found 'x'"),
    ],
)
def test_a_setting_that_is_refused_changes_nothing(chat: Chat, line: str, problem: str) -> None:
    assert re.fullmatch(f"/set: {problem}", chat.run_command(line))
    assert chat.sampling == Sampling()


def test_help_names_every_command(chat: Chat) -> None:
    text = chat.run_command("/help")
    assert [name for name in chat.commands if name not in text] == []


def test_the_base_is_asked_in_the_template_of_the_tuned_model(chat: Chat) -> None:
    chat.run_command("/base")
    chat.run_command("/max_new_tokens 12")
    nano = load_pretrained("gpt2-nano")
    prompt = nano.tokenizer.encode_ordinary(render(PROMPTS["alpaca"], Record("Hello.", "", "")))
    [tokens] = generate(nano.model, [prompt], 12, eos_id=nano.tokenizer.eot_token)
    assert "".join(chat.answer("Hello.")) == nano.tokenizer.decode(tokens)
    chat.run_command("/tuned")
    assert chat.target == "tuned"


@pytest.mark.parametrize(
    ("line", "expectation", "found"),
    [
        ("/temperature hot", "a number", "'hot'"),
        ("/temperature -1", "from 0 up", "-1.0"),
        ("/top_k 0", "from 1 up", "0"),
        ("/max_new_tokens 0", "from 1 to 255", "0"),
        ("/max_new_tokens", "a number", "''"),
    ],
)
def test_a_command_that_is_refused_changes_nothing(
    chat: Chat, line: str, expectation: str, found: str
) -> None:
    name = line.split()[0]
    message = chat.run_command(line)
    assert message.startswith(f"{name}: expected ")
    assert message.count(name[1:]) == 1
    assert expectation in message
    assert message.endswith(f"found {found}")
    assert (chat.sampling, chat.max_new_tokens) == (Sampling(), 256)


def test_a_model_without_a_base_stays_the_one_that_is_asked(tmp_path: Path) -> None:
    nano = load_pretrained("gpt2-nano")
    save_pretrained(nano.model, tmp_path / "model", nano.tokenizer, PROMPTS["alpaca"])
    placement = Placement("cpu", "32-true")
    chat = Chat(load_tuned(str(tmp_path / "model"), placement), placement, Sampling())
    message = chat.run_command("/base")
    assert message.startswith(f"error: {tmp_path / 'model'}")
    assert chat.target == "tuned"


# Weights that cannot answer


def test_weights_that_are_nan_are_refused_by_tensor(run: Path, tmp_path: Path) -> None:
    broken = load_pretrained(run)
    broken.model.h[1].mlp.c_fc.weight.data[0, :3] = float("nan")
    save_pretrained(broken.model, tmp_path / "nan", broken.tokenizer, PROMPTS["alpaca"])
    found = piped(tmp_path, "Hello.\n", "--quiet", "nan")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("error: nan: tensor 'h.1.mlp.c_fc.weight': 3 of ")
    assert found.stderr.count("\n") == 1


def large_bias(run: Path, folder: Path, value: float) -> str:
    """Write a copy of the run's model with one large weight; return its folder."""
    large = load_pretrained(run)
    large.model.ln_f.bias.data[7] = value
    save_pretrained(large.model, folder, large.tokenizer, PROMPTS["alpaca"])
    return str(folder)


def test_a_weight_that_fp16_cannot_hold_is_refused_in_it_alone(run: Path, tmp_path: Path) -> None:
    large = large_bias(run, tmp_path / "large", 1e6)
    with pytest.raises(InputError, match=r"'ln_f.bias': 1 .*float16.*--precision 32"):
        load_tuned(large, Placement("cpu", "16-mixed"))
    assert load_tuned(large, Placement("cpu", "32-true")).context == 256


@pytest.mark.parametrize("precision", ["16-mixed", "32-true"])
def test_an_infinite_weight_is_refused_in_every_precision(
    run: Path, tmp_path: Path, precision: str
) -> None:
    large = large_bias(run, tmp_path / "large", float("inf"))
    with pytest.raises(InputError, match=r"'ln_f.bias': 1 of .*infinite"):
        load_tuned(large, Placement("cpu", precision))


# What a terminal is shown


def test_escape_sequences_do_not_reach_the_terminal(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["Hello.", "/\x1b]0;title\x07", "/quit"])
    monkeypatch.setattr(
        chat, "answer", lambda _: iter(["\x1b", "[2J\tgone\n", "\x9b2J\u202e", "é"])
    )
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
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


def test_input_that_is_not_utf8_is_read_with_replacements(run: Path) -> None:
    found = in_bytes(run, b"caf\xe9\n", "utf-8:strict")
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.decode() == on_one_line(expected(run, "caf\ufffd")) + "\n"


def test_a_closed_input_is_an_empty_one(run: Path) -> None:
    found = in_bytes(run, b"", "utf-8", closed=(0,))
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_a_closed_output_is_not_an_error(run: Path) -> None:
    found = in_bytes(run, b"Hello.\n", "utf-8", closed=(1,))
    assert (found.returncode, found.stderr) == (0, b"")


def test_an_output_that_nobody_reads_ends_the_chat_with_the_code_of_sigpipe(run: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    found = in_bytes(run, b"Hello.\n", "utf-8", output=writer)
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, b"")


# Conversations


@pytest.fixture
def talk(run: Path) -> Chat:
    """A chat with a model that is shown earlier turns."""
    placement = Placement("cpu", "32-true")
    tuned = replace(load_tuned(str(run), placement), takes_earlier_turns=True)
    return Chat(tuned, placement, Sampling(), max_new_tokens=5)


def test_a_conversation_is_remembered_and_cleared(talk: Chat) -> None:
    asked: list[list[tuple[str, str]]] = []
    whole = ChatModel.prompt_that_fits

    def noting(model, instruction, input, earlier, tokens):
        asked.append(list(earlier))
        return whole(model, instruction, input, earlier, tokens)

    with mock.patch.object(ChatModel, "prompt_that_fits", noting):
        talk.run_command("/system Be short.")
        talk.run_command("/input box")
        first = "".join(talk.answer("Plural?"))
        second = "".join(talk.answer("And of fox?"))
        talk.run_command("/clear")
        talk.run_command("/system")
        "".join(talk.answer("Name a bird."))
    told = ("system", "Be short.")
    assert asked == [[told], [told, ("user", "Plural?\n\nbox"), ("assistant", first)], []]
    assert talk.turns[0] == ("user", "Name a bird.")
    assert second


def test_the_oldest_turns_are_forgotten_when_the_context_is_full(
    talk: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "bird " * 60
    for number in range(4):
        handle(talk, f"{number} {long}")
    assert "(the 2 oldest turns " in capsys.readouterr().out
    assert len(talk.turns) < 8
    assert talk.turns[-2][1].startswith("3 ")


def test_an_answer_that_was_stopped_is_not_remembered(talk: Chat) -> None:
    pieces = talk.answer("Plural?")
    next(pieces)
    pieces.close()
    assert talk.turns == []


def test_a_model_of_single_instructions_remembers_nothing(chat: Chat) -> None:
    chat.max_new_tokens = 3
    "".join(chat.answer("Plural?"))
    assert chat.turns == []
    assert "tuned on single instructions" in chat.run_command("/system Be short.")
    assert chat.system == ""
