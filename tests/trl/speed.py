"""The seconds of a DPO step beside TRL's DPOTrainer, measured in turn: `make bench-dpo`.

Both have the same random model, the same pairs, bf16 autocast and a fused AdamW. TRL runs twice: as
it comes, when it asks the reference model in every step, and with the reference's log-probabilities
computed before training, as here.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from datasets import Dataset
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sft import load_pretrained
from sft.checkpoint.folder import save_pretrained
from sft.config.schema import DpoConfig
from sft.data.batches import Batch
from sft.gpt2.model import GPT
from sft.gpt2.tokenizer import load_tokenizer
from sft.objective import Preference, row_logprobs
from tests.benchmarks.speed import SIZES
from tests.conftest import train_bpe

# Token ids of a prompt and of its two answers.
Pair = tuple[list[int], list[int], list[int]]


def make_pairs(count: int, vocabulary: int) -> list[Pair]:
    """Make pairs with random tokens and the lengths of the published instructions."""
    draw = torch.Generator().manual_seed(0)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=draw))
        return torch.randint(vocabulary, (length,), generator=draw).tolist()

    return [(tokens(30, 60), tokens(8, 25), tokens(8, 25)) for _ in range(count)]


def our_batch(pairs: list[Pair]) -> Batch:
    """Return the chosen answers, then the rejected ones, as `Pairs.batch` orders them."""
    rows = [(prompt, answer) for prompt, answer, _ in pairs]
    rows += [(prompt, answer) for prompt, _, answer in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(rows):
        size = len(prompt) + len(answer) - 1
        ids[row, :size] = torch.tensor((prompt + answer)[:-1])
        labels[row, len(prompt) - 1 : size] = torch.tensor(answer)
    lengths = torch.tensor([len(prompt) + len(answer) - 1 for prompt, answer in rows])
    places = torch.arange(len(pairs)).repeat(2)
    return Batch(ids, labels, lengths, places, len(pairs), int(lengths.sum()))


def with_reference(folder: Path, batches: list[Batch]) -> list[Batch]:
    """Return the batches with the log-probabilities of their rows before training."""
    model = load_pretrained(folder).model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return [batch._replace(reference=row_logprobs(model, batch)) for batch in batches]


def our_step(folder: Path, batches: list[Batch]) -> Callable[[int], float]:
    """Return a function that takes the optimizer step of a batch and returns its loss."""
    model = load_pretrained(folder).model.train()
    objective = Preference(model, DpoConfig(0.1, "sigmoid"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(place: int) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            found = objective.loss(batches[place])
            loss = found.sum / found.count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def trl_step(
    folder: Path, pairs: list[list[Pair]], known: list[Batch] | None = None
) -> Callable[[int], float]:
    """Return TRL's step, as `our_step`.

    Args:
        known: the same pairs with the reference's log-probabilities. TRL then uses these, as with
            `precompute_ref_log_probs`.
    """
    words = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    words.pad_token = words.eos_token = "<|endoftext|>"
    trainer = DPOTrainer(
        model=GPT2LMHeadModel.from_pretrained(folder),
        ref_model=GPT2LMHeadModel.from_pretrained(folder),
        args=DPOConfig(
            output_dir=str(folder / "trl"), beta=0.1, use_cpu=True, bf16=True, report_to=[],
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}),
        processing_class=words,
    )  # fmt: skip
    collate = DataCollatorForPreference(0)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    batches = [collate([dict(zip(names, pair, strict=True)) for pair in part]) for part in pairs]
    model = trainer.model.train()
    if known is not None:
        for theirs, ours in zip(batches, known, strict=True):
            chosen, rejected = ours.reference.chunk(2)
            theirs |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        trainer.precompute_ref_logps = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(place: int) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = trainer.compute_loss(model, batches[place])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8, help="pairs of a step")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tokenizer = load_tokenizer(train_bpe(folder))
        torch.manual_seed(0)
        save_pretrained(GPT(SIZES[arguments.size]), folder, tokenizer)
        pairs = [make_pairs(arguments.batch, 400) for _ in range(arguments.rounds)]
        known = with_reference(folder, [our_batch(part) for part in pairs])
        steps = {
            "this project": our_step(folder, known),
            "TRL": trl_step(folder, pairs),
            "TRL, reference stored": trl_step(folder, pairs, known),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(arguments.rounds):
            for name, step in steps.items():
                begin = time.perf_counter()
                loss = step(turn)
                seconds[name].append(time.perf_counter() - begin)
                print(f"{name}: loss {loss:.4f}, {seconds[name][-1]:.2f} s", flush=True)

    # The first round prepares each contestant's memory.
    ours = seconds["this project"][1:]
    for name, theirs in seconds.items():
        ratio = median(b / a for a, b in zip(ours, theirs[1:], strict=True))
        print(f"{name}: {median(theirs[1:]):.2f} s a step, {ratio:.2f} times this project's")


if __name__ == "__main__":
    main()
