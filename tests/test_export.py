"""Exported models give the same tokens in other programs, and a wrong copy is deleted."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from sft import export
from sft.checkpoint import weights
from sft.checkpoint.folder import Pretrained, load_pretrained, save_pretrained
from sft.checkpoint.gguf import TYPES
from sft.checkpoint.verify import TOLERANCE
from sft.data.prompt import render, user_message
from sft.data.records import Record, Turn
from sft.device import FLOAT_TYPES
from sft.errors import InputError
from sft.gpt2.generate import generate
from sft.gpt2.model import GPT
from sft.prompts import PROMPTS
from sft.report.card import card_text
from sft.summaries import read_run_summary
from tests.fixtures.doors import call as door
from tests.forked import Command

ROOT = Path(__file__).parents[1]
RECORDS = [
    Record("Work out the difference.", "15 - 12", ""),
    Record("What is the plural of 'mouse'?", "", ""),
    Record("  {{ two\n\nlines }} ", "é😀", ""),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train.py: the miniature, after a few steps."""
    folder = tmp_path_factory.mktemp("run")
    quick = ["max_steps=8", "eval.every=0", "eval.batches=1", "eval.sample=false", "logger=none"]
    door("train.py", *quick, "hydra.run.dir=run", folder=folder)
    return folder / "run"


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint, in a template."""
    loaded, prompt = load_pretrained(checkpoint), PROMPTS["alpaca"]
    save_pretrained(
        loaded.model,
        tmp_path / "tiny",
        loaded.tokenizer,
        prompt,
        "someone/base",
        chat_template=prompt,
    )
    return tmp_path / "tiny"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        export.main()

    return call


def ours(loaded: Pretrained, record: Record, count: int) -> list[int]:
    prompt = loaded.tokenizer.encode_ordinary(render(loaded.prompt or "", record))
    [answer] = generate(loaded.model, [prompt], count, eos_id=loaded.tokenizer.eot_token)
    return answer


# transformers


def test_transformers_pipeline_gives_the_same_tokens(run: Path) -> None:
    loaded = load_pretrained(run / "model")
    pipeline = transformers.pipeline(
        "text-generation", str(run / "model"), device="cpu", dtype=torch.float32
    )
    for record in RECORDS:
        chat = [{"role": "user", "content": user_message(loaded.prompt or "", record)}]
        ids = pipeline.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True
        )["input_ids"]
        assert ids == loaded.tokenizer.encode_ordinary(render(loaded.prompt or "", record))
        [said] = pipeline(chat, do_sample=False, max_new_tokens=40)
        expected = loaded.tokenizer.decode(ours(loaded, record, 40))
        assert said["generated_text"][-1] == {"role": "assistant", "content": expected}
        [told] = pipeline(
            render(loaded.prompt or "", record),
            do_sample=False,
            max_new_tokens=40,
            return_tensors=True,
        )
        assert told["generated_token_ids"][len(ids) :][:40] in (
            tokens := ours(loaded, record, 40),
            [*tokens, 4095],
        )


def test_transformers_pipeline_in_batches_gives_the_same_answers(run: Path) -> None:
    loaded = load_pretrained(run / "model")
    pipeline = transformers.pipeline(
        "text-generation", str(run / "model"), device="cpu", dtype=torch.float32
    )
    texts = [render(loaded.prompt or "", record) for record in RECORDS]
    assert len({len(loaded.tokenizer.encode_ordinary(text)) for text in texts}) == len(texts) > 1
    found = pipeline(
        texts, batch_size=2, do_sample=False, max_new_tokens=40, return_full_text=False
    )
    answers = [loaded.tokenizer.decode(ours(loaded, record, 40)) for record in RECORDS]
    assert [answer["generated_text"] for [answer] in found] == answers


def test_transformers_tokenizer_gives_the_same_ids(run: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    mine = load_pretrained(run / "model").tokenizer
    for text in ("Write a response,  naïve 😀\n", "\n\n  x\t", "don't 1234", ""):
        assert tokenizer(text)["input_ids"] == mine.encode_ordinary(text)
        assert tokenizer.decode(mine.encode_ordinary(text)) == text
    assert transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(run / "model" / "tokenizer.json")
    )("a b")["input_ids"] == mine.encode_ordinary("a b")
    assert (tokenizer.eos_token_id, tokenizer.model_max_length) == (mine.eot_token, 256)


def test_model_of_a_run_has_all_files_and_templates(run: Path) -> None:
    names = {path.name for path in (run / "model").iterdir()}
    assert {
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "README.md",
    } < names
    config = json.loads((run / "model" / "tokenizer_config.json").read_text())
    assert config["sft_prompt"] == PROMPTS["alpaca"]
    assert config["chat_template"] == PROMPTS["alpaca"]
    card = (run / "model" / "README.md").read_text()
    assert "These weights were not evaluated." in card


@pytest.mark.parametrize("conversations", [False, True])
def test_the_example_in_the_model_card_runs(
    run: Path, conversations: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    card = card_text("mine", read_run_summary(run), None, 256, conversations)
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace("PATH OR USER/NAME OF THIS FOLDER", str(run / "model"))
    exec(re.sub(r"max_new_tokens=\d+", "max_new_tokens=3", code), {})
    assert capsys.readouterr().out.count("'assistant'") == 1 + conversations


# What is written


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_folder_is_exported_in_another_type(
    folder: Path, call: Callable[..., None], dtype: str
) -> None:
    (folder / "README.md").write_text("the card")
    call(folder, "--dtype", dtype)
    out = folder.with_name(f"tiny-{dtype}")
    stored = {str(tensor.dtype) for tensor in load_file(out / "model.safetensors").values()}
    assert stored == {"torch." + {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype]}
    again, source = load_pretrained(out), load_pretrained(folder)
    assert (again.prompt, again.chat_template, again.base) == (
        source.prompt,
        source.chat_template,
        source.base,
    )
    assert (out / "README.md").read_text() == "the card"


def test_gguf_export_writes_a_modelfile(
    folder: Path, call: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    call(folder, "--format", "gguf")
    assert {path.name for path in folder.parent.iterdir()} == {
        "tiny",
        "tiny-f16.gguf",
        "tiny-f16.Modelfile",
    }
    before = "Below is an instruction that describes a task. "
    before += "Write a response that appropriately completes the request.\n\n### Instruction:\n"
    assert (folder.parent / "tiny-f16.Modelfile").read_text() == (
        f'FROM ./tiny-f16.gguf\nTEMPLATE """{before}{{{{ .Prompt }}}}\n\n### Response:\n"""\n'
        'PARAMETER stop "<|endoftext|>"\nPARAMETER num_ctx 128\nPARAMETER temperature 0\n'
    )
    assert "ollama create NAME -f" in capsys.readouterr().out


def test_a_run_is_found_by_its_folder(folder: Path, call: Callable[..., None]) -> None:
    folder.rename(folder.parent / "model")
    call(
        folder.parent,
        "--format",
        "gguf",
        "--dtype",
        "f32",
        "--out",
        folder.parent / "new" / "x.gguf",
    )
    assert {path.name for path in (folder.parent / "new").iterdir()} == {"x.gguf", "x.Modelfile"}


def test_a_modelfile_keeps_the_templates_braces_and_quotes() -> None:
    text = export.modelfile('{% raw %}{{ a }} """{% endraw %}{{ instruction }}', "x.gguf", 8)
    assert 'TEMPLATE """{{ "{{" }} a }} {{ "\\"\\"\\"" }}{{ .Prompt }}"""\n' in text


def test_a_modelfile_names_every_end_of_an_answer() -> None:
    text = export.modelfile("{{ instruction }}", "x.gguf", 8, ends=("<|im_end|>",))
    assert 'PARAMETER stop "<|endoftext|>"\nPARAMETER stop "<|im_end|>"\n' in text


def test_copy_that_is_another_model_is_deleted(
    folder: Path, call: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = weights.save

    def save_another(model: GPT, *arguments: Any) -> None:
        model.wte.weight.data.neg_()
        save(model, *arguments)

    (folder.parent / "tiny-f16.gguf").write_text("an older export")
    monkeypatch.setattr(weights, "save", save_another)
    with pytest.raises(
        InputError, match=r"tiny-f16: read back, it is another model: .* it was deleted"
    ):
        call(folder, "--dtype", "f16")
    monkeypatch.setattr("sft.checkpoint.gguf._array", lambda tensor: -tensor.detach().numpy())
    with pytest.raises(InputError, match=r"tiny-f16\.gguf: read back, it is another model"):
        call(folder, "--format", "gguf")
    assert {path.name for path in folder.parent.iterdir()} == {"tiny", "tiny-f16.gguf"}
    assert (folder.parent / "tiny-f16.gguf").read_text() == "an older export"


def test_a_chat_template_of_another_program_is_exported(
    folder: Path, call: Callable[..., None]
) -> None:
    chat = "{{ bos_token }}user: {{ messages[-1]['content'] }}\n{{ 'bot:' }}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>"}))
    (folder / "chat_template.jinja").write_text(chat)
    call(folder, "--format", "gguf")
    modelfile = (folder.parent / "tiny-f16.Modelfile").read_text()
    assert 'TEMPLATE """<|endoftext|>user: {{ .Prompt }}\nbot:"""' in modelfile
    call(folder, "--dtype", "f32")
    again = load_pretrained(folder.with_name("tiny-f32"))
    assert (again.prompt, again.chat_template) == (None, chat)


def test_a_model_that_needs_no_export_is_named_with_its_other_forms(
    folder: Path, call: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in folder.parent.iterdir()}
    call(str(folder))
    told = capsys.readouterr().out
    assert str(folder) in told
    assert "--format gguf" in told
    assert {path.name for path in folder.parent.iterdir()} == before


# Ollama's template of conversations


def run_go(template: str, messages: list[tuple[str, str]]) -> str:
    """Run the few actions of Go's text/template that a Modelfile has."""
    pieces = re.split(r"{{ (.*?) }}", template)
    steps = list(zip([None, *pieces[1::2]], pieces[0::2], strict=True))
    start = next(at for at, (action, _) in enumerate(steps) if action and "range" in action)
    assert steps[start][0] == "range $i, $_ := .Messages"

    text = "".join(after for _, after in steps[:start])
    for index, (role, content) in enumerate(messages):
        # Each open block: whether its branch is run, and whether an earlier branch was.
        blocks: list[tuple[bool, bool]] = [(True, True)]
        for action, after in [("", steps[start][1]), *steps[start + 1 :]]:
            condition = {
                'if eq .Role "system"': role == "system",
                'else if eq .Role "user"': role == "user",
                "if eq $i 0": index == 0,
                "else": True,
            }
            if action.startswith("if"):
                blocks.append((condition[action], condition[action]))
            elif action.startswith("else"):
                _, earlier = blocks.pop()
                blocks.append((condition[action] and not earlier, condition[action] or earlier))
            elif action == "end":
                blocks.pop()
            runs = all(run for run, _ in blocks)
            if runs and action == ".Content":
                text += content
            elif runs and action.startswith('"'):
                text += json.loads(action)
            text += after if runs and blocks else ""
    assert not blocks
    return text


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("questions", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(PROMPTS.keys() - {"none"}))
def test_ollamas_template_gives_the_prompts_of_conversations(
    name: str, questions: int, system: bool
) -> None:
    turns = [Turn("system", "Say {{ no }}.")] if system else []
    for number in range(1, questions):
        turns += [Turn("user", f"q {number}\n"), Turn("assistant", f" a {number}")]
    prompt = render(PROMPTS[name], Record("last", "", "", before=tuple(turns)))
    found = run_go(export.go_template(PROMPTS[name]) or "", [*turns, Turn("user", "last")])
    assert found == prompt


def test_ollamas_template_escapes_braces_and_quotes() -> None:
    template = PROMPTS["chatml"].replace("<|im_start|>", '{{"""')
    go = export.go_template(template) or ""
    assert '"""' not in go
    assert run_go(go, [("user", "q")]) == render(template, Record("q", "", ""))


def test_a_template_that_counts_its_turns_falls_back_to_single_questions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counting = (
        "{% for m in messages %}{{ loop.index }}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}:{% endif %}"
    )
    text = export.modelfile(counting, "x.gguf", 8, several_turns=True)
    assert 'TEMPLATE """1{{ .Prompt }}:"""\n' in text
    assert "Modelfile" in caplog.text


def test_a_model_of_conversations_is_exported_with_them(
    folder: Path, call: Callable[..., None]
) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["sft_conversations"] is False
    config["sft_conversations"] = True
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    call(folder, "--format", "gguf")
    modelfile = (folder.parent / "tiny-f16.Modelfile").read_text()
    assert ".Messages" in modelfile
    assert ".Prompt" not in modelfile


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: neither a run with a model nor a Hugging Face folder; train first"),
        (["tiny", "--dtype", "q8_0"], "--dtype: q8_0 exists only in GGUF; add --format gguf"),
        (
            ["tiny", "--format", "gguf", "--dtype", "q8_0"],
            "q8_0 takes rows in blocks of 32, but n_embd is 16",
        ),
        (["tiny", "--out", "tiny"], "--out: tiny is the model to be exported; give another folder"),
        (["tiny", "--out", "there"], r"there: holds other files \(mine.txt\)"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    folder, call, monkeypatch, arguments, message
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "there").mkdir()
    (folder.parent / "there" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=message) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    assert {path.name for path in folder.parent.iterdir()} == {"tiny", "there"}
    assert load_pretrained(folder).base == "someone/base"


def test_every_type_of_a_format_can_be_written_and_checked() -> None:
    assert list(export.DTYPES["hf"]) == list(FLOAT_TYPES)
    assert list(export.DTYPES["gguf"]) == list(TYPES) == list(TOLERANCE)


def test_command_exits_with_1_and_one_line(tmp_path: Path) -> None:
    found = Command("-m", "sft.export", "nothing", folder=tmp_path).finish()
    assert found.returncode == 1
    assert found.stderr.startswith(b"error: nothing: ")
    assert found.stderr.count(b"\n") == 1


def test_help_names_the_options(
    capsys: pytest.CaptureFixture[str], call: Callable[..., None]
) -> None:
    with pytest.raises(SystemExit):
        call("--help")
    assert "--push USER/NAME" in capsys.readouterr().out
