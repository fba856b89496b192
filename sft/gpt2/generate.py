"""Decoding: many prompts at once, each with its own length, its own random numbers and its own end.

`Decoder` is the loop's body, one token for every row per step; `complete` keeps its rows filled from a queue of
prompts; `generate` is the plain function around both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.gpt2.model import GPT, Attend, Padding, attend_plainly
from sft.gpt2.sampling import Sampling


class Cache:
    """Keys and values of what each slot has read, (layers, slots, nh, S, hs) each; allocated at the first write."""

    def __init__(self, layers: int, slots: int, size: int) -> None:
        self.layers, self.slots, self.size = layers, slots, size
        self.keys = self.values = torch.empty(0)

    def _allocate(self, like: Tensor) -> None:  # (..., nh, hs)
        nh, hs = like.shape[-2:]
        self.keys, self.values = (like.new_zeros(self.layers, self.slots, nh, self.size, hs) for _ in range(2))

    def prefill(self, qkv: Tensor, layer: int, slot: int, padding: Padding) -> Tensor:
        """Attend within whole prompts, (N, 3, nh, hs), and keep their keys and values from `slot` on."""
        if self.keys.numel() == 0:
            self._allocate(qkv)
        rows = slice(slot, slot + padding.B)
        _, k, v = padding.restore(qkv).permute(2, 0, 3, 1, 4)  # (B, nh, T, hs)
        self.keys[layer, rows, :, : padding.T] = k
        self.values[layer, rows, :, : padding.T] = v
        return padding.attend(qkv)

    def extend(self, qkv: Tensor, layer: int, positions: Tensor, mask: Tensor) -> Tensor:
        """Attend from one new token in each of the first n slots, (n, 3, nh, hs), to all that its slot holds."""
        n, seen = mask.shape[0], mask.shape[-1]
        q, k, v = qkv.unbind(1)  # (n, nh, hs)
        slots = torch.arange(n, device=q.device)
        self.keys[layer, slots, :, positions] = k
        self.values[layer, slots, :, positions] = v
        keys, values = self.keys[layer, :n, :, :seen], self.values[layer, :n, :, :seen]
        if q.device.type != "mps":
            return F.scaled_dot_product_attention(q.unsqueeze(2), keys, values, mask).squeeze(2)
        bias = torch.where(mask, 0.0, -torch.inf).to(q.dtype).expand(n, q.shape[1], 1, seen)
        return attend_plainly(q.unsqueeze(2), keys, values, bias.flatten(0, 1)).squeeze(2)  # see pytorch#167515

    def move(self, source: int, target: int) -> None:
        if self.keys.numel():
            self.keys[:, target] = self.keys[:, source]
            self.values[:, target] = self.values[:, source]


@dataclass
class Row:
    """A sequence being decoded: how many tokens the cache holds of it, and the token to read next."""

    id: int
    prompt: Sequence[int]
    sampling: Sampling
    generator: torch.Generator
    length: int = 0
    token: int = 0


def choose(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """The next token of each row, from its logits (rows, V), by its own sampling."""
    tokens: list[int] = logits.max(-1).indices.tolist()  # on a CPU, in bf16, argmax takes five times as long
    for sampling in {row.sampling for row in rows if row.sampling.temperature > 0}:
        drawing = [index for index, row in enumerate(rows) if row.sampling == sampling]
        drawn = sampling.choose(logits[drawing], [rows[index].generator for index in drawing])
        for index, token in zip(drawing, drawn, strict=True):
            tokens[index] = token
    return tokens


class Decoder:
    """Decodes up to `slots` sequences together, a step at a time; rows come and go between the steps.

    Args:
        size: the longest a sequence may become, prompt and answer, in tokens.
    """

    def __init__(self, model: GPT, slots: int, size: int) -> None:
        self.model, self.slots = model, slots
        self.cache = Cache(model.config.n_layer, slots, min(size, model.config.n_positions))
        self.rows: list[Row] = []  # row i lives in slot i of the cache
        self.waiting: list[Row] = []  # prompts that no step has read yet
        self.device = model.wte.weight.device
        self._next_id = 0

    def add(self, prompt: Sequence[int], seed: int = 0, sampling: Sampling | None = None) -> int:
        """Give a prompt a slot; it is read at the next step. Returns the row's number, which is never used again.

        Args:
            seed, sampling: of this row alone, whatever stands beside it; by default the likeliest tokens are taken.

        Raises:
            ValueError: the prompt is empty or leaves no room for an answer.
            RuntimeError: every slot is taken.
        """
        if len(self.rows) + len(self.waiting) == self.slots:
            raise RuntimeError(f"all {self.slots} slots are taken")
        if not 0 < len(prompt) < self.cache.size:
            raise ValueError(f"a prompt of {len(prompt)} tokens: expected 1 to {self.cache.size - 1}")
        row = Row(self._next_id, prompt, sampling or Sampling(), torch.Generator().manual_seed(seed))
        self.waiting.append(row)
        self._next_id += 1
        return row.id

    def remove(self, row_id: int) -> None:
        """Free a row's slot, which the last row moves into, so that the rows in use stay side by side."""
        self.waiting = [row for row in self.waiting if row.id != row_id]
        for slot, row in enumerate(self.rows):
            if row.id == row_id:
                self.cache.move(len(self.rows) - 1, slot)
                self.rows[slot] = self.rows[-1]
                self.rows.pop()
                return

    @torch.no_grad()
    def step(self) -> list[tuple[int, int]]:
        """The next token of every row, as (row, token); new rows read their prompt first.

        The caller removes a row before it would grow beyond `size`.
        """
        logits = [self._extend(self.rows)] if self.rows else []
        logits += [self._prefill(self.waiting, slot=len(self.rows))] if self.waiting else []
        if not logits:
            return []
        self.rows, self.waiting = self.rows + self.waiting, []
        for row, token in zip(
            self.rows, choose(torch.cat(logits) if len(logits) > 1 else logits[0], self.rows), strict=True
        ):
            row.token = token
        return [(row.id, row.token) for row in self.rows]

    def _prefill(self, rows: list[Row], slot: int) -> Tensor:  # -> (rows, V)
        prompts = [torch.tensor(row.prompt) for row in rows]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(self.device)
        padding = Padding(ids, lengths)
        attends: list[Attend] = [
            partial(self.cache.prefill, layer=layer, slot=slot, padding=padding) for layer in range(self.cache.layers)
        ]
        positions = padding.positions.expand(padding.B, -1)
        x = self.model.layers(self.model.wte(padding.ids), padding.remove(positions), attends)  # (N, C)
        for row in rows:
            row.length = len(row.prompt)
        return self.model.head(x[lengths.cumsum(0) - 1])

    def _extend(self, rows: list[Row]) -> Tensor:  # -> (rows, V)
        ids = torch.tensor([row.token for row in rows], device=self.device)
        positions = torch.tensor([row.length for row in rows], device=self.device)
        seen = torch.arange(max(row.length for row in rows) + 1, device=self.device)
        mask = (seen <= positions.unsqueeze(1))[:, None, None]  # (rows, 1, 1, seen)
        attends: list[Attend] = [
            partial(self.cache.extend, layer=layer, positions=positions, mask=mask)
            for layer in range(self.cache.layers)
        ]
        x = self.model.layers(self.model.wte(ids), positions, attends)
        for row in rows:
            row.length += 1
        return self.model.head(x)


@dataclass
class Completion:
    """The new tokens, without the end token, and whether the end token (`stop`) or a limit (`length`) ended them."""

    index: int  # of the prompt
    tokens: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] = "length"


def complete(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    sampling: Sampling | None = None,
    eos_id: int | None = None,
    seeds: Sequence[int] | None = None,
    slots: int = 16,
) -> Iterator[Completion]:
    """Answer all prompts, `slots` at a time, and yield each answer as it is finished.

    Args:
        prompts: token ids. The longest are taken first, and a finished one makes room for the next in the queue.
        max_new_tokens: the most tokens of an answer, or of each; an answer also ends where the model's context is full.
        eos_id: the token that ends an answer; None: none does.
        seeds: one for each prompt; what is drawn for it does not depend on the prompts beside it.

    Raises:
        ValueError: a prompt is empty or longer than the context, by its index; or max_new_tokens is below 1.
    """
    context = model.config.n_positions
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= context:
            raise ValueError(f"prompt {index} has {len(prompt)} tokens, expected 1 to {context}, the model's context")
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    if min(limits, default=1) < 1:
        raise ValueError(f"max_new_tokens: expected a number from 1 up, found {min(limits)}")
    queue = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # popped from its long end
    size = min(context, max((len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)), default=0))
    decoder = Decoder(model, slots, size)
    running: dict[int, Completion] = {}
    while queue or running:
        while queue and len(running) < slots:
            index = queue.pop()
            if len(prompts[index]) == context:
                yield Completion(index)
                continue
            row = decoder.add(prompts[index], seeds[index] if seeds else 0, sampling)
            running[row] = Completion(index)
        for row, token in decoder.step():
            answer = running[row]
            if token == eos_id:
                answer.finish_reason = "stop"
            else:
                answer.tokens.append(token)
            length = len(prompts[answer.index]) + len(answer.tokens)
            if token == eos_id or len(answer.tokens) == limits[answer.index] or length == context:
                decoder.remove(row)
                yield running.pop(row)


def row_seeds(seed: int, rows: int) -> list[int]:
    """A seed for each row, from `seed` and the row's place alone."""
    return [(seed * 1_000_003 + row) % 2**32 for row in range(rows)]


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    eos_id: int | None = None,
    seed: int = 0,
    top_p: float | None = None,
) -> list[list[int]]:
    """Answer every prompt (token ids) with at most `max_new_tokens` tokens; see `complete` for the limits and errors.

    Returns:
        For each prompt its new tokens, without the end token. `eos_id=None` never stops: pass the tokenizer's
        `eot_token`.
    """
    was_training = model.training
    model.eval()
    try:
        seeds = row_seeds(seed, len(prompts))
        answers = complete(model, prompts, max_new_tokens, Sampling(temperature, top_k, top_p), eos_id, seeds)
        return [answer.tokens for answer in sorted(answers, key=lambda answer: answer.index)]
    finally:
        model.train(was_training)
