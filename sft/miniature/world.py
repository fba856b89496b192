"""Plain English about a small world, and instruction records about the same world.

A language model of four million parameters learns to carry an asked word to its answer only from
text that shows it. So most passages name a topic and answer it some lines later. The rest are
paragraphs, paraphrases and copied lists. Everything is a function of the seed.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sft.miniature import words
from sft.miniature.facts import REWRITES, Fact, all_facts, capitalise, clauses, entries, like
from sft.miniature.wordings import FOLLOW_UPS, SKILLS, Skill

# Instruction, input, output and category are texts; `history` is a list of earlier turns.
Record = dict[str, Any]

# The share of each kind of passage.
MIX = {"topic": 0.56, "paragraph": 0.28, "paraphrase": 0.08, "copy": 0.08}

# How often a fact of a skill is told, relative to the skills that are not listed.
EMPHASIS = {
    "opposite": 1.5,
    "past": 1.2,
    "young": 1.5,
    "home": 1.5,
    "female": 1.3,
    "sum": 1.3,
    "difference": 1.5,
}
EMPHASIS |= dict.fromkeys(REWRITES, 0.4)

FRAMES = (
    "This note is about {topic}.",
    "Here we look at {topic}.",
    "The next line is about {topic}.",
    "{name} wanted to know about {topic}.",
    "{name} asked about {topic}.",
    "Let us turn to {topic}.",
    "This page deals with {topic}.",
    "{name} wrote a line on {topic}.",
    "Now for {topic}.",
    "About {topic}.",
    "Topic: {topic}",
    "{Topic}",
    "{Topic}:",
    "{Topic}, said {name}.",
    "{Topic} was the next thing in the book.",
    "{name} and {other} talked about {topic}.",
    "{name} had to think of {topic}.",
    "In the book {name} found {topic}.",
)

HEADINGS = (
    "Answer:",
    "The answer:",
    "Here it is:",
    "In short:",
    "Note:",
    "Solution:",
    "From the book:",
    "Written down:",
    "And so:",
    "What {name} wrote:",
    "{name} said:",
    "Reply:",
    "Then:",
    "It goes like this:",
)

FILLERS = (
    "The sun was low and the street was quiet.",
    "It was a slow afternoon.",
    "{name} sat by the window and waited.",
    "{name} had a cup of tea on the table.",
    "Outside it began to rain.",
    "The clock on the wall struck nine.",
    "{name} and {other} walked home along the river.",
    "There was a long silence in the room.",
    "The book was old and its pages were soft.",
    "A bell rang somewhere in the town.",
    "It is not hard to remember.",
    "Some things are worth writing down.",
    "{name} looked at {other} and smiled.",
    "The wind moved the curtains a little.",
    "Nobody in the class had said a word.",
    "The lesson was nearly over.",
    "{name} turned the page.",
    "There are many notes like this one.",
    "We keep it short.",
    "{name} knew it at once.",
    "{other} had to think for a moment.",
    "The children wrote it on the board.",
    "It was written in small letters.",
    "The lamp on the desk was still on.",
    "{name} had read about it long ago.",
    "A dog slept under the table.",
    "The garden behind the house was green.",
    "They had talked about other things before.",
)


class Storyteller:
    """Builds passages from facts, wordings and fillers, drawn by one random generator."""

    def __init__(self, facts: dict[str, list[Fact]], rng: random.Random):
        self.rng = rng
        self.facts = facts
        self.skills = list(facts)
        self.weights = [len(facts[skill]) * EMPHASIS.get(skill, 1.0) for skill in self.skills]
        self.names = entries(words.NAMES)
        self.clauses = clauses()
        self.words = [
            fact.slots[slot] for name in facts for fact in facts[name] for slot in ("ask", "answer")
        ]
        self.kinds: dict[str, Callable[[], str]] = {
            "topic": self.topic_then_answer,
            "paragraph": self.paragraph,
            "paraphrase": self.paraphrase,
            "copy": self.copied_list,
        }

    def passages(self) -> Iterator[str]:
        """Yield passages without end, in the shares of `MIX`."""
        while True:
            [kind] = self.rng.choices(list(MIX), list(MIX.values()))
            yield self.kinds[kind]()

    def draw_fact(self) -> Fact:
        [skill] = self.rng.choices(self.skills, self.weights)
        return self.rng.choice(self.facts[skill])

    def sentence(self, fact: Fact) -> str:
        return fact.say(self.rng.choice(SKILLS[fact.skill].sentences))

    def with_names(self, wording: str, **slots: str) -> str:
        name, other = self.rng.sample(self.names, 2)
        return wording.format(name=name, other=other, **slots)

    def filler(self) -> str:
        if self.rng.random() < 0.25:
            clause = self.rng.choice(self.clauses)
            return "The {who} {did} the {what}.".format(**clause)
        return self.with_names(self.rng.choice(FILLERS))

    def topic_then_answer(self) -> str:
        """Return a topic, perhaps a filler or a heading, and its answer on a later line.

        The answer is a sentence, or the bare word.
        """
        fact = self.draw_fact()
        skill = SKILLS[fact.skill]
        opening = self.opening(fact, skill)
        opening += self.bridge(in_line=opening.endswith("."))
        bare = skill.rule or self.rng.random() < 0.4
        answer = fact.slots["answer"] if bare and self.rng.random() < 0.6 else self.sentence(fact)
        return f"{opening}{answer}"

    def opening(self, fact: Fact, skill: Skill) -> str:
        """Return the topic in a sentence, or the kind of question with the asked word below it."""
        if self.rng.random() < 0.6:
            return self.framed(fact.say(self.rng.choice(skill.topics)))
        return self.framed(skill.kind) + self.rng.choice(("\n", "\n\n")) + fact.slots["ask"]

    def framed(self, topic: str) -> str:
        return self.with_names(self.rng.choice(FRAMES), topic=topic, Topic=capitalise(topic))

    def bridge(self, in_line: bool) -> str:
        """Return the text between a topic and its answer. It always has a line break."""
        gap = self.rng.choice(("\n", "\n\n"))
        chance = self.rng.random()
        if chance < 0.35:
            return gap
        if chance < 0.65:
            before = self.rng.choice((" ", gap)) if in_line else gap
            return f"{before}{self.filler()}{gap}"
        return f"{gap}{self.with_names(self.rng.choice(HEADINGS))}\n"

    def paragraph(self) -> str:
        """Return two to five facts in a row, of one skill or of several."""
        facts = [self.draw_fact() for _ in range(self.rng.randint(2, 5))]
        if self.rng.random() < 0.5:
            facts = [self.rng.choice(self.facts[facts[0].skill]) for _ in facts]
        return " ".join(self.sentence(fact).replace("\n", " ") for fact in facts)

    def paraphrase(self) -> str:
        fact = self.draw_fact()
        sentences = self.rng.sample(SKILLS[fact.skill].sentences, 3)
        return self.rng.choice((" ", "\n")).join(fact.say(sentence) for sentence in sentences)

    def copied_list(self) -> str:
        """Return a few words, and the same words again: plain, in quotes, or one per line."""
        items = self.rng.sample(self.words, self.rng.randint(2, 6))
        forms = (
            ", ".join(items),
            "\n".join(items),
            ", ".join(f'"{item}"' for item in items),
            " ".join(items),
        )
        return "\n".join(self.rng.sample(forms, 2))


def documents(seed: int, count: int, tokens: Callable[[str], int], longest: int) -> Iterator[str]:
    """Yield `count` documents of stories, each of at most `longest` tokens."""
    passages = Storyteller(all_facts(seed), random.Random(seed)).passages()
    yield from filled(passages, count, tokens, longest)


def filled(
    passages: Iterator[str], count: int, tokens: Callable[[str], int], longest: int
) -> Iterator[str]:
    """Yield `count` documents, each as close to `longest` tokens as whole passages allow."""
    passage = next(passages)
    for _ in range(count):
        document = ""
        while tokens(grown := f"{document}\n\n{passage}".lstrip("\n")) <= longest:
            document = grown
            passage = next(passages)
        yield document


# Instruction records


def quota(facts: list[Fact]) -> int:
    """Return the number of records of a skill.

    It is a multiple of 20, so that shares of 85, 10 and 5 percent are whole.
    """
    if len(facts) >= 100:
        return 60
    return 40 if len(facts) >= 40 else 20


@dataclass(frozen=True)
class Parts:
    """The facts of a skill, by the split that may ask them.

    No fact of `train`, nor its mirror image, is in the other two.
    """

    train: list[Fact]
    test: list[Fact]
    validation: list[Fact]


def divide(facts: list[Fact], rng: random.Random) -> Parts:
    """Draw the facts that test and validation ask. Training may ask all others."""
    count = quota(facts)
    n_test = count // 10
    n_held_out = n_test + count // 20
    shuffled = rng.sample(facts, len(facts))
    held_out = shuffled[:n_held_out]
    hidden = {fact.ends for fact in held_out}
    seen = [fact for fact in shuffled[n_held_out:] if fact.ends not in hidden]
    return Parts(seen, held_out[:n_test], held_out[n_test:])


def as_record(fact: Fact, request: tuple[str, str, str]) -> Record:
    instruction, text, output = map(fact.say, request)
    return {"instruction": instruction, "input": text, "output": output, "category": fact.skill}


def single_turns(
    skill: str, count: int, parts: Parts, rng: random.Random
) -> tuple[list[Record], list[Record], list[Record]]:
    """Return training, test and validation records of one skill, `count` in all."""
    # All facts in turn. When a fact comes round again, it has another wording.
    requests = SKILLS[skill].requests
    turns = [rng.sample(requests, len(requests)) for _ in parts.train]
    train = []
    for number in range(count * 17 // 20):
        round, index = divmod(number, len(parts.train))
        train.append(as_record(parts.train[index], turns[index][round]))
    test = [as_record(fact, rng.choice(requests)) for fact in parts.test]
    validation = [as_record(fact, rng.choice(requests)) for fact in parts.validation]
    return train, test, validation


def two_turns(
    skill: str, parts: Parts, rng: random.Random
) -> tuple[list[Record], list[Record], list[Record]]:
    """Return 17 training, 2 test and 1 validation record: a question, its answer, and another.

    The first question is one of training's in every split.
    """
    # The first question has no input, for its record is one text.
    requests = [request for request in SKILLS[skill].requests if not request[1]]

    def record(fact: Fact) -> Record:
        first = rng.choice(like(fact, parts.train))
        instruction, _, output = rng.choice(requests)
        again = as_record(fact, (FOLLOW_UPS[skill], "", output))
        return again | {"history": [[first.say(instruction), first.say(output)]]}

    asked = ((parts.train, 17), (parts.test, 2), (parts.validation, 1))
    train, test, validation = (
        [record(fact) for fact in rng.sample(facts, count)] for facts, count in asked
    )
    return train, test, validation


def records(seed: int) -> list[Record]:
    """Return all records in file order: training (85%), test (10%), validation (5%).

    In each split the single turns come first, shuffled, and then the two-turn conversations.
    """
    rng = random.Random(seed + 1)
    again = random.Random(seed + 3)
    single: tuple[list[Record], list[Record], list[Record]] = ([], [], [])
    double: tuple[list[Record], list[Record], list[Record]] = ([], [], [])
    for skill, facts in all_facts(seed).items():
        parts = divide(facts, rng)
        for split, found in zip(single, single_turns(skill, quota(facts), parts, rng), strict=True):
            split.extend(found)
        if skill in FOLLOW_UPS:
            for split, found in zip(double, two_turns(skill, parts, again), strict=True):
                split.extend(found)

    shuffled = [rng.sample(split, len(split)) for split in single]
    later = [again.sample(split, len(split)) for split in double]
    return [
        record for split in zip(shuffled, later, strict=True) for part in split for record in part
    ]
