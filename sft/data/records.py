"""Records: `SHAPES` says how a dict from a file becomes a `Record`.

A shape is one entry of the table, recognised by its keys. `data.fields` names other keys.
`formats.py` reads the dicts.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from sft.data.formats import kind_of, read_values
from sft.errors import InputError

SURROGATE = re.compile("[\ud800-\udfff]")

# How many unused keys are counted. A file may have as many as it has records.
MOST_KEYS = 1000


Role = Literal["system", "user", "assistant"]


class Turn(NamedTuple):
    """A turn of a conversation: who speaks, and the text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation: the last question, what it is about (may be empty), and the answer wanted.

    Attributes:
        before: the turns before the last question, the system's included; empty for a single
            instruction.
        rejected: a worse answer than `output`, where the record is a preference.
    """

    instruction: str
    input: str
    output: str
    category: str | None = None
    before: tuple[Turn, ...] = ()
    rejected: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain values; each turn before has its role and content by name."""
        return asdict(self) | {"before": [turn._asdict() for turn in self.before]}

    @property
    def question(self) -> str:
        """The last question as one text: the instruction, then the input after an empty line."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The whole conversation."""
        return (*self.before, Turn("user", self.question), Turn("assistant", self.output))


def transcript(turns: Iterable[tuple[str, str]]) -> str:
    """Return roles and texts as one text, a paragraph for each turn, for people and judges."""
    return "\n\n".join(f"{role}: {text}" for role, text in turns)


def record_of(fields: dict[str, Any]) -> Record:
    """Return the record of what `Record.plain` gave."""
    return Record(**fields | {"before": tuple(Turn(**turn) for turn in fields["before"])})


# What a shape reads. `data.fields` maps these names to those of a file.
PARTS = ("instruction", "input", "output", "category", "system", "history", "messages", "text")

# The names of the sides of a conversation, and the keys of a turn.
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
TURN_KEYS = (("role", "content"), ("from", "value"))


@dataclass(frozen=True)
class Shape:
    """One form that a record has in a file.

    Attributes:
        keys: which key of the file holds which part of a record, by the part.
        required: the keys without which a dict does not have this shape.
    """

    keys: dict[str, str]
    required: tuple[str, ...]

    @cached_property
    def read(self) -> frozenset[str]:
        """The keys that are read. A nested key counts with the key that it is in."""
        return frozenset(
            part for key in self.keys.values() for part in (key, key.partition(".")[0])
        )


_EXTRAS = {"category": "category", "system": "system", "history": "history"}
_ALPACA = {"instruction": "instruction", "input": "input", "output": "output", **_EXTRAS}

# To add a shape, add it here. `text` is plain text: a dict has it only if it has no other.
SHAPES: dict[str, Shape] = {
    "preference": Shape(
        {
            "instruction": "instruction",
            "prompt": "prompt",
            "input": "input",
            "output": "chosen",
            "rejected": "rejected",
            "category": "category",
        },
        ("chosen", "rejected"),
    ),
    "instruction": Shape(_ALPACA, ("instruction", "output")),
    "Dolly": Shape(
        {"instruction": "instruction", "input": "context", "output": "response", **_EXTRAS},
        ("instruction", "response"),
    ),
    "prompt/completion": Shape(
        {"instruction": "prompt", "output": "completion", **_EXTRAS}, ("prompt", "completion")
    ),
    "question/answer": Shape(
        {"instruction": "question", "output": "answer", **_EXTRAS}, ("question", "answer")
    ),
    "messages": Shape(
        {"messages": "messages", "system": "system", "category": "category"}, ("messages",)
    ),
    "ShareGPT": Shape(
        {"messages": "conversations", "system": "system", "category": "category"},
        ("conversations",),
    ),
    "text": Shape({"text": "text", "category": "category"}, ("text",)),
}

# The name of a shape that the user described.
OWN_KEYS = "data.fields"

# The option that decides, where a record could be read in several ways.
FIELDS = '"data.fields={instruction: KEY, output: KEY}"'


@dataclass
class Contents:
    """The contents found in a file. They are complete once all records have been read.

    Attributes:
        records: how many there are.
        unused: the keys that are not read, and in how many records each is.
        lists: the lengths of the lists in an object around the records, by their names.
        shape: the name of the records' shape.
        keys: the keys that are read.
        answers: the answers in all records; a single instruction has one.
        conversations: how many records have turns before the last question.
        is_sorted: whether each of several categories stands in one piece.
    """

    records: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    lists: dict[str, int] = field(default_factory=dict)
    shape: str = ""
    keys: list[str] = field(default_factory=list)
    answers: int = 0
    conversations: int = 0
    is_sorted: bool = False

    def add(self, item: dict[str, Any], shape: Shape, record: Record) -> None:
        """Count a record."""
        if not self.records:
            self.shape = next((name for name in SHAPES if SHAPES[name] is shape), OWN_KEYS)
            self.keys = list(shape.keys.values())
        count_unused(item, shape, self.unused)
        self.records += 1
        self.answers += 1 + sum(turn.role == "assistant" for turn in record.before)
        self.conversations += bool(record.before)


class Reader:
    """Makes records of dicts: finds their shape, and checks what they hold.

    Args:
        name: what messages call the records, such as the file.
        fields: the user's own keys, by the parts they hold; None: the shape is recognised.
        known: a run used the file already, so neither a misspelt key nor another shape is refused.
    """

    def __init__(
        self, name: Path | str, fields: dict[str, str] | None = None, known: bool = False
    ) -> None:
        self.name = name
        self.known = known
        self.own = own_shape(fields) if fields else None
        self.first = ""

    def is_record(self, item: dict[str, Any]) -> bool:
        """Whether a dict is meant as a record, even a faulty one, not as a document of records."""
        shapes = [self.own] if self.own else SHAPES.values()
        return any(_found(item, key) is not _MISSING for shape in shapes for key in shape.required)

    def read(self, item: Any, number: int) -> tuple[Record, Shape]:
        """Return the record of a parsed value, and its shape.

        Raises:
            InputError: the value is not a record. The message begins with the name and the record's
                number.
        """
        where = f"{self.name}: record {number}"
        if not isinstance(item, dict):
            raise InputError(
                f"{where}: {kind_of(item)} instead of an object with instruction, input and output"
            )
        shape = self.own or self._recognised(item, number, where)
        if not self.known:
            _refuse_misspelt(item, tuple(shape.keys.values()), where)

        for key in shape.required:
            if _found(item, key) is _MISSING:
                expected = " and ".join(shape.required)
                found = ", ".join(map(repr, list(item)[:5])) or "nothing"
                remedy = "" if self.own else f"; name other keys by {FIELDS}"
                raise InputError(f"{where}: no '{key}', expected {expected}; found {found}{remedy}")
        return _record(item, shape, where), shape

    def _recognised(self, item: dict[str, Any], number: int, where: str) -> Shape:
        """Return the shape of a dict. Without one, return the first record's or the nearest shape.

        Raises:
            InputError: the dict could have two shapes, or it has another one than the first record.
        """
        names = [
            name
            for name, shape in SHAPES.items()
            if name != "text" and all(key in item for key in shape.required)
        ]
        if not names and "text" in item:
            names = ["text"]
        if "preference" in names:
            names = ["preference"]
        if self.known:
            return SHAPES[names[0] if names else "instruction"]

        # One letter may keep a dict from having a shape.
        if not names:
            for shape in SHAPES.values():
                missing = [key for key in shape.required if key not in item]
                near = {resembled(str(key), tuple(missing)) for key in item}
                if near.issuperset(missing):
                    _refuse_misspelt(item, tuple(missing), where)

        if len(names) > 1:
            found = " and ".join(_described(name) for name in names)
            raise InputError(
                f"{where}: could be {found}; say which keys hold what by {FIELDS}, or leave out "
                "the others"
            )
        name = names[0] if names else self.first or _nearest(item)
        self.first = self.first or name
        if name != self.first:
            raise InputError(
                f"{where}: {_described(name)}, but the records before are "
                f"{_described(self.first)}; write all in one shape, each shape in a file of its "
                f"own, or name the keys by {FIELDS}"
            )
        return SHAPES[name]


def _nearest(item: dict[str, Any]) -> str:
    """Return the shape of which a dict has the most required keys, though not all."""
    held = {
        name: sum(key in item for key in shape.required)
        for name, shape in SHAPES.items()
        if name != "text"
    }
    nearest = max(held, key=lambda name: held[name])
    return nearest if held[nearest] else "instruction"


def _refuse_misspelt(item: dict[str, Any], read: tuple[str, ...], where: str) -> None:
    """Raise InputError for a misspelt optional key, which would otherwise be ignored in silence."""
    for key in item:
        meant = resembled(str(key), read)
        if meant and meant not in item:
            raise InputError(
                f"{where}: {key!r} is not read; rename it to '{meant}', or leave it out"
            )


def _described(name: str) -> str:
    return f"{name} ({', '.join(SHAPES[name].required)})"


def own_shape(fields: dict[str, str]) -> Shape:
    """Return the shape that the user's own keys describe. Parts that it does not name keep theirs.

    Raises:
        InputError: a part is unknown, or two do not go together.
    """
    for part in fields:
        if part not in PARTS:
            raise InputError(
                f"data.fields: {part!r} is not a part of a record; the parts are {', '.join(PARTS)}"
            )
    for whole in ("messages", "text"):
        if whole in fields:
            base = SHAPES[whole].keys
            if other := [part for part in fields if part not in base]:
                raise InputError(
                    f"data.fields: {whole} holds the whole record, so {other[0]} cannot be given "
                    "too; leave out one of the two"
                )
            return Shape(base | fields, (fields[whole],))
    keys = _ALPACA | fields
    return Shape(keys, (keys["instruction"], keys["output"]))


def stream_records(
    file: BinaryIO,
    name: Path | str,
    fields: dict[str, str] | None = None,
    known: bool = False,
    contents: Contents | None = None,
) -> Iterator[Record]:
    """Yield the records of a file, one by one: a million of them need not be in memory.

    Args:
        name: what messages call the file.
        fields, known: as in `Reader`.
        contents: takes what is found.

    Raises:
        InputError: the file has no known format, or a record no known shape. The message names
            line and column, or the record's number from 1.
    """
    contents = Contents() if contents is None else contents
    reader = Reader(name, fields, known)
    items = read_values(file, name, reader.is_record, contents.lists)
    for number, item in enumerate(items, 1):
        try:
            record, shape = reader.read(item, number)
        except InputError:
            # A fault in the rest of the file explains more than this record's, so it comes first.
            for _ in items:
                pass
            raise
        contents.add(item, shape, record)
        yield record
    if not contents.records:
        raise InputError(f"{name}: no records; give a file that has some, or leave it out")


# The parts of a record

_MISSING = object()


def _found(item: dict[str, Any], key: str) -> Any:
    """Return the value of a key, which may be nested: `data.q` is the q in data."""
    if key in item:
        return item[key]
    inner: Any = item
    for step in key.split("."):
        if not isinstance(inner, dict) or step not in inner:
            return _MISSING
        inner = inner[step]
    return inner


def _record(item: dict[str, Any], shape: Shape, where: str) -> Record:
    """Return the record of a dict that has all required keys."""
    if "rejected" in shape.keys:
        return _preference(item, shape, where)
    category = _optional(item, shape, "category", where, strict=False) or None
    if "text" in shape.keys:
        return Record("", "", _text(item, shape.keys["text"], where), category)

    before: list[Turn] = []
    if system := _optional(item, shape, "system", where):
        before.append(Turn("system", system))
    if "messages" in shape.keys:
        key = shape.keys["messages"]
        turns = _turns(_found(item, key), key, where)
        if before and turns[0].role == "system":
            raise InputError(
                f"{where}: both '{shape.keys['system']}' and a system turn; leave out one of them"
            )
        *earlier, question, answer = turns
        return Record(question.content, "", answer.content, category, (*before, *earlier))

    before += _history(item, shape.keys["history"], where)
    return Record(
        instruction=_text(item, shape.keys["instruction"], where),
        input=_optional(item, shape, "input", where),
        output=_text(item, shape.keys["output"], where),
        category=category,
        before=tuple(before),
    )


def _optional(
    item: dict[str, Any], shape: Shape, part: str, where: str, strict: bool = True
) -> str:
    """Return the text of a part; "" if it is absent or null.

    Args:
        strict: refuse a value that is not a text. Otherwise it counts as absent.
    """
    key = shape.keys.get(part)
    value = _MISSING if key is None else _found(item, key)
    if key is None or value is _MISSING or value is None:
        return ""
    if not strict and not isinstance(value, str):
        return ""
    return _text(item, key, where)


def _preference(item: dict[str, Any], shape: Shape, where: str) -> Record:
    """Return a question with the chosen and the rejected answer.

    The question is an instruction with its input, or a prompt, as text. As in TRL, prompt and
    answers may be lists of messages instead, and the question may be within the answers' lists.
    """
    category = _optional(item, shape, "category", where, strict=False) or None
    prompt = item.get("prompt")
    if isinstance(item["chosen"], list):
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt or []
        both: list[list[Turn]] = []
        for key in ("chosen", "rejected"):
            answer = item[key] if isinstance(item[key], list) else []
            both.append(_turns([*asked, *answer], key, where))
        chosen, rejected = both
        if chosen[:-1] != rejected[:-1]:
            raise InputError(
                f"{where}: 'chosen' and 'rejected' differ before their last message; they must "
                "answer the same question"
            )
        *before, question, wanted = chosen
        return Record(
            question.content, "", wanted.content, category, tuple(before), rejected[-1].content
        )

    name = "instruction" if "instruction" in item else "prompt"
    if name not in item:
        raise InputError(f"{where}: no 'instruction' or 'prompt' beside 'chosen' and 'rejected'")
    return Record(
        instruction=_text(item, name, where),
        input=_optional(item, shape, "input", where),
        output=_text(item, "chosen", where),
        category=category,
        rejected=_text(item, "rejected", where),
    )


def _turns(value: Any, key: str, where: str) -> list[Turn]:
    """Return the turns in a list of messages, from the first question to the last answer."""
    if not isinstance(value, list):
        raise InputError(f"{where}: '{key}' is {kind_of(value)}, expected an array of turns")
    if not value:
        raise InputError(
            f"{where}: '{key}' is empty, expected a question and its answer; leave the record out"
        )

    turns: list[Turn] = []
    for number, message in enumerate(value):
        place = f"{key}[{number}]"
        turn = _turn(message, place, where)
        if turn.role == "system":
            if number:
                raise InputError(
                    f"{where}: {place} is a system turn, expected at the start alone; move it "
                    "there, or leave it out"
                )
            if turn.content:
                turns.append(turn)
            continue

        # User and assistant take turns, and the user begins.
        last = turns[-1].role if turns else "system"
        if turn.role == "assistant" and last == "system":
            raise InputError(
                f"{where}: {place} is an assistant's turn, expected a user's first; put its "
                "question before it, or leave the turn out"
            )
        if turn.role == last:
            article = "an " if turn.role == "assistant" else "a "
            raise InputError(
                f"{where}: {place} is {article}{turn.role}'s turn after another; users "
                "and assistants must take turns, so join the two or leave out one"
            )
        turns.append(turn)
    if not turns or turns[-1].role != "assistant":
        raise InputError(
            f"{where}: '{key}' does not end with an assistant's turn; add the answer, or leave out "
            "the turns after the last one"
        )
    return turns


def _turn(message: Any, place: str, where: str) -> Turn:
    if not isinstance(message, dict):
        raise InputError(
            f"{where}: {place} is {kind_of(message)}, expected an object with role and content"
        )
    if message.get("tool_calls"):
        raise InputError(
            f"{where}: {place} calls a tool; tools are not read, so leave the record out"
        )
    for role_key, text_key in TURN_KEYS:
        if role_key in message and text_key in message:
            role = message[role_key]
            if not isinstance(role, str) or role not in ROLES:
                raise InputError(
                    f"{where}: {place}.{role_key} is {str(role)[:40]!r}, "
                    f"expected one of {', '.join(ROLES)}; leave the record out if it needs "
                    "another"
                )
            return Turn(ROLES[role], _as_text(message[text_key], f"{place}.{text_key}", where))
    found = ", ".join(map(repr, list(message)[:5])) or "nothing"
    raise InputError(
        f"{where}: {place} has no role and content, and no from and value; found {found}"
    )


def _history(item: dict[str, Any], key: str, where: str) -> list[Turn]:
    """Return the turns of earlier questions and answers, which are pairs in a list."""
    value = _found(item, key)
    if value is _MISSING or value is None or value == "":
        return []
    if not isinstance(value, list):
        raise InputError(f"{where}: '{key}' is {kind_of(value)}, expected an array of pairs")
    turns: list[Turn] = []
    for number, pair in enumerate(value):
        place = f"{key}[{number}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f"{where}: {place} is not a pair of a question and its answer")
        turns.append(Turn("user", _as_text(pair[0], f"{place}[0]", where)))
        turns.append(Turn("assistant", _as_text(pair[1], f"{place}[1]", where)))
    return turns


def _text(item: dict[str, Any], key: str, where: str) -> str:
    """Return the text of a key, or raise InputError."""
    return _as_text(_found(item, key), key, where)


def _as_text(value: Any, key: str, where: str) -> str:
    """Return a text, or a number as its text; raise InputError for another value."""
    if type(value) in (int, float):
        value = str(value)
    if not isinstance(value, str):
        raise InputError(
            f"{where}: '{key}' is {kind_of(value)}, expected text; write one, or leave the record "
            "out"
        )
    if SURROGATE.search(value):
        raise InputError(
            f"{where}: '{key}' contains a lone surrogate, which is not valid Unicode; remove it"
        )
    return str(value)


def count_unused(item: dict[Any, Any], shape: Shape, unused: Counter[str]) -> None:
    """Count the keys of a record that are not read."""
    for key in map(str, item):
        if key not in shape.read and (key in unused or len(unused) < MOST_KEYS):
            unused[key] += 1


@lru_cache(1000)
def resembled(key: str, keys: tuple[str, ...]) -> str | None:
    """Return the name in `keys` that differs from a key by case, outer blanks, or one letter.

    A key that is in `keys` itself resembles none of the others.
    """
    if key in keys or len(key) >= 40:
        return None
    plain = key.strip(" \t\n\r\ufeff").casefold()
    for other in keys:
        if _one_letter_apart(plain, other):
            return other
    return None


def _one_letter_apart(first: str, second: str) -> bool:
    """Whether one letter added, removed or changed, or two neighbours swapped, makes them equal."""
    same = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        same += 1
    a = first[same:]
    b = second[same:]
    swapped = a[:2] == b[1::-1] and a[2:] == b[2:]
    return swapped or a[1:] == b[1:] or a[1:] == b or a == b[1:]
