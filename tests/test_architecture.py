"""The house: who may import whom.

Ground files lie under all. A room imports from the ground, from itself and from the rooms listed
for it. The doors are on top, and only doors import doors.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("*.py"), *(ROOT / "sft").rglob("*.py")])
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

GROUND = {
    "sft.atomic",
    "sft.bars",
    "sft.claims",
    "sft.config",
    "sft.cpus",
    "sft.dataclass_json",
    "sft.device",
    "sft.download",
    "sft.errors",
    "sft.jsonl",
    "sft.latest",
    "sft.metrics",
    "sft.network",
    "sft.prompts",
    "sft.shell",
    "sft.summaries",
}

# Each room, and the rooms that it may import. A room stands below those that import it.
ROOMS: dict[str, set[str]] = {
    "sft.config": set(),
    "sft.gpt2": set(),
    "sft.data": set(),
    "sft.checkpoint": {"sft.gpt2"},
    "sft.scoring": {"sft.data"},
    "sft.inference": {"sft.gpt2", "sft.data", "sft.checkpoint"},
    "sft.miniature": {"sft.gpt2", "sft.data", "sft.checkpoint"},
    "sft.judge": {"sft.data", "sft.scoring"},
    "sft.report": {"sft.data", "sft.checkpoint", "sft.scoring"},
    "sft.serving": {"sft.gpt2", "sft.data", "sft.inference"},
    "sft.evaluation": {
        "sft.gpt2",
        "sft.data",
        "sft.checkpoint",
        "sft.objective",
        "sft.scoring",
        "sft.judge",
        "sft.report",
    },
    "sft.voting": {"sft.data", "sft.scoring", "sft.report", "sft.serving", "sft.evaluation"},
    "sft.training": {
        "sft.gpt2",
        "sft.data",
        "sft.checkpoint",
        "sft.objective",
        "sft.evaluation",
        "sft.report",
    },
}

# Files of sft/ itself that rooms import, and the rooms below them.
FILES_BETWEEN = {"sft.objective": {"sft.gpt2", "sft.data"}}

DOORS = (
    "train.py",
    "evaluate.py",
    "sft/arena.py",
    "sft/chat.py",
    "sft/convert.py",
    "sft/convert_openai.py",
    "sft/export.py",
    "sft/import_book.py",
    "sft/prefer.py",
    "sft/serve.py",
)

# Files that open quickly: they import nothing heavy until they are used.
LIGHT = (
    *DOORS,
    *(name for name in NAMES if name.startswith("sft/config/")),
    "sft/__init__.py",
    "sft/atomic.py",
    "sft/command.py",
    "sft/cpus.py",
    "sft/errors.py",
    "sft/folders.py",
    "sft/latest.py",
    "sft/launch.py",
    "sft/logs.py",
    "sft/metrics.py",
    "sft/network.py",
    "sft/prompts.py",
    "sft/summaries.py",
)


def module(name: str) -> str:
    """sft/data/plan.py -> sft.data.plan"""
    return name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


MODULES = {module(name) for name in NAMES}


def is_door(name: str) -> bool:
    """train.py, evaluate.py, the files of sft/ itself that no room may import, and __main__.py."""
    if name.endswith("/__main__.py"):
        return True
    in_sft = name.count("/") == 1 and module(name) not in GROUND | FILES_BETWEEN.keys()
    return name.count("/") == 0 or in_sft


def imports(name: str, everywhere: bool = True) -> Iterator[str]:
    """Yield the modules that a file imports.

    Args:
        everywhere: also in functions, and not only at module level.
    """
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else at_module_level(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            assert node.module
            # `from sft.checkpoint import hub` names a module, other names are in one.
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def at_module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run when a file is imported.

    Those in functions do not, nor those under TYPE_CHECKING.
    """
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        checking = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if checking or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def of(package: str, names: Iterator[str]) -> list[str]:
    return [name for name in names if name == package or name.startswith(package + ".")]


def room(imported: str) -> str:
    return ".".join(imported.split(".")[:2])


def test_the_rooms_are_known() -> None:
    assert {room(module(name)) for name in NAMES if name.count("/") >= 2} == ROOMS.keys()
    assert {"sft.data.plan", "sft.gpt2.model", "sft.config", "train", "evaluate"} <= MODULES
    assert not any("util" in name for name in NAMES)


@pytest.mark.parametrize("name", [n for n in NAMES if n.count("/") >= 2 and not is_door(n)])
def test_a_room_imports_from_itself_and_from_below(name: str) -> None:
    here = room(module(name))
    allowed = GROUND | ROOMS[here] | {here}
    assert [found for found in of("sft", imports(name)) if room(found) not in allowed] == []
    assert of("train", imports(name)) == of("evaluate", imports(name)) == []


@pytest.mark.parametrize("name", FILES_BETWEEN)
def test_a_file_between_imports_from_below(name: str) -> None:
    path = name.replace(".", "/") + ".py"
    allowed = GROUND | FILES_BETWEEN[name]
    assert [found for found in of("sft", imports(path)) if room(found) not in allowed] == []


@pytest.mark.parametrize("name", [name for name in NAMES if room(module(name)) in GROUND])
def test_the_ground_knows_no_room(name: str) -> None:
    assert {room(found) for found in of("sft", imports(name))} <= GROUND


@pytest.mark.parametrize("name", ["sft/errors.py", "sft/prompts.py"])
def test_errors_and_prompts_import_nothing(name: str) -> None:
    assert list(imports(name)) == []


def test_the_files_of_config_import_each_other_one_way() -> None:
    order = ["schema", "rules", "loading"]
    for number, name in enumerate(order):
        found = {
            other.split(".")[2] for other in of("sft.config", imports(f"sft/config/{name}.py"))
        }
        assert found <= set(order[:number]), name


def test_doors_are_not_imported_but_by_doors() -> None:
    doors = {module(name) for name in NAMES if is_door(name)} - {"sft"}
    for name in NAMES:
        if not is_door(name):
            assert not doors & set(imports(name)), name


@pytest.mark.parametrize("name", [name for name in NAMES if not is_door(name)])
def test_hydra_stays_at_the_doors(name: str) -> None:
    assert of("hydra", imports(name)) == []


def test_omegaconf_stays_in_the_config_and_at_the_command_line() -> None:
    users = {name for name in NAMES if of("omegaconf", imports(name))}
    config = {"sft/config/help.py", "sft/config/loading.py", "sft/config/origins.py"}

    # Hydra hands its callbacks a DictConfig, and its errors come from OmegaConf.
    assert users == config | {"sft/folders.py", "sft/launch.py", "sft/sweep.py"}


def test_the_config_without_a_door_needs_no_omegaconf() -> None:
    """A notebook makes its settings without Hydra."""
    for name in ("schema", "rules", "loading", "__init__"):
        assert of("omegaconf", imports(f"sft/config/{name}.py", everywhere=False)) == []


def test_lightning_stays_in_training() -> None:
    users = {
        name
        for name in NAMES
        for package in ("lightning", "pytorch_lightning")
        if of(package, imports(name))
    }
    elsewhere = {name for name in users if not name.startswith("sft/training/")}
    assert elsewhere == {"sft/data/datamodule.py", "sft/data/loop_state.py", "sft/api.py"}


def test_counters_of_lightnings_loop_are_read_in_one_file() -> None:
    private = ("fit_loop", "epoch_progress", "batch_progress", "epoch_loop", "restarting")
    readers = set()
    for name in NAMES:
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Attribute) and node.attr in private for node in ast.walk(tree)):
            readers.add(name)
    assert readers == {"sft/data/loop_state.py"}


def test_the_network_needs_torch_alone() -> None:
    users = {name for name in NAMES if of("sft.gpt2", iter([module(name)]))}
    for package in ("lightning", "hydra", "omegaconf", "transformers", "requests"):
        assert [name for name in users if of(package, imports(name))] == []


@pytest.mark.parametrize("name", LIGHT)
def test_the_doors_open_quickly(name: str) -> None:
    heavy = (
        "torch",
        "lightning",
        "numpy",
        "tiktoken",
        "huggingface_hub",
        "safetensors",
        "matplotlib",
        "requests",
    )
    found = list(imports(name, everywhere=False))
    assert [
        package for package in (*heavy, "starlette", "uvicorn") if of(package, iter(found))
    ] == []
    of_the_doors = {
        f"sft.{name}" for name in ("convert", "convert_openai", "folders", "launch", "serve")
    }
    of_the_doors |= {"sft.command", "sft.logs", "sft.sweep"}
    assert {room(other) for other in of("sft", iter(found))} <= GROUND | of_the_doors


def imported_with(start: str) -> set[str]:
    """Return the modules that are imported together with one of sft's, directly or not."""
    files = {module(name): name for name in NAMES}
    found = {start}
    waiting = [start]
    while waiting:
        new = set(imports(files[waiting.pop()], everywhere=False)) - found
        found |= new
        waiting += new & MODULES
    return found


@pytest.mark.parametrize("start", ["sft.training.run", "sft.inference.models"])
def test_a_start_imports_only_what_it_uses(start: str) -> None:
    found = imported_with(start)
    assert "torch" in found
    unused = {"requests", "urllib3", "transformers", "starlette", "uvicorn"}
    if start == "sft.inference.models":
        unused |= {"lightning", "hydra", "omegaconf"}
    assert [package for package in sorted(unused) if of(package, iter(found))] == []


@pytest.mark.parametrize("name", ["train.py", "evaluate.py", "sft/chat.py", "sft/serve.py"])
def test_a_door_imports_torch_without_the_garbage_collector(name: str) -> None:
    """One import outside would take the whole of torch with it, and the time as well."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    quick = [
        statement.module
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "heavy_imports()" in ast.unparse(node.items[0])
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
    ]
    first = {
        "train.py": "sft.training",
        "evaluate.py": "sft.evaluation",
        "sft/chat.py": "sft.gpt2.sampling",
        "sft/serve.py": "sft.inference.models",
    }
    assert quick[0] == first[name]


@pytest.mark.parametrize("door", ["arena", "chat", "serve", "export"])
def test_a_door_without_hydra_does_not_import_it(door: str) -> None:
    code = f"import sys, sft.{door}; print({{'hydra', 'omegaconf', 'torch'}} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_the_walk_sees_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
import torch.nn as nn, json
from sft.checkpoint import hub
from sft.errors import InputError
if TYPE_CHECKING:
    import hydra
try:
    import lightning
except ImportError:
    pass
class A:
    import numpy
def f():
    from omegaconf import OmegaConf
"""
    (tmp_path / "x.py").write_text(text)
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    shallow = {"torch.nn", "json", "sft.checkpoint.hub", "sft.errors", "lightning", "numpy"}
    assert set(imports("x.py", everywhere=False)) == shallow
    assert set(imports("x.py")) == shallow | {"hydra", "omegaconf"}
