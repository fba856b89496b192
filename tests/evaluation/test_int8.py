"""An evaluation in int8 measures the weights in int8, loss and answers alike."""

from dataclasses import replace

import pytest

from sft.config.schema import DataConfig
from sft.data.records import Record
from sft.evaluation.answers import AnswerFile, Decoding
from sft.evaluation.measure import encode_records, load_and_measure
from sft.gpt2 import fast
from tests.evaluation.conftest import TEMPLATE

DECODING = Decoding(max_new_tokens=4, temperature=0.0, top_k=None, seed=0, precision="32-true")


def test_loss_and_answers_are_those_of_the_int8_weights(pretrained, tmp_path, monkeypatch):
    records = [Record(f"Add {n} and 1.", "", f"{n + 1}") for n in range(4)]
    data = DataConfig("json", "unused.json")
    encoded = encode_records("tuned", pretrained, records, TEMPLATE, data, "test")
    products = []
    honest = fast.Int8.__call__

    def noted(form, x, bias=None):
        products.append(len(x))
        return honest(form, x, bias)

    monkeypatch.setattr(fast.Int8, "__call__", noted)
    results = {}
    for precision in ("32-true", "int8"):
        decoding = replace(DECODING, precision=precision)
        file = AnswerFile(tmp_path / "answers.jsonl")
        results[precision] = load_and_measure(encoded, "cpu", precision, decoding, file, 4)
        layers = 2 * 4 + 1
        assert len(products) % layers == 0
        assert bool(products) == (precision == "int8")

    plain, int8 = results["32-true"].losses, results["int8"].losses
    assert int8.answers != plain.answers
    assert int8.answers == pytest.approx(plain.answers, rel=0.05)
