"""AdamW whose two moments are stored in bf16 or in 8 bits instead of fp32.

The update rule is that of `torch.optim.AdamW` (decoupled weight decay, bias correction). It goes
over each parameter slice by slice: the moments of a slice are decoded to fp32, updated, used and
encoded again. So no whole moment ever exists in fp32. It is plain PyTorch, for every device.

Rounding must be unbiased. With beta2 = 0.999, a step moves the second moment by about a
thousandth. This is below half of bf16's step, so rounding to the nearest would give the old value
back for ever. Here a number is rounded up with a probability that is its distance from its lower
neighbour, as a share of the gap. So the mean over many steps is right. A "probability" is compared
with a dither that depends on position and step alone (see `dither_table`). So a resumed run rounds
as the uninterrupted run would have done, bit for bit.

References: Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2110.02861), for scales
of groups; "FlashOptim" (2602.23349), for companding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from sft.config.schema import Moments
from sft.gpt2.fast import LIMITS

State = dict[str, Tensor]

# Smaller parameters keep fp32 moments, as in 2110.02861. They are biases and LayerNorms, whose
# moments take next to no memory.
LEAST_NARROW = 4096

# So many neighbours share a scale. It divides the width of each GPT-2 (768, 1024, 1280, 1600).
GROUP = 64

# The largest codes of 8 bits. The first moment has a sign, the second has none.
FIRST_MAX = 127
SECOND_MAX = 255

# Stands for a scale of 0, by which nothing can be divided: the gradient was 0 so far.
LEAST_SCALE = 1e-30

# The dither is an integer below this number. bf16 drops as many bits of an fp32 number.
DITHER = 1 << 16

# How far the dither moves from one step to the next, as a share of DITHER: the fraction of the
# square root of 2 for the first moment, and that of the golden ratio for the second. The second one
# adds up its errors over a thousand steps, and multiples of the golden ratio are spread the most
# evenly. With random numbers its errors were three to five times as large.
BY_STEP = (27147, 40503)

# How far it moves from one position to the next: 1 / 1.3247 (the plastic number), which is related
# to neither. All three are odd, so that each number below DITHER occurs.
BY_POSITION = 49471


def state_bytes(numbers: int, moments: Moments) -> int:
    """Return the bytes of both moments of a parameter with so many numbers."""
    if moments == "fp32" or numbers < LEAST_NARROW:
        return 8 * numbers
    if moments == "bf16":
        return 4 * numbers
    scales = -(-numbers // GROUP)
    return 2 * numbers + 2 * 4 * scales


class NarrowAdamW(Optimizer):
    """AdamW with narrow moments. A checkpoint holds them as they are."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        moments: Moments,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps}
        super().__init__(groups, defaults)
        self.moments = moments
        self._formats: dict[torch.device, Format] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        form = self._format(parameter)
        state = self.state[parameter]
        if not state:
            state.update(step=torch.tensor(0.0), **form.zeros(parameter))
        state["step"] += 1

        step = int(state["step"])
        beta1, beta2 = group["betas"]
        kept = 1 - group["lr"] * group["weight_decay"]
        rate = group["lr"] / (1 - beta1**step)
        unbias = (1 - beta2**step) ** -0.5

        numbers = parameter.view(-1)
        slopes = gradient.reshape(-1)
        for place in _slices(parameter):
            first, second, spare = form.decode(state, place)
            slope = slopes[place]
            first.lerp_(slope, 1 - beta1)
            second.mul_(beta2).addcmul_(slope, slope, value=1 - beta2)

            deviation = torch.sqrt(second, out=spare).mul_(unbias).add_(group["eps"])
            numbers[place].mul_(kept).addcdiv_(first, deviation, value=-rate)
            form.encode(state, place, step, first, second)

    def _format(self, parameter: Tensor) -> "Format":
        if parameter.numel() < LEAST_NARROW:
            return Fp32()
        if parameter.device not in self._formats:
            self._formats[parameter.device] = FORMATS[self.moments](parameter.device)
        return self._formats[parameter.device]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the groups as torch does, and the moments without a cast to the parameter's type."""
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [one for group in self.param_groups for one in group["params"]]
        for number, state in state_dict["state"].items():
            device = parameters[number].device
            moments = {name: value.to(device) for name, value in state.items() if name != "step"}
            self.state[parameters[number]] = {"step": state["step"], **moments}


def _slices(parameter: Tensor) -> Iterator[slice]:
    """Yield the parts of a flat parameter; only the last may have an incomplete group, its only."""
    size = LIMITS[parameter.device.type].optimizer_slice
    total = parameter.numel()
    whole = total - total % GROUP
    for start in range(0, whole, size):
        yield slice(start, min(start + size, whole))
    if whole < total:
        yield slice(whole, total)


class Format(Protocol):
    """A way to store the two moments of a parameter."""

    def zeros(self, parameter: Tensor) -> State:
        """Return the moments before the first step."""

    def decode(self, state: State, place: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the moments of a slice in fp32, and room for as many numbers."""

    def encode(self, state: State, place: slice, step: int, first: Tensor, second: Tensor) -> None:
        """Store the moments of a slice. It may write into `first` and `second`."""


class Fp32:
    """Moments as they are, for small parameters. They are updated in place."""

    def zeros(self, parameter: Tensor) -> State:
        return {
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    def decode(self, state: State, place: slice) -> tuple[Tensor, Tensor, Tensor]:
        first = state["exp_avg"].view(-1)[place]
        return first, state["exp_avg_sq"].view(-1)[place], torch.empty_like(first)

    def encode(self, state: State, place: slice, step: int, first: Tensor, second: Tensor) -> None:
        pass


class Bf16:
    """Moments in bf16: 8 bits for exponent and 7 for the fraction, so a step is 0.4 to 0.8%."""

    def __init__(self, device: torch.device) -> None:
        self.dither = dither_table(device)
        self.rooms = _rooms(3, device)

    def zeros(self, parameter: Tensor) -> State:
        return {
            "exp_avg": torch.zeros_like(parameter, dtype=torch.bfloat16),
            "exp_avg_sq": torch.zeros_like(parameter, dtype=torch.bfloat16),
        }

    def decode(self, state: State, place: slice) -> tuple[Tensor, Tensor, Tensor]:
        first, second, spare = self.rooms[:, : place.stop - place.start]
        first.copy_(state["exp_avg"].view(-1)[place])
        second.copy_(state["exp_avg_sq"].view(-1)[place])
        return first, second, spare

    def encode(self, state: State, place: slice, step: int, first: Tensor, second: Tensor) -> None:
        # The bits of an fp32 number count its size, and bf16 has the upper 16 of them. A dither of
        # 16 bits carries into the upper half with the probability of the lower half / DITHER.
        for moment, name in enumerate(("exp_avg", "exp_avg_sq")):
            number = (first, second)[moment]
            dither = window(self.dither, moment, place, step)
            number.view(torch.int32).add_(dither).bitwise_and_(-DITHER)
            state[name].view(-1)[place] = number


class EightBit:
    """Moments in 8 bits, with an fp32 scale for each GROUP of neighbours.

    With c = code / largest code, the first moment is c * |c| * scale, and the square root of the
    second one is c * c * scale. The scale is the group's largest. So small numbers have a finer
    step than large ones: a first moment of 1% of the largest is still stored in steps of 16% of
    itself, and so is the second one of an element whose gradient is 1% of the largest.

    Rounding is unbiased in the moments themselves, not in the codes: the numbers grow faster than
    their codes, so unbiased codes would make the moments too large at each step. The second moment
    adds up such errors over a thousand steps.
    """

    def __init__(self, device: torch.device) -> None:
        # In the middle of its interval, the dither is between 0 and 1, and its mean is 1/2.
        self.dither = (dither_table(device) + 0.5) / DITHER
        self.rooms = _rooms(5, device)

    def zeros(self, parameter: Tensor) -> State:
        scales = torch.zeros(-(-parameter.numel() // GROUP), device=parameter.device)
        return {
            "exp_avg": torch.zeros_like(parameter, dtype=torch.int8),
            "exp_avg_scale": scales,
            "exp_avg_sq": torch.zeros_like(parameter, dtype=torch.uint8),
            "exp_avg_sq_scale": scales.clone(),
        }

    def decode(self, state: State, place: slice) -> tuple[Tensor, Tensor, Tensor]:
        groups = _groups(place)
        first, second, spare, *_ = self.rooms[:, : place.stop - place.start]
        first.copy_(state["exp_avg"].view(-1)[place])
        first.mul_(torch.abs(first, out=spare))
        _by_group(first).mul_(state["exp_avg_scale"][groups, None] / FIRST_MAX**2)

        second.copy_(state["exp_avg_sq"].view(-1)[place])
        second.mul_(second)
        _by_group(second).mul_(state["exp_avg_sq_scale"][groups, None] / SECOND_MAX**2)
        return first, second.mul_(second), spare

    def encode(self, state: State, place: slice, step: int, first: Tensor, second: Tensor) -> None:
        groups = _groups(place)
        *_, size, code, limit = self.rooms[:, : place.stop - place.start]

        # In units of the scale, code k stands for k², and the gap above it is 2k + 1.
        torch.abs(first, out=size)
        scale = _by_group(size).amax(1, keepdim=True)
        state["exp_avg_scale"][groups] = scale[:, 0]
        _by_group(size).mul_(FIRST_MAX**2 / scale.clamp_min_(LEAST_SCALE))
        torch.sqrt(size, out=code).floor_()
        torch.mul(code, 2, out=limit).add_(1).mul_(window(self.dither, 0, place, step))
        code.add_(size.gt_(limit.addcmul_(code, code))).clamp_(max=FIRST_MAX)
        state["exp_avg"].view(-1)[place] = code.copysign_(first)

        # Code k stands for k⁴. Code 0 is left out: a second moment of 0 beside a first one that is
        # not 0 would make the step very long.
        size = second.sqrt_()
        scale = _by_group(size).amax(1, keepdim=True)
        state["exp_avg_sq_scale"][groups] = scale[:, 0]
        _by_group(size).mul_(SECOND_MAX**2 / scale.clamp_min_(LEAST_SCALE))
        torch.sqrt(size, out=code).floor_()
        above = torch.add(code, 1, out=first)
        above.mul_(above).mul_(above)
        torch.mul(code, code, out=limit).mul_(limit)
        limit.lerp_(above, window(self.dither, 1, place, step))
        code.add_(size.mul_(size).gt_(limit)).clamp_(1, SECOND_MAX)
        state["exp_avg_sq"].view(-1)[place] = code


FORMATS: dict[str, Callable[[torch.device], Format]] = {"bf16": Bf16, "8bit": EightBit}


def _rooms(count: int, device: torch.device) -> Tensor:
    """Make room for tensors of a slice. Each is used for every slice, so it stays in the cache."""
    return torch.empty(count, LIMITS[device.type].optimizer_slice, device=device)


def _groups(place: slice) -> slice:
    """Return where the scales of a slice lie."""
    return slice(place.start // GROUP, -(-place.stop // GROUP))


def _by_group(numbers: Tensor) -> Tensor:
    """View a slice as (groups, numbers of a group)."""
    return numbers.view(-1, min(GROUP, len(numbers)))


def dither_table(device: torch.device) -> Tensor:
    """Return the dither of all positions: 0 to DITHER - 1, over and over, each once in a round.

    Neighbours differ by BY_POSITION modulo DITHER. Such a sequence (of Weyl) is evenly spread over
    each stretch, more evenly than random numbers are. It needs no generator, whose state a
    checkpoint would have to keep, and all devices have the same.
    """
    positions = torch.arange(DITHER + LIMITS[device.type].optimizer_slice, device=device)
    return (positions * BY_POSITION % DITHER).int()


def window(table: Tensor, moment: int, place: slice, step: int) -> Tensor:
    """Return the dither of a slice at a step; `moment` is 0 or 1.

    A step adds BY_STEP to the dither of each position. In the table this is a shift.
    """
    shift = BY_STEP[moment] * pow(BY_POSITION, -1, DITHER)
    start = (place.start + step * shift) % DITHER
    return table[start : start + place.stop - place.start]
