"""The reference of DPO: log-probabilities of the answers by the model before its training.

They are computed once, before the first step, and cached. So no second model is in memory. A
resumed run takes them from the cache, or computes them again from the base.
"""

import dataclasses
import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from sft.data.cache import Arrays, cached
from sft.data.pairs import Pairs
from sft.data.splits import Split
from sft.device import DTYPES, Precision
from sft.gpt2.fast import row_multiple
from sft.gpt2.model import GPT
from sft.objective import row_logprobs


def with_reference(
    splits: dict[str, Split],
    model: GPT,
    weights: str,
    device: torch.device,
    precision: Precision,
    batch_size: int,
) -> dict[str, Split]:
    """Return the splits with the log-probabilities of the pairs that training and validation read.

    Args:
        model: as it is before training; it stays on the device.
        weights: their hash, for the cache.
    """
    pairs = {name: _pairs(splits[name]) for name in ("train", "validation")}

    def make() -> Arrays:
        model.to(device).eval()
        return {
            name: logprobs(examples, model, device, precision, batch_size)
            for name, examples in pairs.items()
        }

    # The name in the cache is a hash of everything that the numbers are made from.
    name = hashlib.sha256(repr((weights, device.type, precision, batch_size)).encode())
    for examples in pairs.values():
        for array in (examples.tokens, examples.starts, examples.sizes, examples.prompts):
            name.update(np.ascontiguousarray(array).data)
    found = cached(f"reference-{name.hexdigest()[:32]}", make)

    filled = dict(splits)
    for part, examples in pairs.items():
        with_values = dataclasses.replace(examples, reference=np.array(found[part]))
        filled[part] = dataclasses.replace(splits[part], examples=with_values)
    return filled


def _pairs(split: Split) -> Pairs:
    assert isinstance(split.examples, Pairs)
    return split.examples


@torch.no_grad()
def logprobs(
    pairs: Pairs, model: GPT, device: torch.device, precision: Precision, batch_size: int
) -> NDArray[np.float32]:
    """Return the log-probability of each row's answer, (rows,), in nats."""
    found = np.zeros(len(pairs.prompts), np.float32)
    starts = range(0, len(pairs), batch_size)
    for start in tqdm(starts, "reference", leave=False, delay=1):
        rows = np.arange(start, min(start + batch_size, len(pairs)))
        batch = pairs.batch(rows.tolist(), multiple=row_multiple(device.type))
        on_device = batch._replace(
            input_ids=batch.input_ids.to(device),
            labels=batch.labels.to(device),
            lengths=batch.lengths.to(device),
        )
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "32-true"):
            found[pairs.rows_read(rows)] = row_logprobs(model, on_device).float().cpu().numpy()
    return found
