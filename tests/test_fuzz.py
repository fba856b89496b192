"""Damaged and arbitrary files: each is read as what it holds, or refused in one line.

The tries are few and always the same. SFT_FUZZ=1000 makes it 1,000 of each, drawn each time.
"""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft.checkpoint.folder import load_pretrained
from sft.data.formats import FORMATS, format_of, parse_json
from sft.data.records import Record, stream_records
from sft.errors import InputError
from sft.gpt2.tokenizer import load_tokenizer
from sft.training.checkpoints import NEEDED, CheckpointFiles, last, read_newest

T = TypeVar("T")
TRIES = int(os.environ.get("SFT_FUZZ", "60"))
fuzz = settings(
    max_examples=TRIES,
    derandomize="SFT_FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Half a surrogate pair is a character too.
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]), max_size=30)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
NEAR_RECORD = st.dictionaries(
    st.sampled_from(["instruction", "input", "output", "category", "x"]),
    ANY_TEXT | ANY_JSON,
    max_size=5,
)


def tried(read: Callable[[], T]) -> T | str:
    """Return what `read` returns, or the line with which it is refused."""
    try:
        return read()
    except InputError as error:
        line = str(error)
    assert 0 < len(line) < 2000
    assert "\n" not in line
    return line


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Change, remove or insert a few bytes, most often near the beginning."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 200)) | st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "end"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        else:
            del data[at:]
    return bytes(data)


# Records


def records_of(content: bytes) -> list[Record] | str:
    file = io.BytesIO(content)
    in_pieces = tried(lambda: list(FORMATS[format_of(file)].read(file, "f")))
    assert in_pieces == tried(lambda: parse_json(content, "f"))
    return tried(lambda: list(stream_records(io.BytesIO(content), "f")))


@fuzz
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_as_records(content: bytes) -> None:
    records_of(content)


@fuzz
@given(ANY_JSON | st.lists(NEAR_RECORD, max_size=4), st.booleans(), st.booleans(), st.booleans())
def test_any_json_is_read_or_refused_as_records(
    items: Any, lines: bool, bom: bool, ascii_only: bool
) -> None:
    if lines and isinstance(items, list):
        text = "\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in items)
    else:
        text = json.dumps(items, ensure_ascii=ascii_only)
    found = records_of(b"\xef\xbb\xbf" * bom + text.encode("utf-8", errors="surrogatepass"))
    if isinstance(found, str):
        return

    # No half of a surrogate pair is left, which no tokenizer could encode.
    for record in found:
        for text in (record.instruction, record.input, record.output):
            assert isinstance(text, str)
            assert not any(0xD800 <= ord(character) < 0xE000 for character in text)


@fuzz
@given(st.data())
def test_damaged_records_are_read_or_refused(data: st.DataObject) -> None:
    records = [{"instruction": f"Say {i} é", "input": "x" * i, "output": "ok"} for i in range(5)]
    records_of(data.draw(damaged(json.dumps(records, ensure_ascii=False).encode())))


def test_a_text_of_ten_megabytes_is_read() -> None:
    long = "long " * 2_000_000
    [record] = records_of(json.dumps([{"instruction": long, "output": "a"}]).encode())
    assert isinstance(record, Record)
    assert record.instruction == long


def test_the_last_of_two_equal_keys_counts() -> None:
    [record] = records_of(b'[{"instruction": "one", "instruction": "two", "output": "b"}]')
    assert isinstance(record, Record)
    assert record.instruction == "two"


def test_records_too_deep_are_refused() -> None:
    assert "nested too deeply" in str(records_of(b"[" * 200_000))


def test_a_huge_unknown_key_is_refused_in_a_short_line() -> None:
    content = json.dumps([{"key" * 1_000_000: ""}]).encode()
    assert "'instruction'" in str(records_of(content))


# Checkpoints


@pytest.fixture
def model(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model", dirs_exist_ok=True))


@fuzz
@given(data=st.data(), name=st.sampled_from(["vocab.json", "merges.txt"]))
def test_a_damaged_tokenizer_is_refused_or_still_decodes(
    model: Path, checkpoint: Path, data: st.DataObject, name: str
) -> None:
    (model / name).write_bytes(data.draw(damaged((checkpoint / name).read_bytes())))
    found = tried(lambda: load_tokenizer(model))
    shutil.copy(checkpoint / name, model / name)
    if not isinstance(found, str):
        text = "The chef cooks 12 naïve 日本語 meals.  "
        assert found.decode(found.encode_ordinary(text)) == text


@fuzz
@given(data=st.data())
def test_any_config_is_refused_or_still_has_the_shape(
    model: Path, checkpoint: Path, data: st.DataObject
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    keys = st.sampled_from([*config, "x"])
    changed = config | data.draw(st.dictionaries(keys, ANY_JSON, min_size=1, max_size=2))
    (model / "config.json").write_text(json.dumps(changed))
    found = tried(lambda: load_pretrained(model))
    shutil.copy(checkpoint / "config.json", model / "config.json")
    if not isinstance(found, str):
        shape = ("n_layer", "n_embd", "vocab_size", "n_positions")
        assert [getattr(found.model.config, key) for key in shape] == [config[key] for key in shape]


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"n_layer": ' * 100_000, "1" * 10_000, "x" * 10_000_000],
    ids=["arrays", "objects", "digits", "text"],
)
def test_files_too_deep_or_too_long_are_refused_by_name(model: Path, content: str) -> None:
    json_files = ("config.json", "vocab.json", "tokenizer_config.json", "adapter_config.json")
    for name in (*json_files, "merges.txt", "model.safetensors", "model.safetensors.index.json"):
        before = (model / name).read_bytes() if (model / name).exists() else None
        if name.endswith("index.json"):
            (model / "model.safetensors").unlink()
        (model / name).write_text(content)
        assert name in str(tried(lambda: load_pretrained(model)))
        (model / name).unlink() if before is None else (model / name).write_bytes(before)


@fuzz
@given(data=st.data())
def test_a_damaged_header_never_gives_other_weights(
    model: Path, checkpoint: Path, data: st.DataObject
) -> None:
    # The file begins with 8 bytes of the header's size, then the header.
    whole = (checkpoint / "model.safetensors").read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    (model / "model.safetensors").write_bytes(data.draw(damaged(whole[:size])) + whole[size:])
    found = tried(lambda: load_pretrained(model))
    shutil.copy(checkpoint / "model.safetensors", model / "model.safetensors")
    if not isinstance(found, str):
        expected = load_pretrained(checkpoint).model.state_dict()
        assert all(
            torch.equal(tensor, expected[name]) for name, tensor in found.model.state_dict().items()
        )


@fuzz
@given(data=st.data())
def test_any_damage_to_a_run_checkpoint_is_found(tmp_path: Path, data: st.DataObject) -> None:
    # Without the older one of the two checkpoints, there is nothing to fall back on.
    content = {key: {} for key in NEEDED} | {"global_step": 3, "weights": torch.arange(50.0)}
    CheckpointFiles().save_checkpoint(content, last(tmp_path))
    last(tmp_path).with_name("last-1.ckpt").unlink(missing_ok=True)
    whole = last(tmp_path).read_bytes()
    changed = data.draw(damaged(whole))
    last(tmp_path).write_bytes(changed)
    found = tried(lambda: read_newest(tmp_path))
    assert isinstance(found, str) == (changed != whole)

    # Without its hash, damage may go unnoticed, but still ends in no traceback.
    last(tmp_path).with_name("last.ckpt.sha256").unlink()
    tried(lambda: read_newest(tmp_path))
