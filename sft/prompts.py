"""The prompt templates, in Jinja. To add one, add it here: `data.prompt=` takes every name.

`sft/data/prompt.py` says which variables a template may use, and renders it.
"""

_TASK = "Below is an instruction that describes a task"
_ANSWER = "Write a response that appropriately completes the request."

PROMPTS: dict[str, str] = {
    "alpaca": (
        f"{_TASK}. {_ANSWER}"
        "\n\n### Instruction:\n{{ instruction }}"
        "{% if input %}\n\n### Input:\n{{ input }}{% endif %}"
        "\n\n### Response:\n"
    ),
    # The original wording: github.com/tatsu-lab/stanford_alpaca, "Data Release".
    "alpaca-stanford": (
        "{% if input %}"
        f"{_TASK}, paired with an input that provides further context. {_ANSWER}"
        "\n\n### Instruction:\n{{ instruction }}\n\n### Input:\n{{ input }}"
        "{% else %}"
        f"{_TASK}. {_ANSWER}"
        "\n\n### Instruction:\n{{ instruction }}"
        "{% endif %}"
        "\n\n### Response:"
    ),
    "phi3": "<|user|>\n{{ instruction }}{% if input %}\n{{ input }}{% endif %}\n<|assistant|>\n",
    "none": "",
}
