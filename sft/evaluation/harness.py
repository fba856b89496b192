"""A task for lm-evaluation-harness, so that others can check the exact match of an evaluation.

The task holds the prompts as text, in the model's own template, and the expected answers. The
harness needs nothing of this project to ask a model and to count its answers. It counts nearly as
we do, by its own `exact_match`: case, all blanks and a final full stop make no difference. Blanks
within a text are our only other rule: here "in to" and "into" differ. Ours also knows that "ß" is
"ss", and that an accent may be a character of its own.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean as mean
from typing import cast

from sft.atomic import make_folder, write_json_lines, write_text
from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import GenerateConfig
from sft.data.prompt import prompt_tokens, render
from sft.data.records import Record, Role, Turn
from sft.errors import InputError
from sft.evaluation.compare import Evaluation, read_evaluation
from sft.metrics import FULL_STOPS, exact_match
from sft.scoring.results import RecordResult

# What the harness takes from both texts before it compares them, in this order.
IGNORED = (r"\s+", f"[{re.escape(''.join(FULL_STOPS))}]$")

# The settings of greedy decoding that the task hands on. With others, answers would differ.
HANDED_ON = ("max_new_tokens", "stop")


@dataclass(frozen=True)
class Task:
    """A task that was written.

    Attributes:
        folder: holds NAME.yaml and NAME.jsonl.
        records: how many it asks; those that could not be asked are left out.
        exact_match: of the evaluation on these records.
        counted_otherwise: the numbers of the records that the harness counts in another way.
        cut: how many expected answers are longer than the task lets an answer be.
        model: the folder or repository of the model.
    """

    name: str
    folder: Path
    records: int
    exact_match: float
    counted_otherwise: list[int]
    cut: int
    model: str


def write_task(run: str, out: Path | None) -> Task:
    """Write the task of an evaluated run.

    Args:
        out: the folder; None: `lm-eval/` of the run.

    Raises:
        InputError: the run has not been evaluated, its weights are others now, it was not decoded
            greedily, or a file cannot be written.
    """
    evaluation = read_evaluation(run, "RUN")
    _check_greedy(evaluation)
    model = _model(evaluation)
    folder = (out or Path(run) / "lm-eval").expanduser()
    name = re.sub(r"\W+", "_", f"sft_{Path(run).resolve().name}")

    # The prompts as text, and what they and the answers need of the context.
    rows = [row for row in evaluation.rows if row.tuned.asked]
    template = evaluation.summary.template
    lines = []
    longest = 0
    lengths = []
    for row in rows:
        record = _record(row)
        longest = max(longest, len(prompt_tokens(template, record, model.tokenizer)))
        lengths.append(len(model.tokenizer.encode_ordinary(row.output)))
        lines.append(
            {"record": row.record, "prompt": render(template, record), "expected": row.output}
        )
    room = model.model.config.n_positions - longest
    tokens = min(int(evaluation.summary.decoding["max_new_tokens"]), room)
    if tokens < 1:
        raise InputError(f"RUN: {run}: its longest prompt leaves no room for an answer")

    ours = mean(row.tuned.metrics["exact_match"] or 0 for row in rows)
    make_folder(folder)
    write_json_lines(folder / f"{name}.jsonl", lines)
    write_text(folder / f"{name}.yaml", _yaml(name, folder, evaluation, model, tokens, ours))
    return Task(
        name,
        folder,
        records=len(rows),
        exact_match=ours,
        counted_otherwise=[row.record for row in rows if _counted_otherwise(row)],
        cut=sum(length > tokens for length in lengths),
        model=model.source,
    )


def _check_greedy(evaluation: Evaluation) -> None:
    """Raise InputError if the harness would decode in another way."""
    plain = GenerateConfig()
    for key, value in evaluation.summary.decoding.items():
        if key not in HANDED_ON and value != getattr(plain, key, value):
            raise InputError(
                f"RUN: {evaluation.name} was evaluated with generate.{key}={value}, which a task "
                "does not hold; evaluate it again without"
            )


def _model(evaluation: Evaluation) -> Pretrained:
    """Return the model that was evaluated, with its weights not in memory."""
    tuned = evaluation.summary.tuned
    own = Path(evaluation.name).expanduser() / "model"
    source, revision = (str(own), None) if own.is_dir() else (tuned.source, tuned.revision)
    model = load_pretrained(source, revision, device="meta")
    if model.sha256 != tuned.sha256:
        raise InputError(
            f"RUN: {source} has other weights than those that were evaluated; evaluate it again"
        )
    return model


def _record(row: RecordResult) -> Record:
    before = tuple(Turn(cast(Role, role), content) for role, content in row.turns_before)
    return Record(row.instruction, row.input, row.output, before=before)


def _counted_otherwise(row: RecordResult) -> bool:
    answer = row.tuned.text or ""
    return (_ignoring(answer) == _ignoring(row.output)) != exact_match(answer, row.output)


def _ignoring(text: str) -> str:
    """Return the text as the harness compares it."""
    for pattern in IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()


def _yaml(
    name: str,
    folder: Path,
    evaluation: Evaluation,
    model: Pretrained,
    tokens: int,
    ours: float,
) -> str:
    """Return the task's file. A text in JSON is also one in YAML."""
    end = model.tokenizer.decode([model.tokenizer.eot_token])
    stop = [end, *evaluation.summary.decoding.get("stop", [])]
    run = json.dumps(evaluation.name)
    return f"""\
# For lm-evaluation-harness: the {evaluation.summary.split} records of {run}.
# evaluate.py counted an exact match of {ours:.4f} on them, with {evaluation.summary.precision}.
task: {json.dumps(name)}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {json.dumps(str((folder / f"{name}.jsonl").resolve()))}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: expected
target_delimiter: ""
num_fewshot: 0
generation_kwargs:
  until: {json.dumps(stop)}
  do_sample: false
  max_gen_toks: {tokens}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    regexes_to_ignore: {json.dumps(IGNORED)}
metadata:
  version: 1.0
"""
