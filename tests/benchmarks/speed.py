"""Training and answering speed beside transformers: the same random weights, records, order and precision, in turn.

python -m tests.benchmarks.speed --size small      (nano | small | medium; `make bench` does the same)

Every round measures one after the other, ours and theirs, so that a machine whose speed drifts slows both; the ratio is
the median over the rounds. Tokens are real tokens: padding does not count.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

from sft.config import PROMPTS, DataConfig, OptimConfig
from sft.data.dataset import Batch, encode
from sft.data.plan import Plan
from sft.data.sources import load_source
from sft.gpt2.checkpoint import load_pretrained, save_pretrained
from sft.gpt2.device import keep_freed_memory, pick_device, pick_precision
from sft.gpt2.generate import complete
from sft.gpt2.model import GPT, GPTConfig
from sft.training.optim import adamw

SIZES = {
    "nano": GPTConfig(n_layer=4, n_head=4, n_embd=256),
    "small": GPTConfig(n_layer=12, n_head=12, n_embd=768),
    "medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),
}


def clock(work: Callable[[], None], device: str) -> float:
    """Seconds that `work` takes, on the device too."""
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    ours: Callable[[], None], theirs: Callable[[], None], rounds: int, device: str
) -> tuple[float, float, float]:
    """Median seconds of each and the median of the rounds' ratios theirs / ours, after a round that is not counted."""
    ours(), theirs()
    times = [(clock(ours, device), clock(theirs, device)) for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in times)
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times), ratio


def trainer(
    loss: Callable[[Batch], torch.Tensor], model: torch.nn.Module, batches: list[Batch], autocast: torch.autocast
):
    """A function that takes an optimizer step on every batch."""
    optimizer = adamw(model, OptimConfig())

    def steps() -> None:
        for batch in batches:
            with autocast:
                mean = loss(batch)
            mean.backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="shape of the model (random weights)")
    parser.add_argument("--rounds", type=int, default=3, help="how often both are measured")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps a round, batch 8")
    parser.add_argument("--prompts", type=int, default=16, help="prompts answered together, 32 new tokens each")
    args = parser.parse_args()
    device = pick_device("auto")
    low = pick_precision("auto", device) == "bf16-mixed"
    keep_freed_memory()
    torch.manual_seed(0)
    tokenizer = load_pretrained("gpt2-nano").tokenizer
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(GPT(SIZES[args.size]), Path(folder) / "model", tokenizer)
        ours = load_pretrained(Path(folder) / "model", device=device).model
        theirs = GPT2LMHeadModel.from_pretrained(Path(folder) / "model").to(device)
    theirs.config.attn_pdrop = theirs.config.embd_pdrop = theirs.config.resid_pdrop = 0.0
    theirs.eval()  # no dropout, as ours
    examples = encode(load_source(DataConfig()).records, PROMPTS["alpaca"], tokenizer, 256, mask_prompt=False)
    plan = Plan(len(examples), 8, shuffle=True).micro_batches(0, 0)[: args.steps]
    batches = [examples.batch(micro.rows.tolist()) for micro in plan]
    batches = [Batch(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in batch)) for batch in batches]
    tokens = sum(int(batch.lengths.sum()) for batch in batches)
    autocast = torch.autocast(device, torch.bfloat16, enabled=low)

    def our_loss(batch: Batch) -> torch.Tensor:
        return ours.token_losses(batch.input_ids, batch.labels, batch.lengths).mean()

    def their_loss(batch: Batch) -> torch.Tensor:
        mask = torch.arange(batch.input_ids.shape[1], device=device) < batch.lengths[:, None]
        logits = theirs(batch.input_ids, attention_mask=mask).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten())

    difference = abs(float(our_loss(batches[0]).detach()) - float(their_loss(batches[0]).detach()))
    assert difference < 1e-3, f"the losses differ by {difference}"
    steps = [trainer(loss, model, batches, autocast) for loss, model in ((our_loss, ours), (their_loss, theirs))]
    training = compare(steps[0], steps[1], args.rounds, device)

    prompts = [examples.tokens[examples.starts[i] :][: examples.prompts[i]].tolist() for i in range(args.prompts)]
    if low:
        ours, theirs = ours.bfloat16(), theirs.bfloat16()
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.eot_token] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)

    def our_answers() -> None:
        list(complete(ours, prompts, 32, slots=len(prompts)))

    def their_answers() -> None:
        options = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False, "pad_token_id": tokenizer.eot_token}
        theirs.generate(ids, attention_mask=mask, **options)

    answering = compare(our_answers, their_answers, args.rounds, device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or platform.machine()} CPU"
    print(f"gpt2-{args.size} shape, {name}, {torch.get_num_threads()} threads, {'bf16' if low else 'fp32'},", end=" ")
    print(f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    print("| | this project, tokens/s | transformers, tokens/s | ratio |\n|---|---|---|---|")
    rows = (("training, batch 8", tokens, training), (f"answering, batch {len(prompts)}", 32 * len(prompts), answering))
    for what, count, (a, b, ratio) in rows:
        print(f"| {what} | {count / a:,.0f} | {count / b:,.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
