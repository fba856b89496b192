"""Download a checkpoint's files from the Hugging Face Hub, once, and read them from its cache.

A file that is new there is hashed, since the hub's client compares sizes alone.
"""

import errno
import logging
import re
from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sft.checkpoint.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    TOKENIZER_CONFIG,
    WEIGHTS,
    shards,
)
from sft.download import check_arrived
from sft.errors import InputError
from sft.gpt2.tokenizer import MERGES, TOKENIZER, VOCAB
from sft.network import unreachable

# The released GPT-2s, at a commit of each repository.
PINNED = {
    "openai-community/gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "openai-community/gpt2-medium": "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
    "openai-community/gpt2-large": "32b71b12589c2f8d625668d2335a01cac3249519",
    "openai-community/gpt2-xl": "15ea56dee5df4983c59b2538573817e1667135e2",
}
SHORT = {name.split("/")[1]: name for name in PINNED}

# SHA-256 of files at these commits, by repository and name. All sizes share one tokenizer.
VOCAB_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
SHA256 = {
    ("openai-community/gpt2", WEIGHTS): (
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
    )
}
for _name in PINNED:
    SHA256[_name, VOCAB] = VOCAB_SHA256
    SHA256[_name, MERGES] = MERGES_SHA256

REMEDY = (
    "try again, set HF_ENDPOINT to a mirror, or give a local folder "
    "(HF_HUB_OFFLINE=1 uses only the cache)"
)


def _one_line_for_retries(record: logging.LogRecord) -> bool:
    """Keep one line of the ten that the hub's client logs while it cannot reach the hub.

    The error that follows says what failed.
    """
    message = record.getMessage()
    if "[Retry 1/" in message:
        record.msg = f"no answer from {public(constants.ENDPOINT)} yet; trying again"
        record.args = ()
        return True
    return "[Retry" not in message and "thrown while requesting" not in message


logging.getLogger("huggingface_hub.utils._http").addFilter(_one_line_for_retries)


def download(repo: str, revision: str | None = None) -> tuple[Path, str]:
    """Fetch a checkpoint's files, with progress bars, or find them in the cache.

    Args:
        repo: `owner/name`, or the name alone of a released GPT-2.
        revision: branch, tag or commit. None: the pinned commit of a released GPT-2, else the main
            branch.

    Returns:
        The folder that holds the files, and its commit.

    Raises:
        InputError: the hub cannot be reached, it lacks the repository, the revision or a file, or a
            file arrived damaged.
    """
    repo = SHORT.get(repo, repo)
    revision = revision or PINNED.get(repo, constants.DEFAULT_REVISION)

    config = fetch_if_present(repo, CONFIG, revision)
    if config is None:
        adapter = fetch_if_present(repo, ADAPTER_CONFIG, revision)
        if adapter:
            _fetch_adapter(repo, adapter.parent.name)
            return adapter.parent, adapter.parent.name

        # There is neither. This call raises the error that says so.
        config = fetch(repo, CONFIG, revision)

    folder = config.parent
    commit = folder.name
    _fetch_tokenizer(repo, commit)
    fetch_if_present(repo, TOKENIZER_CONFIG, commit)

    # The released models have no chat template, and their three tokenizer files are known to agree.
    if commit != PINNED.get(repo):
        optional = (TOKENIZER, CHAT_TEMPLATE, GENERATION_CONFIG)
        _fetch_later_additions(repo, optional, commit, WEIGHTS, INDEX)

    _fetch_weights(repo, commit)
    return folder, commit


def _fetch_adapter(repo: str, commit: str) -> None:
    """Fetch the other files of a repository that holds an adapter."""
    _fetch_later_additions(repo, (CHAT_TEMPLATE,), commit, ADAPTER_WEIGHTS)
    fetch(repo, ADAPTER_WEIGHTS, commit)
    fetch_if_present(repo, TOKENIZER_CONFIG, commit)


def _fetch_weights(repo: str, commit: str) -> None:
    """Fetch the weights, which are in one file or in several shards."""
    if fetch_if_present(repo, WEIGHTS, commit) is not None:
        return
    index = fetch_if_present(repo, INDEX, commit)
    if index is None:
        raise InputError(
            f"{repo}: has neither {WEIGHTS} nor {INDEX}; only weights in safetensors are read"
        )
    for shard in shards(index):
        fetch(repo, shard, commit)


def _fetch_tokenizer(repo: str, commit: str) -> None:
    """Fetch `vocab.json` and `merges.txt`; from a repository that has neither, `tokenizer.json`."""
    found = [fetch_if_present(repo, name, commit) for name in (VOCAB, MERGES)]
    if any(found) or not fetch_if_present(repo, TOKENIZER, commit):
        # Raises the error that says which of the two is missing.
        for name in (VOCAB, MERGES):
            fetch(repo, name, commit)


def _fetch_later_additions(repo: str, names: tuple[str, ...], commit: str, *weights: str) -> None:
    """Fetch optional files that earlier versions of this program did not fetch.

    Such a version may have filled the cache. That cache must still serve when the hub cannot be
    reached, so a failure is ignored if any of `weights` is cached.
    """
    cached = any(
        isinstance(try_to_load_from_cache(repo, name, revision=commit), str) for name in weights
    )
    for name in names:
        try:
            fetch_if_present(repo, name, commit)
        except InputError as error:
            if not (cached and isinstance(error.__cause__, LocalEntryNotFoundError)):
                raise


def fetch_if_present(repo: str, name: str, revision: str) -> Path | None:
    """Fetch a file; None if the repository lacks it, which the cache remembers."""
    try:
        if try_to_load_from_cache(repo, name, revision=revision) is _CACHED_NO_EXIST:
            return None
        return fetch(repo, name, revision)
    except HFValidationError as error:
        raise InputError(_explain(error, repo, name, revision)) from error
    except InputError as error:
        cause = error.__cause__
        unknown = isinstance(cause, LocalEntryNotFoundError)
        if isinstance(cause, EntryNotFoundError) and not unknown:
            return None
        raise


def fetch(repo: str, name: str, revision: str) -> Path:
    """Return the path of a repository's file in the cache. A file that is new there is hashed.

    Raises:
        InputError: as `download`.
    """
    try:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        path = Path(hf_hub_download(repo, name, revision=revision))
    except Exception as error:
        # Errors come from huggingface_hub, its HTTP client, hf_xet and the operating system.
        raise InputError(_explain(error, repo, name, revision)) from error
    if str(path) != cached:
        check_arrived(path, REMEDY, pinned_sha256(repo, name, path.parent.name))
    return path


def pinned_sha256(repo: str, name: str, commit: str) -> str | None:
    """Return the known SHA-256 of a released GPT-2's file; None: the file is not known."""
    return SHA256.get((repo, name)) if commit == PINNED.get(repo) else None


def _explain(error: Exception, repo: str, name: str, revision: str) -> str:
    """Return one line for whatever went wrong between the hub and the cache."""
    endpoint = public(constants.ENDPOINT)
    cache = constants.HF_HUB_CACHE
    reason = unreachable(error, constants.ENDPOINT)
    match error:
        case GatedRepoError():
            line = f"access is restricted; ask for it at {endpoint}/{repo}, then `hf auth login`"
        case RepositoryNotFoundError():
            line = (
                f"no such repository at {endpoint}, or a private one (`hf auth login`); "
                "nor a folder"
            )
        case RevisionNotFoundError():
            line = f"no revision {revision!r}; expected a branch, a tag or a commit"
        case HFValidationError():
            return f"{repo!r}: neither a folder nor the name of a repository, `owner/name`"
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            line = f"{name} is not in the cache ({cache}) and HF_HUB_OFFLINE is set"
        case LocalEntryNotFoundError() if reason:
            line = f"{reason}; {REMEDY}"
        case LocalEntryNotFoundError():
            line = f"cannot reach {endpoint} ({_line(error.__cause__ or error)}); {REMEDY}"
        case EntryNotFoundError():
            line = f"has no {name} at revision {revision!r}; is it a GPT-2 in Hugging Face format?"
        case OSError(errno=errno.ENOSPC):
            line = f"no space left for {name} in {cache}; free some, or set HF_HUB_CACHE"
        case _:
            line = f"the download of {name} failed ({reason or _line(error)}); {REMEDY}"
    return f"{repo}: {line}"


def _line(error: BaseException) -> str:
    first_line = str(error).strip().partition("\n")[0]
    text = public(first_line)
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def public(text: str) -> str:
    """Remove the user name and password from the addresses in a text."""
    return re.sub(r"//[^/\s]+@", "//…@", text)
