"""`docs/quickstart.ipynb` runs from top to bottom."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from tests.fixtures.doors import ROOT

# Less to train, so that the test is quick.
SMALLER = {
    "RECORDS = 1000": "RECORDS = 80",
    "EPOCHS = 2": "EPOCHS = 1",
    "RECORDS + 60": "RECORDS + 16",
    "records[RECORDS:-30], records[-30:]": "records[RECORDS:-8], records[-8:]",
}


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    matplotlib.use("agg")
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 10
    assert all(cell["outputs"] == [] for cell in cells)

    names: dict[str, Any] = {}
    for cell in cells:
        source = "".join(cell["source"])
        for whole, part in SMALLER.items():
            source = source.replace(whole, part)
        exec(source, names)
    assert [len(names[part]) for part in ("training", "validation", "test")] == [80, 8, 8]
    assert names["losses"][-1] < names["losses"][0]
    assert names["scores"]["tuned"]["loss"] < names["scores"]["base"]["loss"]
    assert len(names["losses"].validation) == 1
    assert (tmp_path / "outputs" / "quickstart" / "model.safetensors").exists()
