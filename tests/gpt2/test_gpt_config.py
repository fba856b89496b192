"""The architecture survives `config.json`, and what is not implemented is refused by its key."""

import pytest

from sft.gpt2.gpt_config import GPTConfig


def test_config_survives_the_trip_through_config_json():
    config = GPTConfig(
        n_layer=3,
        n_head=5,
        n_embd=20,
        vocab_size=99,
        n_positions=7,
        n_inner=11,
        layer_norm_epsilon=1e-3,
        initializer_range=0.5,
        tie_word_embeddings=False,
        eos_token_id=98,
    )
    assert GPTConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("model_type", "llama", "'llama'"),
        ("activation_function", "relu", "'relu'"),
        ("scale_attn_by_inverse_layer_idx", True, "True"),
        ("scale_attn_weights", False, "False"),
        ("reorder_and_upcast_attn", True, "True"),
        ("add_cross_attention", True, "True"),
        ("tie_word_embeddings", None, "None"),
        ("n_layer", 0, "0"),
        ("n_layer", "12", "'12'"),
        ("vocab_size", True, "True"),
        ("n_positions", 1024.0, "1024.0"),
        ("n_inner", -1, "-1"),
        ("n_layer", 1001, "1,001"),
        ("n_layer", 282608098400, "282,608,098,400"),
        ("n_inner", 1 << 60, "1,152,921,504,606,846,976"),
        ("vocab_size", 1 << 63, "9,223,372,036,854,775,808"),
        ("layer_norm_epsilon", 0.0, "0.0"),
        ("layer_norm_epsilon", "1e-5", "'1e-5'"),
        ("initializer_range", "0.02", "'0.02'"),
    ],
)
def test_a_value_that_is_not_implemented_is_refused_by_key_and_value(key, value, shown):
    with pytest.raises(ValueError, match=f"^{key}: ") as error:
        GPTConfig.from_hf(GPTConfig().to_hf() | {key: value})
    assert shown in str(error.value)
    assert "expected" in str(error.value)


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match=r"^n_embd: 768 .*n_head = 7"):
        GPTConfig.from_hf(GPTConfig().to_hf() | {"n_head": 7})


def test_the_largest_number_of_layers_is_accepted():
    assert GPTConfig(n_layer=1000).n_layer == 1000


@pytest.mark.parametrize(
    "key", ["model_type", "n_layer", "n_head", "n_embd", "vocab_size", "n_positions"]
)
def test_a_missing_key_is_named(key):
    config = GPTConfig().to_hf()
    del config[key]
    with pytest.raises(ValueError, match=f"^{key}: missing"):
        GPTConfig.from_hf(config)
