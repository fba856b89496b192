"""Decoding: many prompts at once, each with its own length, its own random numbers and its own end.

`Decoder` is the body of the loop, one token for every row in a step. `complete` fills its rows from
a queue of prompts. `generate` is the plain function around both.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.gpt2 import fast
from sft.gpt2.kv_cache import KVCache
from sft.gpt2.model import GPT, Attend
from sft.gpt2.padding import Padding
from sft.gpt2.sampling import Sampling


@dataclass
class Row:
    """A sequence that is being decoded."""

    id: int
    prompt: Sequence[int]
    sampling: Sampling
    generator: torch.Generator
    # The number of tokens in the cache.
    length: int = 0
    # The tokens so far. The next step reads the last one.
    answer: list[int] = field(default_factory=list)


class TokenLogprobs(NamedTuple):
    """Natural logarithms of the probabilities of a step's tokens.

    Attributes:
        chosen: of the token that was chosen.
        likeliest: the likeliest tokens, each with its own, in order.
    """

    chosen: float
    likeliest: list[tuple[int, float]]


def choose(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Return each row's next token, from logits (rows, V), by the row's own sampling."""
    # Rows that forbid repetitions change their logits first, in a copy of their own.
    if any(row.sampling.penalizes for row in rows):
        logits = logits.to(torch.float32, copy=True)
        for index, row in enumerate(rows):
            if row.sampling.penalizes:
                row.sampling.penalize(logits[index], row.prompt, row.answer)

    # `max` gives the index that `argmax` gives; on a CPU, in bf16, argmax takes far longer.
    tokens: list[int] = logits.max(-1).indices.tolist()

    # Rows that draw replace their likeliest token. Those with the same settings draw together.
    for sampling in {row.sampling for row in rows if row.sampling.temperature > 0}:
        indices = [index for index, row in enumerate(rows) if row.sampling == sampling]
        generators = [rows[index].generator for index in indices]
        drawn = sampling.choose(logits[indices], generators)
        for index, token in zip(indices, drawn, strict=True):
            tokens[index] = token
    return tokens


def logprobs_of(logits: Tensor, token: int, count: int) -> TokenLogprobs:
    """Return the log-probability of a token and of the `count` likeliest, from logits (V,)."""
    logprobs = F.log_softmax(logits.float(), dim=-1)
    values, tokens = logprobs.topk(min(count, len(logprobs)))
    likeliest = list(zip(tokens.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(float(logprobs[token]), likeliest)


class StepTokens(NamedTuple):
    """N tokens that a step reads: the newest ones of running rows, or whole prompts."""

    ids: Tensor  # (N,)
    positions: Tensor  # (N,)
    attend: Callable[[Tensor, int], Tensor]  # as `model.Attend`, with the layer's number
    last: Tensor  # (rows,), the index in N of each row's last token


class Decoder:
    """Decodes up to `slots` sequences together, a step at a time; rows come and go between steps.

    Args:
        size: the longest that a sequence may become, prompt and answer, in tokens.

    Attributes:
        logprobs: of the newest step, by row, for the rows whose sampling asks for them.
    """

    def __init__(self, model: GPT, slots: int, size: int) -> None:
        self.model = model
        self.slots = slots
        self.device = model.wte.weight.device
        self.dtype = model.wte.weight.dtype
        self.size = min(size, model.config.n_positions)
        self.multiple = fast.row_multiple(self.device.type)
        cache_size = -(-self.size // self.multiple) * self.multiple
        self.cache = KVCache(model.config.n_layer, slots, cache_size)
        self.rows: list[Row] = []  # row i has slot i of the cache
        self.waiting: list[Row] = []  # their prompts have not been read yet
        self.logprobs: dict[int, TokenLogprobs] = {}
        self._next_id = 0

    def add(self, prompt: Sequence[int], seed: int = 0, sampling: Sampling | None = None) -> int:
        """Give a prompt a slot; the next steps read it. Return its row number, which is unique.

        Args:
            seed: of this row's draws, which do not depend on the other rows.
            sampling: of this row; None: the likeliest tokens are taken.

        Raises:
            ValueError: the prompt is empty or leaves no room for an answer.
            RuntimeError: every slot is taken.
        """
        if len(self.rows) + len(self.waiting) == self.slots:
            raise RuntimeError(f"all {self.slots} slots are taken")
        if not 0 < len(prompt) < self.size:
            raise ValueError(f"a prompt of {len(prompt)} tokens: expected 1 to {self.size - 1}")
        generator = torch.Generator().manual_seed(seed)
        row = Row(self._next_id, prompt, sampling or Sampling(), generator)
        self.waiting.append(row)
        self._next_id += 1
        return row.id

    def remove(self, row_id: int) -> None:
        """Free a row's slot. The last row moves into it, so that slots in use stay adjacent."""
        self.waiting = [row for row in self.waiting if row.id != row_id]
        for slot, row in enumerate(self.rows):
            if row.id == row_id:
                self.cache.move(len(self.rows) - 1, slot, self.rows[-1].length)
                self.rows[slot] = self.rows[-1]
                self.rows.pop()
                return

    @torch.no_grad()
    def step(self) -> list[tuple[int, int]]:
        """Decode the next token of every row, and return them as (row, token).

        Waiting prompts are read in the same pass, as many as `prompt_tokens` allows. The caller
        removes a row before it would grow beyond `size`.
        """
        new = self._next_prompts()
        parts = []
        if self.rows:
            parts.append(self._newest_tokens())
        if new:
            parts.append(self._whole_prompts(new))
        if not parts:
            return []

        rows = self.rows + new
        logits = self._logits(parts)
        tokens = choose(logits, rows)
        self.logprobs = {
            row.id: logprobs_of(logits[index], tokens[index], row.sampling.logprobs)
            for index, row in enumerate(rows)
            if row.sampling.logprobs is not None
        }
        for row, token in zip(rows, tokens, strict=True):
            row.length = row.length + 1 if row.length else len(row.prompt)
            row.answer.append(token)
        self.rows = rows
        self.waiting = self.waiting[len(new) :]
        return [(row.id, token) for row, token in zip(rows, tokens, strict=True)]

    def _next_prompts(self) -> list[Row]:
        """Return the waiting rows that the next step reads: at least one, if there are any."""
        most = fast.LIMITS[self.device.type].prompt_tokens
        total = 0
        for count, row in enumerate(self.waiting):
            total += len(row.prompt)
            if total > most:
                return self.waiting[: max(1, count)]
        return self.waiting

    def _newest_tokens(self) -> StepTokens:
        """Return the newest token of each running row."""
        ids = torch.tensor([row.answer[-1] for row in self.rows], device=self.device)
        positions = torch.tensor([row.length for row in self.rows], device=self.device)

        # The cache is read up to its longest row, rounded up so that there are few shapes. Shorter
        # rows mask what they do not have.
        longest = max(row.length for row in self.rows) + 1
        columns = torch.arange(longest + -longest % self.multiple, device=self.device)
        present = columns <= positions.unsqueeze(1)  # (rows, S)
        mask = torch.where(present, 0.0, -torch.inf).to(self.dtype)

        slots = torch.arange(len(ids), device=self.device)
        attend = partial(
            self.cache.extend, slots=slots, positions=positions, mask=mask[:, None, None]
        )
        return StepTokens(ids, positions, attend, last=slots)

    def _whole_prompts(self, rows: list[Row]) -> StepTokens:
        """Return the prompts of new rows, which get the slots after the running ones."""
        prompts = [torch.tensor(row.prompt) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
        ids = F.pad(ids, (0, -ids.shape[1] % self.multiple)).to(self.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        padding = Padding(ids, lengths, other_tokens=len(self.rows))
        attend = partial(self.cache.prefill, slot=len(self.rows), prompts=padding)
        last = lengths.cumsum(0) - 1
        return StepTokens(padding.ids, padding.positions(), attend, last)

    def _logits(self, parts: list[StepTokens]) -> Tensor:
        """Return the logits of each row's next token, (rows, V)."""
        sizes = [len(part.ids) for part in parts]

        # All tokens go through the layers as one stream, so that each matrix is read once. Only
        # attention differs between the parts.
        def attend(qkv: Tensor, layer: int) -> Tensor:
            if len(parts) == 1:
                return parts[0].attend(qkv, layer)
            shares = zip(parts, torch.split(qkv, sizes), strict=True)
            return torch.cat([part.attend(share, layer) for part, share in shares])

        attends: list[Attend] = [partial(attend, layer=layer) for layer in range(self.cache.layers)]
        embeddings = self.model.wte(torch.cat([part.ids for part in parts]))
        positions = torch.cat([part.positions for part in parts])
        x = self.model.layers(embeddings, positions, attends)  # (N, C)

        # The head runs at the last token of each row alone.
        shares = zip(parts, torch.split(x, sizes), strict=True)
        return self.model.head(torch.cat([share[part.last] for part, share in shares]))


@dataclass
class Completion:
    """An answer: its tokens without the end token, and how it ended.

    `stop`: the model gave the end token, or `ends` said so. `length`: a limit was reached.
    """

    index: int  # of the prompt
    tokens: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] = "length"


@dataclass
class Timing:
    """The steps, tokens (end tokens included) and seconds of decoding."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


def complete(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    sampling: Sampling | None = None,
    eos_id: int | None = None,
    seeds: Sequence[int] | None = None,
    slots: int = 32,
    ends: Callable[[list[int]], bool] | None = None,
    timing: Timing | None = None,
) -> Iterator[Completion]:
    """Answer all prompts, `slots` at a time, and yield each answer as it is finished.

    Args:
        prompts: token ids. The longest are taken first, and a finished one makes room for the next.
        max_new_tokens: the most tokens of an answer, or of each. An answer also ends where the
            model's context is full.
        eos_id: the token that ends an answer; None: none does.
        seeds: one for each prompt; its draws do not depend on the other prompts.
        ends: whether an answer ends with the newest of its tokens, which it keeps.
        timing: each step is added to it.

    Raises:
        ValueError: a prompt (named by its index) is empty or longer than the context, or
            max_new_tokens is below 1.
    """
    context = model.config.n_positions
    if isinstance(max_new_tokens, int):
        limits: Sequence[int] = [max_new_tokens] * len(prompts)
    else:
        limits = max_new_tokens
    _check_sizes(prompts, limits, context)

    # The queue is popped from its end, where the longest prompts are.
    queue = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    sizes = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
    size = min(context, max(sizes, default=0))
    decoder = Decoder(model, max(1, min(slots, len(prompts))), size)
    running: dict[int, Completion] = {}

    while queue or running:
        while queue and len(running) < slots:
            index = queue.pop()
            # A prompt that fills the context leaves no room for an answer.
            if len(prompts[index]) == context:
                yield Completion(index)
                continue
            row = decoder.add(prompts[index], seeds[index] if seeds else 0, sampling)
            running[row] = Completion(index)

        began = time.perf_counter()
        stepped = decoder.step()
        if timing is not None:
            timing.steps += 1
            timing.tokens += len(stepped)
            timing.seconds += time.perf_counter() - began

        for row, token in stepped:
            answer = running[row]
            if token == eos_id:
                answer.finish_reason = "stop"
            else:
                answer.tokens.append(token)
                if ends is not None and ends(answer.tokens):
                    answer.finish_reason = "stop"
            length = len(prompts[answer.index]) + len(answer.tokens)
            at_limit = len(answer.tokens) == limits[answer.index] or length == context
            if answer.finish_reason == "stop" or at_limit:
                decoder.remove(row)
                yield running.pop(row)


def _check_sizes(prompts: Sequence[Sequence[int]], limits: Sequence[int], context: int) -> None:
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= context:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens, expected 1 to {context}, the model's "
                "context"
            )
    if min(limits, default=1) < 1:
        raise ValueError(f"max_new_tokens: expected a number from 1 up, found {min(limits)}")


def row_seeds(seed: int, rows: int) -> list[int]:
    """Return a seed for each row, which depends on `seed` and the row's index alone."""
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
    """Answer every prompt (token ids) with at most `max_new_tokens` tokens.

    `complete` describes limits and errors.

    Returns:
        For each prompt its new tokens, without the end token. `eos_id=None` never stops: pass the
        tokenizer's `eot_token`.
    """
    sampling = Sampling(temperature, top_k, top_p)
    seeds = row_seeds(seed, len(prompts))
    was_training = model.training
    model.eval()
    try:
        answers = list(complete(model, prompts, max_new_tokens, sampling, eos_id, seeds))
    finally:
        model.train(was_training)
    return [answer.tokens for answer in sorted(answers, key=lambda answer: answer.index)]
