"""What a run keeps of its weights: `model/`, and with LoRA `adapter/` beside it."""

from pathlib import Path

from lightning.pytorch import Trainer

from sft.config import LoraConfig
from sft.data.prompt import chat_template
from sft.files import restore_folder
from sft.gpt2.checkpoint import Pretrained, merge_adapter, save_adapter, save_pretrained
from sft.gpt2.model import GPT
from sft.training.callbacks import RunFolder
from sft.training.sharding import unsharded_model


def save_tuned(model: GPT, base: Pretrained, lora: LoraConfig | None, template: str, folder: Path) -> None:
    """Write a model as it stands into the folder of its run.

    Args:
        base: what it was tuned from; with an adapter, of which the model is part.
        template: the prompt's, "" for plain text.

    Raises:
        InputError: it cannot be written.
    """
    chat = chat_template(template) if template else None
    if lora:
        save_adapter(base, lora, folder / "adapter", template or None, chat)
        merge_adapter(folder / "adapter", folder / "model")
    else:
        save_pretrained(model, folder / "model", base.tokenizer, template or None, base.source, chat_template=chat)


def save_if_cut_off(trainer: Trainer, model: GPT, run_folder: RunFolder, nothing_left: bool) -> None:
    """Write the model of a run that was killed between its last step and its end, so that `model/` is not there, or,
    as no validation chose the weights, may be of an earlier end. Rank 0 looks into the folder and decides for all
    ranks, since only together can they put a model in shards together.

    Args:
        nothing_left: the run had taken all its steps before this process began.
    """
    missing = trainer.is_global_zero and not restore_folder(run_folder.folder / "model")
    cut_off = missing or (nothing_left and run_folder.best == float("inf"))
    if trainer.strategy.broadcast(cut_off):
        gathered = unsharded_model(model)
        if trainer.is_global_zero:
            run_folder.save_model(gathered)
