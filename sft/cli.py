"""What the entry points share: errors in one line, the log, processes for several devices, the run's folder."""

from __future__ import annotations

import builtins
import io
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

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from sft.atomic import writing
from sft.claims import release_all
from sft.errors import InputError
from sft.folders import hydra_folder, in_sweep, release_job, run_folder
from sft.shell import setting
from sft.sweep import note_job

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

# Asked for by the user; run() sets HYDRA_FULL_ERROR for Hydra's sake, which processes started from here inherit.
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0") and not os.environ.get(
    "SFT_ONE_LINE"
)
# Characters that command a terminal instead of being shown: all controls but tab and line feed, and those that reorder
# the text around them (Unicode Standard Annex 9, "Explicit Directional Embeddings", "... Isolates").
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def run(main: Callable[[], Any], again: str = "") -> None:
    """Call a Hydra main function; a config that cannot be composed becomes one line on stderr and exit code 1.

    With HYDRA_FULL_ERROR=1 it stays an exception with its traceback, as any other error does.

    Args:
        again: what to do after Ctrl-C, for the terminal.
    """
    prepare_streams()
    # DDP's advice on find_unused_parameters does not apply, see _strategy in sft/training/trainer.py. It is C++ that
    # gives it, and reads this when torch is imported
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        _sort_arguments()
        _call(main, again)
    finally:
        release_all()


def _call(main: Callable[[], Any], again: str) -> None:
    """Call the main function; its errors are told as `run` says."""
    if FULL_ERROR:
        main()
        return
    # Hydra then raises what it would print over several lines
    os.environ |= {"HYDRA_FULL_ERROR": "1", "SFT_ONE_LINE": "1"}
    try:
        main()
    except KeyboardInterrupt:
        print(f"\ninterrupted; what was written stays{again}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        _nobody_reads()
    except (
        HydraException,
        OmegaConfBaseException,
        OSError,
        InputError,
    ) as error:  # as if a folder cannot be made
        sys.exit(f"error: {_one_line(error)}")
    except ValueError as error:
        if str(error).startswith("No trials are completed"):  # Optuna's
            sys.exit("error: no job of the search came to a number; their messages are above")
        if not str(error).startswith("Config group override"):  # Hydra's answer to data=null
            raise
        sys.exit(f"error: {_one_line(error)}")


def _sort_arguments() -> None:
    """Put options before key=value: argparse, as Hydra calls it, refuses `a=1 -m b=1,2` and prints its whole usage."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        sys.exit(f"error: {message}; --hydra-help lists the options")

    parser.error = refuse  # type: ignore[method-assign]
    found, unknown = parser.parse_known_intermixed_args()
    options = [argument for argument in sys.argv[1:] if argument not in found.overrides]
    if unknown:
        refuse(f"{unknown[0]}: unknown option")
    sys.argv[1:] = [*options, *found.overrides]


def command(main: Callable[[], None]) -> None:
    """Call the main function of a door without Hydra (`python -m sft.chat`); errors are told as in `job`."""
    prepare_streams()
    try:
        main()
    except BrokenPipeError:
        _nobody_reads()
    except (InputError, OSError) as error:
        if FULL_ERROR:
            raise
        sys.exit(f"error: {visible(' '.join(str(error).splitlines()))}")


def _nobody_reads() -> NoReturn:
    """End without a word after the reader of the output has, as before `| head -1`, with the exit code of SIGPIPE."""
    # Python writes what is left when it ends, and would fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + 13)  # Windows has no signal.SIGPIPE


def prepare_streams() -> None:
    """Let this process's streams replace what their encoding cannot show or read, and give it those that are closed.

    Redirected output is often not UTF-8 (cp1252 on Windows), and no letter is worth the end of a run.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors != "replace":
            stream.reconfigure(errors="replace")


def visible(text: str) -> str:
    """Text for a terminal: control characters, by which a record or an answer could command it, as their escapes."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split()).partition(" Config search path")[0]
    if isinstance(error, OverrideParseException):
        reason = message.partition(" See https")[0]
        return f"{error.override}: cannot be read as key=value ({reason}); quote an unusual value: key=\"'a (b)'\""
    if "Could not find 'hydra/" in message:
        return f"{message.partition(' Available')[0]}; is it installed? pip install -e '.[sweep]'"
    if message.startswith(
        "Could not override '"
    ):  # Hydra would go on to advise a + that would be refused here
        key = message.split("'")[1]
        return f"{key}: unknown key; --help lists those there are"
    return message


@contextmanager
def job() -> Iterator[None]:
    """Around all that a Hydra main function does: what comes from outside the program, an InputError or an OSError (a
    full disk), becomes one line on stderr and exit code 1.

    In a sweep the job ends there, whatever the error, and the others run; the sweep's table then lists it as failed,
    with the reason.
    """
    prepare_streams()  # a launcher's process does not come through `run`
    sweep = in_sweep()
    try:
        if sweep:
            note_job("begun")
        yield
        if sweep:
            note_job("finished")
    except (SystemExit, KeyboardInterrupt):  # by a signal
        if sweep:
            again = f"resume=auto {setting('hydra.sweep.dir', HydraConfig.get().sweep.dir)}"
            print(
                f"the sweep ends here; the same command with {again} goes on with it",
                file=sys.stderr,
            )
        raise
    except Exception as error:
        message, outside = (
            visible(" ".join(str(error).splitlines())),
            isinstance(error, InputError | OSError),
        )
        if sweep:
            if FULL_ERROR or not outside:
                traceback.print_exception(error)
            print(f"error: job {HydraConfig.get().job.num}: {message}", file=sys.stderr)
            note_job("failed", message)
        elif FULL_ERROR or not outside:
            raise
        elif isinstance(error, BrokenPipeError):
            print(
                "error: nobody reads the output any more; what was written stays", file=sys.stderr
            )
            _nobody_reads()
        else:
            sys.exit(f"error: {message}")
    finally:
        if sweep:
            release_job()


class _FileHandler(logging.FileHandler):
    """Raises InputError where it cannot write, as on a full disk; logging's own would print a traceback and go on."""

    def emit(self, record: logging.LogRecord) -> None:
        with writing(Path(self.baseFilename)):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise


class _TqdmHandler(logging.Handler):
    """Prints above a progress bar instead of through it, with control characters made visible."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(visible(self.format(record)))


def log_to(path: Path) -> None:
    """Log to the terminal and to a file, which is made at the first message; rank 0 speaks for all ranks."""
    log = logging.getLogger("sft")
    log.handlers.clear()
    log.setLevel(logging.INFO)
    log.propagate = False
    if os.environ.get("RANK", "0") != "0":
        log.addHandler(logging.NullHandler())
        return
    file = _FileHandler(path, delay=True, encoding="utf-8", errors="replace")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(file)
    log.addHandler(_TqdmHandler())


def on_devices(devices: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function` in one process for each device; in this one if there is but one, or if torchrun has started the
    processes already.

    Raises:
        InputError: what came from outside the program in the first process that failed (as in `job`); or torchrun has
            started another number of processes.
    """
    if "LOCAL_RANK" in os.environ:
        _check_torchrun(devices)
    if devices == 1 or "LOCAL_RANK" in os.environ:
        function(*arguments)
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for chatty in (
        "torch.distributed.elastic",
        "torch.multiprocessing",
    ):  # they repeat what is raised below
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    os.environ.setdefault(
        "PYTHONWARNINGS", "ignore:resource_tracker"
    )  # of a process that was killed
    config = LaunchConfig(
        1,
        1,
        devices,
        run_id="sft",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, _in_child)(function, *arguments)
    except SignalException as error:  # handed on to the processes, which have ended
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _raise_first(error, devices)


def _in_child(function: Callable[..., None], *arguments: Any) -> None:
    prepare_streams()
    function(*arguments)


def _raise_first(error: ChildFailedError, devices: int) -> NoReturn:
    """What ended the first process that failed."""
    rank, failure = error.get_first_failure()
    if failure.exitcode in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        sys.exit(failure.exitcode)
    if failure.exitcode < 0:
        raise InputError(
            f"process {rank} of {devices} was killed ({failure.signal_name()}), perhaps for want of memory; resume= "
            "goes on from the last checkpoint"
        )
    if isinstance(failure.message, str):  # elastic's own, for want of one
        raise InputError(
            f"process {rank} of {devices} ended with exit code {failure.exitcode} and said nothing; resume= goes on "
            "from the last checkpoint"
        )
    told = failure.message["message"]
    name, _, message = told.partition(": ")
    kind = getattr(builtins, name, None)
    if name == "InputError" or (isinstance(kind, type) and issubclass(kind, OSError)):
        raise InputError(message) from error
    print(failure.message["extraInfo"]["py_callstack"], file=sys.stderr)
    raise RuntimeError(f"process {rank} of {devices}: {told}") from None


def _check_torchrun(devices: int) -> None:
    started = os.environ["LOCAL_WORLD_SIZE"]
    if started != str(devices):
        raise InputError(
            f"devices: {devices}, but torchrun started {started} processes here; give devices={started}"
        )
    given = [*HydraConfig.get().overrides.hydra, *HydraConfig.get().overrides.task]
    told = any(override.startswith(("hydra.run.dir=", "resume=")) for override in given)
    if os.environ["WORLD_SIZE"] != "1" and not told:
        raise InputError(
            "hydra.run.dir: missing; torchrun's processes must be told of one folder for the run"
        )


def world_size(devices: int) -> int:
    """Processes of the run on all machines."""
    return int(os.environ.get("WORLD_SIZE", devices))


OmegaConf.register_new_resolver("run_dir", run_folder)
OmegaConf.register_new_resolver("hydra_folder", hydra_folder)
