"""The sizes at which a device changes from the plain form to a fast one: one table, by device.

The network, the decoder and the memory estimate (`sft/training/estimate.py`) read this table, so
a number is changed here and nowhere else. "CPU" in a measurement is a virtual machine with two
cores of an Intel Xeon with AMX, bf16 and torch 2.13. Nothing has been measured on a GPU: numbers
for `cuda` and `mps` are choices, unless a source is named.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes for one device; each field says what is known about its value."""

    # Most tokens that are multiplied as (W x^T)^T, without a gradient and in bf16; 0: none are.
    # Profiled while decoding on the CPU, oneDNN spent much of a product of few tokens on
    # rearranging W^T for the matrix unit. Together with reading new prompts in the same pass, this
    # took a step of 16 rows from 50 ms to 31 ms. Where it stops to pay was not measured.
    few_tokens: int

    # Most tokens that torch's int8 kernel multiplies (`frozen.py`). With the shape of GPT-2 124M on
    # one thread it took 17 ms for 4 tokens and 65 for 16; a product in bf16, for which the integers
    # are converted first, took 50 and 70. At 32 tokens it was 127 against 107.
    int8_tokens: int

    # Tokens in the stream, and supervised positions, are filled up to a multiple of this many.
    # oneDNN prepares each new shape of a product, which can take longer than the product itself.
    # Fewer shapes, one gradient for the tied embedding, logits that become their gradient and plain
    # attention for short rows halved the time of a CPU training step; they were measured together.
    token_multiple: int

    # Rows of a batch, and the cache, are padded to a multiple of this many tokens. It limits the
    # number of different shapes too; on MPS memory grows with each new length (pytorch#132596).
    row_multiple: int

    # Longest row whose attention is written out. On the CPU, torch's fused attention takes longer
    # than the formula up to 256 tokens; 0: the fused one is always used.
    plain_attention: int

    # Whether torch's fused attention keeps the (T, T) weights for its backward pass, as the formula
    # does. It makes no number different; the memory estimate needs it.
    fused_attention_keeps_weights: bool

    # Words of the head that are multiplied at a time, forwards and for the head's gradient; 0: all.
    # With 448 tokens of GPT-2 124M, some thousand words at a time took the product with the head
    # from 29 ms to 17 with AMX. Without AMX, on one thread, 4,096 words at a time changed it from
    # 368 to 384 ms, and the gradient from 405 to 373.
    head_words: int

    # Rows of logits that are converted to fp32 at a time. 16 rows of 50,257 words are 3.2 MB, which
    # a CPU's cache holds.
    fp32_rows: int

    # Rows that have logits at a time where no gradient is wanted. No measurement is recorded.
    evaluated_rows: int

    # Whether buffers are reused from step to step. On the CPU, fresh memory costs more than the
    # work in it, and glibc's heap grew by 150 MB a step around tensors of the vocabulary's size.
    # The allocators of CUDA and MPS reuse memory themselves.
    reuses_buffers: bool

    # A buffer's rows are rounded up to a multiple of this many, so that a batch that is a little
    # larger still fits. No measurement is recorded.
    buffer_multiple: int

    # Numbers of a parameter that AdamW with narrow moments updates at a time, a multiple of
    # `narrow_adamw.GROUP`. On the CPU the tensors of a slice stay in a core's cache of 2 MiB. With
    # the shape of GPT-2 124M on one thread, a step in 8 bits took 1.95 s with 2^14 numbers, and
    # 1.40 with 2^15 and with 2^16, of which torch gives each of two threads a half.
    optimizer_slice: int

    # Most prompt tokens that a decoding step reads, unless one prompt is longer. A CPU's caches
    # hold the activations of 512, and rows that are being answered do not wait for long. No
    # measurement is recorded.
    prompt_tokens: int


LIMITS = {
    "cpu": Limits(
        few_tokens=256,
        int8_tokens=16,
        token_multiple=32,
        row_multiple=16,
        plain_attention=256,
        fused_attention_keeps_weights=False,
        head_words=4096,
        fp32_rows=16,
        evaluated_rows=128,
        reuses_buffers=True,
        buffer_multiple=256,
        optimizer_slice=1 << 16,
        prompt_tokens=512,
    ),
    "cuda": Limits(
        few_tokens=0,
        int8_tokens=0,
        token_multiple=1,
        row_multiple=16,
        plain_attention=0,
        fused_attention_keeps_weights=False,
        head_words=0,
        fp32_rows=1024,
        evaluated_rows=1024,
        reuses_buffers=False,
        buffer_multiple=256,
        optimizer_slice=1 << 22,
        prompt_tokens=8192,
    ),
    "mps": Limits(
        few_tokens=0,
        int8_tokens=0,
        token_multiple=1,
        row_multiple=64,
        plain_attention=0,
        fused_attention_keeps_weights=True,
        head_words=0,
        fp32_rows=1024,
        evaluated_rows=1024,
        reuses_buffers=False,
        buffer_multiple=256,
        optimizer_slice=1 << 22,
        prompt_tokens=2048,
    ),
}


def row_multiple(device: str) -> int:
    """Return the multiple of tokens to which rows are padded on `cpu`, `cuda` or `mps`."""
    return LIMITS[device].row_multiple
