"""Memory of one LoRA step of train.py on the shape of the largest GPT-2, with random weights.

    python -m tests.benchmarks.lora_memory

`make bench-lora` does the same. It needs 13 GB on the disk. The peak is that of the whole process,
from its start to the merged `model/` that it leaves. The number for a GPU is computed by
sft/training/estimate.py. CUDA adds about half a GiB of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from sft.checkpoint import weights
from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.config.schema import DataConfig, LoraConfig
from sft.data.batches import encode
from sft.data.sources import load_source
from sft.gpt2.lora import add_lora
from sft.gpt2.model import GPT, GPTConfig
from sft.prompts import PROMPTS
from sft.training.estimate import Shape, batch_bytes, weight_bytes
from tests.benchmarks.data import rusage_bytes

GIB = 1 << 30
ROOT = Path(__file__).parents[2]
XL = GPTConfig(n_layer=48, n_head=25, n_embd=1600)
SETTINGS = [
    *("model.allow_untrained=true", "lora=default", "data.sample=40", "max_steps=1"),
    *("eval.every=0", "eval.batches=1", "eval.sample=false"),
    *("device=cpu", "precision=bf16-mixed"),
]


def random_model(config: GPTConfig) -> GPT:
    """Make a model that takes almost no memory: its matrices share one pool of random numbers."""
    model = weights.skeleton(config)
    pool = torch.randn(config.vocab_size * config.n_embd) * 0.02
    state = {}
    for name, tensor in model.state_dict().items():
        state[name] = pool[: tensor.numel()].view(tensor.shape)
        if ".ln_" in name and "weight" in name:
            state[name] = torch.ones(tensor.shape)
    model.load_state_dict(state, assign=True)
    return model


def on_a_gpu(checkpoint: Path, batch_size: int) -> tuple[int, int]:
    """Compute the bytes that a GPU would hold.

    Returns:
        The parameters with what trains the adapter, and what the backward pass keeps.
    """
    loaded = load_pretrained(checkpoint, device="meta", linear_dtype=torch.bfloat16)
    add_lora(loaded.model, LoraConfig())
    examples = encode(
        load_source(DataConfig()).records,
        PROMPTS["alpaca"],
        loaded.tokenizer,
        1024,
        mask_prompt=False,
    )
    shape = Shape.of(examples.batch(list(range(batch_size))))
    return weight_bytes(loaded.model), batch_bytes(loaded.model, shape, torch.bfloat16, "cuda")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, help="records of the embedded data in the step"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = random_model(XL)
        save_pretrained(model, place / "xl", load_pretrained("gpt2-nano").tokenizer)
        names = [
            f"model.checkpoint={place / 'xl'}",
            f"hydra.run.dir={place / 'run'}",
            f"batch_size={args.batch_size}",
        ]
        command = [sys.executable, ROOT / "train.py", *SETTINGS, *names]
        subprocess.run(command, cwd=place, check=True)
        peak = rusage_bytes(resource.RUSAGE_CHILDREN) / GIB
        kept, batch = (part / GIB for part in on_a_gpu(place / "xl", args.batch_size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"\n{parameters:,} parameters, {args.batch_size} records in the step")
    print(f"host: {peak:.1f} GiB at the peak of the process, measured")
    print(
        f"GPU:  {kept + batch:.1f} GiB, computed: {kept:.1f} weights and what trains them, "
        f"{batch:.1f} the batch"
    )


if __name__ == "__main__":
    main()
