"""The folder of a run: a fresh one, or that of the run that goes on."""

import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from sft.atomic import warn_of_latest
from sft.claims import InUseError, claim, make_fresh, release
from sft.errors import InputError
from sft.shell import override


class ClaimFolder(Callback):
    """Claims the folder of a run or of a sweep before Hydra writes into it; `conf/hydra/callbacks/sweep.yaml` has
    Hydra call it.

    A run has one owner: of torchrun's processes rank 0, of a sweep the process that hands out the jobs. A folder that
    is named after the time is always a new one; any other is refused while another process works there.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(
            config
        )  # as Hydra does next: the folder's name may refer to it
        _claim_folder(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.get("resume") == "auto" and not _is_given(
            "hydra.sweep.dir", config.hydra.overrides.hydra
        ):
            sys.exit(
                "error: resume: auto looks into the sweep's folder; give one, hydra.sweep.dir=FOLDER"
            )
        _claim_folder(config, "hydra.sweep.dir")


def _claim_folder(config: DictConfig, key: str) -> None:
    if not is_rank_0():
        return
    try:
        folder = Path(OmegaConf.select(config, key))
        resumed = key == "hydra.run.dir" and to_resume(config.get("resume")) == folder
    except OmegaConfBaseException:
        # Hydra asks for the name again next, and then this error is told.
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
        # Hydra would make a warning of any exception but this.
        sys.exit(f"error: {error}")


def _set_folder(config: DictConfig, kind: str, folder: Path) -> None:
    """Have Hydra take this folder. The jobs of a sweep compose their configs anew, from its overrides."""
    with flag_override(config.hydra, ["readonly", "struct"], [False, False]):
        config.hydra[kind].dir = str(folder)
        if kind == "sweep":
            config.hydra.overrides.hydra.append(override("hydra.sweep.dir", folder))


def is_rank_0() -> bool:
    return os.environ.get("RANK", "0") == "0"


def in_sweep() -> bool:
    """Whether this is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def sweep_folder() -> Path:
    """The folder of the sweep, for a job of it."""
    return Path(HydraConfig.get().runtime.cwd, HydraConfig.get().sweep.dir).resolve()


def claim_job(folder: Path) -> None:
    """In a job of a sweep, claim its own folder, in which somebody might resume it meanwhile.

    Raises:
        InUseError: another process has it.
    """
    if in_sweep() and is_rank_0() and folder.resolve() != sweep_folder():
        claim(folder, "hydra.sweep.dir")


def release_job() -> None:
    """Give up the claim of `claim_job`."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if folder.resolve() != sweep_folder():
        release(folder)


def _is_given(key: str, overrides: Any) -> bool:
    return any(override.lstrip("+").startswith(f"{key}=") for override in overrides)


def which_run(resume: str | None, folder: Path) -> str | None:
    """The run that `resume=` names. `auto` is for jobs that may be started again: it goes on with the run in their
    folder, if one was begun there.

    Raises:
        InputError: a new run in the folder of another, `auto` without a folder that stays the same, or one run for all
            jobs of a sweep.
    """
    sweep = in_sweep()
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    if resume is None:
        if holds_run(folder):
            raise InputError(
                f"{key}: {folder} holds a run; go on with it by resume=auto, or give a new folder"
            )
        return None
    if resume != "auto":
        if sweep:
            raise InputError(
                f"resume: {resume} is one run, but -m makes several; go on with a sweep by resume=auto {key}=FOLDER"
            )
        found = "outputs/latest" if resume == "latest" else resume
        warn_of_latest(found)
        return found
    if not _is_given(key, HydraConfig.get().overrides.hydra):
        raise InputError(f"resume: auto looks into the run's folder; give one, {key}=FOLDER")
    if holds_run(folder) and not has_checkpoint(folder):
        raise InputError(f"{key}: {folder} holds a run without its checkpoints; give a new folder")
    return str(folder) if has_checkpoint(folder) else None


def has_checkpoint(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("last*.ckpt"))


def holds_run(folder: Path) -> bool:
    return has_checkpoint(folder) or (folder / "summary.json").exists()


def to_resume(resume: str | None) -> Path | None:
    """The folder of the run that `resume=` names, if it holds a checkpoint; `auto` names none by itself."""
    folder = Path("outputs/latest" if resume == "latest" else resume or "")
    return folder.resolve() if resume not in (None, "auto") and has_checkpoint(folder) else None


def run_folder(resume: str | None, fresh: str) -> str:
    """The folder of a run: the one to resume, if it holds a checkpoint, or a fresh one."""
    return str(to_resume(resume) or fresh)


def hydra_folder(folder: str) -> str | None:
    """Where Hydra keeps the composed config in a run's folder; nowhere in one that holds a run, which has its own.

    Nor in one in which another process works. A job of a sweep ends by that in `claim_job`; a rank but the first leaves
    it to rank 0.
    """
    try:
        claim_job(Path(folder))
    except InUseError:
        return None
    return ".hydra" if is_rank_0() and not holds_run(Path(folder)) else None
