"""The dataclasses and conf/ say the same, and what does not fit them is refused by key."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sft.config import (
    DataConfig,
    EvalConfig,
    EvaluateConfig,
    GenerateConfig,
    InputError,
    JudgeConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from sft.merge import from_dict, from_hydra

CONF = Path(__file__).parents[1] / "conf"
KINDS: dict[str, type] = {"train": TrainConfig, "evaluate": EvaluateConfig}
CONFIGS = (
    ModelConfig,
    DataConfig,
    OptimConfig,
    EvalConfig,
    TrainConfig,
    GenerateConfig,
    EvaluateConfig,
    JudgeConfig,
    LoraConfig,
)


@pytest.fixture(scope="module", autouse=True)
def conf() -> Iterator[None]:
    import sft.cli  # noqa: F401, its resolvers

    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def refused(name: str, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        from_hydra(KINDS[name], compose(name, list(overrides)))
    assert "\n" not in str(error.value)
    return str(error.value)


def keys(kind: type, where: str = "") -> set[str]:
    found: set[str] = set()
    for name, hint in typing.get_type_hints(kind).items():
        found |= keys(hint, f"{where}{name}.") if dataclasses.is_dataclass(hint) else {where + name}
    return found


def flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{where}{name}.") if isinstance(value, dict) else {where + name: value}
    return found


# conf/ and the dataclasses


@pytest.mark.parametrize("name", KINDS)
def test_every_key_is_in_conf_and_in_a_dataclass(name: str) -> None:
    composed = OmegaConf.to_container(compose(name, ["data=nano"]))
    assert isinstance(composed, dict)
    assert flat(composed).keys() == keys(KINDS[name])


def test_defaults_are_the_same_in_conf_and_in_the_dataclasses() -> None:
    composed = from_hydra(TrainConfig, compose("train", ["model=gpt2-small", "data=nano", "model.checkpoint=x/y"]))
    assert composed == TrainConfig(ModelConfig("x/y"), DataConfig(), OptimConfig(), EvalConfig())
    evaluated = from_hydra(EvaluateConfig, compose("evaluate", ["run=null"]))
    assert evaluated == EvaluateConfig(DataConfig(), GenerateConfig())


def test_the_published_defaults() -> None:
    config = from_hydra(TrainConfig, compose("train", ["model=gpt2-medium"]))
    assert (config.model.checkpoint, config.model.revision) == ("openai-community/gpt2-medium", None)
    assert (config.model.dropout, config.model.allow_untrained) == (0.0, False)
    assert (config.data.source, config.data.prompt, config.data.mask_prompt) == ("instructions", "alpaca", False)
    assert (config.data.split, config.data.sample_seed, config.data.shuffle) == ([0.85, 0.1, 0.05], 123, True)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.betas) == (5e-5, 0.1, [0.9, 0.999])
    assert (config.optim.schedule, config.optim.warmup_steps, config.optim.grad_clip) == ("constant", 0, None)
    assert (config.batch_size, config.accumulate, config.epochs, config.max_steps) == (8, 1, 2, -1)
    assert (config.eval.every, config.eval.batches, config.eval.sample, config.seed) == (5, 5, True, 123)
    evaluated = from_hydra(EvaluateConfig, compose("evaluate"))
    assert (evaluated.run, evaluated.split, evaluated.batch_size) == ("outputs/latest", "test", 32)
    assert dataclasses.astuple(evaluated.generate) == (256, 0.0, None)
    assert evaluated.judge.kind == "none"


def test_the_judges_defaults() -> None:
    ollama = from_hydra(EvaluateConfig, compose("evaluate", ["judge=ollama"])).judge
    assert (ollama.kind, ollama.model, ollama.url) == ("ollama", "llama3", "http://localhost:11434")
    openai = from_hydra(EvaluateConfig, compose("evaluate", ["judge=openai", "judge.model=mine"])).judge
    assert (openai.kind, openai.model, openai.url) == ("openai", "mine", "http://localhost:8000/v1")
    for config in (ollama, openai):
        assert config == dataclasses.replace(JudgeConfig(), kind=config.kind, model=config.model, url=config.url)
    assert (ollama.audit, ollama.min_coverage, ollama.retries, ollama.seed) == (20, 0.9, 4, 123)


def test_the_adapters_defaults() -> None:
    plain = from_hydra(TrainConfig, compose("train"))
    assert plain.lora == LoraConfig("none", 8, 16.0, 0.0, ["c_attn", "c_proj", "c_fc"])
    assert from_hydra(TrainConfig, compose("train", ["lora=default"])).lora == dataclasses.replace(
        plain.lora, kind="default"
    )
    recipe = from_hydra(TrainConfig, compose("train", ["experiment=lora", "model=gpt2-xl", "lora.rank=4"]))
    assert (recipe.lora.kind, recipe.lora.rank, recipe.optim.lr) == ("default", 4, 1e-3)
    assert recipe.model.checkpoint == "openai-community/gpt2-xl"


def settings(path: Path) -> dict[str, str]:
    """The lines of a file that give a key a value, by key, up to Hydra's own part."""
    lines = path.read_text(encoding="utf-8").partition("\nhydra:")[0].splitlines()
    start = lines.index("") if "defaults:" in lines else 0
    found, group = {}, ""
    for line in lines[start:]:
        if match := re.match(r"( *)(\w+):(.*)", line):
            indent, key, rest = match.groups()
            group = group if indent else ""
            if rest.partition("#")[0].strip():
                found[group + key] = rest
            else:
                group = f"{key}."
    return found


FILES = {name: CONF / f"{name}.yaml" for name in KINDS} | {
    name: CONF / f"{name}.yaml" for name in ("data", "judge", "lora")
}
GROUPS = {"data": DataConfig, "judge": JudgeConfig, "lora": LoraConfig}


@pytest.mark.parametrize("name", FILES)
def test_every_key_has_its_comment(name: str) -> None:
    found = settings(FILES[name])
    expected = {key for key in keys((KINDS | GROUPS)[name]) if not key.startswith(("data.", "judge.", "lora."))}
    assert found.keys() == expected
    assert [key for key, rest in found.items() if not re.search(r" # \S", rest)] == []


@pytest.mark.parametrize("kind", CONFIGS)
def test_comments_list_the_options(kind: type) -> None:
    files = {EvaluateConfig: "evaluate", GenerateConfig: "evaluate", DataConfig: "data", JudgeConfig: "judge"} | {
        LoraConfig: "lora"
    }
    file = files.get(kind, "train")
    group = {ModelConfig: "model.", OptimConfig: "optim.", EvalConfig: "eval.", GenerateConfig: "generate."}
    comments = settings(FILES[file])
    for item in dataclasses.fields(kind):
        for option in item.metadata.get("options", ()):
            assert re.search(rf"[#|:]\s*{re.escape(option)}\b", comments[group.get(kind, "") + item.name]), option


def test_every_number_has_its_range() -> None:
    free = {"sample_seed"}  # any whole number is a seed
    for kind in CONFIGS:
        for item in dataclasses.fields(kind):
            if re.search(r"\b(int|float)\b", str(item.type)) and item.name not in free:
                assert {"low", "above"} & item.metadata.keys(), item.name


def test_a_data_set_says_in_its_first_line_what_it_is() -> None:
    for folder in ("data", "model", "experiment", "judge", "lora"):
        for path in (CONF / folder).glob("*.yaml"):
            lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
            assert re.match(r"# \S", lines[0]), path


# Values


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("optim.lr=1", "optim.lr", 1.0),
        ("optim.lr=1e-4", "optim.lr", 1e-4),
        ("precision=32", "precision", "32"),
        ("model.checkpoint=12", "model.checkpoint", "12"),
        ("model.revision=main", "model.revision", "main"),
        ("'model.revision=\"607e30\"'", "model.revision", "607e30"),
        ("optim.grad_clip=null", "optim.grad_clip", None),
        ("optim.grad_clip=1", "optim.grad_clip", 1.0),
        ("data.max_length=null", "data.max_length", None),
        ("data.split=[1,0,0]", "data.split", [1.0, 0.0, 0.0]),
        ("data.split=[0.1,0.2,0.7]", "data.split", [0.1, 0.2, 0.7]),
        ("data.sample_seed=-1", "data.sample_seed", -1),
        ("max_steps=-1", "max_steps", -1),
        ("model.dropout=0", "model.dropout", 0.0),
        ("optim.betas=[0,0.5]", "optim.betas", [0.0, 0.5]),
        ("eval.sample=false", "eval.sample", False),
        ("eval.every=0", "eval.every", 0),
        ("seed=0", "seed", 0),
    ],
)
def test_values_that_are_taken(override: str, key: str, expected: Any) -> None:
    config = from_hydra(TrainConfig, compose("train", [override.strip("'")]))
    found = flat(dataclasses.asdict(config))[key]
    assert found == expected
    assert type(found) is type(expected)


def test_paths_hold_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "mine").mkdir()
    assert DataConfig(source="json", path="a.json").path == str(tmp_path / "a.json")
    assert DataConfig(source="json", path="~/a.json").path == "/home/me/a.json"
    assert ModelConfig("mine").checkpoint == str(tmp_path / "mine")
    assert ModelConfig("someone/tiny").checkpoint == "someone/tiny"


RANGES = [  # key, values out of its range, what is expected instead
    ("batch_size", ("0", "-1"), "at least 1"),
    ("accumulate", ("0",), "at least 1"),
    ("epochs", ("0", "-3"), "at least 1"),
    ("devices", ("0",), "at least 1"),
    ("seed", ("-1",), "at least 0"),
    ("max_steps", ("-2",), "at least -1"),
    ("optim.lr", ("0", "-1e-4"), "more than 0"),
    ("optim.weight_decay", ("-0.1",), "at least 0"),
    ("optim.warmup_steps", ("-1",), "at least 0"),
    ("optim.grad_clip", ("0", "-1"), "more than 0"),
    ("optim.betas", ("[-0.1,0.9]",), "at least 0"),
    ("optim.betas", ("[0.9,1]", "[1.5,0.9]"), "less than 1"),
    ("model.dropout", ("-0.1",), "at least 0"),
    ("model.dropout", ("1", "1.5"), "less than 1"),
    ("data.sample", ("0", "-5"), "at least 1"),
    ("data.max_length", ("1", "0", "-1"), "at least 2"),
    ("data.workers", ("-1",), "at least 0"),
    ("data.split", ("[1.1,-0.1,0]",), "at least 0"),
    ("eval.every", ("-1",), "at least 0"),
    ("lora.rank", ("0", "-1"), "at least 1"),
    ("lora.alpha", ("0", "-16"), "more than 0"),
    ("lora.dropout", ("-0.1",), "at least 0"),
    ("lora.dropout", ("1",), "less than 1"),
    ("eval.batches", ("0",), "at least 1"),
]


@pytest.mark.parametrize(
    ("key", "value", "expected"), [(key, value, expected) for key, values, expected in RANGES for value in values]
)
def test_numbers_out_of_range(key: str, value: str, expected: str) -> None:
    line = refused("train", f"{key}={value}")
    assert re.fullmatch(rf"{key}: \S+ is out of range, expected {expected}", line)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("batch_size", "0", "at least 1"),
        ("limit", "0", "at least 1"),
        ("seed", "-1", "at least 0"),
        ("generate.max_new_tokens", "0", "at least 1"),
        ("generate.temperature", "-0.5", "at least 0"),
        ("generate.top_k", "0", "at least 1"),
        ("judge.audit", "-1", "at least 0"),
        ("judge.min_coverage", "-0.1", "at least 0"),
        ("judge.min_coverage", "1.1", "at most 1"),
        ("judge.concurrency", "0", "at least 1"),
        ("judge.concurrency", "257", "at most 256"),
        ("judge.timeout", "0", "more than 0"),
        ("judge.timeout", "1e6", "at most 86400"),
        ("judge.retries", "-1", "at least 0"),
        ("judge.retries", "101", "at most 100"),
        ("judge.context", "512", "at least 1024"),
        ("judge.seed", "-1", "at least 0"),
    ],
)
def test_numbers_out_of_range_in_evaluate(key: str, value: str, expected: str) -> None:
    line = refused("evaluate", f"{key}={value}")
    assert re.fullmatch(rf"{key}: \S+ is out of range, expected {expected}", line)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("optim.lr=nan", "optim.lr: nan is not a finite number"),
        ("optim.lr=inf", "optim.lr: inf is not a finite number"),
        ("data.split=[nan,0.5,0.5]", "data.split: nan is not a finite number"),
        ("optim.lr=fast", "optim.lr: found 'fast', expected a number"),
        ("optim.lr=true", "optim.lr: found True, expected a number"),
        ("optim.lr=null", "optim.lr: found None, expected a number"),
        ("batch_size=8.0", "batch_size: found 8.0, expected a whole number"),
        ("batch_size=eight", "batch_size: found 'eight', expected a whole number"),
        ("batch_size=true", "batch_size: found True, expected a whole number"),
        ("batch_size=[8]", "batch_size: found [8], expected a whole number"),
        ("data.max_length=", "data.max_length: found '', expected a whole number"),
        ("compile=1", "compile: found 1, expected true or false"),
        ("eval.sample=ja", "eval.sample: found 'ja', expected true or false"),
        ("model.checkpoint=true", "model.checkpoint: found True, expected text (in quotes)"),
        ("model.checkpoint=null", "model.checkpoint: found None, expected text (in quotes)"),
        ("model.revision=607e30", "model.revision: found 6.07e+32, expected text (in quotes)"),
        ("data.split=0.5", "data.split: found 0.5, expected a list, as in [a,b]"),
        ("data.split=[a,b,c]", "data.split: found 'a', expected a number"),
        ("data.split=[0.5,null,0.5]", "data.split: found None, expected a number"),
        ("optim=3", "optim: found 3, expected a group of keys"),
        ("eval=null", "eval: found None, expected a group of keys"),
        ("batch_size={a:1}", "batch_size: found {'a': 1}, expected a whole number"),
        ("data.split=[0.5,0.5]", "data.split: 2 numbers, expected 3: the shares of train, test and validation"),
        ("data.split=[0.8,0.1,0.2]", "data.split: [0.8, 0.1, 0.2] sums to 1.1, expected 1"),
        ("data.split=[85,10,5]", "data.split: [85.0, 10.0, 5.0] sums to 100, expected 1"),
        ("data.split=[0,0.5,0.5]", "data.split: a share of 0 for train leaves nothing to learn"),
        ("optim.betas=[0.9]", "optim.betas: 1 numbers, expected 2"),
        ("max_steps=0", "max_steps: 0 would train nothing; expected a number from 1 up, or -1 for no limit"),
        (
            "device=cpu precision=16-mixed",
            "precision: 16-mixed needs a GPU; on the CPU use bf16-mixed or 32",
        ),
        ("device=mps devices=2", "devices: 2, but device=mps is one device"),
        ("device=gpu", "device: unknown value 'gpu'; expected one of auto, cpu, cuda, mps"),
        ("precision=16", "precision: unknown value '16'; expected one of auto, 32, bf16-mixed, 16-mixed"),
        (
            "lora=default lora.targets=[c_attn,q_proj]",
            "lora.targets: unknown value 'q_proj'; expected some of c_attn, c_proj, c_fc",
        ),
        ("lora=default lora.targets=[]", "lora.targets: none; expected some of c_attn, c_proj, c_fc"),
        ("lora=default lora.targets=c_fc", "lora.targets: found 'c_fc', expected a list, as in [a,b]"),
        ("lora=default lora.kind=ia3", "lora.kind: unknown value 'ia3'; expected one of none, default"),
        ("strategy=zero", "strategy: unknown value 'zero'; expected one of auto, ddp, fsdp"),
        ("strategy=fsdp lora=default", "strategy: fsdp does not go with lora; leave out one of the two"),
        ("strategy=fsdp compile=true", "strategy: fsdp does not go with compile=true; leave out one of the two"),
        (
            "strategy=fsdp precision=16-mixed",
            "strategy: fsdp does not go with precision=16-mixed; leave out one of the two",
        ),
        ("optim.schedule=linear", "optim.schedule: unknown value 'linear'; expected one of constant, cosine"),
        (
            "data.prompt=chatml",
            "data.prompt: unknown value 'chatml'; expected one of alpaca, alpaca-stanford, phi3, none",
        ),
        (
            "data.source=web",
            "data.url: missing; data=web would be downloaded from there",
        ),
        ("data=json", "data.path: missing; data=json needs data.path=FILE, a JSON array or JSON Lines"),
        ("data=json data.path=", "data.path: missing; data=json needs data.path=FILE, a JSON array or JSON Lines"),
        (
            "data=json data.path=https://me:secret@x/y",
            "data.path: an address (https://…), expected a file; download it first, and give data.path=FILE",
        ),
        (
            "data=json data.path=S3://bucket/mine.json",
            "data.path: an address (s3://…), expected a file; download it first, and give data.path=FILE",
        ),
        (
            "data=json data.path=file:///mine.json",
            "data.path: an address (file://…), expected a file; leave file:// out",
        ),
        ("data.path=/x.json", "data.path: '/x.json' would not be read by data=nano; use data=json"),
        ("data.url=http://x/y", "data.url: 'http://x/y' would not be read by data=nano"),
        ("data=json data.path=x data.url=http://x/y", "data.url: 'http://x/y' would not be read by data=json"),
        (
            "data=alpaca data.url=http://me:secret@x/y",
            "data.url: holds a name and a password, which would be written down; use data=json data.path=FILE",
        ),
        ("data=alpaca data.url=null", "data.url: missing; data=alpaca would be downloaded from there"),
        (
            "+optim.lrr=1",
            "optim.lrr: unknown key; known here: lr, weight_decay, betas, schedule, warmup_steps, grad_clip",
        ),
        ("+data.bz=3", "data.bz: unknown key; known here: source, path, url, sha256, sample, "),
        ("+a.b=1", "a: unknown key; known here: model, data, optim, eval, device, "),
        ("model.checkpoint=???", "model.checkpoint: missing; give it on the command line as model.checkpoint=..."),
        ("batch_size=???", "batch_size: missing; give it on the command line as batch_size=..."),
        ("data.path=${nope}", "data.path: Interpolation key 'nope' not found"),
        ("~model.checkpoint", "model.checkpoint: missing; give it on the command line as model.checkpoint=..."),
        ("~optim", "optim: missing; give it on the command line as optim=..."),
    ],
)
def test_what_is_refused(overrides: str, line: str) -> None:
    found = refused("train", *overrides.split())
    assert found.startswith(line) if line.endswith(", ") else found == line


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("checkpoint=x", "out: missing; checkpoint= has no run folder to write to, so give out=FOLDER"),
        ("out=x", "out: only for checkpoint= and compare=; a run is evaluated in its own folder"),
        ("split=dev", "split: unknown value 'dev'; expected one of test, validation, train"),
        ("+generate.top_p=1", "generate.top_p: unknown key; known here: max_new_tokens, temperature, top_k"),
        ("+model.dropout=0", "model: unknown key; known here: "),
        ("+judge.temperature=1", "judge.temperature: unknown key; known here: kind, model, url, "),
        ("judge.mode=pairs", "judge.mode: unknown value 'pairs'; expected one of score, pairwise"),
        ("judge.prompt=book", "judge.prompt: unknown value 'book'; expected one of strict, published"),
        ("judge=openai", "judge.model: missing; judge=openai needs judge.model=NAME"),
        ("judge=ollama judge.model=null", "judge.model: missing; judge=ollama needs judge.model=NAME"),
        ("judge=ollama judge.url=null", "judge.url: None, expected the address of a server, such as http://localhost"),
        ("judge=ollama judge.url=localhost:11434", "judge.url: 'localhost:11434', expected the address of a server"),
        ("judge=ollama judge.url=http://", "judge.url: 'http://', expected the address of a server"),
        ("judge=ollama judge.url=http://h:port", "judge.url: 'http://h:port', expected the address of a server"),
        ("judge=ollama judge.url=http://me:secret@host", "judge.url: holds more than an address; leave name, password"),
        (
            "judge=ollama 'judge.url=\"http://host/v1?key=secret\"'",
            "judge.url: holds more than an address; leave name,",
        ),
        (
            "judge=ollama judge.mode=pairwise judge.prompt=published",
            "judge.prompt: the published runs compared no pairs",
        ),
    ],
)
def test_what_is_refused_in_evaluate(overrides: str, line: str) -> None:
    found = refused("evaluate", *(override.strip("'") for override in overrides.split()))
    assert found.startswith(line)
    assert "secret" not in found


def test_a_config_survives_the_trip_through_plain_values() -> None:
    config = from_hydra(TrainConfig, compose("train", ["experiment=alpaca-1k", "optim.grad_clip=1", "seed=7"]))
    assert from_dict(TrainConfig, dataclasses.asdict(config)) == config


def test_a_checkpoint_is_what_a_link_leads_to_now(tmp_path: Path) -> None:
    """A run turns `outputs/latest` to itself, and must not become its own base."""
    (tmp_path / "one").mkdir()
    (tmp_path / "latest").symlink_to("one")
    assert ModelConfig(str(tmp_path / "latest")).checkpoint == str(tmp_path / "one")
    assert ModelConfig("openai-community/gpt2").checkpoint == "openai-community/gpt2"
