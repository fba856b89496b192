"""Memory of one LoRA step on the shape of the largest GPT-2: random weights, and train.py itself, as a user calls it.

python -m tests.benchmarks.lora_memory      (`make bench-lora` does the same; it wants 13 GB on the disk)

The peak is of the whole process, from its start to the merged `model/` that it leaves. Beside it stands what a GPU
would hold, computed by sft.training.memory; to which CUDA adds its own half GiB or so.
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

ROOT = Path(__file__).parents[2]
XL = GPTConfig(n_layer=48, n_head=25, n_embd=1600)
SETTINGS = "model.allow_untrained=true lora=default data.sample=40 max_steps=1 eval.every=0 eval.batches=1 "
SETTINGS += "eval.sample=false device=cpu precision=bf16-mixed"


def random_model(config: GPTConfig) -> GPT:
    """All matrices are views of one pool of random numbers, so that the model itself takes next to nothing."""
    model = weights.skeleton(config)
    pool = torch.randn(config.vocab_size * config.n_embd) * 0.02
    state = {
        name: pool[: tensor.numel()].view(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    state |= {
        name: torch.ones_like(tensor)
        for name, tensor in state.items()
        if ".ln_" in name and "weight" in name
    }
    model.load_state_dict(state, assign=True)
    return model


def on_a_gpu(checkpoint: Path, batch_size: int) -> tuple[int, int]:
    """Bytes of the parameters with what trains the adapter, and of what the backward pass keeps."""
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
        subprocess.run(
            [sys.executable, ROOT / "train.py", *SETTINGS.split(), *names], cwd=place, check=True
        )
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
        parts = on_a_gpu(place / "xl", args.batch_size)
    gib = [part / 2**30 for part in parts]
    print(
        f"\n{sum(p.numel() for p in model.parameters()):,} parameters, {args.batch_size} records in the step"
    )
    print(f"host: {peak / 2**30:.1f} GiB at the peak of the process, measured")
    print(
        f"GPU:  {sum(gib):.1f} GiB, computed: {gib[0]:.1f} weights and what trains them, {gib[1]:.1f} the batch"
    )


if __name__ == "__main__":
    main()
