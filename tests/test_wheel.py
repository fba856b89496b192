"""The wheel holds what its commands need, and they say what is missing. See `make test-wheel`."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sft.command import require
from sft.errors import InputError
from tests.conftest import ROOT

BUILD = "from setuptools.build_meta import build_wheel; build_wheel({!r})"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked: it was built from a copy of the sources, without the network."""
    sources = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "sft", sources / "sft", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-c", BUILD.format(str(out))]
    subprocess.run(command, cwd=sources, check=True, capture_output=True)
    [path] = out.glob("sft-*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(out / "unpacked")
    return out / "unpacked"


def test_it_holds_every_file_of_the_package(wheel: Path) -> None:
    def files(folder: Path) -> set[str]:
        found = {path.relative_to(folder.parent).as_posix() for path in folder.rglob("*")}
        return {name for name in found if "__pycache__" not in name}

    settings = {f"sft/{name}" for name in files(ROOT / "conf")}
    assert files(wheel / "sft") == files(ROOT / "sft") | settings


def test_its_core_needs_neither_server_nor_gguf(wheel: Path) -> None:
    [metadata] = wheel.glob("*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()
    core = [line for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    names = " ".join(core)
    assert "torch" in names
    assert not any(name in names for name in ("starlette", "uvicorn", "gguf", "pyarrow", "openai"))


def test_the_chat_works_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    script = (
        "import runpy, sft, sys; print(sft.__file__, file=sys.stderr); "
        "sys.argv = ['chat', 'gpt2-nano', '--quiet']; "
        "runpy.run_module('sft.chat', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        input="What is the plural of box?\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(wheel / "sft"))
    assert done.stdout.strip()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    require("serve", "the server", "starlette", "uvicorn")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(InputError) as error:
        require("serve", "the server", "starlette", "uvicorn")
    assert "the server needs uvicorn" in str(error.value)
    assert "pip install starlette uvicorn" in str(error.value)
    assert "[serve]" in str(error.value)
