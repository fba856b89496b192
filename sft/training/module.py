"""The LightningModule: one optimizer step, and the loss probes around it."""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from sft.config.schema import OnNonfinite, OptimConfig
from sft.data.batches import IGNORE_INDEX, Batch
from sft.errors import InputError
from sft.gpt2.model import GPT
from sft.objective import BatchLoss, CrossEntropy, Objective
from sft.training.average import Average
from sft.training.optim import adamw, schedule
from sft.training.sharding import unsharded
from sft.training.signals import Signals

log = logging.getLogger(__name__)

# A run with `on_nonfinite=skip` stops after this many skipped steps in a row.
MOST_SKIPPED = 5
# A step's loss is compared with the losses of this many steps before it.
RECENT = 50
# How many standard deviations above their mean a loss must lie to be warned of.
SPIKE = 6


class InstructionTuner(LightningModule):
    """Trains a GPT on batches of instructions.

    The loss of an optimizer step is a sum over its labels, of all micro-batches and ranks, divided
    by the number of these labels. Every batch brings that number along. So the loss and its
    gradient are the same, however the step's records are divided.

    Args:
        total_steps: optimizer steps of the whole run, for the learning rate's schedule.
        accumulate: micro-batches of a step on each rank.
        seed: of dropout, which is seeded for each (seed, epoch, micro-batch, rank).
        on_nonfinite: `stop` at a loss or gradient that is not finite, or `skip` the step;
            MOST_SKIPPED skipped steps in a row stop too.
        objective: of this model; None: the cross entropy.
    """

    def __init__(
        self,
        model: GPT,
        optim: OptimConfig,
        total_steps: int,
        accumulate: int = 1,
        seed: int = 0,
        on_nonfinite: OnNonfinite = "stop",
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective: Objective = objective or CrossEntropy(model)
        self.optim = optim
        self.total_steps = total_steps
        self.accumulate = accumulate
        self.seed = seed
        self.on_nonfinite = on_nonfinite
        self.signals = Signals()
        self.average = Average(model, optim.ema) if optim.ema is not None else None

        # The last optimizer step: its loss before the update, the norm of its gradient before it is
        # clipped (None in fp16, where the gradient is scaled), and its learning rate.
        self.step_loss = float("nan")
        self.step_norm: float | None = None
        self.step_lr = 0.0
        # Its rows on this rank.
        self.step_rows = 0
        # The other numbers that the objective measured in that step, by name.
        self.step_extra: dict[str, float] = {}
        # The numbers that the progress bar shows. Lightning's own `log` would put each of them on
        # the device and wait for it.
        self.shown: dict[str, float] = {}
        # The loss of the last pass over the validation split, and the objective's other numbers.
        self.validation_loss = float("nan")
        self.validation_extra: dict[str, float] = {}
        # The objective's other numbers in the last probe.
        self.probe_extra: dict[str, float] = {}
        # The validation loss of the averaged weights, if there are any.
        self.averaged_loss = float("nan")
        # The shape (B, T) of the current micro-batch, for a message about memory.
        self.batch_shape: tuple[int, ...] | None = None

        # The current step: its labels over all ranks, and of each micro-batch the loss, the
        # objective's other numbers, and the records.
        self._step_targets = 0.0
        self._sums: list[Tensor] = []
        self._extra: list[Tensor] = []
        self._records: list[Tensor] = []
        # The steps before it.
        self.skipped = 0
        self._recent: deque[float] = deque(maxlen=RECENT)
        # Sums and counts of each batch of the current validation.
        self._validation: list[Tensor] = []

    # The optimizer step

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # A resumed run draws the dropout that the uninterrupted run would have drawn.
        place = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(hash(place) % 2**63)
        self._step_targets = batch.step_targets
        self.batch_shape = tuple(batch.input_ids.shape)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.objective.loss(batch)
        total = loss.sum
        self._sums.append(total.detach())
        self._extra.append(_extra(loss))
        self._records.append(batch.records)

        # Lightning will divide by `accumulate`, and DDP by the number of ranks. Both would make it
        # a mean of means, so they are multiplied in again.
        return total * (self.accumulate * self.trainer.world_size / batch.step_targets)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        mine = torch.stack(self._sums).sum()
        extra = torch.stack(self._extra).sum(0)
        sums = torch.cat([mine.unsqueeze(0), extra])

        # A GPU computes the norm while the CPU waits for the sums.
        norm = self._gradient_norm()
        total, *extra_totals = self.signals.agree_at_step(sums, self.trainer.strategy)
        self.step_loss = total / self._step_targets
        self.step_extra = _named(self.objective.names, extra_totals)
        self.step_lr = optimizer.param_groups[0]["lr"]
        self.step_rows = sum(len(records) for records in self._records)
        self.step_norm = None if norm is None else float(norm)

        if self._is_finite():
            self._warn_of_spike()
            self.skipped = 0
        else:
            self._refuse_step(optimizer)
        self._sums = []
        self._extra = []
        self._records = []

    def optimizer_step(self, *arguments: Any, **more: Any) -> None:
        super().optimizer_step(*arguments, **more)
        if self.average:
            self.average.update()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of the whole gradient.

        Lightning's own clipping refuses a fused optimizer in every mixed precision.
        """
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        # A fused step in fp16 undoes the loss scale by itself, after grad_clip has read the
        # scaled gradient.
        fused = self.trainer.precision_plugin.precision != "16-mixed"
        optimizer = adamw(self.model, self.optim, fused)
        scheduler = schedule(optimizer, self.optim, self.total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # A loss or gradient that is not finite

    def _is_finite(self) -> bool:
        """Return whether loss and gradient are finite; the answer is the same on all ranks."""
        # The norm is finite only if every gradient is.
        norm_is_finite = self.step_norm is None or self.step_norm < float("inf")
        return norm_is_finite and self.step_loss < float("inf")

    def _gradient_norm(self) -> Tensor | None:
        """Return the norm of the whole gradient, or None in fp16. Collective if it is sharded.

        In fp16 the gradient is scaled, and the loss scaler looks after it: it skips a step that is
        not finite, and lowers the scale.
        """
        if self.trainer.precision_plugin.precision == "16-mixed":
            return None
        grads = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        return unsharded(torch.nn.utils.get_total_norm(grads))

    def _refuse_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop the run, or have the optimizer skip the step by removing the gradients. Collective.

        Raises:
            InputError: the run stops; the message names the records whose loss is not finite.
        """
        micro_batches = zip(self._sums, self._records, strict=True)
        mine = [(bool(total.isfinite()), records.tolist()) for total, records in micro_batches]
        everyones = [found for rank in self._from_all_ranks(mine) for found in rank]

        # Where every loss is finite, the gradient is not; then any of the records may be the cause.
        suspects = [records for finite, records in everyones if not finite]
        suspects = suspects or [records for _, records in everyones]
        numbers = sorted(record + 1 for records in suspects for record in records if record >= 0)
        what = (
            f"step {self.trainer.global_step + 1}: loss {self.step_loss} or its gradient is not "
            f"finite, on training records {numbers} (counted from 1)"
        )

        self.skipped += 1
        if self.on_nonfinite == "stop" or self.skipped == MOST_SKIPPED:
            raise InputError(
                f"{what}; the weights are as before the step; lower optim.lr, set "
                "optim.grad_clip=1, or use precision=32"
            )
        log.warning(f"{what}; skipped")
        optimizer.zero_grad(set_to_none=True)

    def _from_all_ranks(self, mine: Any) -> list[Any]:
        """Return what every rank passed in. Collective."""
        everyones = [mine] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(everyones, mine)
        return everyones

    def _warn_of_spike(self) -> None:
        if len(self._recent) == RECENT:
            mean = fmean(self._recent)
            spread = pstdev(self._recent)
            if self.step_loss > mean + SPIKE * spread:
                log.warning(
                    f"step {self.trainer.global_step + 1}: loss {self.step_loss:.3f}, far from "
                    f"the {mean:.3f} ± {spread:.3f} of the {RECENT} steps before it"
                )
        self._recent.append(self.step_loss)

    # Loss probes. All of them are collective, and NaN once a signal has interrupted one.

    def on_validation_epoch_start(self) -> None:
        self._validation = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not self.signals.agree_in_probe(self.trainer):
            self._validation.append(self._sums_and_counts(batch))

    def on_validation_epoch_end(self) -> None:
        means = self._means_over_ranks(self._validation, self.objective.names)
        self.validation_loss, self.validation_extra = means

    def validate(self, batches: Iterable[Batch]) -> None:
        """Probe the validation split outside Lightning's loop.

        Args:
            batches: this rank's; every rank has as many.
        """
        means = self._means_over_ranks(self._probe(batches), self.objective.names)
        self.validation_loss, self.validation_extra = means

    def validate_average(self, batches: Iterable[Batch]) -> None:
        """Probe the validation split with the averaged weights.

        Args:
            batches: as in `validate`.
        """
        assert self.average is not None
        with self.average.in_place():
            means = self._means_over_ranks(self._probe(batches), self.objective.names)
        self.averaged_loss = means[0]

    def mean_loss(self, batches: Sequence[Batch], objective: Objective | None = None) -> float:
        """Return the mean loss of these batches; ranks share them.

        Args:
            objective: another one than that of the training.
        """
        ranks = self.trainer.world_size
        rounds = -(-len(batches) // ranks)

        # Shards want every rank to compute as often as the others. A rank without a batch in the
        # last round takes one without labels.
        nothing = batches[0]._replace(labels=torch.full_like(batches[0].labels, IGNORE_INDEX))
        mine = (
            batches[i] if i < len(batches) else nothing
            for i in range(self.global_rank, rounds * ranks, ranks)
        )
        names = (objective or self.objective).names
        loss, self.probe_extra = self._means_over_ranks(self._probe(mine, objective), names)
        return loss

    def _probe(self, batches: Iterable[Batch], objective: Objective | None = None) -> list[Tensor]:
        """Return sums and counts of each batch, without dropout or gradients."""
        was_training = self.training
        found = []
        self.eval()
        with torch.no_grad(), self.trainer.precision_plugin.val_step_context():
            for batch in batches:
                # The ranks agree, so they all leave at the same batch.
                if self.signals.agree_in_probe(self.trainer):
                    break
                batch = self.trainer.strategy.batch_to_device(batch)
                found.append(self._sums_and_counts(batch, objective))
        self.train(was_training)
        return found

    def _sums_and_counts(self, batch: Batch, objective: Objective | None = None) -> Tensor:
        """Return sum and count of the loss, then of each number besides it, (2 + 2 numbers,)."""
        loss = (objective or self.objective).loss(batch)
        # `new_tensor` would wait for a GPU, as it copies from the CPU. Filling does not.
        of_loss = torch.stack([loss.sum, loss.sum.new_full((), loss.count)])
        return torch.cat([of_loss, _extra(loss)])

    def _means_over_ranks(
        self, sums_and_counts: list[Tensor], names: Sequence[str]
    ) -> tuple[float, dict[str, float]]:
        """Return the mean loss, and the means of the objective's other numbers, by name."""
        if self.signals.interrupted:
            return float("nan"), {}
        mine = torch.zeros(2 + 2 * len(names), device=self.device)
        if sums_and_counts:
            mine = torch.stack(sums_and_counts).sum(0)
        total, count, *extra = self.trainer.strategy.reduce(mine, reduce_op="sum").tolist()
        return _mean(total, count), _named(names, extra)

    # The checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is frozen: a resumed run loads it from the base."""
        for name in self._frozen():
            del checkpoint["state_dict"][name]
        checkpoint["watched"] = {"skipped": self.skipped, "recent": list(self._recent)}
        if self.average:
            checkpoint["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= self._frozen()
        self.skipped = checkpoint["watched"]["skipped"]
        self._recent.extend(checkpoint["watched"]["recent"])
        if self.average:
            self.average.load_state_dict(checkpoint["average"])

    def _frozen(self) -> dict[str, Tensor]:
        return {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if not parameter.requires_grad
        }


def _extra(loss: BatchLoss) -> Tensor:
    """Return sum and count of each number besides the loss, (2 * numbers,)."""
    if loss.extra is None:
        return loss.each.new_zeros(0)
    return loss.extra.flatten()


def _named(names: Sequence[str], sums_and_counts: Sequence[float]) -> dict[str, float]:
    """Return the means of the objective's other numbers, by name."""
    pairs = zip(sums_and_counts[::2], sums_and_counts[1::2], strict=True)
    means = [_mean(total, count) for total, count in pairs]
    return dict(zip(names, means, strict=True))


def _mean(total: float, count: float) -> float:
    return total / count if count else float("nan")
