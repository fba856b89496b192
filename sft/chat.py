"""Talk to a tuned model in the terminal: `python -m sft.chat --help`."""

import argparse
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from sft.command import add_placement, command, heavy_imports
from sft.errors import InputError
from sft.logs import visible

if TYPE_CHECKING:
    from sft.data.records import Role
    from sft.gpt2.sampling import Sampling
    from sft.inference.models import ChatModel, Placement

DESCRIPTION = """\
Talk to a tuned model. One that was tuned on conversations remembers what was said. One that was
tuned on single instructions is asked each question alone.

  python -m sft.chat                           the newest run
  python -m sft.chat someone/tuned-gpt2        a Hugging Face folder or repository
  echo "question" | python -m sft.chat --quiet
"""
HELP = """\
/input TEXT         what the next instruction is about (a word, a sentence, numbers)
/base, /tuned       ask the model before its tuning, or the tuned one again
/temperature X      0: take the likeliest token; above 0: draw one, the more freely the higher X is
/top_k N            draw among the N likeliest tokens; without N: among all
/top_p X            draw among the likeliest tokens with probability X together; without X: all
/max_new_tokens N   the longest answer, in tokens
/set NAME=VALUE     min_p, repetition_penalty, no_repeat_ngram, frequency_penalty, presence_penalty
                    or stop (a text that ends an answer), as python evaluate.py --help explains
                    them; without VALUE: off; /set alone shows all settings
/system TEXT        a text that stands before the conversation; without TEXT: none
/clear              begin a new conversation
/help, /quit        Ctrl-C stops an answer, Ctrl-D leaves"""

# The settings of the sampling, in the order in which they are shown.
SETTINGS: dict[str, Callable[[str], float]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "no_repeat_ngram": int,
    "frequency_penalty": float,
    "presence_penalty": float,
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m sft.chat",
        description=DESCRIPTION,
        epilog=f"In the chat:\n{HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "model", nargs="?", default="outputs/latest", help="run, folder or repository (%(default)s)"
    )
    made.add_argument(
        "--quiet",
        action="store_true",
        help="questions and answers alone, one on each line, each without the ones before",
    )
    add_placement(made)
    return made


@dataclass
class Chat:
    """The models of a chat, and the settings that its commands change.

    Args:
        base: loaded when it is first asked.
        target: the model that answers.
        input: of the next instruction alone.
        remembers: keep the turns, for a model that takes earlier ones.
        system: the text that stands before the conversation; empty: none.
        turns: the conversation so far.
        left_out: how many of the oldest turns did not fit the last prompt.
    """

    tuned: "ChatModel"
    placement: "Placement"
    sampling: "Sampling"
    base: "ChatModel | None" = None
    target: Literal["tuned", "base"] = "tuned"
    input: str = ""
    max_new_tokens: int = 256
    stop: str = ""
    remembers: bool = True
    system: str = ""
    turns: list[tuple["Role", str]] = field(default_factory=list)
    left_out: int = 0
    commands: dict[str, Callable[[str], str]] = field(init=False)

    def __post_init__(self) -> None:
        self.commands = {
            "/input": self.set_input,
            "/base": self.ask_base,
            "/tuned": self.ask_tuned,
            "/temperature": lambda text: self.sample("temperature", text),
            "/top_k": lambda text: self.sample("top_k", text),
            "/top_p": lambda text: self.sample("top_p", text),
            "/max_new_tokens": self.limit,
            "/set": self.set,
            "/system": self.set_system,
            "/clear": self.clear,
            "/help": lambda _: HELP,
        }

    def run_command(self, line: str) -> str:
        """Run a line that begins with a slash; return what to print."""
        name, _, text = line.partition(" ")
        if name not in self.commands:
            return f"{name}: no such command; /help lists them"
        try:
            return self.commands[name](text.strip())
        except ValueError as error:
            # Sampling names the setting itself.
            return f"{name}: {str(error).removeprefix(f'{name[1:]}: ')}"
        except InputError as error:
            return f"error: {error}"

    def set_input(self, text: str) -> str:
        self.input = text
        return "the next instruction is about this; now the instruction" if text else "no input"

    def ask_base(self, _: str) -> str:
        from sft.inference.models import load_base

        if self.base is None:
            self.base = load_base(self.tuned, self.placement)
            self.placement.freeze(self.base)
        self.target = "base"
        return f"asking the base, {self.base}"

    def ask_tuned(self, _: str) -> str:
        self.target = "tuned"
        return f"asking the tuned model, {self.tuned}"

    def set_system(self, text: str) -> str:
        if text and not self.tuned.takes_earlier_turns:
            raise ValueError(
                "the model was tuned on single instructions, without a system text; write it into "
                "the instruction"
            )
        self.system = text
        return "this stands before the conversation now" if text else "no system text"

    def clear(self, _: str) -> str:
        self.turns.clear()
        return "a new conversation"

    def set(self, line: str) -> str:
        """Change a setting that is given by name, or show them all."""
        name, *rest = re.split(r"\s*=\s*|\s+", line, maxsplit=1)
        text = "".join(rest)
        if not name:
            return self.settings(with_others=True)
        if name == "max_new_tokens":
            return self.limit(text)
        if name == "stop":
            self.stop = text
            return self.settings()
        if name not in SETTINGS:
            names = ", ".join((*SETTINGS, "stop", "max_new_tokens"))
            raise ValueError(f"no setting {name!r}; there are {names}")
        return self.sample(name, text)

    def sample(self, name: str, text: str) -> str:
        """Change a setting of the sampling; without a text, put it back to its default."""
        from sft.gpt2.sampling import Sampling

        # A temperature without a value is a slip, since 0 must be written out.
        if text or name == "temperature":
            value = number(text, SETTINGS[name])
        else:
            value = getattr(Sampling(), name)
        self.sampling = replace(self.sampling, **{name: value})  # type: ignore[arg-type]
        return self.settings()

    def settings(self, with_others: bool = False) -> str:
        """Return the main settings, and the others that are on.

        Args:
            with_others: return all settings.
        """
        from sft.gpt2.sampling import Sampling

        shown = [f"temperature {self.sampling.temperature:g}"]
        for name in SETTINGS:
            value = getattr(self.sampling, name)
            is_off = value == getattr(Sampling(), name)
            if name != "temperature" and (with_others or not is_off or name in ("top_k", "top_p")):
                shown.append(f"{name} {'off' if is_off else value}")
        if self.stop or with_others:
            shown.append(f"stop {repr(self.stop) if self.stop else 'off'}")
        if with_others:
            shown.append(f"max_new_tokens {self.max_new_tokens}")
        return ", ".join(shown)

    def limit(self, text: str) -> str:
        most = self.tuned.context - 1
        wanted = number(text, int)
        if not 1 <= wanted <= most:
            raise ValueError(f"expected a number from 1 to {most}, found {text}")
        self.max_new_tokens = wanted
        return f"answers of at most {text} tokens"

    def answer(self, instruction: str) -> Iterator[str]:
        """Yield an answer in pieces, as it grows. The input is used up.

        A finished answer is remembered with its question. When the conversation no longer fits the
        context, its oldest turns are forgotten.

        Raises:
            InputError: the question does not fit the model's context.
        """
        from sft.gpt2.generate import Decoder
        from sft.inference.stream import AnswerStream

        chat_model = self.base if self.target == "base" and self.base else self.tuned
        earlier: list[tuple[Role, str]] = [("system", self.system)] if self.system else []
        prompt, self.left_out = chat_model.prompt_that_fits(
            instruction, self.input, [*earlier, *self.turns], self.max_new_tokens
        )
        del self.turns[: self.left_out]
        question = f"{instruction}\n\n{self.input}" if self.input else instruction
        self.input = ""

        max_tokens = min(chat_model.context - len(prompt), self.max_new_tokens)
        stop = [*chat_model.checkpoint.ends, *([self.stop] if self.stop else [])]
        answer = AnswerStream(chat_model.tokenizer, max_tokens, stop)
        decoder = Decoder(chat_model.model, slots=1, size=chat_model.context)
        decoder.add(prompt, random.getrandbits(63), self.sampling)
        text = ""
        while answer.finish_reason is None:
            [(_, token)] = decoder.step()
            piece = answer.add(token)
            text += piece
            yield piece
        if self.remembers and chat_model.takes_earlier_turns:
            self.turns += [("user", question), ("assistant", text)]


Number = TypeVar("Number", int, float)


def number(text: str, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"expected a number, found {text!r}") from None


# At a terminal


def converse(chat: Chat) -> None:
    """Answer the lines that are typed, until /quit or Ctrl-D."""
    where = f"on {chat.placement.device} in {chat.placement.precision}"
    memory = "it remembers the conversation"
    if not chat.tuned.takes_earlier_turns:
        memory = "it is asked each question alone"
    print(f"{chat.tuned}, {where}; {memory}; /help lists the commands")
    with history():
        while True:
            try:
                line = input(f"\n{chat.target}{' (input)' if chat.input else ''}> ").strip()
                if line.split()[:1] == ["/quit"]:
                    return
                handle(chat, line)

            # Ctrl-C stops an answer. At the prompt it drops the line.
            except KeyboardInterrupt:
                print(" (stopped)")
            except EOFError:
                print()
                return


def handle(chat: Chat, line: str) -> None:
    """Run a command, or print an answer as it grows."""
    if line.startswith("/"):
        print(visible(chat.run_command(line)))
    elif line:
        try:
            for piece in chat.answer(line):
                print(visible(piece), end="", flush=True)
            print()
            if chat.left_out:
                print(f"(the {chat.left_out} oldest turns no longer fit and are forgotten)")
        except InputError as error:
            print(f"error: {visible(str(error))}")


@contextmanager
def history() -> Iterator[None]:
    """Let the arrow keys recall earlier lines, also those of earlier chats.

    The chat works without it, so neither a missing module nor an unwritable file is an error.
    """
    # Some builds of Python have no readline.
    try:
        import readline
    except ImportError:
        yield
        return

    # The first chat finds no file yet.
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(state).expanduser() / "sft" / "chat_history"
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)

    # A home folder may be read-only.
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)


# In a pipe


def pipe(chat: Chat) -> None:
    """Print one line for each line of input: its answer, in which line breaks become spaces.

    A question that does not fit the model gets an empty line, and the exit code is 1.
    """
    failed = False
    for line_number, line in enumerate(sys.stdin, 1):
        question = line.strip()
        answer = ""
        try:
            if question:
                answer = "".join(chat.answer(question))
        except InputError as error:
            failed = True
            print(f"error: line {line_number}: {visible(str(error))}", file=sys.stderr)

        # A program gets the answer as it is. A terminal must not obey its control characters.
        answer = " ".join(answer.strip().splitlines())
        print(visible(answer) if sys.stdout.isatty() else answer, flush=True)
    if failed:
        sys.exit(1)


def main() -> None:
    arguments = parser().parse_args()

    # --help and a wrong option must not wait for torch.
    with heavy_imports():
        from sft.gpt2.sampling import Sampling
        from sft.inference.models import Placement, load_tuned

    placement = Placement.pick(arguments.device, arguments.precision)
    tuned = load_tuned(arguments.model, placement)
    placement.freeze(tuned)
    chat = Chat(tuned, placement, Sampling())
    chat.remembers = not arguments.quiet
    if not arguments.quiet:
        converse(chat)
        return
    try:
        pipe(chat)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    command(main)
