"""The folder of a run: a fresh one, or the one of a run that is resumed.

The folder is found in three steps. (1) Hydra asks the resolver `run_dir` for its name. (2) Hydra
calls `ClaimFolder`, which keeps other processes out of it by a lock (`sft/claims.py`). (3) In the
task, `resumed_or_new` returns the config that the resumed run began with, and refuses a new run in
the folder of another.
"""

import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from sft.claims import InUseError, claim, make_fresh, release
from sft.command import heavy_imports
from sft.config.schema import TrainConfig
from sft.errors import InputError
from sft.latest import followed, warn_of_latest
from sft.shell import override


def is_rank_0() -> bool:
    """Return whether this is the first process of the run, or its only one."""
    return os.environ.get("RANK", "0") == "0"


def in_sweep() -> bool:
    """Return whether this is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def sweep_folder() -> Path:
    """Return the folder of the sweep that this job belongs to."""
    return Path(HydraConfig.get().runtime.cwd, HydraConfig.get().sweep.dir).resolve()


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run can be resumed from this folder."""
    return any((folder / "checkpoints").glob("last*.ckpt"))


def holds_run(folder: Path) -> bool:
    """Return whether a run was begun in this folder, and wrote something worth keeping."""
    return has_checkpoint(folder) or (folder / "summary.json").exists()


# (1) The name of the folder


def to_resume(resume: str | None) -> Path | None:
    """Return the folder that `resume=` names, if it holds a checkpoint.

    `auto` names no folder: it resumes the run in the folder that was given otherwise.
    """
    if resume is None or resume == "auto":
        return None
    folder = followed("outputs/latest" if resume == "latest" else resume)
    return folder.resolve() if has_checkpoint(folder) else None


def run_folder(resume: str | None, fresh: str) -> str:
    """Return the folder of the run to resume, or `fresh` if there is none."""
    return str(to_resume(resume) or fresh)


def hydra_folder(folder: str) -> str | None:
    """Return the folder in which Hydra writes the composed config; None: it writes none.

    It writes none where it would replace a file of another run: in a folder that holds a run, or in
    which another process works. `claim_job` then ends a job of a sweep. Of several ranks only the
    first writes.
    """
    try:
        claim_job(Path(folder))
    except InUseError:
        return None
    return ".hydra" if is_rank_0() and not holds_run(Path(folder)) else None


# conf/train.yaml uses these.
OmegaConf.register_new_resolver("run_dir", run_folder)
OmegaConf.register_new_resolver("hydra_folder", hydra_folder)


# (2) The claim


class ClaimFolder(Callback):
    """Claims the folder of a run or of a sweep before Hydra writes into it.

    `conf/hydra/callbacks/sweep.yaml` has Hydra call it. A folder has one owner: rank 0 of a run,
    and the process that hands out the jobs of a sweep. A folder that is named after the time is
    always a new one. Any other is refused while another process works there.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Hydra does this next. The folder's name may refer to it.
        HydraConfig.instance().set_config(config)
        _claim_folder(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        given = _is_given("hydra.sweep.dir", config.hydra.overrides.hydra)
        if config.get("resume") == "auto" and not given:
            sys.exit(f"error: {_auto_needs('hydra.sweep.dir')}")
        _claim_folder(config, "hydra.sweep.dir")


def _claim_folder(config: DictConfig, key: str) -> None:
    if not is_rank_0():
        return
    try:
        folder = Path(OmegaConf.select(config, key))
        resumed = key == "hydra.run.dir" and to_resume(config.get("resume")) == folder
    except OmegaConfBaseException:
        # Hydra resolves the name next, and reports the same error.
        return

    kind = key.split(".")[1]
    written = OmegaConf.to_container(config.hydra, resolve=False)[kind]["dir"]  # type: ignore[call-overload, index]
    try:
        if "${now:" in written and not resumed:
            folder = make_fresh(folder)
            _set_folder(config, kind, folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
        claim(folder, "resume" if resumed else key)
    except (InUseError, OSError) as error:
        # Hydra turns any other exception of a callback into a warning.
        sys.exit(f"error: {error}")


def _set_folder(config: DictConfig, kind: str, folder: Path) -> None:
    """Make Hydra use this folder. The jobs of a sweep read it from the sweep's overrides."""
    with flag_override(config.hydra, ["readonly", "struct"], [False, False]):
        config.hydra[kind].dir = str(folder)
        if kind == "sweep":
            config.hydra.overrides.hydra.append(override("hydra.sweep.dir", folder))


def claim_job(folder: Path) -> None:
    """Claim a sweep job's own folder. Somebody might resume it meanwhile.

    Raises:
        InUseError: another process works there.
    """
    if in_sweep() and is_rank_0() and folder.resolve() != sweep_folder():
        claim(folder, "hydra.sweep.dir")


def release_job() -> None:
    """Release the folder that `claim_job` claimed."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if folder.resolve() != sweep_folder():
        release(folder)


# (3) The run to resume


def resumed_or_new(config: TrainConfig, given: list[str], folder: Path) -> TrainConfig:
    """Return the config of a run: as it was given, or that of the run that it resumes.

    Args:
        given: the overrides of the command line, which may change a few settings of a resumed run.
        folder: the folder of this run.

    Raises:
        InputError: as in `which_run` and `resumed_config`.
    """
    claim_job(folder)
    config.resume = which_run(config.resume, folder)
    if config.resume is None:
        return config

    with heavy_imports():
        from sft.training.resume import all_keys, resumed_config

    # The table of a sweep compares its jobs, so each must have all settings of its row.
    return resumed_config(config, all_keys(config) if in_sweep() else given)


def which_run(resume: str | None, folder: Path) -> str | None:
    """Return the run that `resume=` names; None: a new one begins.

    `auto` is for commands that may be started again. It resumes the run in their folder, if one was
    begun there.

    Args:
        folder: the folder of this run.

    Raises:
        InputError: a new run would begin in the folder of another; `auto` is given without a
            folder that stays the same; or one run is named for all jobs of a sweep.
    """
    sweep = in_sweep()
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    if resume is None:
        if holds_run(folder):
            raise InputError(
                f"{key}: {folder} holds a run; add resume=auto to resume it, or give a new folder"
            )
        return None

    if resume != "auto":
        if sweep:
            raise InputError(
                f"resume: {resume} is one run, but -m makes several; resume a sweep by "
                f"resume=auto {key}=FOLDER"
            )
        named = "outputs/latest" if resume == "latest" else resume
        warn_of_latest(named)
        return str(followed(named))

    if not _is_given(key, HydraConfig.get().overrides.hydra):
        raise InputError(_auto_needs(key))
    if has_checkpoint(folder):
        return str(folder)
    if holds_run(folder):
        raise InputError(f"{key}: {folder} holds a run without its checkpoints; give a new folder")
    return None


def _auto_needs(key: str) -> str:
    """Return what is wrong with `resume=auto` where `key` does not name the folder."""
    kind = "sweep" if key == "hydra.sweep.dir" else "run"
    return f"resume: auto needs the folder of the {kind}; give {key}=FOLDER"


def _is_given(key: str, overrides: Any) -> bool:
    return any(given.lstrip("+").startswith(f"{key}=") for given in overrides)
