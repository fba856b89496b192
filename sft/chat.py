"""Talk to a tuned model in the terminal: `python -m sft.chat --help`."""

import argparse
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from sft.errors import InputError
from sft.launch import add_placement, command
from sft.logs import visible

if TYPE_CHECKING:
    from sft.gpt2.sampling import Sampling
    from sft.inference.models import ChatModel, Placement

DESCRIPTION = """\
Talk to a tuned model. Each question stands alone: the model learned from single instructions.

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
/help, /quit        Ctrl-C stops an answer, Ctrl-D leaves"""


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
        "--quiet", action="store_true", help="questions and answers alone, one on each line"
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
    """

    tuned: "ChatModel"
    placement: "Placement"
    sampling: "Sampling"
    base: "ChatModel | None" = None
    target: Literal["tuned", "base"] = "tuned"
    input: str = ""
    max_new_tokens: int = 256
    commands: dict[str, Callable[[str], str]] = field(init=False)

    def __post_init__(self) -> None:
        self.commands = {
            "/input": self.set_input,
            "/base": self.ask_base,
            "/tuned": self.ask_tuned,
            "/temperature": lambda text: self.sample(temperature=number(text, float)),
            "/top_k": lambda text: self.sample(top_k=number(text, int) if text else None),
            "/top_p": lambda text: self.sample(top_p=number(text, float) if text else None),
            "/max_new_tokens": self.limit,
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
        self.target = "base"
        return f"asking the base, {self.base}"

    def ask_tuned(self, _: str) -> str:
        self.target = "tuned"
        return f"asking the tuned model, {self.tuned}"

    def sample(self, **changes: float | None) -> str:
        self.sampling = replace(self.sampling, **changes)  # type: ignore[arg-type]
        top_k = "off" if self.sampling.top_k is None else self.sampling.top_k
        top_p = "off" if self.sampling.top_p is None else self.sampling.top_p
        return f"temperature {self.sampling.temperature:g}, top_k {top_k}, top_p {top_p}"

    def limit(self, text: str) -> str:
        most = self.tuned.context - 1
        wanted = number(text, int)
        if not 1 <= wanted <= most:
            raise ValueError(f"expected a number from 1 to {most}, found {text}")
        self.max_new_tokens = wanted
        return f"answers of at most {text} tokens"

    def answer(self, instruction: str) -> Iterator[str]:
        """Yield an answer in pieces, as it grows. The input is used up.

        Raises:
            InputError: the question does not fit the model's context.
        """
        from sft.gpt2.generate import Decoder
        from sft.inference.stream import AnswerStream

        chat_model = self.base if self.target == "base" and self.base else self.tuned
        prompt = chat_model.prompt(instruction, self.input)
        self.input = ""

        max_tokens = min(chat_model.context - len(prompt), self.max_new_tokens)
        answer = AnswerStream(chat_model.tokenizer, max_tokens)
        decoder = Decoder(chat_model.model, slots=1, size=chat_model.context)
        decoder.add(prompt, random.getrandbits(63), self.sampling)
        while answer.finish_reason is None:
            [(_, token)] = decoder.step()
            yield answer.add(token)


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
    print(f"{chat.tuned}, {where}; /help lists the commands")
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
    from sft.gpt2.sampling import Sampling
    from sft.inference.models import Placement, load_tuned

    placement = Placement.pick(arguments.device, arguments.precision)
    chat = Chat(load_tuned(arguments.model, placement), placement, Sampling())
    if not arguments.quiet:
        converse(chat)
        return
    try:
        pipe(chat)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    command(main)
