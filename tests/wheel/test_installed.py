"""The wheel in a fresh environment and another folder: `make test-wheel`. It needs an index."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ROOT


class Fresh:
    """A new environment with the wheel, used from a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self.home = folder / "env"
        subprocess.run([sys.executable, "-m", "venv", str(self.home)], check=True)
        self.python = self.home / ("Scripts" if os.name == "nt" else "bin") / "python"
        dist = folder / "dist"
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(dist), str(ROOT)]
        subprocess.run(build, check=True, capture_output=True)
        [self.wheel] = dist.glob("*.whl")
        self.install(str(self.wheel))

    def install(self, *requirements: str) -> None:
        lock = ["--constraint", str(ROOT / "requirements.lock")]
        self.run("-m", "pip", "install", "--quiet", *lock, *requirements)

    def run(self, *arguments: str, text: str | None = None, fails: bool = False) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.work,
            env=env,
            input=text,
            capture_output=True,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    return Fresh(tmp_path_factory.mktemp("fresh"))


TUNE = """
from sft import answer, finetune, load_pretrained, save
gpt2 = load_pretrained("gpt2-nano")
records = [{"instruction": "Name a bird.", "output": "A sparrow."}] * 8
print(finetune(gpt2, records, epochs=1, device="cpu"))
save(gpt2, "mine")
"""


def test_the_core_tunes_saves_and_chats(fresh: Fresh) -> None:
    fresh.run("-c", TUNE)
    assert fresh.run("-m", "sft.chat", "mine", "--quiet", text="Name a bird.\n").strip()
    assert "written and read back" in fresh.run("-m", "sft.export", "mine", "--dtype", "f16")


def test_data_is_looked_at_with_the_settings_of_training(fresh: Fresh) -> None:
    record = {"instruction": "Name a bird.", "output": "A sparrow."}
    (fresh.work / "mine.json").write_text(json.dumps([record] * 40))
    shown = fresh.run("-m", "sft.data", "mine.json", "data.split=[0.5,0.25,0.25]")
    assert "40 records" in shown


def test_server_and_gguf_name_their_extras_and_work_with_them(fresh: Fresh) -> None:
    fresh.run("-c", TUNE)
    gguf = ["-m", "sft.export", "mine", "--format", "gguf"]
    assert "[gguf]" in fresh.run(*gguf, fails=True)
    assert "[serve]" in fresh.run("-m", "sft.serve", "mine", fails=True)

    fresh.install(f"{fresh.wheel}[serve,gguf]")
    assert "mine-f16.gguf: written and read back" in fresh.run(*gguf)
    command = [str(fresh.python), "-m", "sft.serve", "mine", "--port", "0", "--no-base"]
    with subprocess.Popen(command, cwd=fresh.work, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            lines = iter(server.stdout.readline, "")
            url = next(found[1] for line in lines if (found := re.search(r"at (http\S+)", line)))
            with urllib.request.urlopen(f"{url}/v1/models") as answer:
                assert b'"tuned"' in answer.read()
            with urllib.request.urlopen(url) as page:
                assert b"Ask the tuned model" in page.read()
        finally:
            server.kill()
