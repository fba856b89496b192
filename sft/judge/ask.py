"""Ask a judge about answers, one by one or in pairs. Each judgement is kept when it is made."""

import hashlib
import json
import pkgutil
import random
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from sft.bars import Bar
from sft.config.schema import JUDGES, JudgeConfig
from sft.data.records import Record, transcript
from sft.jsonl import LineFile
from sft.judge.client import NoReplyError, one_line
from sft.judge.judge import Judge, Reply, Request
from sft.judge.keep import FINAL, Choice, Comparison, PairFile, Score, ScoreFile
from sft.judge.prompts import Pair, Prompt, Question, is_refusal, pair_prompt, score_prompt

Judgement = TypeVar("Judgement", Score, Choice)

# The labels of a line in the file, and the prompt whose judgement it holds.
Labelled = tuple[dict[str, Any], Prompt[Any]]

# After this many questions in a row without a reply, each sent several times, no more are sent.
PATIENCE = 8

# Both kinds of server say this of a reply that reached its limit.
CUT = "length"


def connect(config: JudgeConfig) -> Judge | None:
    """Connect to the judge of the config; None for judge=none.

    Raises:
        InputError: the server or the model is missing; says what to do.
    """
    if config.kind == "none":
        return None
    judge: Judge = pkgutil.resolve_name(JUDGES[config.kind])(config)
    return judge


def score_answers(
    judge: Judge, questions: Sequence[Question], path: Path, name: str = "scores"
) -> list[Score]:
    """Return the score of each answer, in order: from the file if it is there, else from the judge.

    Args:
        path: of scores.jsonl, which gets each new score.
        name: of the progress bar.

    Raises:
        InputError: the judge cannot go on, or the file cannot be read or written. What is in the
            file stays.
    """
    asked: list[Labelled] = []
    for question in questions:
        labels = {"record": question.record, "target": question.target}
        asked.append((labels, score_prompt(question, judge.config.prompt, judge.config.seed)))
    return _judge_all(judge, asked, ScoreFile(path), name)


def compare_answers(
    judge: Judge, pairs: Sequence[Pair], path: Path, name: str = "pairs"
) -> list[Comparison]:
    """Return which answer of each pair is better. Each pair is asked in both orders.

    Args:
        path: of pairs.jsonl, which gets each new choice.
        name: of the progress bar.

    Raises:
        InputError: as in `score_answers`.
    """
    asked: list[Labelled] = []
    for pair in pairs:
        for first in ("tuned", "base"):
            labels = {"record": pair.record, "order": f"{first}_first"}
            asked.append((labels, pair_prompt(pair, first, judge.config.seed)))
    choices = _judge_all(judge, asked, PairFile(path), name)
    return [_compared(*both) for both in zip(choices[::2], choices[1::2], strict=True)]


def _compared(tuned_first: Choice, base_first: Choice) -> Comparison:
    first = _model(tuned_first, "tuned", "base")
    second = _model(base_first, "base", "tuned")

    winner = None
    if first is not None and second is not None:
        winner = first if first == second else "tie"
    reason = f"tuned first: {tuned_first.reason} | base first: {base_first.reason}"
    return Comparison(winner, first or tuned_first.status, second or base_first.status, reason)


def _model(choice: Choice, a: str, b: str) -> str | None:
    """Return the name of the model that won, or "tie"; None if there was no verdict."""
    return {"A": a, "B": b}.get(choice.winner or "", choice.winner)


@dataclass(frozen=True)
class _Case(Generic[Judgement]):
    """One request to the judge, and the lines of the file that its judgement fills.

    Equal answers to a record are one case: they are asked once, and have a line each. `lines` holds
    the labels of each line, by its key.
    """

    prompt: Prompt[Any]
    request: Request
    lines: dict[str, dict[str, Any]]

    def known(self, file: LineFile[Judgement]) -> Judgement | None:
        """Return the final judgement that the file holds on any of the lines."""
        for key in self.lines:
            found = file.by_key.get(key)
            if found is not None and found.status in FINAL:
                return found
        return None

    def keep(self, file: LineFile[Judgement], judgement: Judgement) -> None:
        """Write the judgement to each of the lines that does not hold it yet."""
        for key, labels in self.lines.items():
            if file.by_key.get(key) != judgement:
                file.add(key, judgement, **labels)


def _judge_all(
    judge: Judge, asked: Sequence[Labelled], file: LineFile[Judgement], name: str
) -> list[Judgement]:
    """Return the judgement on each prompt, in order, and keep the new ones."""
    keys, cases = _cases(judge, asked)

    # A judgement on one of several equal answers holds for those that came later, too.
    waiting: list[_Case[Judgement]] = []
    for case in cases:
        known = case.known(file)
        if known is None:
            waiting.append(case)
        else:
            case.keep(file, known)
    waiting.sort(key=lambda case: judge.size(case.request))

    # The thread that asked also keeps the judgement: if the process is killed, only the requests
    # under way are lost. An error in one thread ends the others after theirs.
    def ask_and_keep(case: _Case[Judgement]) -> None:
        case.keep(file, _judge_one(judge, case, file.kind))

    pool = ThreadPoolExecutor(judge.config.concurrency)
    bar = Bar(total=len(cases), initial=len(cases) - len(waiting), desc=name, unit="judgement")
    try:
        with bar:
            for future in as_completed([pool.submit(ask_and_keep, case) for case in waiting]):
                future.result()
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)

    judgements = [file.by_key[key] for key in keys]
    judge.forms.update(found.form for found in judgements if found.form)
    return judgements


def _cases(judge: Judge, asked: Sequence[Labelled]) -> tuple[list[str], list[_Case[Any]]]:
    """Return the key of each prompt's line, and the cases.

    A key is a hash of all that decides a judgement: the record, the judge and the request. So kept
    judgements are found again exactly where the judge would be asked the same.
    """
    keys: list[str] = []
    cases: dict[str, _Case[Any]] = {}
    for labels, prompt in asked:
        request = judge.request(prompt.messages, prompt.schema, prompt.weigh is not None)
        content = _hash([labels["record"], judge.fingerprint, request, prompt.unasked])
        case = cases.setdefault(content, _Case(prompt, request, {}))
        key = _hash([content, labels])
        case.lines[key] = labels
        keys.append(key)
    return keys, list(cases.values())


def _hash(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _judge_one(judge: Judge, case: _Case[Judgement], kind: type[Judgement]) -> Judgement:
    """Return the judgement on one case, after at most two replies."""
    prompt = case.prompt
    if prompt.unasked:
        return kind("scored", *prompt.unasked)
    if judge.silent >= PATIENCE:
        return kind("error", None, f"not asked: {PATIENCE} questions before this one had no reply")

    # After a bad reply the judge is asked again, once. A reply that was cut would be cut again.
    try:
        reply, found = _ask(judge, case)
        if not found and reply.done_reason != CUT:
            reply, found = _ask(judge, case)
        judge.silent = 0
    except NoReplyError as error:
        judge.silent += error.passing
        return kind(error.status, None, str(error))

    about: dict[str, Any] = {
        "done_reason": reply.done_reason,
        "prompt_tokens": reply.prompt_tokens,
        "reply_tokens": reply.reply_tokens,
        "form": reply.form,
    }
    if found:
        return kind("scored", *found, **about)
    if reply.done_reason == CUT and not reply.refused:
        reason = f"reached judge.max_tokens={judge.config.max_tokens}: {reply.text}"
        return kind("cut", None, one_line(reason), **about)
    status = "refused" if reply.refused or is_refusal(reply.text) else "unparsed"
    return kind(status, None, one_line(reply.text), **about)


def _ask(judge: Judge, case: _Case[Judgement]) -> tuple[Reply, tuple[Any, str] | None]:
    """Return a reply, and the value in it with its reason, if it has one."""
    prompt = case.prompt
    reply = judge.ask(case.request)
    if reply.refused:
        return reply, None
    if prompt.weigh is not None and reply.form == "probabilities":
        return reply, prompt.weigh(reply.first or {})
    return reply, prompt.read(reply.text)


def audit_questions(
    records: Sequence[Record], count: int, seed: int, left_out: Collection[int] = ()
) -> list[Question]:
    """Return questions whose answers have a known worth, to test the judge itself.

    For each of `count` records, drawn by `seed`, there are three answers: the expected one, an
    empty one, and the expected one of another record.

    Args:
        left_out: numbers of records, from 1, that are not drawn.
    """
    numbers: list[int] = []
    for number, record in enumerate(records, 1):
        if record.output.strip() and number not in left_out:
            numbers.append(number)

    questions: list[Question] = []
    for number in sorted(random.Random(seed).sample(numbers, min(count, len(numbers)))):
        record = records[number - 1]
        answers = {"expected": record.output, "empty": ""}

        # The wrong answer is the next one that differs, from the record on and around the end.
        for other in [*records[number:], *records[: number - 1]]:
            if other.output.strip() not in ("", record.output.strip()):
                answers["other"] = other.output
                break

        for target, answer in answers.items():
            task = (record.instruction, record.input, record.output)
            before = transcript(record.before)
            questions.append(Question(number, target, *task, answer, before))
    return questions
