"""The tokenizer gives transformers' ids, and refuses files that do not fit."""

import json
import os
import pickle
import random
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import regex
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Tokenizer

from sft.errors import InputError
from sft.gpt2.tokenizer import LONG, SPACE, load_tokenizer, save_tokenizer

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
    return [
        "".join(draw.choices(draw.choice(ALPHABETS), k=draw.randrange(1, 30)))
        for _ in range(number)
    ]


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


def test_saved_files_equal_the_loaded_ones(folder, tmp_path):
    save_tokenizer(load_tokenizer(folder), tmp_path)
    assert (tmp_path / "merges.txt").read_bytes() == (folder / "merges.txt").read_bytes()
    assert json.loads((tmp_path / "vocab.json").read_text()) == json.loads(
        (folder / "vocab.json").read_text()
    )


def test_saved_released_vocabulary_is_equal_byte_for_byte(tmp_path):
    if not released_files().is_dir():
        pytest.skip("SFT_DATA_DIR names no folder with gpt2-vocab/")
    save_tokenizer(load_tokenizer(released_files()), tmp_path)
    assert (tmp_path / "vocab.json").read_bytes() == (released_files() / "vocab.json").read_bytes()


def test_end_token_in_text_is_text(tokenizer):
    assert tokenizer.eot_token not in tokenizer.encode_ordinary("stop <|endoftext|> here")
    assert tokenizer.decode([tokenizer.eot_token]) == "<|endoftext|>"


def test_lone_surrogates_become_replacement_characters(tokenizer):
    assert tokenizer.decode(tokenizer.encode_ordinary("a\ud800b\udfff")) == "a\ufffdb\ufffd"


def test_tokenizer_can_be_pickled(tokenizer):
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
def test_merges_without_header_or_with_other_line_ends_are_read(bpe, tmp_path, tokenizer, edit):
    again = load_tokenizer(edited(bpe, tmp_path, "merges.txt", edit))
    assert again._mergeable_ranks == tokenizer._mergeable_ranks


def test_edited_file_is_not_served_from_a_cache(bpe, tmp_path):
    assert load_tokenizer(edited(bpe, tmp_path, "vocab.json", str)).n_vocab == 400
    load_tokenizer(
        edited(bpe, tmp_path, "vocab.json", lambda text: text[:-1] + ', "<|user|>": 400}')
    )
    assert load_tokenizer(tmp_path).n_vocab == 401


def test_end_token_may_have_id_0(bpe, tmp_path, tokenizer):
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
        (
            "vocab.json",
            lambda text: "[1, 2]",
            "vocab.json: expected a JSON object, found list",
        ),
        ("vocab.json", change(a="7"), "token 'a': expected an id of its own below 400, found '7'"),
        ("vocab.json", change(a=400), "token 'a': expected an id of its own below 400, found 400"),
        ("vocab.json", change(a=1), "token 'a': expected an id of its own below 400, found 1"),
        (
            "vocab.json",
            change(a=True),
            "token 'a': expected an id of its own below 400, found True",
        ),
        (
            "vocab.json",
            change(**{"<|endoftext|>": None}),
            r"no '<\|endoftext\|>'; expected a letter for each",
        ),
        ("vocab.json", change(**{"<|endoftext|>": 0, "!": None, "x|>": 399}), "vocab.json: no '!'"),
        (
            "vocab.json",
            change(hocus=400),
            "merges.txt: no line makes the token 'hocus' of vocab.json",
        ),
        ("merges.txt", lambda text: "", "merges.txt: no line makes the token"),
        ("merges.txt", lambda text: text[: len(text) // 2], r"merges.txt(, line \d+)?: "),
        (
            "merges.txt",
            lambda text: text.replace("\n", "\nonly\n", 1),
            "merges.txt, line 2: expected two tokens, found",
        ),
        (
            "merges.txt",
            lambda text: text.replace("\n", "\n\n", 3),
            "merges.txt, line 2: expected two tokens, found ''",
        ),
        (
            "merges.txt",
            lambda text: text.replace("\n", "\nq z\n", 1),
            "line 2: 'qz' is not in vocab.json",
        ),
        (
            "merges.txt",
            lambda text: text.replace("\n", "\nqz a\n", 1),
            "line 2: 'qz' is made by no line before",
        ),
        ("merges.txt", swap_lines(2, 3), "line 4: '.+' has id 257, expected more than 258"),
    ],
)
def test_damaged_vocab_or_merges_are_refused(bpe, tmp_path, name, edit, message):
    with pytest.raises(InputError, match=message) as error:
        load_tokenizer(edited(bpe, tmp_path, name, edit))
    assert "\n" not in str(error.value)


def test_merges_of_another_vocabulary_are_refused(bpe, tmp_path):
    shutil.copy(bpe / "vocab.json", tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nq j\n")
    with pytest.raises(InputError, match=r"'qj' is not in vocab\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_vocab_or_merges_are_named(bpe, tmp_path, name):
    (edited(bpe, tmp_path, name, str) / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        load_tokenizer(tmp_path)


def test_merges_that_are_not_utf8_are_refused(bpe, tmp_path):
    edited(bpe, tmp_path, "merges.txt", str)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"merges.txt: cannot be read as text \('utf-8'"):
        load_tokenizer(tmp_path)


def test_encoding_of_tiktoken_itself_can_be_saved(bpe, tmp_path, tokenizer):
    other = tiktoken.Encoding(
        "other",
        pat_str=tokenizer._pat_str,
        mergeable_ranks=tokenizer._mergeable_ranks,
        special_tokens=tokenizer._special_tokens,
    )
    save_tokenizer(other, tmp_path)
    assert load_tokenizer(tmp_path)._mergeable_ranks == tokenizer._mergeable_ranks


# Long runs of white space, of which a million makes tiktoken's engine panic

BLANKS = [" ", "\n", "\t", "\xa0", "\u3000", "\n ", "\r\n"]

# From openai/gpt-2, src/encoder.py.
ORIGINAL = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


def by_gpt2s_pattern(tokenizer: tiktoken.Encoding, text: str) -> list[int]:
    """The ids of each word that GPT-2's own pattern finds; a word alone is cut by nothing."""
    words = [word.encode() for word in ORIGINAL.findall(text)]
    return [token for word in words for token in tokenizer._core_bpe.encode_single_piece(word)]


@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_long_runs_give_the_ids_that_the_pattern_defines(folder, blank):
    ours, plain = load_tokenizer(folder), tiktoken.Encoding.encode_ordinary
    for length in (LONG - 1, LONG, LONG + 1, 5 * LONG):
        run = (blank * length)[:length]
        for text in (
            run,
            f"x{run}",
            f"{run}y",
            f"x{run}y z",
            f"{run}.{run}'s{run}1",
            f"a \n{run} \tb",
            f"é{run}\x1c",
        ):
            ids = ours.encode_ordinary(text)
            assert ids == plain(ours, text)  # which can do as many as these
            assert ids == by_gpt2s_pattern(ours, text)


@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_million_blanks_do_not_panic(tokenizer, blank):
    run = blank * (1_000_000 // len(blank))
    for text in (f"x{run}y", f"{run} y", f"x{run}"):
        ids = tokenizer.encode_ordinary(text)
        assert tokenizer.decode(ids) == text
        assert ids == by_gpt2s_pattern(tokenizer, text)


def test_runs_are_cut_where_tiktoken_sees_white_space_alone(tokenizer):
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    seen = set(regex.findall(r"\s", every))
    assert set(re.findall(f"[{SPACE}]", every)) == seen
    for space in sorted(seen):  # a run that tiktoken keeps together but for its last
        text = f"x{space}{space}{space}y"
        found = regex.findall(tokenizer._pat_str, text)
        assert found[:2] == ["x", space * 2]


@pytest.mark.parametrize(
    "piece",
    [" ", "a", "ab ", "\n" * 9_999 + "x", " " * 10_001 + "x", "!", "1", "😀", "\u3000x", "\x1c"],
    ids=ascii,
)
def test_time_grows_with_the_length_alone(tokenizer, piece):
    def seconds(length: int) -> float:
        text, began = f"x{(piece * (length // len(piece) + 1))[:length]}y", time.process_time()
        tokenizer.encode_ordinary(text)
        return time.process_time() - began

    small = min(seconds(100_000) for _ in range(3))
    assert seconds(1_000_000) < 30 * small + 0.3  # 100 times, if it were quadratic


# tokenizer.json, as transformers writes it


@pytest.fixture
def whole(folder: Path, tmp_path: Path) -> Path:
    """What transformers of today saves: tokenizer.json, and neither vocab.json nor merges.txt."""
    GPT2Tokenizer.from_pretrained(folder).save_pretrained(tmp_path / "whole")
    assert not (tmp_path / "whole" / "vocab.json").exists()
    return tmp_path / "whole"


def test_tokenizer_json_alone_gives_the_same_ids(folder, whole):
    ours, pair, theirs = (
        load_tokenizer(whole),
        load_tokenizer(folder),
        AutoTokenizer.from_pretrained(whole),
    )
    assert (ours._mergeable_ranks, ours._special_tokens) == (
        pair._mergeable_ranks,
        pair._special_tokens,
    )
    for text in HARD + random_texts(500):
        expected = theirs(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
        assert ours.encode_ordinary(text) == expected, ascii(text)


def alone(bpe: Path, tmp_path: Path, edit=None) -> Path:
    """A folder with tokenizer.json alone, changed by `edit`."""
    save_tokenizer(load_tokenizer(bpe), tmp_path)
    (tmp_path / "vocab.json").unlink()
    (tmp_path / "merges.txt").unlink()
    change_json(tmp_path, edit or (lambda found: None))
    return tmp_path


def change_json(folder: Path, edit) -> None:
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    edit(found)
    path.write_text(json.dumps(found), encoding="utf-8")


def test_merges_may_be_text_or_pairs(bpe, tmp_path, tokenizer):
    def as_text(found):
        assert all(isinstance(pair, list) for pair in found["model"]["merges"])
        found["model"]["merges"] = [" ".join(pair) for pair in found["model"]["merges"]]

    assert (
        load_tokenizer(alone(bpe, tmp_path, as_text))._mergeable_ranks == tokenizer._mergeable_ranks
    )


def test_pad_token_of_any_name_is_special_and_is_saved(bpe, tmp_path):
    theirs = GPT2Tokenizer.from_pretrained(bpe)
    theirs.add_special_tokens({"pad_token": "[PAD]"})
    theirs.save_pretrained(tmp_path / "a")
    ours = load_tokenizer(tmp_path / "a")
    assert ours._special_tokens == {"<|endoftext|>": 399, "[PAD]": 400}
    assert 400 not in ours.encode_ordinary("x [PAD] y")
    (tmp_path / "b").mkdir()
    save_tokenizer(ours, tmp_path / "b")
    assert load_tokenizer(tmp_path / "b")._special_tokens == ours._special_tokens


def test_special_token_in_tokenizer_json_alone_is_added(bpe, tmp_path):
    theirs = GPT2Tokenizer.from_pretrained(bpe)
    theirs.add_special_tokens({"pad_token": "[PAD]"})
    theirs.save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(bpe / name, tmp_path)
    assert load_tokenizer(tmp_path).n_vocab == 401


SPLIT = {
    "type": "Split",
    "pattern": {"Regex": ORIGINAL.pattern},
    "behavior": "Isolated",
    "invert": False,
}
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TWO_STEPS = {"type": "Sequence", "pretokenizers": [SPLIT, LEVEL]}


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": TWO_STEPS},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [LEVEL | {"use_regex": True}]}},
        {"normalizer": {"type": "Sequence", "normalizers": []}},
        {"post_processor": None},
        {
            "truncation": {
                "direction": "Right",
                "max_length": 5,
                "strategy": "LongestFirst",
                "stride": 0,
            }
        },
    ],
)
def test_equal_tokenizer_json_in_other_spelling_is_read(bpe, tmp_path, tokenizer, change):
    found = load_tokenizer(alone(bpe, tmp_path, lambda found: found.update(change)))
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.no_truncation()
    for text in ("don't  stop 123!\n\n x", "CAN'T 日本 "):
        ids = theirs.encode(text).ids
        assert found.encode_ordinary(text) == tokenizer.encode_ordinary(text) == ids


NFC = {"type": "NFC"}
BOS = [
    {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}},
]


def model(**values):
    return lambda found: found["model"].update(values)


def added(**values):
    return lambda found: found["added_tokens"][0].update(values)


def swap_merges(found):
    merges = found["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"normalizer": NFC}, "normalizer: .*NFC"),
        ({"normalizer": {"type": "Sequence", "normalizers": [NFC]}}, "normalizer: .*NFC"),
        ({"pre_tokenizer": None}, "pre_tokenizer: null"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer: .*Metaspace"),
        ({"pre_tokenizer": LEVEL}, "pre_tokenizer: .*use_regex"),
        (
            {"pre_tokenizer": LEVEL | {"use_regex": True, "add_prefix_space": True}},
            "pre_tokenizer: .*add_prefix_space",
        ),
        (
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [SPLIT | {"pattern": {"Regex": "."}}, LEVEL],
                }
            },
            "pre_tokenizer: .*Regex",
        ),
        (
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [SPLIT | {"behavior": "Removed"}, LEVEL],
                }
            },
            "pre_tokenizer: .*Removed",
        ),
        (
            {"post_processor": {"type": "TemplateProcessing", "single": BOS}},
            "post_processor: .*SpecialToken",
        ),
        ({"decoder": {"type": "WordPiece"}}, "decoder: .*WordPiece"),
        ({"model": []}, "model: expected an object"),
        ({"added_tokens": [3]}, "added_tokens: expected objects"),
        (model(type="WordPiece"), "model.type: .*WordPiece"),
        (model(dropout=0.1), "model.dropout: 0.1"),
        (model(byte_fallback=True), "model.byte_fallback: true"),
        (model(end_of_word_suffix="</w>"), "model.end_of_word_suffix: .*</w>"),
        (model(merges=None), "model.merges: expected a list"),
        (model(merges=[["a"]]), r"merge 1: expected two tokens, found \['a'\]"),
        (model(merges=[7]), "merge 1: expected two tokens, found 7"),
        (model(merges=[]), "no merge makes the token"),
        (swap_merges, "merge 2: .* has id"),
        (added(special=False), r"added token '<\|endoftext\|>' is not special"),
        (added(lstrip=True), r"added token '<\|endoftext\|>': lstrip"),
        (added(id=3), r"token '<\|endoftext\|>' has id 399 in model.vocab and 3"),
        (
            added(content="<|other|>", id=401),
            r"token '<\|other\|>': expected an id of its own below 401, found 401",
        ),
    ],
)
def test_step_of_another_tokenizer_is_refused_by_key(bpe, tmp_path, edit, message):
    folder = alone(bpe, tmp_path, edit if callable(edit) else lambda found: found.update(edit))
    with pytest.raises(InputError, match=rf"tokenizer\.json: {message}") as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)


def test_unreachable_merge_is_refused(bpe, tmp_path):
    """With merges `a b`, `b c`, `a bc`, abc becomes ab and c, which tiktoken would join."""

    def edit(found):
        size = len(found["model"]["vocab"])
        found["model"]["vocab"] |= {"xQ": size, "Qz": size + 1, "xQz": size + 2}
        found["model"]["merges"] += [["x", "Q"], ["Q", "z"], ["x", "Qz"]]

    with pytest.raises(InputError, match=r"'x' \+ 'Qz' is never reached, .* give 'xQ' \+ 'z'"):
        load_tokenizer(alone(bpe, tmp_path, edit))


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"model": 3}'])
def test_damaged_tokenizer_json_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: "):
        load_tokenizer(tmp_path)


def swap_ids(found):
    vocab = found["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def other_last_merge(found):
    found["model"]["merges"].pop()
    found["model"]["merges"].append(["a", "Q"])
    vocab = found["model"]["vocab"]
    vocab["aQ"] = vocab.pop(
        max((token for token in vocab if token != "<|endoftext|>"), key=vocab.__getitem__)
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (swap_ids, "token 'a' has id 65 in the one and 64 in the others"),
        (other_last_merge, "token 'aQ' has id .* in the one and .* in the others"),
    ],
)
def test_tokenizer_files_that_disagree_are_refused(bpe, tmp_path, edit, message):
    save_tokenizer(load_tokenizer(bpe), tmp_path)
    change_json(tmp_path, edit)
    with pytest.raises(
        InputError, match=f"tokenizer.json disagrees with vocab.json and merges.txt: {message}"
    ):
        load_tokenizer(tmp_path)
