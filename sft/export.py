"""Export a trained model for other programs: `python -m sft.export --help`."""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sft.command import command, require
from sft.errors import InputError, counted
from sft.latest import followed

if TYPE_CHECKING:
    from sft.checkpoint.folder import Pretrained

log = logging.getLogger(__name__)

# The files of a Hugging Face folder that are uploaded.
HF_FILES = ["*.json", "*.safetensors", "merges.txt", "chat_template.jinja", "README.md"]

# Types of the weights, by format. This file opens quickly, so the names of `sft.device` and
# `sft.checkpoint.gguf`, which import torch, are written out.
DTYPES = {
    "hf": ("f32", "f16", "bf16"),
    "gguf": ("f32", "f16", "bf16", "q8_0"),
}

# The records of an evaluation, as a task for lm-evaluation-harness.
TASK = "lm-eval"

# The model and its copy are compared on this text.
QUESTION = "Name the capital of France, and the days of the week."


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m sft.export",
        description="Write a model as a Hugging Face folder or a GGUF file, read it back to check "
        "that it is the same, and upload it with --push. Or write its evaluation as a task for "
        "lm-evaluation-harness.",
        epilog="examples: python -m sft.export --format gguf --dtype q8_0    for llama.cpp and "
        "Ollama | python -m sft.export outputs/latest --push you/your-model | python -m sft.export "
        "--format lm-eval    for others to check the exact match",
    )
    made.add_argument(
        "run",
        nargs="?",
        default="outputs/latest",
        metavar="RUN",
        help="run or HF folder (%(default)s)",
    )
    made.add_argument(
        "--format",
        choices=[*DTYPES, TASK],
        default="hf",
        help="Hugging Face folder, GGUF file, or task of lm-evaluation-harness (hf)",
    )
    made.add_argument("--dtype", choices=DTYPES["gguf"], help="of the weights (hf: f32, gguf: f16)")
    made.add_argument(
        "--out",
        metavar="PATH",
        type=Path,
        help="what to write; default: RUN/model-DTYPE[.gguf], RUN/lm-eval",
    )
    made.add_argument(
        "--push", metavar="USER/NAME", help="upload it to this repository of the Hugging Face Hub"
    )
    return made


def main() -> None:
    """Read, write, verify, upload."""
    given = parser().parse_args()
    if given.format == TASK:
        for option in ("dtype", "push"):
            if getattr(given, option):
                raise InputError(f"--{option}: a task has none; leave it out")
        export_task(given.run, given.out)
        return
    folder = find_model(given.run)
    out: Path | None = given.out.expanduser() if given.out else None
    if given.dtype and given.dtype not in DTYPES[given.format]:
        raise InputError(
            f"--dtype: {given.dtype} exists only in GGUF; add --format gguf, or take f16"
        )

    if given.format == "gguf":
        written, names = export_gguf(folder, given.dtype or "f16", out)
    elif out or given.dtype:
        written = export_hf(folder, given.dtype, out)
        names = HF_FILES
    elif given.push:
        written = folder
        names = HF_FILES
    else:
        print(
            f"{folder} is a Hugging Face folder already, and other programs load it as it is.\n"
            "Other forms: --dtype f16, --format gguf, --out FOLDER, or --push USER/NAME"
        )

    if given.push:
        from sft.checkpoint.upload import upload

        print(f"uploaded: {upload(written, names, given.push)}")


def find_model(run: str) -> Path:
    """Return the model's folder in a run, or the folder itself.

    Raises:
        InputError: there is no model.
    """
    folder = followed(run)
    found = folder / "model" if (folder / "model").is_dir() else folder
    if not any((found / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise InputError(
            f"{run}: neither a run with a model nor a Hugging Face folder; train first "
            "(python train.py)"
        )
    return found


def export_hf(folder: Path, dtype: str | None, out: Path | None) -> Path:
    """Write the model of a folder as another Hugging Face folder.

    Raises:
        InputError: it cannot be read or written, or the copy is not the same model.
    """
    from sft.checkpoint.files import CARD
    from sft.checkpoint.folder import load_pretrained, save_pretrained
    from sft.checkpoint.verify import check_same, logits
    from sft.device import FLOAT_TYPES

    dtype = dtype or "f32"
    out = out or folder.with_name(f"{folder.name}-{dtype}")
    if out.resolve() == folder.resolve():
        raise InputError(f"--out: {out} is the model to be exported; give another folder")

    source = load_pretrained(folder)
    tokens = tokens_of(source)
    expected = logits(source.model, tokens)
    distances = []

    def check(written: Path) -> None:
        found = logits(load_pretrained(written).model, tokens)
        distances.append(check_same(expected, found, dtype, out))

    save_pretrained(
        source.model,
        out,
        source.tokenizer,
        source.prompt,
        source.base,
        FLOAT_TYPES[dtype],
        source.chat_template,
        check=check,
        conversations=source.conversations,
        ends=source.ends,
    )
    if (folder / CARD).exists():
        shutil.copy(folder / CARD, out / CARD)
    tell(out, distances[0])
    return out


def export_gguf(folder: Path, dtype: str, out: Path | None) -> tuple[Path, list[str]]:
    """Write the model of a folder as a GGUF file, with a Modelfile for Ollama beside it.

    Returns:
        The folder of both files, and their names.

    Raises:
        InputError: as `export_hf`.
    """
    require("gguf", "--format gguf", "gguf")
    from sft.atomic import make_folder, replaced, write_text
    from sft.checkpoint.folder import load_pretrained
    from sft.checkpoint.gguf import read_gguf, write_gguf
    from sft.checkpoint.verify import check_same, logits
    from sft.inference.models import takes_earlier_turns

    source = load_pretrained(folder)
    tokens = tokens_of(source)
    expected = logits(source.model, tokens)
    out = out or folder.with_name(f"{folder.name}-{dtype}.gguf")
    recipe = out.with_suffix(".Modelfile")
    used = template(source)
    context = source.model.config.n_positions
    text = modelfile(used, out.name, context, takes_earlier_turns(source, used), source.ends)

    make_folder(out.parent)
    with replaced(out) as file:
        part = Path(file.name)
        write_gguf(source.model, source.tokenizer, part, dtype, title(folder), source.chat_template)
        found = logits(read_gguf(part, source.model.config), tokens)
        distance = check_same(expected, found, dtype, out)
    write_text(recipe, text)
    tell(out, distance)
    print(f"for Ollama: ollama create NAME -f {shlex.quote(str(recipe))}")
    return out.parent, [out.name, recipe.name]


def export_task(run: str, out: Path | None) -> None:
    """Write the records of an evaluated run as a task of lm-evaluation-harness.

    Raises:
        InputError: it has not been evaluated, or not greedily, or its weights are others now.
    """
    from sft.evaluation.harness import write_task

    task = write_task(str(followed(run)), out)
    print(
        f"{task.folder}: {counted(task.records, 'record')}, of which evaluate.py found "
        f"{task.exact_match:.4f} answered exactly"
    )
    if task.counted_otherwise:
        numbers = ", ".join(map(str, task.counted_otherwise))
        print(f"the harness counts these records otherwise: {numbers}")
    if task.cut:
        print(f"longer than the task lets an answer be: {counted(task.cut, 'expected answer')}")
    print(
        f"to check: lm_eval --model hf --model_args pretrained={task.model},dtype=float32 "
        f"--include_path {shlex.quote(str(task.folder))} --tasks {task.name}"
    )


def modelfile(
    template: str | None,
    model: str,
    context: int,
    several_turns: bool = False,
    ends: Sequence[str] = (),
) -> str:
    """Return Ollama's recipe for a model (ollama.com, "Modelfile reference").

    Args:
        template: None: the model continues plain text.
        model: the file that holds it.
        context: length of the model's context in tokens.
        several_turns: the model is shown the earlier turns of a conversation. Otherwise it is asked
            each question alone.
        ends: further texts that end an answer.
    """
    from sft.data.prompt import around

    go = go_template(template) if template and several_turns else None
    if go is None:
        before, after = around(template) if template else ("", "")
        go = f"{_escape(before)}{{{{ .Prompt }}}}{_escape(after)}"
    stops = "".join(f'PARAMETER stop "{end}"\n' for end in ("<|endoftext|>", *ends))
    return (
        f'FROM ./{model}\nTEMPLATE """{go}"""\n'
        f"{stops}PARAMETER num_ctx {context}\nPARAMETER temperature 0\n"
    )


def go_template(template: str) -> str | None:
    """Return a template of conversations in Go's language, which Ollama runs instead of Jinja.

    The texts between the messages are taken from a rendered conversation. They are joined
    again for others, and must give what the template gives. If they do not, a warning is logged,
    and the result is None.
    """
    from sft.data.prompt import conversation_gaps

    try:
        gaps = conversation_gaps(template)
    except InputError as error:
        log.warning(f"warning: Modelfile: asks each question alone, without earlier turns; {error}")
        return None

    # Each message is followed by the text before the next one, whose role is known: after a user
    # comes the model's answer.
    after_user = _escape(gaps.user_answer)
    return (
        "{{ range $i, $_ := .Messages }}"
        '{{ if eq .Role "system" }}'
        f"{_escape(gaps.start_system)}{{{{ .Content }}}}{_escape(gaps.system_user)}"
        '{{ else if eq .Role "user" }}'
        f"{{{{ if eq $i 0 }}}}{_escape(gaps.start_user)}{{{{ end }}}}{{{{ .Content }}}}{after_user}"
        "{{ else }}"
        f"{{{{ .Content }}}}{_escape(gaps.answer_user)}"
        "{{ end }}{{ end }}"
    )


def _escape(text: str) -> str:
    """Escape what Go's templates and a Modelfile's quotes would interpret."""
    return text.replace("{{", '{{ "{{" }}').replace('"""', '{{ "\\"\\"\\"" }}')


def tokens_of(source: Pretrained) -> list[int]:
    """Return the prompt on which a model is compared with its copy."""
    from sft.data.prompt import prompt_tokens
    from sft.data.records import Record

    used = template(source)
    if used:
        tokens = prompt_tokens(used, Record(QUESTION, "", ""), source.tokenizer)
    else:
        tokens = source.tokenizer.encode_ordinary(QUESTION)
    return tokens[: source.model.config.n_positions]


def template(source: Pretrained) -> str | None:
    """Return the model's prompt template; None: it continues plain text."""
    from sft.data.prompt import template_of

    return template_of(source)


def title(folder: Path) -> str:
    """Return a name for the model: its run's, or its folder's."""
    path = folder.resolve()
    return path.parent.name if path.name == "model" else path.name


def tell(out: Path, distance: float) -> None:
    print(
        f"{out}: written and read back; a prompt's logits differ from the original's by "
        f"{distance:.1e} of their spread"
    )


if __name__ == "__main__":
    command(main)
