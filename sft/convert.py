"""Convert weights of other GPT-2 code to a Hugging Face folder: `python -m sft.convert --help`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sft.command import command
from sft.convert_openai import FILES, SIZES, download
from sft.convert_openai import convert as convert_release
from sft.errors import InputError
from sft.prompts import PROMPTS
from sft.shell import setting

if TYPE_CHECKING:
    import tiktoken

# nanoGPT's train.py writes this into its `out_dir`.
CKPT = "ckpt.pt"

EPILOG = """\
examples:
  python -m sft.convert gpt2-medium355M-sft.pth out/mine --prompt alpaca
  python -m sft.convert models/124M out/124M --download 124M"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m sft.convert",
        description="Turn weights into a Hugging Face folder. SOURCE is recognised:\n"
        "the .pth of the book's GPTModel, nanoGPT's ckpt.pt, or a folder of OpenAI's release.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("source", type=Path, metavar="SOURCE", help="file or folder")
    made.add_argument("out", type=Path, metavar="OUT", help="Hugging Face folder to be written")
    made.add_argument(
        "--heads",
        type=int,
        metavar="NUMBER",
        help="attention heads of a model that is not as wide as a released one",
    )
    made.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="with vocab.json and merges.txt; default: GPT-2's, from the hub",
    )
    made.add_argument(
        "--prompt",
        choices=sorted(name for name, template in PROMPTS.items() if template),
        help="template that the model was tuned with; the book's chapter 7: alpaca",
    )
    made.add_argument(
        "--download",
        choices=SIZES,
        help="first fetch this size of OpenAI's release, or its missing files, into SOURCE",
    )
    return made


def main() -> None:
    """Recognise, read, write, verify."""
    given = parser().parse_args()
    source = given.source.expanduser()
    if given.download:
        download(given.download, source)
    if source.is_dir() and (source / CKPT).is_file():
        source = source / CKPT
    if not source.exists():
        raise InputError(f"{given.source}: no such file or folder")

    if source.is_file():
        convert_file(source, given.out, given.heads, given.tokenizer, given.prompt)
        return
    if (source / "config.json").is_file():
        raise InputError(f"{source}: is a Hugging Face folder already; every command takes it")
    if not any((source / name).is_file() for name in FILES):
        raise InputError(
            f"{source}: neither OpenAI's release (hparams.json, model.ckpt.index, ...) nor a "
            f"folder with nanoGPT's {CKPT}; for a .pth give the file itself"
        )
    options = {"heads": given.heads, "tokenizer": given.tokenizer, "prompt": given.prompt}
    if unused := [f"--{name}" for name, value in options.items() if value]:
        raise InputError(f"{', '.join(unused)}: OpenAI's release says this itself; leave it out")
    convert_release(source, given.out)


def convert_file(
    source: Path,
    out: Path,
    heads: int | None = None,
    tokenizer: Path | None = None,
    prompt: str | None = None,
) -> None:
    """Write the model in a file of `torch.save` as a Hugging Face folder, and read it back.

    Args:
        heads: number of attention heads; None: the file's, or a released model's.
        tokenizer: folder with vocab.json and merges.txt; None: GPT-2's.
        prompt: name of the template that the model was tuned with.

    Raises:
        InputError: the file is not a GPT-2 of the book's code or nanoGPT's, or `out` cannot be
            written.
    """
    from sft.checkpoint.state_dicts import load_state_dict
    from sft.checkpoint.verify import save_verified

    encoding = read_tokenizer(tokenizer)
    kind, model = load_state_dict(source, encoding.n_vocab, heads)
    template = PROMPTS[prompt] if prompt else None
    save_verified(model, out, encoding, template, chat_template=template)
    size = sum(parameter.numel() for parameter in model.parameters())
    tied = "" if model.config.tie_word_embeddings else ", with an output head of its own"
    print(f"{source}: {kind}, {size:,} parameters{tied}")
    print(
        f"{out}: written and read back; python train.py {setting('model.checkpoint', out)} tunes it"
    )


def read_tokenizer(folder: Path | None) -> tiktoken.Encoding:
    """Return the tokenizer of a folder; None: GPT-2's, from the hub or its cache."""
    from sft.checkpoint.hub import PINNED, SHORT, fetch
    from sft.gpt2.tokenizer import MERGES, VOCAB, load_tokenizer

    if folder is None:
        repo = SHORT["gpt2"]
        try:
            for name in (VOCAB, MERGES):
                folder = fetch(repo, name, PINNED[repo]).parent
        except InputError as error:
            raise InputError(f"{error}; or --tokenizer FOLDER with {VOCAB} and {MERGES}") from error
    assert folder is not None
    return load_tokenizer(folder.expanduser())


if __name__ == "__main__":
    command(main)
