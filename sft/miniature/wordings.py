"""Wordings of each skill: topics, sentences and requests, with the slots of a `Fact` in braces."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Skill:
    """The wordings of one skill.

    Attributes:
        kind: name of the skill without the asked word.
        topics: its names with the asked word.
        sentences: the fact in a sentence. The first is the full answer.
        requests: instruction, input and output.
        rule: whether the answer follows a rule rather than memory.
    """

    kind: str
    topics: tuple[str, ...]
    sentences: tuple[str, ...]
    requests: tuple[tuple[str, str, str], ...]
    rule: bool = False

    @property
    def full(self) -> str:
        """The wording of a full answer."""
        return self.requests[0][2]


def requests(
    answer: str, *asked: tuple[str, str], short: tuple[str, str] | None = None
) -> tuple[tuple[str, str, str], ...]:
    """Return requests that are all answered by the sentence `answer`.

    Args:
        asked: instruction and input.
        short: one more request, which is answered by the bare word.
    """
    full = tuple((instruction, text, answer) for instruction, text in asked)
    return (*full, (*short, "{answer}")) if short else full


def rewrite(kind: str, name: str, verb_phrase: str, *instructions: str) -> Skill:
    """Return a skill that turns one sentence into another.

    Args:
        kind: such as "the passive form".
        name: such as "passive".
    """
    return Skill(
        kind=f"{kind} of a sentence",
        topics=(
            f'{kind} of "{{ask_core}}"',
            f'{kind} of this sentence: "{{ask_core}}"',
            f'"{{ask_core}}" and {kind} of it',
            f'how to {verb_phrase} "{{ask_core}}"',
        ),
        sentences=(
            "{answer}",
            f'{name.capitalize()}: "{{answer_core}}", from "{{ask_core}}".',
            f'{kind[:1].upper()}{kind[1:]} of "{{ask_core}}" is "{{answer_core}}".',
            f'"{{ask_core}}" becomes "{{answer_core}}" in {kind}.',
            f'First came "{{ask_core}}" and then, as {kind}, "{{answer_core}}".',
            f"{{ask}} In {kind} that is: {{answer}}",
            f"{{ask}} {name.capitalize()}: {{answer}}",
            f"From: {{ask}}\n{name.capitalize()}: {{answer}}",
        ),
        requests=tuple((instruction, "{ask}", "{answer}") for instruction in instructions)
        + tuple(
            (f"{instruction.rstrip('.')}: {{ask}}", "", "{answer}")
            for instruction in instructions[:2]
        ),
        rule=True,
    )


SKILLS = {
    "capital": Skill(
        "the capital of a country",
        (
            "the capital of {ask}",
            "{ask} and its capital",
            "the capital city of {ask}",
            "which city is {ask}'s capital",
        ),
        (
            "The capital of {ask} is {answer}.",
            "{answer} is the capital of {ask}.",
            "{ask} has its capital in {answer}.",
            "The capital city of {ask} is called {answer}.",
            "In {ask} the capital is {answer}.",
            "{ask}: the capital is {answer}.",
            'The capital of "{ask}" is "{answer}".',
            "The country of {ask} is ruled from {answer}, its capital.",
        ),
        requests(
            "The capital of {ask} is {answer}.",
            ("What is the capital of {ask}?", ""),
            ("Which city is the capital of {ask}?", ""),
            ("Name the capital city of {ask}.", ""),
            ("Tell me the capital of this country.", "{ask}"),
            short=("Name the capital of {ask}. Give only the name.", ""),
        ),
    ),
    "continent": Skill(
        "the continent of a country",
        (
            "the continent of {ask}",
            "{ask} and its continent",
            "where {ask} lies",
            "the place of {ask} in the world",
        ),
        (
            "{ask} is in {answer}.",
            "{ask} lies in {answer}.",
            "{ask} is a country in {answer}.",
            "The continent of {ask} is {answer}.",
            "On the map, {ask} belongs to {answer}.",
            "{ask}: the continent is {answer}.",
            '"{ask}" belongs to "{answer}".',
            "{answer} is the continent of {ask}.",
        ),
        requests(
            "{ask} is in {answer}.",
            ("On which continent is {ask}?", ""),
            ("Where in the world is {ask}? Name the continent.", ""),
            ("Say on which continent the country lies.", "{ask}"),
            short=("Name the continent of {ask}. Give only the name.", ""),
        ),
    ),
    "currency": Skill(
        "the money of a country",
        (
            "the money of {ask}",
            "{ask} and its currency",
            "the currency of {ask}",
            "what people in {ask} pay with",
        ),
        (
            "The currency of {ask} is the {answer}.",
            "{ask} uses the {answer}.",
            "In {ask} people pay with the {answer}.",
            "The money of {ask} is called the {answer}.",
            "The {answer} is the currency of {ask}.",
            "{ask}: the currency is the {answer}.",
            'The currency of "{ask}" is the "{answer}".',
            "Shops in {ask} take the {answer}.",
        ),
        requests(
            "The currency of {ask} is the {answer}.",
            ("What is the currency of {ask}?", ""),
            ("What money is used in {ask}?", ""),
            ("Name the currency of {ask}.", ""),
            ("Name the currency of this country.", "{ask}"),
        ),
    ),
    "plural": Skill(
        "the plural of a word",
        (
            'the plural of "{ask}"',
            "the plural of {ask}",
            '"{ask}" and its plural',
            "more than one {ask}",
        ),
        (
            'The plural of "{ask}" is "{answer}".',
            "The plural of {ask} is {answer}.",
            '"{ask}" becomes "{answer}" in the plural.',
            '"{answer}" is the plural of "{ask}".',
            "One {ask}, two {answer}.",
            "{Ask} in the plural is {answer}.",
            "{ask}: the plural is {answer}.",
            "{Answer} is the plural of {ask}.",
        ),
        requests(
            'The plural of "{ask}" is "{answer}".',
            ('What is the plural of "{ask}"?', ""),
            ('Give the plural form of "{ask}".', ""),
            ("What is the plural of this word?", "{ask}"),
            short=("Write the word in the plural. Give only the word.", "{ask}"),
        ),
        rule=True,
    ),
    "past": Skill(
        "the past tense of a verb",
        (
            'the past tense of "{ask}"',
            "the past tense of {ask}",
            '"{ask}" and its past tense',
            "the past of the verb {ask}",
        ),
        (
            'The past tense of "{ask}" is "{answer}".',
            "The past tense of {ask} is {answer}.",
            '"{ask}" becomes "{answer}" in the past.',
            '"{answer}" is the past tense of "{ask}".',
            "Today we {ask}, yesterday we {answer}.",
            "{Ask} in the past is {answer}.",
            "{ask}: the past tense is {answer}.",
            "{Answer} is the past tense of {ask}.",
        ),
        requests(
            'The past tense of "{ask}" is "{answer}".',
            ('What is the past tense of "{ask}"?', ""),
            ('Give the past tense of "{ask}".', ""),
            ("What is the past tense of this verb?", "{ask}"),
            short=("Put the verb into the past tense. Give only the word.", "{ask}"),
        ),
    ),
    "opposite": Skill(
        "the opposite of a word",
        (
            'the opposite of "{ask}"',
            "the opposite of {ask}",
            '"{ask}" and its opposite',
            "the word {ask} and its opposite",
        ),
        (
            'The opposite of "{ask}" is "{answer}".',
            "The opposite of {ask} is {answer}.",
            '"{ask}" is the opposite of "{answer}".',
            '"{answer}" is the opposite of "{ask}".',
            "What is not {ask} at all is {answer}.",
            "{Ask} is the opposite of {answer}.",
            "{ask}: the opposite is {answer}.",
            "Where one says {ask}, the other says {answer}.",
        ),
        requests(
            'The opposite of "{ask}" is "{answer}".',
            ('What is the opposite of "{ask}"?', ""),
            ('Give the opposite of "{ask}".', ""),
            ("What is the opposite of this word?", "{ask}"),
            short=("Name the opposite of the word. Give only the word.", "{ask}"),
        ),
    ),
    "category": Skill(
        "what kind of thing something is",
        (
            "what kind of thing {an_ask} is",
            '"{ask}" and its kind',
            "{an_ask} and what it is",
            'the kind of thing that "{ask}" names',
        ),
        (
            "{An_ask} is {an_answer}.",
            "{An_ask} is a kind of {answer}.",
            'The word "{ask}" names {an_answer}.',
            "Everyone calls {an_ask} {an_answer}.",
            "{Ask} goes with every other {answer}.",
            "{ask}: {an_answer}.",
            '"{ask}" stands in the list under "{answer}".',
            "We know that {an_ask} is {an_answer}.",
        ),
        requests(
            "{An_ask} is {an_answer}.",
            ("What kind of thing is {an_ask}?", ""),
            ("Say what {an_ask} is.", ""),
            ("What kind of thing is this?", "{ask}"),
            short=('Into which group does "{ask}" belong? Give only the group.', ""),
        ),
    ),
    "colour": Skill(
        "the colour of a thing",
        (
            "the colour of {an_ask}",
            "{an_ask} and its colour",
            'the colour that goes with "{ask}"',
            "what {an_ask} looks like",
        ),
        (
            "{An_ask} is {answer}.",
            "The colour of {an_ask} is {answer}.",
            "{Answer} is the colour of {an_ask}.",
            "We paint {an_ask} in {answer}.",
            "{ask}: the colour is {answer}.",
            'The colour of "{ask}" is "{answer}".',
            "Everyone knows that {an_ask} is {answer}.",
            "{Ask} has the colour {answer}.",
        ),
        requests(
            "The colour of {an_ask} is {answer}.",
            ("What is the colour of {an_ask}?", ""),
            ("Which colour does {an_ask} have?", ""),
            ("Name the colour of this thing.", "{ask}"),
            short=("Which colour is {an_ask}? Give only the colour.", ""),
        ),
    ),
    "young": Skill(
        "the young of an animal",
        (
            "the young of {an_ask}",
            "the baby of {an_ask}",
            "{an_ask} and its young",
            "how the young {ask} is called",
        ),
        (
            "A young {ask} is called {an_answer}.",
            "The young of {an_ask} is {an_answer}.",
            "{An_ask} has a baby, {an_answer}.",
            "{An_answer} is a young {ask}.",
            'The word for a young "{ask}" is "{answer}".',
            "{ask}: the young one is {an_answer}.",
            "{Ask} mothers look after {an_answer}.",
            "When it is small, {an_ask} is {an_answer}.",
        ),
        requests(
            "A young {ask} is called {an_answer}.",
            ("What is a young {ask} called?", ""),
            ("What do we call the young of {an_ask}?", ""),
            ("What is the young of this animal called?", "{ask}"),
            short=("Name the young of {an_ask}. Give only the word.", ""),
        ),
    ),
    "home": Skill(
        "the home of an animal",
        (
            "the home of {an_ask}",
            "where {an_ask} lives",
            "{an_ask} and its home",
            "how the home of {an_ask} is called",
        ),
        (
            "The home of {an_ask} is called a {answer}.",
            "{An_ask} lives in a {answer}.",
            "{An_ask} sleeps in a {answer}.",
            "A {answer} is the home of {an_ask}.",
            'The home of the "{ask}" is the "{answer}".',
            "{ask}: the home is a {answer}.",
            "{Ask} and {answer} belong together.",
            "In the evening {an_ask} goes back to a {answer}.",
        ),
        requests(
            "The home of {an_ask} is called a {answer}.",
            ("What is the home of {an_ask} called?", ""),
            ("What do we call the home of {an_ask}?", ""),
            ("What is the home of this animal called?", "{ask}"),
            short=("Name the home of {an_ask}. Give only the word.", ""),
        ),
    ),
    "female": Skill(
        "the female form of a word",
        (
            'the female form of "{ask}"',
            "the female form of {ask}",
            '"{ask}" and its female form',
            "the female of {an_ask}",
        ),
        (
            'The female form of "{ask}" is "{answer}".',
            "The female form of {ask} is {answer}.",
            '"{answer}" is the female form of "{ask}".',
            "{An_ask} is male, {an_answer} is female.",
            "{Ask} has the female form {answer}.",
            "{ask}: the female form is {answer}.",
            "He is {an_ask} and she is {an_answer}.",
            "{Answer} is the female form of {ask}.",
        ),
        requests(
            'The female form of "{ask}" is "{answer}".',
            ('What is the female form of "{ask}"?', ""),
            ('Give the female form of "{ask}".', ""),
            ("What is the female form of this word?", "{ask}"),
            short=("Write the female form of the word. Give only the word.", "{ask}"),
        ),
    ),
    "job": Skill(
        "the name of a worker",
        (
            "a person who {ask}",
            "someone who {ask}",
            "the name of a person who {ask}",
            'the one who "{ask}"',
        ),
        (
            "A person who {ask} is called {an_answer}.",
            "{An_answer} {ask}.",
            "{An_answer} is a person who {ask}.",
            "The one who {ask} is {an_answer}.",
            "Someone who {ask} is known as {an_answer}.",
            '"{Ask}": that is {an_answer}.',
            "It is {an_answer} who {ask}.",
            "{Ask}: {an_answer}.",
        ),
        requests(
            "A person who {ask} is called {an_answer}.",
            ("What do we call a person who {ask}?", ""),
            ("What is a person who {ask} called?", ""),
            ("Say what this person is called.", "A person who {ask}"),
            short=("Which worker {ask}? Give only the word.", ""),
        ),
    ),
    "tool": Skill(
        "the right thing for some work",
        (
            "what you need to {ask}",
            "how to {ask}",
            "the thing used to {ask}",
            'the thing to use when you "{ask}"',
        ),
        (
            "You use {an_answer} to {ask}.",
            "To {ask} you need {an_answer}.",
            "{An_answer} is used to {ask}.",
            "{An_answer} helps you to {ask}.",
            "Whoever wants to {ask} takes {an_answer}.",
            "The thing used to {ask} is {an_answer}.",
            '"{Ask}": for that you need {an_answer}.',
            "{Ask}: {an_answer}.",
        ),
        requests(
            "You use {an_answer} to {ask}.",
            ("What do you use to {ask}?", ""),
            ("Which thing do you need to {ask}?", ""),
            ("Say what you use for this.", "To {ask}"),
            short=("Name the thing used to {ask}. Give only the word.", ""),
        ),
    ),
    "symbol": Skill(
        "the chemical symbol of an element",
        (
            "the chemical symbol of {ask}",
            '"{ask}" and its chemical symbol',
            "how chemists write {ask}",
            "the chemical symbol for {ask}",
        ),
        (
            "The chemical symbol of {ask} is {answer}.",
            "Chemists write {ask} as {answer}.",
            "{answer} is the chemical symbol of {ask}.",
            "{Ask} has the chemical symbol {answer}.",
            'The chemical symbol of "{ask}" is "{answer}".',
            "{ask}: the chemical symbol is {answer}.",
            "In chemistry {answer} stands for {ask}.",
        ),
        requests(
            "The chemical symbol of {ask} is {answer}.",
            ("What is the chemical symbol of {ask}?", ""),
            ("Give the chemical symbol for {ask}.", ""),
            ("What is the chemical symbol of this element?", "{ask}"),
        ),
    ),
    "comparative": Skill(
        "the comparative of an adjective",
        (
            'the comparative of "{ask}"',
            "the comparative of {ask}",
            '"{ask}" and its comparative',
            "how one compares with {ask}",
        ),
        (
            'The comparative of "{ask}" is "{answer}".',
            "The comparative of {ask} is {answer}.",
            '"{ask}" becomes "{answer}" in the comparative.',
            '"{answer}" is the comparative of "{ask}".',
            "One is {ask}, the other is {answer}.",
            "{Ask} in the comparative is {answer}.",
            "{ask}: the comparative is {answer}.",
            "{Answer} is the comparative of {ask}.",
        ),
        requests(
            'The comparative of "{ask}" is "{answer}".',
            ('What is the comparative of "{ask}"?', ""),
            ('Give the comparative form of "{ask}".', ""),
            ("What is the comparative of this adjective?", "{ask}"),
            short=("Write the comparative of the adjective. Give only the answer.", "{ask}"),
        ),
        rule=True,
    ),
    "spelling": Skill(
        "the spelling of a word",
        (
            'the spelling of "{ask}"',
            "the spelling of {ask}",
            '"{ask}" letter by letter',
            "how to spell {ask}",
        ),
        (
            'The word "{ask}" is spelled {answer}.',
            "{Ask} is spelled {answer}.",
            "You spell {ask} like this: {answer}.",
            'Letter by letter, "{ask}" is {answer}.',
            "The letters of {ask} are {answer}.",
            "{ask}: {answer}.",
            '"{ask}" has the letters {answer}.',
        ),
        requests(
            'The word "{ask}" is spelled {answer}.',
            ('How is the word "{ask}" spelled?', ""),
            ('Spell the word "{ask}".', ""),
            ("Spell this word letter by letter.", "{ask}"),
            short=("Write the letters of the word. Give only the letters.", "{ask}"),
        ),
    ),
    "first letter": Skill(
        "the first letter of a word",
        (
            'the first letter of "{ask}"',
            "the first letter of {ask}",
            '"{ask}" and its first letter',
            "the letter at the start of {ask}",
        ),
        (
            'The first letter of "{ask}" is "{answer}".',
            "The first letter of {ask} is {answer}.",
            '"{ask}" begins with "{answer}".',
            "{Ask} begins with the letter {answer}.",
            "The word {ask} starts with {answer}.",
            "{ask}: the first letter is {answer}.",
            'At the start of "{ask}" stands "{answer}".',
        ),
        requests(
            'The first letter of "{ask}" is "{answer}".',
            ('What is the first letter of "{ask}"?', ""),
            ('With which letter does "{ask}" begin?', ""),
            ("What is the first letter of this word?", "{ask}"),
            short=("Write the first letter of the word. Give only the letter.", "{ask}"),
        ),
    ),
    "last letter": Skill(
        "the last letter of a word",
        (
            'the last letter of "{ask}"',
            "the last letter of {ask}",
            '"{ask}" and its last letter',
            "the letter at the end of {ask}",
        ),
        (
            'The last letter of "{ask}" is "{answer}".',
            "The last letter of {ask} is {answer}.",
            '"{ask}" ends with "{answer}".',
            "{Ask} ends with the letter {answer}.",
            "The word {ask} finishes with {answer}.",
            "{ask}: the last letter is {answer}.",
            'At the end of "{ask}" stands "{answer}".',
        ),
        requests(
            'The last letter of "{ask}" is "{answer}".',
            ('What is the last letter of "{ask}"?', ""),
            ('With which letter does "{ask}" end?', ""),
            ("What is the last letter of this word?", "{ask}"),
            short=("Write the last letter of the word. Give only the letter.", "{ask}"),
        ),
    ),
    "case": Skill(
        "a word in capital letters",
        (
            '"{ask}" in capital letters',
            "{ask} in capital letters",
            "the word {ask} in capitals",
            'how "{ask}" looks in capitals',
        ),
        (
            'In capital letters, "{ask}" is "{answer}".',
            "In capital letters, {ask} is {answer}.",
            '"{ask}" becomes "{answer}" in capitals.',
            "{Ask} in capital letters is {answer}.",
            "The sign said {answer}, in capitals, for {ask}.",
            "{ask}: in capitals {answer}.",
            'On the wall stood "{answer}", that is "{ask}" in capital letters.',
        ),
        requests(
            'In capital letters, "{ask}" is "{answer}".',
            ('What is "{ask}" in capital letters?', ""),
            ("What is this word in capital letters?", "{ask}"),
            short=("Write the word in capital letters. Give only the word.", "{ask}"),
        ),
    ),
    "order": Skill(
        "what comes before or after",
        (
            "the {kind} {ask}",
            "which {kind} comes {ask}",
            "what comes {ask}",
            "the {kind} that comes {ask}",
        ),
        (
            "The {kind} {ask} is {answer}.",
            "{Ask} comes {answer}.",
            "{answer} is the {kind} {ask}.",
            "The {kind} that comes {ask} is {answer}.",
            "Right {ask} we find {answer}.",
            "{Ask}: {answer}.",
            'The {kind} {ask} is "{answer}".',
        ),
        requests(
            "The {kind} {ask} is {answer}.",
            ("Which {kind} comes {ask}?", ""),
            ("What is the {kind} {ask}?", ""),
            ("Name the {kind} {ask}.", ""),
            short=("Which {kind} comes {ask}? Give only the name.", ""),
        ),
    ),
    "unit": Skill(
        "a length, a weight or a time in smaller units",
        (
            "the {unit} in {ask}",
            "{ask} in {unit}",
            "how many {unit} make {ask}",
            "{ask} and the {unit} in them",
        ),
        (
            "There are {answer} {unit} in {ask}.",
            "{Ask} are {answer} {unit}.",
            "{answer} {unit} make {ask}.",
            "In {ask} there are {answer} {unit}.",
            "{ask}: {answer} {unit}.",
            "Counted in {unit}, {ask} are {answer}.",
            '"{ask}" means {answer} {unit}.',
        ),
        requests(
            "There are {answer} {unit} in {ask}.",
            ("How many {unit} are in {ask}?", ""),
            ("How many {unit} are there in {ask}?", ""),
            ("Give the number of {unit} in {ask}.", ""),
            ("Say how many {unit} this is.", "{ask}"),
        ),
    ),
    "sum": Skill(
        "the sum of two numbers",
        (
            "the sum of {a} and {b}",
            "{a} plus {b}",
            "adding {b} to {a}",
            "what {a} and {b} make together",
        ),
        (
            "{a} plus {b} is {answer}.",
            "{a} + {b} = {answer}",
            "The sum of {a} and {b} is {answer}.",
            "{a} and {b} make {answer}.",
            "If you add {b} to {a}, you get {answer}.",
            "{a} plus {b} makes {answer}.",
            "Together {a} and {b} are {answer}.",
        ),
        requests(
            "{a} plus {b} is {answer}.",
            ("What is {a} plus {b}?", ""),
            ("Add {b} to {a}.", ""),
            ("What is the sum of {a} and {b}?", ""),
            ("Work out the sum.", "{a} + {b}"),
        ),
    ),
    "difference": Skill(
        "the difference of two numbers",
        (
            "the difference of {a} and {b}",
            "{a} minus {b}",
            "taking {b} away from {a}",
            "what is left of {a} without {b}",
        ),
        (
            "{a} minus {b} is {answer}.",
            "{a} - {b} = {answer}",
            "The difference of {a} and {b} is {answer}.",
            "{a} less {b} leaves {answer}.",
            "If you take {b} from {a}, you get {answer}.",
            "{a} minus {b} makes {answer}.",
            "Take {b} away from {a} and {answer} is left.",
        ),
        requests(
            "{a} minus {b} is {answer}.",
            ("What is {a} minus {b}?", ""),
            ("Take {b} away from {a}.", ""),
            ("What is the difference of {a} and {b}?", ""),
            ("Work out the difference.", "{a} - {b}"),
        ),
    ),
    "number word": Skill(
        "a number in words",
        (
            "the number {ask} in words",
            "{ask} in words",
            "how to write {ask} in words",
            'the word for "{ask}"',
        ),
        (
            "The number {ask} in words is {answer}.",
            "{ask} is written {answer}.",
            "{Answer} is the number {ask}.",
            "In words, {ask} is {answer}.",
            "We say {answer} for {ask}.",
            "{ask}: {answer}.",
            'The word for "{ask}" is "{answer}".',
        ),
        requests(
            "The number {ask} in words is {answer}.",
            ("How is the number {ask} written in words?", ""),
            ("Write the number {ask} in words.", ""),
            ("Write this number in words.", "{ask}"),
            short=("What is {ask} in words? Give only the word.", ""),
        ),
        rule=True,
    ),
    "parity": Skill(
        "whether a number is odd or even",
        (
            "whether {ask} is odd or even",
            "the number {ask}, odd or even",
            "{ask}, an odd or an even number",
            'if "{ask}" is even',
        ),
        (
            "The number {ask} is {answer}.",
            "{ask} is an {answer} number.",
            "{ask} is {answer}.",
            "We count {ask} among the {answer} numbers.",
            "{ask}: {answer}.",
            "{Answer} is what the number {ask} is.",
            '"{ask}" is an {answer} number.',
        ),
        requests(
            "The number {ask} is {answer}.",
            ("Is the number {ask} odd or even?", ""),
            ("Say whether {ask} is odd or even.", ""),
            ("Is this number odd or even?", "{ask}"),
            short=("Is {ask} odd or even? Give only the word.", ""),
        ),
        rule=True,
    ),
    "passive": rewrite(
        "the passive form",
        "passive",
        "say in the passive",
        "Rewrite the sentence in the passive voice.",
        "Change this sentence to the passive.",
        "Turn the active sentence into a passive one.",
    ),
    "past sentence": rewrite(
        "the past tense",
        "in the past",
        "put into the past tense",
        "Rewrite the sentence in the past tense.",
        "Change this sentence to the past tense.",
        "Put the sentence into the past.",
    ),
    "future sentence": rewrite(
        "the future tense",
        "in the future",
        "put into the future tense",
        "Rewrite the sentence in the future tense.",
        "Change this sentence to the future tense.",
        "Put the sentence into the future.",
    ),
    "negation": rewrite(
        "the negative form",
        "negative",
        "make negative",
        "Make the sentence negative.",
        "Change this sentence to the negative.",
        "Rewrite the sentence with the word 'not'.",
    ),
    "question": rewrite(
        "the question form",
        "as a question",
        "make a question of",
        "Turn the sentence into a question.",
        "Change this sentence to a question.",
        "Rewrite the sentence as a question.",
    ),
    "plural sentence": rewrite(
        "the plural form",
        "in the plural",
        "put into the plural",
        "Rewrite the sentence with its subject in the plural.",
        "Put the subject of this sentence into the plural.",
        "Make the subject of the sentence plural.",
    ),
}
# How each of these skills asks again, after a question and its answer.
FOLLOW_UPS = {
    "capital": "And of {ask}?",
    "continent": "And {ask}?",
    "plural": "And of {ask}?",
    "past": "And of {ask}?",
    "opposite": "And of {ask}?",
    "comparative": "And of {ask}?",
    "colour": "And of {an_ask}?",
    "order": "And {ask}?",
    "unit": "And in {ask}?",
    "sum": "And {ask}?",
    "difference": "And {ask}?",
    "parity": "And {ask}?",
}
RULES = frozenset(name for name, skill in SKILLS.items() if skill.rule)
