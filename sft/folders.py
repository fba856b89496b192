"""The folder of a run: a fresh one, or that of the run that goes on."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from sft.config import InputError


def which_run(resume: str | None, folder: Path) -> str | None:
    """The run that `resume=` names. `auto` is for jobs that may be started again: it goes on with the run in their
    folder, if one was begun there.

    Raises:
        InputError: a new run in the folder of another, `auto` without a folder that stays the same, or one run for all
            jobs of a sweep.
    """
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    if resume is None:
        if holds_run(folder):
            raise InputError(f"{key}: {folder} holds a run; go on with it by resume=auto, or give a new folder")
        return None
    if resume != "auto":
        if sweep:
            raise InputError(
                f"resume: {resume} is one run, but -m makes several; go on with a sweep by resume=auto {key}=FOLDER"
            )
        return "outputs/latest" if resume == "latest" else resume
    if not any(override.startswith(f"{key}=") for override in HydraConfig.get().overrides.hydra):
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
    """Where Hydra keeps the composed config in a run's folder; nowhere in one that holds a run, which has its own."""
    return None if holds_run(Path(folder)) else ".hydra"
