"""Decoding: many prompts at once, each with its own length, its own random numbers and its own end.

`Decoder` is the loop's body, one token for every row per step; `complete` keeps its rows filled from a queue of
prompts; `generate` is the plain function around both.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.gpt2.cache import Cache
from sft.gpt2.device import row_multiple
from sft.gpt2.model import GPT, Attend
from sft.gpt2.padding import Padding
from sft.gpt2.sampling import Sampling

# How many prompt tokens a step reads at most, unless one prompt alone is longer: a CPU's caches hold the activations of
# so many, and the rows that are being answered do not wait long.
AT_ONCE = {"cpu": 512, "cuda": 8192, "mps": 2048}


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
    tokens: list[int] = logits.max(-1).indices.tolist()  # on a CPU, in bf16, argmax takes far longer
    for sampling in {row.sampling for row in rows if row.sampling.temperature > 0}:
        drawing = [index for index, row in enumerate(rows) if row.sampling == sampling]
        drawn = sampling.choose(logits[drawing], [rows[index].generator for index in drawing])
        for index, token in zip(drawing, drawn, strict=True):
            tokens[index] = token
    return tokens


class Part(NamedTuple):
    """Some of the tokens that a step reads, N of them."""

    ids: Tensor  # (N,)
    positions: Tensor  # (N,)
    attend: Callable[[Tensor, int], Tensor]  # what an Attend does, in the layer of that number
    ends: Tensor  # (rows,), where in N the last token of each row is


class Decoder:
    """Decodes up to `slots` sequences together, a step at a time; rows come and go between the steps.

    Args:
        size: the longest a sequence may become, prompt and answer, in tokens.
    """

    def __init__(self, model: GPT, slots: int, size: int) -> None:
        self.model, self.slots = model, slots
        self.device, self.dtype = model.wte.weight.device, model.wte.weight.dtype
        self.size = min(size, model.config.n_positions)
        self.multiple = row_multiple(self.device.type)
        self.cache = Cache(model.config.n_layer, slots, -(-self.size // self.multiple) * self.multiple)
        self.rows: list[Row] = []  # row i lives in slot i of the cache
        self.waiting: list[Row] = []  # prompts that no step has read yet
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
        if not 0 < len(prompt) < self.size:
            raise ValueError(f"a prompt of {len(prompt)} tokens: expected 1 to {self.size - 1}")
        row = Row(self._next_id, prompt, sampling or Sampling(), torch.Generator().manual_seed(seed))
        self.waiting.append(row)
        self._next_id += 1
        return row.id

    def remove(self, row_id: int) -> None:
        """Free a row's slot, which the last row moves into, so that the rows in use stay side by side."""
        self.waiting = [row for row in self.waiting if row.id != row_id]
        for slot, row in enumerate(self.rows):
            if row.id == row_id:
                self.cache.move(len(self.rows) - 1, slot, self.rows[-1].length)
                self.rows[slot] = self.rows[-1]
                self.rows.pop()
                return

    @torch.no_grad()
    def step(self) -> list[tuple[int, int]]:
        """The next token of every row, as (row, token). New rows, or some of them, read their prompt in the same go.

        The caller removes a row before it would grow beyond `size`.
        """
        totals = accumulate(len(row.prompt) for row in self.waiting)
        new = [row for row, total in zip(self.waiting, totals, strict=True) if total <= AT_ONCE[self.device.type]]
        new = new or self.waiting[:1]
        parts = [self._held()] if self.rows else []
        parts += [self._new(new)] if new else []
        if not parts:
            return []
        rows = self.rows + new
        tokens = choose(self._logits(parts), rows)
        for row, token in zip(rows, tokens, strict=True):
            row.length = row.length + 1 if row.length else len(row.prompt)
            row.token = token
        self.rows, self.waiting = rows, self.waiting[len(new) :]
        return [(row.id, row.token) for row in rows]

    def _held(self) -> Part:
        """The newest token of each row."""
        ids = torch.tensor([row.token for row in self.rows], device=self.device)
        positions = torch.tensor([row.length for row in self.rows], device=self.device)
        longest = max(row.length for row in self.rows) + 1
        seen = torch.arange(longest + -longest % self.multiple, device=self.device)
        bias = torch.where(seen <= positions.unsqueeze(1), 0.0, -torch.inf).to(self.dtype)  # (rows, seen)
        slots = torch.arange(len(ids), device=self.device)
        attend = partial(self.cache.extend, slots=slots, positions=positions, bias=bias[:, None, None])
        return Part(ids, positions, attend, slots)

    def _new(self, rows: list[Row]) -> Part:
        """Whole prompts, of rows that come behind the others."""
        prompts = [torch.tensor(row.prompt) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
        ids = F.pad(ids, (0, -ids.shape[1] % self.multiple)).to(self.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        padding = Padding(ids, lengths, beside=len(self.rows))
        attend = partial(self.cache.prefill, slot=len(self.rows), padding=padding)
        return Part(padding.ids, padding.places(), attend, lengths.cumsum(0) - 1)

    def _logits(self, parts: list[Part]) -> Tensor:
        """Those of each row's next token, (rows, V)."""
        sizes = [len(part.ids) for part in parts]

        def attend(qkv: Tensor, layer: int) -> Tensor:
            if len(parts) == 1:
                return parts[0].attend(qkv, layer)
            shares = zip(parts, torch.split(qkv, sizes), strict=True)
            return torch.cat([part.attend(share, layer) for part, share in shares])

        attends: list[Attend] = [partial(attend, layer=layer) for layer in range(self.cache.layers)]
        embeddings = self.model.wte(torch.cat([part.ids for part in parts]))
        x = self.model.layers(embeddings, torch.cat([part.positions for part in parts]), attends)
        ends = [share[part.ends] for part, share in zip(parts, torch.split(x, sizes), strict=True)]
        return self.model.head(torch.cat(ends))


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
    slots: int = 32,
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
    decoder = Decoder(model, max(1, min(slots, len(prompts))), size)
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
