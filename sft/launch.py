"""Start and end of a command: errors in one line, the jobs of a sweep, a process per device.

train.py and evaluate.py hand their Hydra main function to `run`, which reports errors outside of
it. Inside, `job` reports errors of the task, and `on_devices` starts the processes. Doors without
Hydra, such as `python -m sft.chat`, use sft/command.py.
"""

from __future__ import annotations

import builtins
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from sft.claims import release_all
from sft.command import FULL_ERROR, end_unread, on_one_line
from sft.config.loading import likely_key
from sft.errors import InputError
from sft.folders import in_sweep, release_job
from sft.logs import prepare_streams
from sft.shell import setting
from sft.sweep import note_job

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

# The main function


def run(main: Callable[[], Any], again: str = "") -> None:
    """Call a Hydra main function. A config that cannot be composed is one line and exit code 1.

    With HYDRA_FULL_ERROR=1, errors keep their traceback. So do bugs in any case.

    Args:
        again: what the same command does after Ctrl-C, for the message on the terminal.
    """
    prepare_streams()

    # DDP advises to leave out find_unused_parameters, which does not apply here (see `_strategy` in
    # sft/training/trainer.py). The advice comes from C++, which reads this when torch is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        _sort_arguments()
        if FULL_ERROR:
            main()
        else:
            _run_in_one_line(main, again)
    finally:
        release_all()


def _run_in_one_line(main: Callable[[], Any], again: str) -> None:
    """Call the main function. Expected errors become one line on stderr."""
    # With this, Hydra raises its errors instead of printing them over several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ["SFT_ONE_LINE"] = "1"
    try:
        main()
    except KeyboardInterrupt:
        print(f"\ninterrupted; files already written are kept{again}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        end_unread()
    except (HydraException, OmegaConfBaseException, OSError, InputError) as error:
        # An OSError comes from Hydra when it cannot make the run's folder.
        sys.exit(f"error: {_explain(error)}")
    except ValueError as error:
        # Two expected errors have no type of their own: Optuna's at the end of a search without a
        # result, and Hydra's for a group set to null, such as data=null.
        if str(error).startswith("No trials are completed"):
            sys.exit("error: no job of the search gave a number; see their messages above")
        if str(error).startswith("Config group override"):
            sys.exit(f"error: {_explain(error)}")
        raise


def _sort_arguments() -> None:
    """Put options before key=value in sys.argv.

    Hydra's own call of argparse refuses `a=1 -m b=1,2`, and prints its whole usage.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        sys.exit(f"error: {message}; settings are key=value, as in epochs=3, and --help lists them")

    parser.error = refuse  # type: ignore[method-assign]
    found, unknown = parser.parse_known_intermixed_args()
    if unknown:
        refuse(f"{unknown[0]}: unknown option")
    options = [argument for argument in sys.argv[1:] if argument not in found.overrides]
    sys.argv[1:] = [*options, *found.overrides]


def _explain(error: BaseException) -> str:
    """Return an error of Hydra or OmegaConf in one line, with advice that holds here."""
    message = " ".join(str(error).split()).partition(" Config search path")[0]
    if isinstance(error, OverrideParseException):
        reason = message.partition(" See https")[0]
        return (
            f"{error.override}: cannot be read as key=value ({reason}); quote an unusual value: "
            "key=\"'a (b)'\""
        )
    if "Could not find 'hydra/" in message:
        return f"{message.partition(' Available')[0]}; is it installed? pip install -e '.[sweep]'"

    # The list and the sweep are written otherwise.
    if found := re.match(r"Ambiguous value for argument '([^=]+)=(.*?)' 1\. ", message):
        key, values = found.groups()
        return f"{key}: {values} are several values; a list is {key}=[{values}], a sweep needs -m"

    # Hydra does not say which group it was.
    if message.startswith("Config group override"):
        empty = [key for key, _, value in (a.partition("=") for a in sys.argv) if value == "null"]
        key = next((key for key in empty if "." not in key), "a group")
        return f"{key}: null is not a choice; leave it out, or give one that --help lists"
    if found := re.match(r"In .+: Could not load '(.+)/(.+)'", message):
        group, name = found.groups()
        return f"{group}: cannot load {name!r}; give one choice, {group}=NAME"

    found = re.match(r"In .+: Could not find '(.+)/(.*)' Available options.*: (.*)", message)
    if found:
        group, name, options = found.groups()
        expected = ", ".join(options.split())
        return f"{group}: unknown value {name!r}; expected one of {expected}"

    # Hydra's own advice is to add the key with a +, which is refused here.
    if message.startswith("Could not override '"):
        key = message.split("'")[1]
        likely = likely_key(key)
        if likely == key:
            return (
                f"{key}: not a key of this command, but of the other one, train.py or evaluate.py"
            )
        hint = f"did you mean {likely}? " if likely else ""
        return f"{key}: unknown key; {hint}--help lists all keys"
    return message


def composed(door: str, overrides: list[str]) -> Any:
    """Return the settings of a door, such as `train`, composed as if it was given `overrides`.

    Raises:
        InputError: they cannot be composed.
    """
    # In the repository sft/conf is a link to conf/, and a file where git makes no links.
    conf = Path(__file__).parent / "conf"
    if not conf.is_dir():
        conf = conf.parents[1] / "conf"
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose(door, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explain(error)) from error


# The job


@contextmanager
def job() -> Iterator[None]:
    """Report errors of a Hydra main function, whose whole body stands in this context.

    An InputError, or an OSError such as a full disk, becomes one line on stderr and exit code 1.
    Any other error is a bug and keeps its traceback. In a sweep an error ends only this job, and
    the table at the end lists the job as failed, with the reason.
    """
    # A process that a launcher started does not come through `run`.
    prepare_streams()
    sweep = in_sweep()
    try:
        if sweep:
            note_job("begun")
        yield
        if sweep:
            note_job("finished")
    except (SystemExit, KeyboardInterrupt):
        # A signal ends the whole sweep.
        if sweep:
            again = f"resume=auto {setting('hydra.sweep.dir', HydraConfig.get().sweep.dir)}"
            print(
                f"the sweep was interrupted; the same command with {again} resumes it",
                file=sys.stderr,
            )
        raise
    except Exception as error:
        message = on_one_line(error)
        with_traceback = FULL_ERROR or not isinstance(error, InputError | OSError)
        if sweep:
            if with_traceback:
                traceback.print_exception(error)
            print(f"error: job {HydraConfig.get().job.num}: {message}", file=sys.stderr)
            note_job("failed", message)
        elif isinstance(error, BrokenPipeError):
            print(
                "error: nobody reads the output any more; files already written are kept",
                file=sys.stderr,
            )
            end_unread()
        elif with_traceback:
            raise
        else:
            sys.exit(f"error: {message}")
    finally:
        if sweep:
            release_job()


# Processes


def by_torchrun() -> bool:
    """Return whether torchrun started this process, one of several."""
    return "LOCAL_RANK" in os.environ


def world_size(devices: int) -> int:
    """Return the number of processes of the run on all machines."""
    return int(os.environ.get("WORLD_SIZE", devices))


def on_devices(devices: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function` in one process for each device.

    With one device that is this process. If torchrun has started the processes already, this is one
    of them.

    Raises:
        InputError: a process raised one, or an OSError, or was killed; the first to fail is named.
            Or torchrun has started another number of processes.
        RuntimeError: a process failed by a bug.
    """
    if by_torchrun():
        _check_torchrun(devices)
        function(*arguments)
    elif devices == 1:
        function(*arguments)
    else:
        _start_processes(devices, function, *arguments)


def _check_torchrun(devices: int) -> None:
    started = os.environ["LOCAL_WORLD_SIZE"]
    if started != str(devices):
        raise InputError(
            f"devices: {devices}, but torchrun started {started} processes here; give "
            f"devices={started}"
        )

    # The default folder is named after the time, at which each process would look for itself.
    overrides = [*HydraConfig.get().overrides.hydra, *HydraConfig.get().overrides.task]
    given = any(override.startswith(("hydra.run.dir=", "resume=")) for override in overrides)
    if os.environ["WORLD_SIZE"] != "1" and not given:
        raise InputError(
            "hydra.run.dir: missing; the processes of torchrun need one folder for the run"
        )


def _start_processes(devices: int, function: Callable[..., None], *arguments: Any) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # These loggers repeat the error that is raised below.
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    # The resource tracker would warn of what a killed process left behind.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id="sft",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, _in_process)(function, *arguments)
    except SignalException as error:
        # The signal was handed on to the processes, which have ended.
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _raise_first_failure(error, devices)


def _in_process(function: Callable[..., None], *arguments: Any) -> None:
    prepare_streams()
    function(*arguments)


def _raise_first_failure(error: ChildFailedError, devices: int) -> NoReturn:
    """Raise the error of the first process that failed, as an error of this one."""
    rank, failure = error.get_first_failure()
    process = f"process {rank} of {devices}"
    remedy = "resume= goes on from the last checkpoint"
    if failure.exitcode in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        sys.exit(failure.exitcode)
    if failure.exitcode < 0:
        raise InputError(
            f"{process} was killed ({failure.signal_name()}), perhaps for lack of memory; {remedy}"
        )

    # Without an error of the process, the message is a text of elastic's own.
    if isinstance(failure.message, str):
        raise InputError(
            f"{process} ended with exit code {failure.exitcode} and without a message; {remedy}"
        )

    # The error itself stayed in its process. Its text begins with the name of its type.
    text = failure.message["message"]
    name, _, message = text.partition(": ")
    kind = getattr(builtins, name, None)
    if name == "InputError" or (isinstance(kind, type) and issubclass(kind, OSError)):
        raise InputError(message) from error
    print(failure.message["extraInfo"]["py_callstack"], file=sys.stderr)
    raise RuntimeError(f"{process}: {text}") from None
