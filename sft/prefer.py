"""Make preferences of a run's own answers: `python -m sft.prefer --help`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.command import add_placement, command
from sft.config.loading import from_dict
from sft.config.schema import EvaluateConfig
from sft.errors import InputError, counted
from sft.metrics import METRICS
from sft.shell import setting

if TYPE_CHECKING:
    from sft.evaluation.preferences import Ranked
    from sft.judge.judge import Judge

DESCRIPTION = """\
Draw several answers for each record of a run, rank them, and write the best and the worst of each
as a preference, for objective=dpo.

  python -m sft.prefer                            8 answers to each training record, newest run
  python -m sft.prefer outputs/mine --samples 16 --temperature 1
  python -m sft.prefer outputs/mine --judge ollama --judge-model llama3
"""
EPILOG = """\
Give the same command again to continue where it stopped: answers and judgements are kept in
RUN/preferences/.
"""

# The metrics that rank answers: those of texts, for which more is better.
RANKING = [metric.name for metric in METRICS if metric.compare and not metric.lower_is_better]
URLS = {"ollama": "http://localhost:11434", "openai": "http://localhost:8000/v1"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m sft.prefer",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", nargs="?", default="outputs/latest", help="run (%(default)s)")
    made.add_argument("--split", choices=("train", "validation", "test"), default="train")
    made.add_argument("--limit", type=int, help="records, the first of the split; default: all")
    made.add_argument(
        "--samples", type=int, default=8, help="answers drawn for each record (%(default)s)"
    )
    made.add_argument(
        "--temperature", type=float, default=0.8, help="of the draws, above 0 (%(default)s)"
    )
    made.add_argument("--top-p", type=float, help="as generate.top_p of evaluate.py")
    made.add_argument("--max-new-tokens", type=int, default=256, help="(%(default)s)")
    made.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    made.add_argument("--seed", type=int, default=123, help="of the draws (%(default)s)")
    made.add_argument(
        "--by",
        choices=RANKING,
        default="token_f1",
        help="metric against the expected answer that ranks the answers (%(default)s)",
    )
    made.add_argument("--judge", choices=tuple(URLS), help="a judge that ranks them instead")
    made.add_argument("--judge-model", help="its model")
    made.add_argument("--judge-url", help="its address; default: on this machine")
    made.add_argument(
        "--out", type=Path, metavar="FILE", help="default: RUN/preferences/preferences.jsonl"
    )
    add_placement(made)
    return made


def settings(arguments: argparse.Namespace) -> EvaluateConfig:
    """Return the options as settings of an evaluation, which have the same ranges.

    Raises:
        InputError: one is out of its range, by the setting's key.
    """
    if arguments.samples < 2:
        raise InputError(f"--samples: {arguments.samples}, expected at least 2 answers to compare")
    if arguments.temperature == 0:
        raise InputError("--temperature: at 0 all answers are the same; give a number above 0")
    if arguments.judge is None and (arguments.judge_model or arguments.judge_url):
        raise InputError("--judge: missing; --judge-model and --judge-url describe a judge")
    judge: dict[str, Any] = {}
    if arguments.judge is not None:
        url = arguments.judge_url or URLS[arguments.judge]
        judge = {"kind": arguments.judge, "model": arguments.judge_model, "url": url}
    values = {
        "data": {},
        "generate": {
            "max_new_tokens": arguments.max_new_tokens,
            "temperature": arguments.temperature,
            "top_p": arguments.top_p,
        },
        "run": arguments.run,
        "split": arguments.split,
        "limit": arguments.limit,
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
        "device": arguments.device,
        "precision": arguments.precision,
        "judge": judge,
    }
    return from_dict(EvaluateConfig, values)


def main() -> None:
    arguments = parser().parse_args()
    config = settings(arguments)

    # --help and a wrong option must not wait for torch.
    from sft.atomic import locked, make_folder, write_text
    from sft.judge.ask import connect

    judge = connect(config.judge)
    folder = Path(arguments.run).expanduser() / "preferences"
    if not folder.parent.is_dir():
        raise InputError(f"run: {folder.parent} is not there; train first, or give a run's folder")
    make_folder(folder)
    with locked(folder / ".lock", refuse=f"{folder}: another process is at work there"):
        ranked = rank(config, arguments.samples, folder, judge, arguments.by)
        records = [found for one in ranked if (found := one.as_preference())]
        if not records:
            raise InputError(
                f"{counted(len(ranked), 'record')}, but the answers to each are equally good; "
                "raise --samples or --temperature"
            )
        out = arguments.out or folder / "preferences.jsonl"
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        write_text(out, "".join(lines))

    model = Path(arguments.run) / "model"
    print(
        f"{counted(len(ranked), 'record')}, {arguments.samples} answers each: "
        f"{len(records)} gave a pair, and {len(ranked) - len(records)} gave none, as their answers "
        f"are equally good\nwritten: {out}\nnext: python train.py experiment=dpo "
        f"{setting('data.path', out)} {setting('model.checkpoint', model)}"
    )


def rank(
    config: EvaluateConfig, samples: int, folder: Path, judge: Judge | None, metric: str
) -> list[Ranked]:
    """Draw answers and rank them. Answers that are in the folder already are used again.

    Raises:
        InputError: the run cannot be read, or no record can be asked, or the judge cannot go on.
    """
    from sft.checkpoint.folder import load_pretrained
    from sft.device import DTYPES, pick_answer_precision, pick_device
    from sft.evaluation.answers import AnswerFile, Decoding, answer_all
    from sft.evaluation.measure import encode_records
    from sft.evaluation.preferences import Ranked, scores_by_judge, scores_by_metric
    from sft.evaluation.setup import setup_of_run
    from sft.gpt2.frozen import freeze

    setup = setup_of_run(config.run)
    records = setup.records(config.split, config.limit)
    tuned = setup.models["tuned"]
    encoded = encode_records("tuned", tuned, records, setup.template, setup.data, config.split)
    for line in encoded.unasked():
        print(line)
    asked = [one for one, status in zip(records, encoded.statuses, strict=True) if status is None]

    # Each answer is drawn from a seed of its own, and kept as an evaluation's are.
    device = pick_device(config.device)
    precision = pick_answer_precision(config.precision, device)
    decoding = Decoding.of(config.generate, config.seed, precision, [tuned])
    dtype = DTYPES[precision]
    model = load_pretrained(tuned.source, tuned.revision, dtype=dtype, device=device).model.eval()
    freeze(model, int8=precision == "int8")
    prompts = [prompt for prompt in encoded.prompts for _ in range(samples)]
    file = AnswerFile(folder / "answers.jsonl")
    found = answer_all(model, tuned, prompts, decoding, file, config.batch_size)
    answers = [found[start : start + samples] for start in range(0, len(found), samples)]

    if judge is not None:
        scores = scores_by_judge(asked, answers, judge, folder / "scores.jsonl")
    else:
        scores = scores_by_metric(asked, answers, metric)
    return [Ranked(*one) for one in zip(asked, answers, scores, strict=True)]


if __name__ == "__main__":
    command(main)
