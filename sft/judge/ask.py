"""Answers are judged, one by one or in pairs, and each judgement is kept from the moment it is made."""

import hashlib
import json
import random
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from sft.config.schema import JudgeConfig
from sft.data.records import Record
from sft.jsonl import LineFile
from sft.judge.client import NoReplyError, one_line
from sft.judge.judge import Judge, Reply, Request
from sft.judge.ollama import Ollama
from sft.judge.openai import OpenAI
from sft.judge.prompts import Pair, Prompt, Question, is_refusal, pair_prompt, score_prompt
from sft.judge.verdicts import FINAL, Choice, PairFile, PairVerdict, ScoreFile, Verdict

PATIENCE = 8  # questions in a row without a reply, each asked several times, after which a judge is left alone
CUT = "length"  # how both kinds of server call the end of a reply at its limit
JUDGES: dict[str, Any] = {"ollama": Ollama, "openai": OpenAI}


def connect(config: JudgeConfig) -> Judge | None:
    """The judge that the config names, after a look at its server; None for judge=none.

    Raises:
        InputError: the server or the model is not there; with what to do.
    """
    if config.kind == "none":
        return None
    judge: Judge = JUDGES[config.kind](config)
    return judge


Settled = TypeVar("Settled", Verdict, Choice)
Asked = tuple[dict[str, Any], Prompt[Any]]  # labels of the line, and what is asked


def judge_all(
    judge: Judge, questions: Sequence[Question], path: Path, name: str = "scores"
) -> list[Verdict]:
    """The verdict on each question, from the file if it is there, else from the judge and then into the file.

    Args:
        path: of scores.jsonl.
        name: of the progress bar.

    Raises:
        InputError: the judge cannot go on, or the file cannot be read or written. What is in the file stays.
    """
    wording, seed = judge.config.prompt, judge.config.seed
    asked = [
        ({"record": one.record, "target": one.target}, score_prompt(one, wording, seed))
        for one in questions
    ]
    return _settle(judge, asked, ScoreFile(path), name)


def judge_pairs(
    judge: Judge, pairs: Sequence[Pair], path: Path, name: str = "pairs"
) -> list[PairVerdict]:
    """Which answer of each pair is better, each pair being asked in both orders; else as `judge_all`.

    Args:
        path: of pairs.jsonl.
    """
    seed = judge.config.seed
    asked = [
        ({"record": pair.record, "order": f"{first}_first"}, pair_prompt(pair, first, seed))
        for pair in pairs
        for first in ("tuned", "base")
    ]
    choices = _settle(judge, asked, PairFile(path), name)
    return [_of_pair(*both) for both in zip(choices[::2], choices[1::2], strict=True)]


def _of_pair(tuned_first: Choice, base_first: Choice) -> PairVerdict:
    first = {"A": "tuned", "B": "base"}.get(tuned_first.winner or "", tuned_first.winner)
    second = {"A": "base", "B": "tuned"}.get(base_first.winner or "", base_first.winner)
    winner = None if first is None or second is None else first if first == second else "tie"
    reason = f"tuned first: {tuned_first.reason} | base first: {base_first.reason}"
    return PairVerdict(winner, first or tuned_first.status, second or base_first.status, reason)


@dataclass(frozen=True)
class _Case(Generic[Settled]):
    """Equal questions, as on two equal answers: they are asked once, and have a line each."""

    prompt: Prompt[Any]
    request: Request
    lines: dict[str, dict[str, Any]]  # the labels, by key

    def known(self, file: LineFile[Settled]) -> Settled | None:
        results = (file.by_key[key] for key in self.lines if key in file.by_key)
        return next((result for result in results if result.status in FINAL), None)

    def keep(self, file: LineFile[Settled], result: Settled) -> None:
        for key, labels in self.lines.items():
            if file.by_key.get(key) != result:
                file.add(key, result, **labels)


def _settle(
    judge: Judge, asked: Sequence[Asked], file: LineFile[Settled], name: str
) -> list[Settled]:
    """What became of each, in order."""
    keys, cases = _cases(judge, asked)
    for case in cases:
        if known := case.known(file):
            case.keep(file, known)
    waiting = sorted(
        (case for case in cases if not case.known(file)), key=lambda case: judge.size(case.request)
    )
    pool = ThreadPoolExecutor(judge.config.concurrency)
    try:
        futures = [pool.submit(_judge, judge, case, file) for case in waiting]
        with tqdm(
            total=len(cases), initial=len(cases) - len(waiting), desc=name, unit="judgement"
        ) as bar:
            for future in as_completed(futures):
                future.result()
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
    results = [file.by_key[key] for key in keys]
    judge.forms.update(result.form for result in results if result.form)
    return results


def _cases(judge: Judge, asked: Sequence[Asked]) -> tuple[list[str], list[_Case[Any]]]:
    """The key of each line, a hash of record, judge and request, so of all that is asked; and the lines, by case."""
    keys: list[str] = []
    cases: dict[str, _Case[Any]] = {}
    for labels, prompt in asked:
        request = judge.request(prompt.messages, prompt.schema)
        content = _hash([labels["record"], judge.who, request, prompt.unasked])
        keys.append(_hash([content, labels]))
        cases.setdefault(content, _Case(prompt, request, {})).lines[keys[-1]] = labels
    return keys, list(cases.values())


def _hash(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _judge(judge: Judge, case: _Case[Settled], file: LineFile[Settled]) -> None:
    """Kept by the thread that asked, so that those under way are all that can be lost."""
    case.keep(file, _judged(judge, case, file.kind))


def _judged(judge: Judge, case: _Case[Settled], kind: type[Settled]) -> Settled:
    """One judgement. A bad reply is asked for once again."""
    prompt = case.prompt
    if prompt.unasked:
        return kind("scored", *prompt.unasked)
    if judge.silent >= PATIENCE:
        return kind("error", None, f"not asked: {PATIENCE} questions before this one had no reply")
    try:
        reply, found = _asked(judge, case)
        if not found and reply.done_reason != CUT:  # which it would reach again
            reply, found = _asked(judge, case)
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
        return kind(
            "cut",
            None,
            one_line(f"reached judge.max_tokens={judge.config.max_tokens}: {reply.text}"),
            **about,
        )
    status = "refused" if reply.refused or is_refusal(reply.text) else "unparsed"
    return kind(status, None, one_line(reply.text), **about)


def _asked(judge: Judge, case: _Case[Settled]) -> tuple[Reply, tuple[Any, str] | None]:
    """A reply, and the value in it with its reason, if it has one."""
    reply = judge.ask(case.request)
    return reply, None if reply.refused else case.prompt.read(reply.text)


def audit_questions(
    records: Sequence[Record], count: int, seed: int, left_out: Collection[int] = ()
) -> list[Question]:
    """Answers of which a judge must think differently: for each of `count` records, drawn by `seed`, the expected one,
    an empty one, and the expected one of another record.

    Args:
        left_out: numbers of records, from 1, that are not drawn.
    """
    numbers = [
        number
        for number, record in enumerate(records, 1)
        if record.output.strip() and number not in left_out
    ]
    questions = []
    for number in sorted(random.Random(seed).sample(numbers, min(count, len(numbers)))):
        record = records[number - 1]
        others = [other.output for other in [*records[number:], *records[: number - 1]]]
        other = next(
            (text for text in others if text.strip() not in ("", record.output.strip())), None
        )
        answers = {"expected": record.output, "empty": "", "other": other}
        questions += [
            Question(number, target, record.instruction, record.input, record.output, answer)
            for target, answer in answers.items()
            if answer is not None
        ]
    return questions
