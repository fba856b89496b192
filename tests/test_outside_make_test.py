"""Files that `make test` never runs (benchmarks, soak, browser, GGUF ...) import what exists.

They have make targets of their own, which are called rarely. Many import inside a function, so a
name that moved would be noticed only after minutes of a benchmark.
"""

import ast
from importlib import import_module
from importlib.util import find_spec

from tests.conftest import ROOT

FILES = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.py")])


def missing_imports(source: str) -> list[str]:
    """Return each name that a `from sft... import name` of the file asks for in vain."""
    missing = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module.split(".")[0] == "sft":
            names = [alias.name for alias in node.names]
            missing += [f"{node.module}.{name}" for name in names if not exists(node.module, name)]
    return missing


def exists(module: str, name: str) -> bool:
    """Whether the module is there, and has this attribute or submodule."""
    # find_spec fails, instead of finding nothing, below a package that is not there.
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        if find_spec(".".join(parts[:end])) is None:
            return False

    found = import_module(module)
    if hasattr(found, name):
        return True
    return hasattr(found, "__path__") and find_spec(f"{module}.{name}") is not None


def test_a_name_that_moved_is_noticed() -> None:
    moved = "def late():\n    from sft.device import gone\n    from sft.gone.more import x\n"
    assert missing_imports(moved) == ["sft.device.gone", "sft.gone.more.x"]
    here = "from sft import launch, answer\nfrom sft.device import pick_device\nimport os\n"
    assert missing_imports(here) == []


def test_imports_of_sft_exist() -> None:
    assert len(FILES) > 50
    found = {}
    for path in FILES:
        if missing := missing_imports(path.read_text(encoding="utf-8")):
            found[str(path.relative_to(ROOT))] = missing
    assert found == {}
