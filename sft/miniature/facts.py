"""Facts of the small world: each is a question and its one right answer.

`all_facts()` makes about 3,400 of them from the tables of `words.py`, some arithmetic and a simple
grammar.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from sft.miniature import words


@dataclass(frozen=True)
class Fact:
    """One question of one skill.

    Attributes:
        slots: words that its wordings may mention. `ask` and `answer` are always among them.
    """

    skill: str
    slots: dict[str, str]

    @property
    def key(self) -> tuple[str, str]:
        return self.skill, self.slots["ask"]

    @property
    def ends(self) -> frozenset[str]:
        """The two words at its ends, which are those of its mirror image too.

        Such pairs are hot and cold, or the day after Monday and the day before Tuesday.
        """
        return frozenset((self.slots["ask"].split()[-1], self.slots["answer"]))

    def say(self, wording: str) -> str:
        return wording.format(**self.slots)


def like(first: Fact, facts: list[Fact]) -> list[Fact]:
    """Return the facts that can be asked after `first` without naming their kind or unit again."""
    same = [
        fact
        for fact in facts
        if all(fact.slots.get(slot) == first.slots.get(slot) for slot in ("kind", "unit"))
    ]
    return [fact for fact in same if fact.key != first.key]


def capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """Add an article: `robin` -> `a robin`, `the Nile` -> `the Nile`, `=gold` -> `gold`."""
    if noun.startswith("the "):
        return noun
    if noun.startswith("="):
        return noun[1:]
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def fact(skill: str, ask: str, answer: str, **more: str) -> Fact:
    """Return a fact whose slots also exist capitalised: `{Ask}`."""
    slots = {"ask": ask, "answer": answer, **more}
    capitals = {capitalise(name): capitalise(value) for name, value in slots.items()}
    return Fact(skill, slots | capitals)


def entries(table: str) -> list[str]:
    """Return the entries of a table, which commas and line ends separate."""
    return [entry.strip() for entry in table.replace("\n", ",").split(",") if entry.strip()]


def pairs(table: str, sign: str = " > ") -> list[tuple[str, str]]:
    return [(left, right) for left, _, right in (entry.partition(sign) for entry in entries(table))]


def groups(table: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each line `head: entry, entry, ...` as its head and entries."""
    for line in table.strip().splitlines():
        head, _, members = line.partition(": ")
        yield head, entries(members)


def bare(noun: str) -> str:
    return noun.removeprefix("=").removeprefix("the ")


# Countries


def country_facts() -> Iterator[Fact]:
    for line in words.COUNTRIES.strip().splitlines():
        country, *values = line.split(" | ")
        for skill, value in zip(("capital", "continent", "currency"), values, strict=True):
            if value != "-":
                yield fact(skill, country, value)


# Words and things


def regular_plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def plural_facts() -> Iterator[Fact]:
    for noun in entries(words.REGULAR_PLURALS):
        yield fact("plural", noun, regular_plural(noun))
    for singular, plural in pairs(words.PLURALS):
        yield fact("plural", singular, plural)


def opposite_facts() -> Iterator[Fact]:
    for entry in entries(words.OPPOSITES):
        left, sign, right = entry.split(" ")
        yield fact("opposite", left, right)
        if sign == "=":
            yield fact("opposite", right, left)


def category_facts() -> Iterator[Fact]:
    for kind, members in groups(words.KINDS):
        for member in members:
            yield fact(
                "category", bare(member), kind, an_ask=article(member), an_answer=article(kind)
            )


def colour_facts() -> Iterator[Fact]:
    for colour, things in groups(words.COLOURS):
        for thing in things:
            yield fact("colour", bare(thing), colour, an_ask=article(thing))


def pair_facts() -> Iterator[Fact]:
    tables = {
        "past": words.PASTS,
        "young": words.YOUNG,
        "home": words.HOMES,
        "female": words.FEMALES,
        "job": words.JOBS,
        "tool": words.TOOLS,
        "symbol": words.SYMBOLS,
        "comparative": words.COMPARATIVES,
    }
    for skill, table in tables.items():
        for ask, answer in pairs(table):
            yield fact(skill, ask, answer, an_ask=article(ask), an_answer=article(answer))


# Letters


def letter_facts(rng: random.Random) -> Iterator[Fact]:
    nouns = entries(words.NOUNS)
    for _, members in groups(words.KINDS):
        nouns += map(bare, members)
    plain = {noun for noun in nouns if noun.isalpha() and noun.islower()}
    short = sorted(noun for noun in plain if 3 <= len(noun) <= 6)
    for noun in rng.sample(short, 160):
        yield fact("spelling", noun, " ".join(noun))
    for noun in rng.sample(short, 160):
        yield fact("first letter", noun, noun[0])
    for noun in rng.sample(short, 160):
        yield fact("last letter", noun, noun[-1])
    shorter = [noun for noun in short if len(noun) <= 5]
    for noun in rng.sample(shorter, 110):
        yield fact("case", noun, noun.upper())


# Order and numbers


MONTHS = """
January, February, March, April, May, June,
July, August, September, October, November, December
"""


def order_facts() -> Iterator[Fact]:
    kinds = dict[str, list[str]]()
    for kind, members in groups(words.KINDS):
        kinds.setdefault(kind, []).extend(map(bare, members))
    rows = {
        "day": kinds["day"],
        "month": entries(MONTHS),
        "letter": list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    }
    for kind, row in rows.items():
        for left, right in itertools.pairwise(row):
            yield fact("order", f"after {left}", right, kind=kind)
            yield fact("order", f"before {right}", left, kind=kind)


UNITS = (
    ("hour", "minute", 60),
    ("minute", "second", 60),
    ("day", "hour", 24),
    ("week", "day", 7),
    ("year", "month", 12),
    ("metre", "centimetre", 100),
    ("kilometre", "metre", 1000),
    ("kilogram", "gram", 1000),
    ("centimetre", "millimetre", 10),
    ("foot", "inch", 12),
    ("yard", "foot", 3),
    ("century", "year", 100),
    ("decade", "year", 10),
    ("dozen", "egg", 12),
)


def many(unit: str) -> str:
    return {"foot": "feet", "dozen": "dozen"}.get(unit) or regular_plural(unit)


def unit_facts() -> Iterator[Fact]:
    for large, small, factor in UNITS:
        for n in range(2, 11):
            yield fact("unit", f"{n} {many(large)}", str(n * factor), unit=many(small))


def sum_of(a: int, b: int) -> Fact:
    return fact("sum", f"{a} plus {b}", str(a + b), a=str(a), b=str(b))


def difference_of(a: int, b: int) -> Fact:
    return fact("difference", f"{a} minus {b}", str(a - b), a=str(a), b=str(b))


DIFFERENCES = [(more, less) for more in range(5, 26) for less in range(2, more)]


def arithmetic_facts(rng: random.Random) -> Iterator[Fact]:
    for a, b in itertools.combinations_with_replacement(range(20, 1, -1), 2):
        yield sum_of(a, b)
    for a, b in rng.sample(DIFFERENCES, 190):
        yield difference_of(a, b)


def all_sums() -> list[Fact]:
    """Return the sums with both orders of their numbers, which is more than is ever asked."""
    return [sum_of(a, b) for a in range(2, 21) for b in range(2, 21)]


def all_differences() -> list[Fact]:
    return [difference_of(a, b) for a, b in DIFFERENCES]


ONES = entries("""
zero, one, two, three, four, five, six, seven, eight, nine,
ten, eleven, twelve, thirteen, fourteen, fifteen, sixteen, seventeen, eighteen, nineteen
""")
TENS = entries("zero, ten, twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety")


def number_word(n: int) -> str:
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    return "one hundred"


def number_facts() -> Iterator[Fact]:
    for n in range(1, 101):
        yield fact("number word", str(n), number_word(n))
        yield fact("parity", str(n), "odd" if n % 2 else "even")


# Sentences

REWRITES = {
    "passive": ("The {who} {does} the {what}.", "The {what} is {done} by the {who}."),
    "past sentence": ("The {who} {does} the {what}.", "The {who} {did} the {what}."),
    "future sentence": ("The {who} {does} the {what}.", "The {who} will {do} the {what}."),
    "negation": ("The {who} {does} the {what}.", "The {who} does not {do} the {what}."),
    "question": ("The {who} {does} the {what}.", "Does the {who} {do} the {what}?"),
    "plural sentence": ("The {who} {does} the {what}.", "The {whos} {do} the {what}."),
}


def clauses() -> list[dict[str, str]]:
    """Return who does what, with the forms of the verb that the rewrites need."""
    found = []
    for forms, things in groups(words.VERBS):
        do, does, did, done = entries(forms)
        for who in entries(words.PEOPLE):
            for what in things:
                if who != what:
                    clause = {"who": who, "whos": regular_plural(who), "what": what}
                    found.append(clause | {"do": do, "does": does, "did": did, "done": done})
    return found


def sentence_facts(rng: random.Random) -> Iterator[Fact]:
    for skill, (before, after) in REWRITES.items():
        for clause in rng.sample(clauses(), 120):
            ask = before.format(**clause)
            answer = after.format(**clause)
            yield fact(skill, ask, answer, ask_core=ask.rstrip("."), answer_core=answer.rstrip("."))


def all_facts(seed: int) -> dict[str, list[Fact]]:
    """Return every fact of the world by skill, in a fixed order. No question is asked twice."""
    # The order of the calls that draw from `rng` decides what they draw.
    rng = random.Random(seed)
    found = [
        *country_facts(),
        *plural_facts(),
        *opposite_facts(),
        *category_facts(),
        *colour_facts(),
        *pair_facts(),
        *letter_facts(rng),
        *order_facts(),
        *unit_facts(),
        *arithmetic_facts(rng),
        *number_facts(),
        *sentence_facts(rng),
    ]
    if len({one.key for one in found}) != len(found):
        raise ValueError("a question has two answers")

    skills = dict[str, list[Fact]]()
    for one in found:
        skills.setdefault(one.skill, []).append(one)
    return skills
