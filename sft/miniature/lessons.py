"""Lessons: the second and shorter part of the miniature's pretraining text.

After the stories of `world.py` the model knows most facts, but does not find them from a question:
it copies the wrong number, or gives the opposite of another word. A lesson asks in many wordings,
and answers at once. No lesson has the words of an instruction record, which a test checks.
"""

import random
from collections.abc import Callable, Iterable, Iterator

from sft.miniature.facts import (
    REWRITES,
    Fact,
    all_differences,
    all_facts,
    all_sums,
    capitalise,
    like,
)
from sft.miniature.wordings import SKILLS
from sft.miniature.world import Storyteller, filled

# The share of each kind of passage. Some stories are told again, so that they are not forgotten.
MIX = {"question": 0.55, "conversation": 0.10, "sums": 0.17, "drill": 0.08, "story": 0.10}

# How often each skill is asked, relative to the skills that are not listed. What the stories did
# not teach well comes more often.
EMPHASIS = {
    "sum": 3.5,
    "difference": 4.0,
    "order": 2.5,
    "unit": 2.5,
    "opposite": 3.0,
    "category": 3.5,
    "spelling": 1.5,
    "continent": 1.5,
    "job": 1.5,
    "tool": 1.2,
    "number word": 1.5,
    "parity": 1.3,
    "symbol": 0.5,
    "home": 0.5,
    "young": 0.8,
    "female": 0.8,
    "passive": 0.5,
}
EMPHASIS |= dict.fromkeys(set(REWRITES) - {"passive"}, 0.4)

# Skills of which many facts are told in a row, in one wording. Arithmetic takes the most practice:
# the model has to learn a table of hundreds of sums, of which a near miss is as wrong as any.
ARITHMETIC = ("sum", "difference")
DRILLED = (
    "order",
    "unit",
    "opposite",
    "category",
    "colour",
    "continent",
    "parity",
    "number word",
    "first letter",
    "last letter",
)

QUESTIONS = (
    "Who knows {topic}?",
    "Do you know {topic}?",
    "Can anyone tell us {topic}?",
    "Please say {topic}.",
    "I would like to know {topic}.",
    "So, {topic}?",
    "{Topic}, please.",
    "What about {topic}?",
    "{name} wants to know {topic}.",
    "{name} asked {other} about {topic}.",
    "Think of {topic}.",
    "A question about {topic}.",
    "Let us find {topic}.",
    "Here is an easy one: {topic}.",
    "Explain {topic}.",
)

# The asked thing alone is below such a line.
SHOWN = (
    "Who knows {kind}?",
    "Please say {kind}.",
    "Find {kind}.",
    "We want {kind}.",
    "{Kind}, please.",
    "{Kind}:",
    "The task is {kind}.",
    "{name} asked for {kind}.",
)

# After these, the answer is the bare word.
BARE = (
    "Only the word.",
    "The answer alone.",
    "In one word, please.",
    "Just the answer.",
    "Give no sentence.",
    "Only the answer, please.",
    "Say only that.",
    "Nothing but the word.",
)

HEADINGS = ("Answer:", "The answer:", "Reply:", "{name}:", "{name} said:", "Solution:")

AGAIN = (
    "What about {again}?",
    "Now {again}.",
    "Next, {again}.",
    "{Again}?",
    "And then {again}?",
    "The same for {again}, please.",
    "{name} also asked about {again}.",
)

MORE_TOPICS = {
    "sum": ("{a} + {b}", "{b} added to {a}", "{a} and {b} added up", "{a} with {b} more"),
    "difference": ("{a} - {b}", "{a} less {b}", "{b} taken from {a}", "{a} with {b} taken away"),
    "job": ("the worker who {ask}", "a worker: he {ask}"),
    "tool": ("the thing for this: to {ask}", "a thing with which to {ask}"),
    "category": ("the group of {an_ask}", "the group that {an_ask} is in", "{an_ask}"),
    "unit": ("the number of {unit} that {ask} have", "{ask}, counted in {unit}"),
    "opposite": ("the word against {ask}", 'the other side of "{ask}"'),
}
SHOWN_AS = {
    "sum": "{a} + {b}",
    "difference": "{a} - {b}",
    "job": "A person who {ask}",
    "tool": "To {ask}",
}


class Teacher:
    """Builds lessons, drawn by one random generator."""

    def __init__(self, facts: dict[str, list[Fact]], rng: random.Random):
        self.rng = rng
        self.stories = Storyteller(facts, rng)
        self.facts = facts | {"sum": all_sums(), "difference": all_differences()}
        self.skills = list(self.facts)
        self.weights = [EMPHASIS.get(skill, 1.0) for skill in self.skills]
        self.kinds: dict[str, Callable[[], str]] = {
            "question": self.question,
            "conversation": self.conversation,
            "sums": self.sums,
            "drill": self.drill,
            "story": lambda: next(self.stories.passages()),
        }

    def passages(self) -> Iterator[str]:
        """Yield passages without end, in the shares of `MIX`."""
        while True:
            [kind] = self.rng.choices(list(MIX), list(MIX.values()))
            yield self.kinds[kind]()

    def draw_fact(self) -> Fact:
        [skill] = self.rng.choices(self.skills, self.weights)
        return self.rng.choice(self.facts[skill])

    def question(self) -> str:
        fact = self.draw_fact()
        bare = self.rng.random() < 0.3
        return f"{self.asked(fact, bare)}{self.gap()}{self.answer(fact, bare)}"

    def asked(self, fact: Fact, bare: bool) -> str:
        """Return the question, for a bare answer if `bare`, as one line or with the word below."""
        skill = SKILLS[fact.skill]
        ending = f" {self.rng.choice(BARE)}" if bare else ""
        if self.rng.random() < 0.35:
            line = self.stories.with_names(
                self.rng.choice(SHOWN), kind=skill.kind, Kind=capitalise(skill.kind)
            )
            shown = fact.say(SHOWN_AS.get(fact.skill, "{ask}"))
            return f"{line}{ending}{self.rng.choice((chr(10), chr(10) * 2))}{shown}"

        topics = skill.topics + MORE_TOPICS.get(fact.skill, ())
        topic = fact.say(self.rng.choice(topics))
        line = self.stories.with_names(
            self.rng.choice(QUESTIONS), topic=topic, Topic=capitalise(topic)
        )
        return line + ending

    def gap(self) -> str:
        """Return the text between a question and its answer."""
        lines = self.rng.choice(("\n", "\n\n"))
        if self.rng.random() < 0.5:
            return lines
        return f"{lines}{self.stories.with_names(self.rng.choice(HEADINGS))}\n"

    def answer(self, fact: Fact, bare: bool) -> str:
        """Return the fact as instruction records state it: the full sentence, or the bare word."""
        if bare:
            return fact.slots["answer"]
        return fact.say(SKILLS[fact.skill].full)

    def conversation(self) -> str:
        """Return a question and its answer, and then the same asked of one or two other things."""
        first = self.draw_fact()
        bare = self.rng.random() < 0.2
        gap = self.gap()
        lines = [f"{self.asked(first, bare)}{gap}{self.answer(first, bare)}"]
        for _ in range(self.rng.randint(1, 2)):
            fact = self.rng.choice(like(first, self.facts[first.skill]))
            again = fact.say(self.rng.choice(("{ask}", '"{ask}"', SKILLS[fact.skill].topics[0])))
            line = self.stories.with_names(
                self.rng.choice(AGAIN), again=again, Again=capitalise(again)
            )
            lines.append(f"{line}{gap}{self.answer(fact, bare)}")
        return self.rng.choice(("\n", "\n\n")).join(lines)

    def sums(self) -> str:
        """Return sums and differences, in any order, so that none follows from the one before."""
        facts = [self.rng.choice(self.facts[self.rng.choice(ARITHMETIC)]) for _ in range(10)]
        number = self.rng.randrange(3)
        return self.in_a_row(fact.say(SKILLS[fact.skill].sentences[number]) for fact in facts)

    def drill(self) -> str:
        """Return facts of one skill in one wording."""
        skill = self.rng.choice(DRILLED)
        full = self.rng.random() < 0.6
        wording = SKILLS[skill].full if full else self.rng.choice(SKILLS[skill].sentences)
        return self.in_a_row(fact.say(wording) for fact in self.rng.sample(self.facts[skill], 6))

    def in_a_row(self, sentences: Iterable[str]) -> str:
        return self.rng.choice((" ", "\n")).join(sentences)


def lessons(seed: int, count: int, tokens: Callable[[str], int], longest: int) -> Iterator[str]:
    """Yield `count` documents of lessons, each as long as whole passages allow."""
    teacher = Teacher(all_facts(seed), random.Random(seed + 2))
    yield from filled(teacher.passages(), count, tokens, longest)
