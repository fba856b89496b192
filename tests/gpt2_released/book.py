"""The data loader and the losses of "Build a Large Language Model (From Scratch)", chapter 7.

It follows the book and shares nothing with this project's own loader.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import tiktoken
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

SEED = 123
BATCH_SIZE = 8
# The losses of so many batches of each split are averaged.
BATCHES = 5
IGNORE_INDEX = -100

HEADER = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)

Record = dict[str, str]
Loader = Iterable[tuple[Tensor, Tensor]]


def text_of(record: Record) -> str:
    """Format a record, prompt and response, in the Alpaca style."""
    text = f"{HEADER}\n\n### Instruction:\n{record['instruction']}"
    if record["input"]:
        text += f"\n\n### Input:\n{record['input']}"
    return f"{text}\n\n### Response:\n{record['output']}"


def split(records: Sequence[Record], train: float, test: float) -> dict[str, Sequence[Record]]:
    """Cut the records, in file order, into train, test and validation."""
    first = int(len(records) * train)
    second = first + int(len(records) * test)
    return {"train": records[:first], "test": records[first:second], "validation": records[second:]}


def collate(texts: Sequence[list[int]], end: int, context: int) -> tuple[Tensor, Tensor]:
    """Pad texts with the end token to the longest, and shift them by one token.

    Returns:
        Inputs and targets, both (B, T). Of a row's end tokens, the first alone is a target.
    """
    width = max(len(text) for text in texts) + 1
    padded = torch.tensor([text + [end] * (width - len(text)) for text in texts])
    inputs = padded[:, :-1].contiguous()
    targets = padded[:, 1:].clone()

    # The text's own end token stands first, before the padding.
    is_end = targets == end
    targets[is_end & (is_end.cumsum(1) > 1)] = IGNORE_INDEX
    return inputs[:, :context], targets[:, :context]


def loader(
    records: Sequence[Record], tokenizer: tiktoken.Encoding, context: int, train: bool
) -> DataLoader[list[int]]:
    """Return the batches of a split.

    In training they are shuffled, and a last batch that is not full is dropped.
    """
    texts = [tokenizer.encode_ordinary(text_of(record)) for record in records]

    # A list has the two methods of a Dataset, but not its type.
    return DataLoader(
        texts,  # type: ignore[arg-type]
        BATCH_SIZE,
        shuffle=train,
        drop_last=train,
        collate_fn=lambda rows: collate(rows, tokenizer.eot_token, context),
    )


@torch.no_grad()
def mean_loss(logits_of: Callable[[Tensor], Tensor], batches: Loader) -> float:
    """The mean of the first five batches' mean losses, whatever the number of targets in each."""
    losses = []
    for inputs, targets in islice(batches, BATCHES):
        logits = logits_of(inputs)
        logits, labels = logits.flatten(0, 1), targets.flatten()
        losses.append(F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX))
    return float(torch.stack(losses).mean())


def initial_losses(
    logits_of: Callable[[Tensor], Tensor],
    parts: dict[str, Sequence[Record]],
    tokenizer: tiktoken.Encoding,
    context: int,
) -> tuple[float, float]:
    """The losses over training and validation that the book prints before it trains.

    Args:
        logits_of: the model, from ids (B, T) to logits (B, T, V).
    """
    training = loader(parts["train"], tokenizer, context, train=True)
    validation = loader(parts["validation"], tokenizer, context, train=False)
    torch.manual_seed(SEED)
    return mean_loss(logits_of, training), mean_loss(logits_of, validation)
