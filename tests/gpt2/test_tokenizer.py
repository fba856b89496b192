"""The tokenizer gives the ids that transformers' GPT-2 tokenizer gives, and refuses files that do not fit."""

import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from transformers import GPT2Tokenizer

from sft.config import InputError
from sft.gpt2.tokenizer import load_tokenizer, save_tokenizer

HARD = [
    "Hello world, hello World",
    "<|endoftext|>",
    "a <|endoftext|><|endoftext|> b",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🧑‍🚀",
    "日本語テキスト 中文 한국어",
    "   runs   of     spaces   ",
    "\n\n\n line \r\n\t\ttabs \n ",
    "don't I'll we've CAN'T 'tis '' ' s",
    "1234567890 1,234.56 ½ Ⅷ ٣ १२३",
    "é e\u0301 ﬁ naïve café ÅÄÖ ß",
    "\x00\x01\x7f\x80\x85\xa0\xad\u200b\ufeff\u2028\u3000\ufffd\uffff\U0010ffff",
    "### Instruction:\nName a colour.\n\n### Response:\n",
    "aaaa aaaaaaaa bbbb abababab hahahahaha",
    "x" * 500,
    " ",
    "",
]
ALPHABETS = [
    "ab '\n1.",
    "aeinorsthl ",
    "= -_*#/\\ \t\n\r\xa0",
    "".join(map(chr, range(32, 1000))),
    "中文日本😀👍é\u0301ก้",
]


def released_files() -> Path:
    return Path(os.environ.get("SFT_DATA_DIR", "/nonexistent")) / "gpt2-vocab"


@pytest.fixture(params=["tiny", "released"])
def folder(request: pytest.FixtureRequest, bpe: Path) -> Path:
    if request.param == "released" and not released_files().is_dir():
        pytest.skip("SFT_DATA_DIR names no folder with gpt2-vocab/")
    return bpe if request.param == "tiny" else released_files()


def random_texts(number: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(draw.choice(ALPHABETS), k=draw.randrange(1, 30))) for _ in range(number)]


def test_ids_equal_transformers(folder):
    ours, theirs = load_tokenizer(folder), GPT2Tokenizer.from_pretrained(folder)
    for text in HARD + random_texts(3000):
        expected = theirs(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
        assert ours.encode_ordinary(text) == expected, ascii(text)
        assert ours.decode(expected) == text
    assert ours.eot_token == theirs.eos_token_id
    assert ours.n_vocab == len(theirs)


def test_ranks_equal_tiktokens_own_reading(folder, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    theirs = data_gym_to_mergeable_bpe_ranks(str(folder / "merges.txt"), str(folder / "vocab.json"))
    assert load_tokenizer(folder)._mergeable_ranks == theirs


def test_the_files_survive_the_trip(folder, tmp_path):
    save_tokenizer(load_tokenizer(folder), tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == (folder / "merges.txt").read_bytes()
    assert json.loads((tmp_path / "vocab.json").read_text()) == json.loads((folder / "vocab.json").read_text())


def test_the_released_files_survive_byte_for_byte(tmp_path):
    if not released_files().is_dir():
        pytest.skip("SFT_DATA_DIR names no folder with gpt2-vocab/")
    save_tokenizer(load_tokenizer(released_files()), tmp_path)
    assert (tmp_path / "vocab.json").read_bytes() == (released_files() / "vocab.json").read_bytes()


def test_end_token_in_text_is_text(tokenizer):
    assert tokenizer.eot_token not in tokenizer.encode_ordinary("stop <|endoftext|> here")
    assert tokenizer.decode([tokenizer.eot_token]) == "<|endoftext|>"


def test_lone_surrogates_become_replacement_characters(tokenizer):
    assert tokenizer.decode(tokenizer.encode_ordinary("a\ud800b\udfff")) == "a\ufffdb\ufffd"


def test_it_reaches_other_processes(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode_ordinary(HARD[0]) == tokenizer.encode_ordinary(HARD[0])
    assert again.eot_token == tokenizer.eot_token


def edited(bpe: Path, folder: Path, name: str, edit) -> Path:
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(bpe / file, folder)
    text = (folder / name).read_text(encoding="utf-8")
    (folder / name).write_text(edit(text), encoding="utf-8", newline="")
    return folder


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.removeprefix("#version: 0.2\n"),
        lambda text: text.removesuffix("\n"),
        lambda text: text.replace("\n", "\r\n"),
    ],
    ids=["no version line", "no final newline", "Windows line ends"],
)
def test_merges_that_transformers_would_read(bpe, tmp_path, tokenizer, edit):
    again = load_tokenizer(edited(bpe, tmp_path, "merges.txt", edit))
    assert again._mergeable_ranks == tokenizer._mergeable_ranks


def test_an_edited_file_is_read_anew(bpe, tmp_path):
    assert load_tokenizer(edited(bpe, tmp_path, "vocab.json", str)).n_vocab == 400
    load_tokenizer(edited(bpe, tmp_path, "vocab.json", lambda text: text[:-1] + ', "<|user|>": 400}'))
    assert load_tokenizer(tmp_path).n_vocab == 401


def test_the_end_token_may_stand_first(bpe, tmp_path, tokenizer):
    def end_first(text: str) -> str:
        vocab = json.loads(text)
        return json.dumps({token: (id + 1) % len(vocab) for token, id in vocab.items()})

    first = load_tokenizer(edited(bpe, tmp_path, "vocab.json", end_first))
    assert first.eot_token == 0
    assert [id - 1 for id in first.encode_ordinary(HARD[0])] == tokenizer.encode_ordinary(HARD[0])


def change(**ids):
    """An edit of vocab.json: tokens get these ids, or vanish with None."""

    def edit(text: str) -> str:
        vocab = json.loads(text) | ids
        return json.dumps({token: id for token, id in vocab.items() if id is not None})

    return edit


def swap_lines(first: int, second: int):
    def edit(text: str) -> str:
        lines = text.split("\n")
        lines[first], lines[second] = lines[second], lines[first]
        return "\n".join(lines)

    return edit


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("vocab.json", lambda text: "", "vocab.json: not JSON"),
        ("vocab.json", lambda text: text[:100], "vocab.json: not JSON .*line 1 column"),
        ("vocab.json", lambda text: "[1, 2]", "vocab.json: expected an object of tokens and ids, found list"),
        ("vocab.json", change(a="7"), "token 'a': expected an id of its own below 400, found '7'"),
        ("vocab.json", change(a=400), "token 'a': expected an id of its own below 400, found 400"),
        ("vocab.json", change(a=1), "token 'a': expected an id of its own below 400, found 1"),
        ("vocab.json", change(a=True), "token 'a': expected an id of its own below 400, found True"),
        ("vocab.json", change(**{"<|endoftext|>": None}), r"no '<\|endoftext\|>'; expected a letter for each"),
        ("vocab.json", change(**{"<|endoftext|>": 0, "!": None, "x|>": 399}), "vocab.json: no '!'"),
        ("vocab.json", change(hocus=400), "merges.txt: no line makes the token 'hocus' of vocab.json"),
        ("merges.txt", lambda text: "", "merges.txt: no line makes the token"),
        ("merges.txt", lambda text: text[: len(text) // 2], r"merges.txt(, line \d+)?: "),
        (
            "merges.txt",
            lambda text: text.replace("\n", "\nonly\n", 1),
            "merges.txt, line 2: expected two tokens, found",
        ),
        ("merges.txt", lambda text: text.replace("\n", "\n\n", 3), "merges.txt, line 2: expected two tokens, found ''"),
        ("merges.txt", lambda text: text.replace("\n", "\nq z\n", 1), "line 2: 'qz' is not in vocab.json"),
        ("merges.txt", lambda text: text.replace("\n", "\nqz a\n", 1), "line 2: 'qz' is made by no line before"),
        ("merges.txt", swap_lines(2, 3), "line 4: '.+' has id 257, expected more than 258"),
    ],
)
def test_files_that_do_not_fit(bpe, tmp_path, name, edit, message):
    with pytest.raises(InputError, match=message) as error:
        load_tokenizer(edited(bpe, tmp_path, name, edit))
    assert "\n" not in str(error.value)


def test_other_merges_than_the_vocabularys(bpe, tmp_path):
    shutil.copy(bpe / "vocab.json", tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nq j\n")
    with pytest.raises(InputError, match=r"'qj' is not in vocab\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file(bpe, tmp_path, name):
    (edited(bpe, tmp_path, name, str) / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        load_tokenizer(tmp_path)


def test_bytes_that_are_no_text(bpe, tmp_path):
    edited(bpe, tmp_path, "merges.txt", str)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"merges.txt: cannot be read as text \('utf-8'"):
        load_tokenizer(tmp_path)


def test_an_encoding_made_elsewhere_can_be_saved(bpe, tmp_path, tokenizer):
    other = tiktoken.Encoding(
        "other",
        pat_str=tokenizer._pat_str,
        mergeable_ranks=tokenizer._mergeable_ranks,
        special_tokens=tokenizer._special_tokens,
    )
    save_tokenizer(other, tmp_path)
    assert load_tokenizer(tmp_path)._mergeable_ranks == tokenizer._mergeable_ranks
