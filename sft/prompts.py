"""The prompt templates, in Jinja. To add one, add it here: `data.prompt=` takes every name.

A template renders `messages`: dicts with `role` and `content`, and of a user also `input`, what the
instruction is about. With `add_generation_prompt` its text ends where the next answer begins. Each
answer ends with the end token. The same text is the chat template of the tuned model, so other
programs render it too. They treat blanks and line breaks near tags differently, so all text stands
in expressions. `sft/data/prompt.py` renders it.
"""

_TASK = "Below is an instruction that describes a task"
_ANSWER = "Write a response that appropriately completes the request."

# The preamble stands once, or the system's text in its place. Then each turn has its header.
_ALPACA = (
    "{%% for message in messages %%}"
    "{%% if message['role'] == 'user' %%}"
    "{{ '\\n\\n### Instruction:\\n' + message['content'] }}"
    "{%% if message['input'] %%}{{ '\\n\\n### Input:\\n' + message['input'] }}{%% endif %%}"
    "{%% elif message['role'] == 'assistant' %%}"
    "{{ '%(response)s' + message['content'] + '<|endoftext|>' }}"
    "{%% endif %%}"
    "{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '%(response)s' }}{%% endif %%}"
)

PROMPTS: dict[str, str] = {
    "alpaca": (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
        f"{{% else %}}{{{{ '{_TASK}. {_ANSWER}' }}}}{{% endif %}}"
    )
    + _ALPACA % {"response": "\\n\\n### Response:\\n"},
    # The original wording: github.com/tatsu-lab/stanford_alpaca, "Data Release".
    "alpaca-stanford": (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
        "{% elif messages[0]['input'] %}"
        f"{{{{ '{_TASK}, paired with an input that provides further context. {_ANSWER}' }}}}"
        f"{{% else %}}{{{{ '{_TASK}. {_ANSWER}' }}}}{{% endif %}}"
    )
    + _ALPACA % {"response": "\\n\\n### Response:"},
    "phi3": (
        "{% for message in messages %}"
        "{% if not loop.first %}{{ '\\n' }}{% endif %}"
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
        "{% if message['input'] %}{{ '\\n' + message['input'] }}{% endif %}"
        "{% if message['role'] == 'assistant' %}{{ '<|endoftext|>' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"
    ),
    # The markers are ordinary text, so the vocabulary stays GPT-2's. An answer ends with the one
    # end token that GPT-2 has, in place of the marker.
    "chatml": (
        "{% for message in messages %}"
        "{% if not loop.first %}{{ '\\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
        "{% if message['input'] %}{{ '\\n\\n' + message['input'] }}{% endif %}"
        "{% if message['role'] == 'assistant' %}{{ '<|endoftext|>' }}"
        "{% else %}{{ '<|im_end|>' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "none": "",
}
