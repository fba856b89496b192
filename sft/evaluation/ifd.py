"""Instruction-following difficulty (IFD): how much a question helps a model to its answer.

It is the loss of an answer after its question, divided by the loss of the answer alone. At a ratio
near 1 the question tells the model little: the answer is hard to derive from it, or does not belong
to it. Li et al., 2023 ("From Quantity to Quality", arXiv 2308.12032) keep the records with the
highest ratios below 1. Li et al., 2024 ("Superfiltering", arXiv 2402.00530) found that GPT-2 ranks
records much as large models do.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import DataConfig
from sft.data.batches import Examples, encode
from sft.data.cache import Arrays, cached, name_of
from sft.data.prompt import pick_template, template_of
from sft.data.sources import Source
from sft.device import pick_device, pick_precision
from sft.errors import InputError
from sft.evaluation.loss import losses

BATCH_SIZE = 16

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Difficulty:
    """The losses of the answers, in nats per token; NaN for a record that keeps no answer.

    Attributes:
        asked: (records,), after the question.
        alone: (records,), after nothing but an end token, with which GPT-2's texts began.
    """

    asked: Numbers
    alone: Numbers

    @property
    def ratios(self) -> Numbers:
        """The difficulties, (records,)."""
        return self.asked / self.alone

    def order(self) -> NDArray[np.int64]:
        """Return the places of the measured records, the hardest first.

        Those with a ratio of 1 and more come last, as their answers may not belong to them.
        """
        ratios = self.ratios
        measured = np.flatnonzero(~np.isnan(ratios))
        keys = np.where(ratios < 1, -ratios, ratios)
        return measured[np.argsort(keys[measured], kind="stable")]


def difficulty(
    source: Source, checkpoint: Pretrained, template: str, device: str = "auto"
) -> Difficulty:
    """Measure the records of a source, or take the numbers from the cache.

    They are cached by the hashes of the data and of the weights.

    Args:
        checkpoint: the model that is asked; its weights need not be in memory.
        template: the prompt's, in Jinja.

    Raises:
        InputError: the template is for plain text, or a loss is not finite.
    """
    if not template:
        raise InputError("data.prompt: none has no question to measure; give a template")
    name = name_of("ifd", *source.identity, template, checkpoint.sha256)
    arrays = cached(name, lambda: _measure(source, checkpoint, template, device))
    return Difficulty(arrays["asked"], arrays["alone"])


def with_difficulties(
    source: Source, data: DataConfig, checkpoint: str, revision: str | None
) -> Source:
    """Return the source with the scores that `data.keep_by=ifd` chooses by; else unchanged.

    Collective in effect: of several processes, one measures and the others wait for the cache.

    Args:
        checkpoint, revision: the model that is tuned.
    """
    if data.keep == 1 or data.keep_by != "ifd":
        return source
    base = load_pretrained(checkpoint, revision, device="meta")
    own = template_of(base)
    template, _ = pick_template(data.prompt, own, base.source)
    found = difficulty(source, base, template)
    order = found.order()
    scores = np.full(len(found.ratios), -np.inf)
    scores[order] = -np.arange(len(order), dtype=np.float64)
    return replace(source, difficulties=scores)


def _measure(source: Source, checkpoint: Pretrained, template: str, device: str) -> Arrays:
    context = checkpoint.model.config.n_positions
    records = source.records
    asked = encode(records, template, checkpoint.tokenizer, context, mask_prompt=True)
    asked = _longest_first(asked)
    alone = _answers_alone(asked)

    device = pick_device(device)
    precision = pick_precision("auto", device)
    model = load_pretrained(checkpoint.source, checkpoint.revision, device=device).model.eval()
    arrays: Arrays = {}
    for name, examples, label in (
        ("asked", asked, "answers after their questions"),
        ("alone", alone, "answers alone"),
    ):
        found = losses(model, examples, BATCH_SIZE, precision, label)
        values = np.full(len(records), np.nan)
        values[examples.records] = found.answer_sums / found.answer_tokens
        arrays[name] = values
    return arrays


def _longest_first(examples: Examples) -> Examples:
    """Return the rows by their lengths, so that a batch has little padding.

    Conversations whose last answer is cut off are left out.
    """
    order = np.argsort(-examples.sizes, kind="stable")
    order = order[examples.sizes[order] > np.maximum(examples.prompts[order], 1)]
    return replace(
        examples,
        starts=examples.starts[order],
        sizes=examples.sizes[order],
        prompts=examples.prompts[order],
        records=examples.records[order],
    )


def _answers_alone(examples: Examples) -> Examples:
    """Return the same last answers, as far as they are kept, each after an end token."""
    texts = [
        np.concatenate([[examples.eot], examples.text(row)[prompt:]])
        for row, prompt in enumerate(examples.prompts.tolist())
    ]
    sizes = np.array([len(text) for text in texts], dtype=np.int64)
    tokens = np.concatenate([np.empty(0, np.int64), *texts])
    starts = np.cumsum(sizes) - sizes
    is_answer = np.ones(len(tokens), dtype=bool)
    is_answer[starts] = False
    return replace(
        examples,
        tokens=tokens,
        answers=is_answer,
        starts=starts,
        sizes=sizes,
        prompts=np.ones_like(examples.prompts),
    )
