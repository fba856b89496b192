"""The training loop without a framework: what `train.py` does to the miniature, in one `for`.

    python docs/loop.py --steps 20

The parts are those of `train.py`, and so are the losses: `tests/test_loop.py` compares them. What
a run needs beyond its numbers is left out here: several devices, mixed precision, checkpoints that
resume, loss probes, and the files of the run's folder. `sft/training/run.py` puts those around it.

Shapes: B records, padded to T tokens.
"""

import argparse

from sft.checkpoint.folder import load_pretrained
from sft.config.schema import DataConfig, OptimConfig
from sft.data.batches import encode
from sft.data.plan import Plan
from sft.data.sources import load_source
from sft.data.splits import split_source
from sft.objective import CrossEntropy
from sft.prompts import PROMPTS
from sft.training.optim import adamw

BATCH_SIZE = 8
EPOCHS = 2
SEED = 123


def train(steps: int) -> list[float]:
    """Tune gpt2-nano on its own records, in fp32 on the CPU, for at most two epochs.

    Returns:
        The loss of each step before its update, in nats per learned token.
    """
    # A checkpoint holds three things: the network, its tokenizer, and its prompt template. The
    # base model was never tuned, so it has no template yet, and learns the Alpaca one.
    gpt2 = load_pretrained("gpt2-nano")
    template = PROMPTS["alpaca"]

    # The records lie in the order of their file: the first 85% are for training.
    data = DataConfig(source="nano", mask_prompt=True)
    records = split_source(load_source(data), data)["train"]

    # Each record becomes the token ids of its prompt, its answer and an end token. The prompt is
    # masked: it is read, but only the answer is learned.
    context = gpt2.model.config.n_positions
    examples = encode(records, template, gpt2.tokenizer, context, data.mask_prompt)

    # The plan says which records form which batch. It draws a new order for each epoch. On one
    # device and without gradient accumulation, a micro-batch is all of an optimizer step.
    plan = Plan(len(examples), BATCH_SIZE, shuffle=True, seed=SEED)

    # The objective is the cross entropy of the next token. AdamW follows its gradient downhill.
    objective = CrossEntropy(gpt2.model)
    optimizer = adamw(gpt2.model, OptimConfig(lr=1e-4))

    losses: list[float] = []
    gpt2.model.train()
    for epoch in range(EPOCHS):
        for micro_batch in plan.micro_batches(epoch, rank=0):
            if len(losses) == steps:
                return losses

            # The batch holds the input ids (B, T) and the labels (B, T): at each position the token
            # that follows it, or -100 where nothing is learned.
            batch = examples.batch(micro_batch.rows.tolist())

            # The losses of all learned tokens are summed, then divided by their number. So every
            # token counts the same, whether its record is long or short.
            batch_loss = objective.loss(batch)
            loss = batch_loss.sum / batch_loss.count

            # Backward finds how each parameter moves the loss, and the optimizer moves it the other
            # way. Gradients add up, so they are cleared for the next step.
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

            losses.append(loss.item())
            print(f"step {len(losses)}  loss {losses[-1]:.3f}", flush=True)
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train gpt2-nano for a few steps.")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps (%(default)s)")
    train(parser.parse_args().steps)
