"""The LightningModule: one optimizer step, and the losses measured around it."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, pstdev
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from sft.config import InputError, OptimConfig
from sft.data.dataset import IGNORE_INDEX, Batch
from sft.gpt2.model import GPT
from sft.training.optim import adamw, schedule
from sft.training.sharding import unsharded

log = logging.getLogger(__name__)
MOST_SKIPPED = 5


class InstructionTuner(LightningModule):
    """Trains a GPT on batches of instructions.

    The loss of an optimizer step is the sum of the cross entropies of its labels, over all micro-batches and ranks,
    divided by the number of these labels, which every batch brings along. It is therefore the same number, with the
    same gradient, however the step's records are divided.

    Args:
        total_steps: optimizer steps of the whole run, for the learning rate's course.
        accumulate: micro-batches of a step on each rank.
        on_nonfinite: `stop` at a loss or gradient that is no number, or `skip` the step; MOST_SKIPPED in a row stop.
        seed: of dropout, which is drawn anew for each (seed, epoch, micro-batch, rank).
    """

    def __init__(
        self,
        model: GPT,
        optim: OptimConfig,
        total_steps: int,
        accumulate: int = 1,
        seed: int = 0,
        on_nonfinite: str = "stop",
    ) -> None:
        super().__init__()
        self.model, self.optim = model, optim
        self.total_steps, self.accumulate, self.seed = total_steps, accumulate, seed
        self.on_nonfinite, self.skipped = on_nonfinite, 0  # steps in a row
        self._recent: deque[float] = deque(maxlen=50)  # losses
        self.step_loss = float("nan")  # of the last optimizer step, before its update
        self.step_lr = 0.0
        self.validation_loss = float("nan")  # of the last pass over the validation split
        self.wishes: Callable[[], list[float]] = list  # what this rank wants the others to know at the next step
        self.signals: Callable[[], list[float]] = lambda: [0.0, 0.0]  # whether this rank got SIGINT, and SIGTERM
        self.agreed = [0.0, 0.0, 0.0]  # the sums of all ranks' wishes, the last two of them their signals
        self.cut = False  # whether the ranks agreed on a signal in the middle of a look at the losses
        self.batch_shape: tuple[int, ...] | None = None  # (B, T) of the micro-batch at hand
        self._sums: list[Tensor] = []  # of the losses of each micro-batch in the current step, (1,)
        self._records: list[Tensor] = []
        self._validation: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        total = self.model.token_losses(batch.input_ids, batch.labels, batch.lengths).sum()
        self._sums.append(total.detach())
        self._records.append(batch.records)
        # Lightning divides by `accumulate`, and DDP by the number of ranks.
        return total * (self.accumulate * self.trainer.world_size / batch.step_targets)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        place = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(hash(place) % 2**63)
        self._targets, self.batch_shape = batch.step_targets, tuple(batch.input_ids.shape)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        total = torch.stack(self._sums).sum()
        mine = torch.stack([total, *map(total.new_tensor, self.wishes())])
        total_loss, *self.agreed = self.trainer.strategy.reduce(mine, reduce_op="sum").tolist()
        self.step_loss = total_loss / self._targets
        self.step_lr = optimizer.param_groups[0]["lr"]
        if self._is_finite(optimizer):
            self._watch()
            self.skipped = 0
        else:
            self._refuse_step(optimizer)
        self._sums, self._records = [], []

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the whole gradient's norm; Lightning's own refuses a fused optimizer in every mixed precision."""
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def _is_finite(self, optimizer: torch.optim.Optimizer) -> bool:
        """The loss, and the gradient, which is the same on all ranks; a loss scaler looks after its own gradients."""
        if self.trainer.precision_plugin.precision == "16-mixed":
            return self.step_loss < float("inf")
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        if self.device.type == "cpu":  # where a sum is cheaper than a norm
            found = torch.stack([grad.sum() for grad in grads])
        else:  # where each sum would be a kernel of its own
            found = torch.nn.utils.get_total_norm(grads)
        return self.step_loss < float("inf") and bool(unsharded(found).isfinite().all())

    def _refuse_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises InputError; or has the optimizer skip the step, by taking the gradients away."""
        micro_batches = zip(self._sums, self._records, strict=True)
        mine = [(bool(total.isfinite()), records.tolist()) for total, records in micro_batches]
        everyones = [found for rank in self._gathered(mine) for found in rank]
        suspects = [records for finite, records in everyones if not finite] or [records for _, records in everyones]
        numbers = sorted(record + 1 for records in suspects for record in records if record >= 0)
        what = (
            f"step {self.trainer.global_step + 1}: loss {self.step_loss} or its gradient is not finite, on training "
            f"records {numbers} (counted from 1)"
        )
        self.skipped += 1
        if self.on_nonfinite == "stop" or self.skipped == MOST_SKIPPED:
            raise InputError(
                f"{what}; the weights are as before the step; lower optim.lr, set optim.grad_clip=1, or use "
                "precision=32"
            )
        log.warning(f"{what}; skipped")
        optimizer.zero_grad(set_to_none=True)

    def _watch(self) -> None:
        """Warn of a loss that stands out from those of the steps before it."""
        if len(self._recent) == self._recent.maxlen:
            mean, spread = fmean(self._recent), pstdev(self._recent)
            if self.step_loss > mean + 6 * spread:
                log.warning(
                    f"step {self.trainer.global_step + 1}: loss {self.step_loss:.3f}, far from the {mean:.3f} ± "
                    f"{spread:.3f} of the {len(self._recent)} steps before it"
                )
        self._recent.append(self.step_loss)

    def _gathered(self, mine: Any) -> list[Any]:
        """What every rank has; all ranks must ask."""
        everyones = [mine] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(everyones, mine)
        return everyones

    def on_validation_epoch_start(self) -> None:
        self._validation = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not self._is_cut():
            self._validation.append(self._loss_and_count(batch))

    def on_validation_epoch_end(self) -> None:
        self.validation_loss = self._mean(self._validation)

    def validate(self, batches: Iterable[Batch]) -> None:
        """A pass over the validation split, this rank's batches of it, of which there are as many on every rank."""
        self.validation_loss = self._mean(self._measured(batches))

    def mean_loss(self, batches: Sequence[Batch]) -> float:
        """The mean loss of the labels in these batches, in nats; the ranks share the batches."""
        ranks = self.trainer.world_size
        nothing = batches[0]._replace(labels=torch.full_like(batches[0].labels, IGNORE_INDEX))
        rounds = range(self.global_rank, -(-len(batches) // ranks) * ranks, ranks)  # as many on each: shards want it
        return self._mean(self._measured(batches[i] if i < len(batches) else nothing for i in rounds))

    def _measured(self, batches: Iterable[Batch]) -> list[Tensor]:
        was_training, sums = self.training, []
        self.eval()
        with torch.no_grad(), self.trainer.precision_plugin.val_step_context():
            for batch in batches:
                if self._is_cut():  # for all ranks at the same batch
                    break
                sums.append(self._loss_and_count(self.trainer.strategy.batch_to_device(batch)))
        self.train(was_training)
        return sums

    def _is_cut(self) -> bool:
        """Whether a rank was asked to stop, so that what is being measured is left; all ranks must ask."""
        if self.cut:
            return True
        signals = self.signals()
        if self.trainer.world_size > 1:
            mine = torch.tensor(signals, device=self.device)
            signals = self.trainer.strategy.reduce(mine, reduce_op="sum").tolist()
        if any(signals):
            self.cut, self.agreed[1:] = True, signals
        return self.cut

    def _loss_and_count(self, batch: Batch) -> Tensor:  # -> (2,)
        losses = self.model.token_losses(batch.input_ids, batch.labels, batch.lengths)
        return torch.stack([losses.sum(), losses.new_tensor(len(losses))])

    def _mean(self, sums: list[Tensor]) -> float:
        if self.cut:
            return float("nan")
        total = torch.stack(sums).sum(0) if sums else torch.zeros(2, device=self.device)
        loss, count = self.trainer.strategy.reduce(total, reduce_op="sum").tolist()
        return float(loss / count) if count else float("nan")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What is frozen comes from the base anew, and is not kept a second time."""
        for name in self._frozen():
            del checkpoint["state_dict"][name]
        checkpoint["watched"] = {"skipped": self.skipped, "recent": list(self._recent)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= self._frozen()
        self.skipped = checkpoint["watched"]["skipped"]
        self._recent.extend(checkpoint["watched"]["recent"])

    def _frozen(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters() if not p.requires_grad}

    def configure_optimizers(self) -> Any:
        fused = self.trainer.precision_plugin.precision != "16-mixed"  # a fused step unscales behind grad_clip's back
        optimizer = adamw(self.model, self.optim, fused)
        course = schedule(optimizer, self.optim, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": course, "interval": "step"}}
