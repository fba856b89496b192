"""Talk to a tuned model in the terminal: `python -m sft.chat --help`."""

import argparse
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sft.errors import InputError
from sft.launch import command
from sft.logs import visible

if TYPE_CHECKING:
    from sft.gpt2.sampling import Sampling
    from sft.inference.models import Place, Voice

DESCRIPTION = """\
Talk to a tuned model. Each question stands alone: the model learned from single instructions.

  python -m sft.chat                           the newest run
  python -m sft.chat someone/tuned-gpt2        a Hugging Face folder or repository
  echo "question" | python -m sft.chat --quiet
"""
HELP = """\
/input TEXT         what the next instruction is about (a word, a sentence, numbers)
/base, /tuned       ask the model before its tuning, or the tuned one again
/temperature X      0: always the likeliest token; above: one is drawn, the more freely the higher
/top_k N, /top_p X  draw among the N likeliest tokens, or among those that share X of the chances; alone: among all
/max_new_tokens N   the longest answer
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
    made.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    made.add_argument(
        "--precision", choices=("auto", "32", "bf16-mixed", "16-mixed"), default="auto"
    )
    return made


@dataclass
class Chat:
    """Who is asked, and how."""

    tuned: "Voice"
    place: "Place"
    sampling: "Sampling"
    base: "Voice | None" = None  # once it was asked for
    asked: str = "tuned"
    input: str = ""  # of the next question
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

    def obey(self, line: str) -> str:
        """Do what a line beginning with / says; what to reply."""
        name, _, text = line.partition(" ")
        if name not in self.commands:
            return f"{name}: no such command; /help lists them"
        try:
            return self.commands[name](text.strip())
        except ValueError as error:
            return f"{name}: {str(error).removeprefix(f'{name[1:]}: ')}"
        except InputError as error:
            return f"error: {error}"

    def set_input(self, text: str) -> str:
        self.input = text
        return "the next instruction is about this; now the instruction" if text else "no input"

    def ask_base(self, _: str) -> str:
        from sft.inference.models import load_base

        self.base = self.base or load_base(self.tuned, self.place)
        self.asked = "base"
        return f"asking the base, {self.base}"

    def ask_tuned(self, _: str) -> str:
        self.asked = "tuned"
        return f"asking the tuned model, {self.tuned}"

    def sample(self, **changes: float | None) -> str:
        self.sampling = replace(self.sampling, **changes)  # type: ignore[arg-type]
        shown = f"temperature {self.sampling.temperature:g}, top_k {self.sampling.top_k}, top_p {self.sampling.top_p}"
        return shown.replace("None", "off")

    def limit(self, text: str) -> str:
        if not 1 <= number(text, int) < self.tuned.context:
            raise ValueError(f"expected a number from 1 to {self.tuned.context - 1}, found {text}")
        self.max_new_tokens = int(text)
        return f"answers of at most {text} tokens"

    def answer(self, instruction: str) -> Iterator[str]:
        """The pieces of an answer.

        Raises:
            InputError: the question does not fit the model's context.
        """
        from sft.gpt2.generate import Decoder
        from sft.inference.stream import Answer

        voice = self.base if self.asked == "base" and self.base else self.tuned
        prompt, self.input = voice.prompt(instruction, self.input), ""
        answer = Answer(voice.tokenizer, min(voice.context - len(prompt), self.max_new_tokens))
        decoder = Decoder(voice.model, slots=1, size=voice.context)
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


def converse(chat: Chat) -> None:
    """Questions from the terminal until it ends, or /quit."""
    print(
        f"{chat.tuned}, on {chat.place.device} in {chat.place.precision}; /help lists what there is to say"
    )
    with history():
        while True:
            try:
                line = input(f"\n{chat.asked}{' (input)' if chat.input else ''}> ").strip()
                if line.split()[:1] == ["/quit"]:
                    return
                take(chat, line)
            except KeyboardInterrupt:  # stops what is being done, or drops the line
                print(" (stopped)")
            except EOFError:
                print()
                return


def take(chat: Chat, line: str) -> None:
    """Obey a command, or print an answer as it grows."""
    if line.startswith("/"):
        print(visible(chat.obey(line)))
    elif line:
        try:
            for piece in chat.answer(line):
                print(visible(piece), end="", flush=True)
            print()
        except InputError as error:
            print(f"error: {visible(str(error))}")


@contextmanager
def history() -> Iterator[None]:
    """Lines said before can be called back, also those of earlier chats if a file can be kept."""
    try:
        import readline
    except ImportError:  # not everywhere part of Python
        yield
        return
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(state).expanduser() / "sft" / "chat_history"
    with suppress(OSError):  # none yet
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with suppress(OSError):  # no place to keep it
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)


def pipe(chat: Chat) -> None:
    """An answer for each line of input, on a line of its own: each line break in it becomes a space. A question that
    cannot be asked gets an empty line, and the exit code is 1."""
    failed = False
    for place, line in enumerate(sys.stdin, 1):
        try:
            pieces = list(chat.answer(line.strip())) if line.strip() else []
        except InputError as error:
            pieces, failed = [], True
            print(f"error: line {place}: {visible(str(error))}", file=sys.stderr)
        said = " ".join("".join(pieces).strip().splitlines())
        print(visible(said) if sys.stdout.isatty() else said, flush=True)
    if failed:
        sys.exit(1)


def main() -> None:
    arguments = parser().parse_args()
    from sft.gpt2.sampling import Sampling
    from sft.inference.models import Place, load_tuned

    place = Place.pick(arguments.device, arguments.precision)
    chat = Chat(load_tuned(arguments.model, place), place, Sampling())
    if not arguments.quiet:
        converse(chat)
        return
    try:
        pipe(chat)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # as before `head -1`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    command(main)
