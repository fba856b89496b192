"""A made-up evaluation, as evaluate.py describes one, with everything in it that can be in it."""

import random
from pathlib import Path
from typing import Any

from sft.dataclass_json import from_json
from sft.report import report
from sft.scoring.results import EvaluationSummary, RecordResult
from sft.summaries import RunSummary

Json = dict[str, Any]
METRICS = ("exact_match", "token_f1", "rouge_l", "chrf", "loss", "score")


def write_report(
    folder: Path, summary: Json, rows: list[Json], run: Json | None, metrics: list[Json] | None
) -> None:
    """Write the report of an evaluation that is given as JSON."""
    report.write_report(
        folder,
        from_json(EvaluationSummary, summary),
        [from_json(RecordResult, row) for row in rows],
        None if run is None else from_json(RunSummary, run),
        metrics,
    )


def rows(count: int = 60) -> list[Json]:
    return [_row(number, random.Random(number)) for number in range(1, count + 1)]


def _row(number: int, draw: random.Random) -> Json:
    right = draw.random() < 0.7
    expected = f"The sum of {number} and {number + 3} is {2 * number + 3}."
    return {
        "record": number,
        "category": ("sum", "capital", "opposite")[number % 3],
        "instruction": f"Add the two numbers of record {number}.",
        "input": f"{number} and {number + 3}" if number % 2 else "",
        "output": expected,
        "duplicate": {5: "exact", 9: "near"}.get(number),
        "tuned": _answer(expected if right else f"It is {draw.randint(100, 999)}.", right, draw),
        "base": _answer("The next line is about numbers.\n\n" * draw.randint(1, 12), False, draw),
    }


def _answer(text: str, right: bool, draw: random.Random) -> Json:
    near = 1.0 if right else round(draw.uniform(0, 0.4), 6)
    judged = draw.random() > 0.05
    return {
        "text": text.strip(),
        "tokens": len(text) // 4,
        "finish_reason": "stop" if len(text) < 300 else "length",
        "loss": round(draw.uniform(0.01, 0.2) if right else draw.uniform(1, 4), 4),
        "loss_tokens": 12,
        "exact_match": float(right),
        "token_f1": near,
        "rouge_l": near,
        "chrf": near,
        "status": "scored" if judged else "unparsed",
        "score": (draw.randint(90, 100) if right else draw.randint(0, 40)) if judged else None,
        "reason": ("It says the same." if right else "The number is wrong.") if judged else None,
    }


def model(rows: list[Json], name: str, source: str) -> Json:
    """A model's part of the summary, from its rows; the intervals are no bootstrap."""
    answers = [row[name] for row in rows]
    means = {key: _mean(answers, key) for key in METRICS}
    scores = sorted(answer["score"] for answer in answers if answer["score"] is not None)
    judge = {
        "mean": means.pop("score"),
        "median": scores[len(scores) // 2],
        "max": scores[-1],
        "min": scores[0],
    }
    unparsed = len(answers) - len(scores)
    return means | {
        "source": source,
        "revision": None,
        "sha256": "3e5e2ec735e0547300dd6f095c4eeb35e7dd9c85a902f9fdaf4895b1c536b795",
        "perplexity": 1.107,
        "loss_as_trained": means["loss"],
        "never_stopped": sum(answer["finish_reason"] == "length" for answer in answers),
        "loops": 0.35,
        "tokens_per_answer": _mean(answers, "tokens"),
        "seconds": 1.76,
        "intervals": {key: [mean * 0.93, mean * 1.06] for key, mean in means.items()},
        "judge": judge
        | {
            "interval": [judge["mean"] * 0.93, judge["mean"] * 1.06],
            "scored": len(scores),
            "of": len(answers),
        }
        | {"status": {"scored": len(scores), "unparsed": unparsed}},
        "length": {"mean_words": 5.25, "score_correlation": -0.31},
    }


def _mean(answers: list[Json], key: str) -> float:
    values = [answer[key] for answer in answers if answer[key] is not None]
    return sum(values) / len(values)


def summary(rows: list[Json]) -> Json:
    tuned, base = (
        model(rows, "tuned", "outputs/2026-11-21/model"),
        model(rows, "base", "openai-community/gpt2-medium"),
    )
    means = {
        name: {**part, "score": part["judge"]["mean"]}
        for name, part in (("tuned", tuned), ("base", base))
    }
    worst = sorted(rows, key=lambda row: -row["tuned"]["loss"])[:20]
    return {
        "split": "test",
        "records": len(rows),
        "loss_is": "nats per token, prompts left out",
        "tuned": tuned,
        "base": base,
        "no_base": None,
        "tuned_against_base": {key: _against(means, key) for key in METRICS},
        "judge": JUDGE,
        "exact_match_by_category": _by_category(rows, "exact_match"),
        "score_by_category": _by_category(rows, "score"),
        "duplicates": {
            "exact": 1,
            "near": 1,
            "close": 1,
            "without": {"records": len(rows) - 2, **means},
            "without_close": {"records": len(rows) - 1, **means},
        },
        "worst": {key: [row["record"] for row in worst] for key in ("loss", "chrf", "score")},
        "noisiest_training_records": [
            {
                "record": 17,
                "loss": 5.125,
                "instruction": "Name a colour.",
                "input": "",
                "output": "Seven.",
            }
        ],
        "training_records": {"looked_at": 100, "of": 935},
        "template": "### Instruction:\n{{ instruction }}\n\n### Response:\n",
        "decoding": {
            "max_new_tokens": 256,
            "temperature": 0.0,
            "top_k": None,
            "seed": 123,
            "precision": "bf16-mixed",
        },
        "device": "cpu",
        "precision": "bf16-mixed",
        "seconds": 20.31,
        "data": {
            "path": "data/instruction-data.json",
            "sha256": "a311981622926d8a65b1f836b22b12f5267652ccb70bf3c1",
            "splits": {},
        },
        "versions": {"python": "3.12.1", "sft": "0.1.0", "torch": "2.13.0"},
        "config": {
            "run": "outputs/latest",
            "judge": {"kind": "ollama", "retries": 4},
            "limit": None,
        },
    }


def _against(means: dict[str, Json], key: str) -> Json:
    difference = means["tuned"][key] - means["base"][key]
    verdict = f"the tuned model's {key} differs from its base's by {difference:.2f}"
    counts = {"wins": 51, "ties": 6, "losses": 3}
    interval = [difference * 0.9, difference * 1.1]
    return {
        "records": 60,
        "difference": difference,
        "interval": interval,
        "p_value": 0.0002,
        "verdict": verdict,
    } | counts


def _by_category(rows: list[Json], key: str) -> Json:
    found = {}
    for category in sorted({row["category"] for row in rows}):
        own = [row for row in rows if row["category"] == category]
        found[category] = {"records": len(own)} | {
            name: _mean([row[name] for row in own], key) for name in ("tuned", "base")
        }
    return found


JUDGE = {
    "kind": "ollama",
    "model": "llama3:latest",
    "digest": "365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1",
    "version": "0.5.1",
    "url": "http://127.0.0.1:11434",
    "prompt": "You grade answers.\nReply with JSON.",
    "options": {"temperature": 0, "num_ctx": 4096, "seed": 123},
    "coverage": {"tuned": 0.87},
    "warning": "only 87% of the answers were scored, fewer than judge.min_coverage=0.9",
    "audit": {
        "records": 20,
        "means": {"expected": 98.2, "empty": 1.5, "other": 12.3},
        "auc": 0.99,
        "verdict": "This judge tells expected answers from others.",
    },
    "pairwise": {
        "wins": 48,
        "ties": 9,
        "losses": 2,
        "unjudged": 1,
        "position_bias": 0.15,
        "interval": [0.68, 0.88],
        "p_value": 0.001,
        "verdict": "The judge prefers the tuned model's answers.",
    },
}

RUN: Json = {
    "status": "finished",
    "losses": {},
    "peak_memory_bytes": 0,
    "answer_loss_before": None,
    "seed": 123,
    "checkpoint": {"source": "openai-community/gpt2-medium", "revision": None, "sha256": ""},
    "steps": 346,
    "epochs": 2.0,
    "tokens_seen": 142532,
    "seconds": 39.71,
    "tokens_per_sec": 3588.9,
    "best_validation_loss": 0.0803,
    "device": "cuda",
    "precision": "bf16-mixed",
    "data": {
        "path": "data/instruction-data.json",
        "sha256": "",
        "splits": {
            "train": {"records": 1377, "tokens": 71266, "longest": 70, "duplicates": 4},
            "test": {"records": 162, "tokens": 8360, "longest": 64, "duplicates": 0},
        },
    },
    "versions": {"python": "3.12.1", "torch": "2.12.0"},
    "config": {
        "model": {"checkpoint": "openai-community/gpt2-medium"},
        "optim": {"lr": 5e-5, "betas": [0.9, 0.999]},
    },
}


def metrics(steps: int = 40) -> list[Json]:
    found: list[Json] = []
    for step in range(steps + 1):
        row: Json = {"step": step, "epoch": step / 20, "tokens_seen": step * 400}
        row |= {"train/loss": 2.5 * 0.9**step + 0.1} if step else {}
        row |= (
            {"train/eval_loss": 2.5 * 0.9**step, "val/loss": 2.4 * 0.9**step + 0.2}
            if step % 5 == 0
            else {}
        )
        row |= {"val/full_loss": 2.4 * 0.9**step + 0.2} if step and step % 20 == 0 else {}
        found.append(row)
    return found
