"""The weights that a run keeps: `model/`, and with LoRA `adapter/` too."""

from pathlib import Path

from lightning.pytorch import Trainer

from sft.atomic import restore_folder
from sft.checkpoint.folder import Pretrained, merge_adapter, save_adapter, save_pretrained
from sft.config.schema import LoraConfig
from sft.data.prompt import chat_of
from sft.gpt2.model import GPT
from sft.training.run_folder import RunFolder
from sft.training.sharding import unsharded_model


def save_tuned(
    model: GPT,
    base: Pretrained,
    lora: LoraConfig | None,
    template: str,
    folder: Path,
    conversations: bool = False,
) -> None:
    """Write a model's present weights into the folder of its run.

    Args:
        base: what it was tuned from; with an adapter, the model is a part of it.
        template: the prompt's; "" for plain text. It is the chat template too, unless an earlier
            version wrote it.
        conversations: it was tuned on conversations of several turns.

    Raises:
        InputError: it cannot be written.
    """
    prompt = template or None
    chat = chat_of(template, base.chat_template)
    if lora:
        save_adapter(base, lora, folder / "adapter", prompt, chat, conversations)
        merge_adapter(folder / "adapter", folder / "model")
    else:
        save_pretrained(
            model,
            folder / "model",
            base.tokenizer,
            prompt,
            base.source,
            chat_template=chat,
            conversations=conversations,
            ends=base.ends,
        )


def complete_model(trainer: Trainer, model: GPT, run_folder: RunFolder, nothing_left: bool) -> None:
    """Finish a run that was killed after its last step: write `model/` if it is missing or stale.

    It may be stale where no validation chose the weights: then it can be of an earlier end of the
    run. Collective: rank 0 looks into the folder and decides for all ranks, since a sharded model
    can only be gathered by all of them.

    Args:
        nothing_left: the run had taken all its steps before this process began.
    """
    missing = trainer.is_global_zero and not restore_folder(run_folder.folder / "model")
    may_be_stale = nothing_left and run_folder.best.value == float("inf")
    if trainer.strategy.broadcast(missing or may_be_stale):
        gathered = unsharded_model(model)
        if trainer.is_global_zero:
            run_folder.save_model(gathered)
