"""Transformers' GPT-2, as the network's tests have it."""

from tests.gpt2.conftest import hf_folder as hf_folder
from tests.gpt2.conftest import hf_model as hf_model
