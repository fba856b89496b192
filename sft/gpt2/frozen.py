"""Models that only answer: their matrices are kept in the form that multiplies fastest."""

from collections import Counter
from typing import cast

from torch import Tensor, nn

from sft.gpt2 import fast
from sft.gpt2.model import GPT, Linear


def freeze(*models: GPT, int8: bool = False) -> None:
    """Turn the matrices of models into forms for answering, in place, where there is such a form.

    A frozen model computes as before, but it cannot be trained or saved: its layers have no
    `weight`. The embedding of tokens stays; a tied head gets a form of its own. To freeze a frozen
    model changes nothing.

    Args:
        models: those that share matrices also share their forms.
        int8: store the matrices as 8-bit integers. Answers change a little.
    """
    uses = Counter(weight.data_ptr() for model in models for weight in _matrices(model))
    shared: dict[int, fast.Frozen] = {}

    def form(weight: Tensor) -> fast.Frozen:
        # The address names a matrix only while a model holds it. A matrix of several models is held
        # until the last of them is frozen.
        place = weight.data_ptr()
        made = shared.get(place) or (fast.Int8(weight) if int8 else fast.Packed(weight))
        if uses[place] > 1:
            shared[place] = made
        return made

    for model in models:
        tied = model.config.tie_word_embeddings
        if tied and model.frozen_head is None and _has_form(model.wte.weight, int8):
            model.frozen_head = form(model.wte.weight)
        for layer in _linears(model):
            if _has_form(layer.weight, int8):
                layer.frozen = form(layer.weight)
                layer.weight = cast(nn.Parameter, None)


def step_bytes(model: GPT) -> int:
    """Return the bytes of the weights that a step of decoding reads, in the form they have.

    Of the embeddings it reads a row for each token, which does not count. A tied head is read as a
    whole.
    """
    embeddings = (model.wte.weight, model.wpe.weight)
    read = [one for one in model.parameters() if not any(one is other for other in embeddings)]
    total = sum(parameter.nbytes for parameter in read)
    total += sum(layer.frozen.nbytes for layer in _linears(model) if layer.frozen is not None)
    if model.config.tie_word_embeddings:
        head = model.wte.weight if model.frozen_head is None else model.frozen_head
        total += head.nbytes
    return total


def _has_form(weight: Tensor | None, int8: bool) -> bool:
    return weight is not None and (int8 or fast.can_pack(weight))


def _linears(model: GPT) -> list[Linear]:
    return [layer for layer in model.modules() if isinstance(layer, Linear)]


def _matrices(model: GPT) -> list[Tensor]:
    weights = [layer.weight for layer in _linears(model)]
    return [weight for weight in (model.wte.weight, *weights) if weight is not None]
