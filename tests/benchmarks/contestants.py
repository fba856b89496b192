"""This project, transformers, TRL and the book's code, each as its users would call it.

All of them get the same checkpoint and the same token ids, in the same order. They train with
AdamW, lr 5e-5, weight decay 0.1, no dropout, and the loss over the whole text. Each runs in a
process of its own (`apart`), which does nothing while another one is measured.
"""

import gc
import multiprocessing
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sft.cpus import bound_waiting
from tests.benchmarks import data

# How many of the tokens are the prompt, and the tokens of prompt, answer and end.
Text = tuple[int, list[int]]
IGNORE_INDEX = -100


class Contestant(ABC):
    """Code that trains the checkpoint.

    Making a batch takes a thousandth of a step. It is measured where it is part of the loop.

    Args:
        folder: the checkpoint.
        low: use bf16 where the contestant's users would, else fp32.
    """

    def __init__(self, folder: Path, device: str, low: bool) -> None:
        self.folder = folder
        self.device = device
        self.low = low
        self.context = torch.autocast(device, torch.bfloat16, enabled=low)
        # The loss of each step of the last `train`, before its update.
        self.losses: list[float] = []

    @abstractmethod
    def train(self, batches: Sequence[Sequence[Text]], masked: bool = False) -> list[float]:
        """Return the seconds of an optimizer step on each batch.

        Args:
            masked: learn only the answers.
        """

    def timed(
        self, step: Callable[[Sequence[Text]], torch.Tensor], batches: Sequence[Sequence[Text]]
    ) -> list[float]:
        """Return the seconds of `step`, which returns its loss, on each batch."""
        self.losses = []
        seconds = []
        for texts in batches:
            start = self.synchronised()
            self.losses.append(step(texts).item())
            seconds.append(self.synchronised() - start)
        return seconds

    def synchronised(self) -> float:
        """Return the time at which the device has done all its work."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> int:
        """Return the most bytes that this process has held so far, on the GPU if there is one."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return data.peak()


class Answerer(Contestant):
    """Code that also answers."""

    @abstractmethod
    def answer(self, prompts: Sequence[list[int]], lengths: Sequence[int], together: int) -> float:
        """Return the seconds that answering takes.

        Args:
            lengths: the number of tokens of each answer.
            together: the most prompts at a time.
        """


class Ours(Answerer):
    """The LightningModule in Lightning's Trainer, without what train.py adds to write its files."""

    int8 = False

    def __init__(self, folder: Path, device: str, low: bool) -> None:
        from sft.checkpoint.folder import load_pretrained
        from sft.device import keep_freed_memory, pick_threads

        super().__init__(folder, device, low)
        pick_threads("auto", device, processes=1)
        keep_freed_memory()
        self.model = load_pretrained(folder).model

    def batch(self, texts: Sequence[Text], masked: bool) -> Any:
        from sft.data.batches import Batch
        from sft.gpt2.fast import row_multiple

        sizes = [len(tokens) - 1 for _, tokens in texts]
        multiple = row_multiple(self.device)
        ids = padded([t[:-1] for _, t in texts], 0, multiple)
        labels = padded([learned(t, masked)[1:] for t in texts], multiple=multiple)
        targets = int((labels != IGNORE_INDEX).sum())
        return Batch(
            ids, labels, torch.tensor(sizes), torch.arange(len(texts)), targets, sum(sizes)
        )

    def train(self, batches: Sequence[Sequence[Text]], masked: bool = False) -> list[float]:
        from lightning.pytorch import Callback
        from torch.utils.data import DataLoader

        from sft.config.loading import from_dict
        from sft.config.schema import TrainConfig
        from sft.training.module import InstructionTuner
        from sft.training.trainer import make_trainer

        # Lightning's objects hold each other, and with them the optimizer of the call before.
        gc.collect()
        clock = self.synchronised
        seconds = []
        losses = []

        class Clock(Callback):
            def on_train_batch_start(self, *arguments: Any) -> None:
                seconds.append(clock())

            def on_train_batch_end(self, trainer: Any, module: Any, *arguments: Any) -> None:
                seconds[-1] = clock() - seconds[-1]
                losses.append(module.step_loss)

        values = {
            "model": {"checkpoint": ""},
            "data": {},
            "optim": {},
            "eval": {},
            "epochs": 1,
            "device": self.device,
        }
        config = from_dict(TrainConfig, values)
        module = InstructionTuner(self.model, config.optim, len(batches))
        precision: Any = "bf16-mixed" if self.low else "32-true"
        trainer = make_trainer(config, 1, self.device, precision, [Clock()], logger=False)
        trainer.progress_bar_callback.disable()
        made = [self.batch(texts, masked) for texts in batches]
        trainer.fit(module, DataLoader(made, batch_size=None))
        self.losses = losses
        return seconds

    def answer(self, prompts: Sequence[list[int]], lengths: Sequence[int], together: int) -> float:
        from sft.checkpoint.folder import load_pretrained
        from sft.gpt2.frozen import freeze
        from sft.gpt2.generate import complete

        if not hasattr(self, "decoding"):
            dtype = torch.bfloat16 if self.low or self.int8 else torch.float32
            loaded = load_pretrained(self.folder, dtype=dtype, device=self.device)
            self.decoding = loaded.model.eval()
            freeze(self.decoding, int8=self.int8)
        start = self.synchronised()
        found = list(complete(self.decoding, prompts, lengths, slots=together))
        seconds = self.synchronised() - start
        assert sum(len(answer.tokens) for answer in found) == sum(lengths)
        return seconds


class Int8(Ours):
    """This project with `precision=int8`. Only its answering is measured."""

    int8 = True


class LlamaCpp(Answerer):
    """llama.cpp on the f16 file that this project exports. Only its answering is measured."""

    def train(self, batches: Sequence[Sequence[Text]], masked: bool = False) -> list[float]:
        raise NotImplementedError("llama.cpp is asked for answers alone")

    def answer(self, prompts: Sequence[list[int]], lengths: Sequence[int], together: int) -> float:
        from llama_cpp import Llama

        from sft.checkpoint.folder import load_pretrained
        from sft.checkpoint.gguf import write_gguf

        if not hasattr(self, "decoding"):
            path = self.folder.parent / "model.gguf"
            loaded = load_pretrained(self.folder)
            write_gguf(loaded.model, loaded.tokenizer, path, "f16", "bench")
            threads = torch.get_num_threads()
            self.decoding = Llama(
                str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False
            )
        start = self.synchronised()
        for prompt, length in zip(prompts, lengths, strict=True):
            answer = list(islice(self.decoding.generate(prompt, temp=0.0), length))
            assert len(answer) == length
        return self.synchronised() - start


def has_llama_cpp() -> bool:
    """Return whether llama.cpp's package is installed."""
    return find_spec("llama_cpp") is not None


class Transformers(Answerer):
    """GPT2LMHeadModel in a plain loop with autocast and a fused AdamW."""

    def __init__(self, folder: Path, device: str, low: bool) -> None:
        from transformers import GPT2LMHeadModel

        super().__init__(folder, device, low)
        self.model = GPT2LMHeadModel.from_pretrained(folder).to(device).train()

    def train(self, batches: Sequence[Sequence[Text]], masked: bool = False) -> list[float]:
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=5e-5, weight_decay=0.1, fused=True
        )

        def step(texts: Sequence[Text]) -> torch.Tensor:
            ids = padded([tokens for _, tokens in texts], 0).to(self.device)
            labels = padded([learned(text, masked) for text in texts]).to(self.device)
            mask = padded([[1] * len(tokens) for _, tokens in texts], 0).to(self.device)
            with self.context:
                loss: torch.Tensor = self.model(ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return self.timed(step, batches)

    def answer(self, prompts: Sequence[list[int]], lengths: Sequence[int], together: int) -> float:
        """Answer in batches as they come, padded on the left.

        A batch ends with its longest answer.
        """
        from transformers import GPT2LMHeadModel

        if not hasattr(self, "decoding"):
            dtype = torch.bfloat16 if self.low else torch.float32
            self.decoding = (
                GPT2LMHeadModel.from_pretrained(self.folder, dtype=dtype).to(self.device).eval()
            )
        start = self.synchronised()
        for i in range(0, len(prompts), together):
            few = prompts[i : i + together]
            longest = max(lengths[i : i + together])
            width = max(map(len, few))
            ids = torch.zeros(len(few), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, prompt in enumerate(few):
                ids[row, width - len(prompt) :] = torch.tensor(prompt)
                mask[row, width - len(prompt) :] = 1
            options = {
                "max_new_tokens": longest,
                "min_new_tokens": longest,
                "do_sample": False,
                "pad_token_id": 0,
            }
            self.decoding.generate(
                ids.to(self.device), attention_mask=mask.to(self.device), **options
            )
        return self.synchronised() - start


class TRL(Contestant):
    """SFTTrainer, on token ids.

    It answers with transformers' `generate`, so only its training is measured.
    """

    def train(self, batches: Sequence[Sequence[Text]], masked: bool = False) -> list[float]:
        from datasets import Dataset
        from transformers import AutoTokenizer, GPT2LMHeadModel, TrainerCallback
        from trl import SFTConfig, SFTTrainer

        clock = self.synchronised
        seconds = []

        class Clock(TrainerCallback):
            def on_step_begin(self, *arguments: Any, **more: Any) -> None:
                seconds.append(clock())

            def on_step_end(self, *arguments: Any, **more: Any) -> None:
                seconds[-1] = clock() - seconds[-1]

        if not hasattr(self, "model"):
            self.model = GPT2LMHeadModel.from_pretrained(self.folder)
        rows = [
            {"input_ids": tokens, "completion_mask": [0] * prompt + [1] * (len(tokens) - prompt)}
            for texts in batches
            for prompt, tokens in texts
        ]
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        tokenizer.pad_token = tokenizer.eos_token
        config = SFTConfig(
            output_dir=str(self.folder.parent / "trl"),
            per_device_train_batch_size=len(batches[0]),
            max_steps=len(batches),
            learning_rate=5e-5,
            weight_decay=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            optim="adamw_torch_fused",
            bf16=self.low,
            use_cpu=self.device == "cpu",
            gradient_checkpointing=False,
            completion_only_loss=masked,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            self.model,
            config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
        self.losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        return seconds


class Book(Answerer):
    """Chapter 7 of "Build a Large Language Model (From Scratch)".

    It trains in fp32 with the AdamW written there, and answers without a cache.
    """

    def __init__(self, folder: Path, device: str, low: bool) -> None:
        from llms_from_scratch.ch04 import GPTModel
        from llms_from_scratch.ch05 import load_weights_into_gpt

        from sft.checkpoint.folder import load_pretrained

        super().__init__(folder, device, low=False)
        gpt2 = load_pretrained(folder).model
        shape = gpt2.config
        self.model = GPTModel(
            {
                "vocab_size": shape.vocab_size,
                "context_length": shape.n_positions,
                "emb_dim": shape.n_embd,
                "n_heads": shape.n_head,
                "n_layers": shape.n_layer,
                "drop_rate": 0.0,
                "qkv_bias": True,
            }
        )
        load_weights_into_gpt(self.model, as_released(gpt2))
        self.model.to(device)

    def train(self, batches: Sequence[Sequence[Text]], masked: bool = False) -> list[float]:
        from llms_from_scratch.ch05 import calc_loss_batch
        from llms_from_scratch.ch07 import custom_collate_fn

        optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-5, weight_decay=0.1)

        def step(texts: Sequence[Text]) -> torch.Tensor:
            end = texts[0][1][-1]
            ids, labels = custom_collate_fn(
                [tokens[:-1] for _, tokens in texts], end, device=self.device
            )
            optimizer.zero_grad()
            loss: torch.Tensor = calc_loss_batch(ids, labels, self.model, self.device)
            loss.backward()
            optimizer.step()
            return loss

        return self.timed(step, batches)

    def answer(self, prompts: Sequence[list[int]], lengths: Sequence[int], together: int) -> float:
        from llms_from_scratch.ch05 import generate

        context = self.model.pos_emb.num_embeddings
        start = self.synchronised()
        for prompt, length in zip(prompts, lengths, strict=True):
            generate(self.model.eval(), torch.tensor([prompt], device=self.device), length, context)
        seconds = self.synchronised() - start
        self.model.train()
        return seconds


def padded(
    rows: Sequence[Sequence[int]], value: int = IGNORE_INDEX, multiple: int = 1
) -> torch.Tensor:
    """Return the rows as (B, T), with `value` on the right."""
    width = -(-max(map(len, rows)) // multiple) * multiple
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def learned(text: Text, masked: bool) -> list[int]:
    """Return a text's labels, not shifted."""
    prompt, tokens = text
    return [IGNORE_INDEX] * prompt + tokens[prompt:] if masked else tokens


def as_released(model: Any) -> dict[str, Any]:
    """Return a GPT's weights in the layout of OpenAI's release, which the book's code reads."""
    params: dict[str, Any] = {"blocks": [{} for _ in model.h]}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        *modules, kind = name.split(".")
        if modules[0] in ("wte", "wpe"):
            params[modules[0]] = array
            continue
        place = params
        if modules[0] == "h":
            place = params["blocks"][int(modules[1])]
            for module in modules[2:]:
                place = place.setdefault(module, {})
        letter = {"bias": "b", "weight": "g" if "ln_" in modules[-1] else "w"}[kind]
        place[letter] = array.T if array.ndim == 2 else array
    return params


# Each contestant has a process of its own


def _serve(connection: Connection, kind: type[Contestant], arguments: tuple[Any, ...]) -> None:
    """Make a contestant, say so by sending None, and answer what `Apart` asks."""
    contestant = kind(*arguments)
    connection.send(None)
    while True:
        name, given = connection.recv()
        value = getattr(contestant, name)
        connection.send(value(*given) if callable(value) else value)


class Apart:
    """A contestant in another process: `ask("train", batches)` returns what its method returns."""

    def __init__(self, kind: type[Contestant], *arguments: Any) -> None:
        self._connection, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(there, kind, arguments), daemon=True)

        # As in this project's doors, OpenMP reads how its threads wait before torch is imported.
        environment = os.environ.copy()
        if issubclass(kind, Ours):
            bound_waiting()
        self._process.start()
        os.environ.clear()
        os.environ.update(environment)
        there.close()
        self._connection.recv()

    def ask(self, name: str, *given: Any) -> Any:
        self._connection.send((name, given))
        return self._connection.recv()

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


@contextmanager
def apart(kinds: Sequence[type[Contestant]], *arguments: Any) -> Iterator[dict[str, Apart]]:
    """Start the contestants, each in a process of its own; the result is by name."""
    found = {kind.__name__: Apart(kind, *arguments) for kind in kinds}
    try:
        yield found
    finally:
        for contestant in found.values():
            contestant.stop()
