"""The hub's side of a checkpoint: its files are downloaded once, checked once, and then read from the hub's cache.

The cache keeps each file under its ETag, which is a hash of its content: sha256 for large files, git's blob hash for
small ones (huggingface_hub, "Understand caching"). Over plain HTTP the client compares only sizes, so the content is
hashed here when it arrives.
"""

import errno
import hashlib
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

from sft.atomic import read_json
from sft.errors import InputError
from sft.gpt2.tokenizer import MERGES, TOKENIZER, VOCAB
from sft.network import unreachable

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG, CHAT_TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = (
    "adapter_config.json",
    "adapter_model.safetensors",
)  # instead of a whole model

HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")

# The released GPT-2s, at a commit of each repository.
PINNED = {
    "openai-community/gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "openai-community/gpt2-medium": "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
    "openai-community/gpt2-large": "32b71b12589c2f8d625668d2335a01cac3249519",
    "openai-community/gpt2-xl": "15ea56dee5df4983c59b2538573817e1667135e2",
}
SHORT = {name.split("/")[1]: name for name in PINNED}

# sha256 of files at these commits; the four share one tokenizer.
SHA256 = {
    (name, VOCAB): "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    for name in PINNED
}
SHA256 |= {
    (name, MERGES): "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    for name in PINNED
}
SHA256["openai-community/gpt2", WEIGHTS] = (
    "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
)

REMEDY = "try again, set HF_ENDPOINT to a mirror, or give a local folder (HF_HUB_OFFLINE=1 uses only the cache)"


def download(repo: str, revision: str | None = None) -> tuple[Path, str]:
    """Fetch a checkpoint's files, with progress bars, or find them in the cache.

    Args:
        repo: `owner/name`, or a released GPT-2's name alone.
        revision: branch, tag or commit; None: the pinned commit of a released GPT-2, else the main branch.

    Returns:
        The folder that holds the files, and its commit.

    Raises:
        InputError: the hub, the repository, the revision or a file cannot be had, or a file arrived damaged.
    """
    repo = SHORT.get(repo, repo)
    revision = revision or PINNED.get(repo, constants.DEFAULT_REVISION)
    config = fetch_if_present(repo, CONFIG, revision)
    adapter = None if config else fetch_if_present(repo, ADAPTER_CONFIG, revision)
    if adapter:
        _fetch_later_additions(repo, (CHAT_TEMPLATE,), adapter.parent.name, ADAPTER_WEIGHTS)
        fetch(repo, ADAPTER_WEIGHTS, adapter.parent.name)
        fetch_if_present(repo, TOKENIZER_CONFIG, adapter.parent.name)
        return adapter.parent, adapter.parent.name
    folder = (config or fetch(repo, CONFIG, revision)).parent  # the latter says what is missing
    commit = folder.name
    _fetch_tokenizer(repo, commit)
    fetch_if_present(repo, TOKENIZER_CONFIG, commit)
    # The released models have no chat template, and their three forms of the tokenizer are known to agree.
    if commit != PINNED.get(repo):
        _fetch_later_additions(repo, (TOKENIZER, CHAT_TEMPLATE), commit, WEIGHTS, INDEX)
    if fetch_if_present(repo, WEIGHTS, commit) is None:
        index = fetch_if_present(repo, INDEX, commit)
        if index is None:
            raise InputError(
                f"{repo}: has neither {WEIGHTS} nor {INDEX}; weights are read from safetensors alone"
            )
        for shard in shards(index):
            fetch(repo, shard, commit)
    return folder, commit


def _fetch_tokenizer(repo: str, commit: str) -> None:
    """Fetch `vocab.json` and `merges.txt`; of a repository that has neither, `tokenizer.json`."""
    there = [fetch_if_present(repo, name, commit) for name in (VOCAB, MERGES)]
    if any(there) or not fetch_if_present(repo, TOKENIZER, commit):
        for name in (VOCAB, MERGES):
            fetch(repo, name, commit)  # says which of them is missing


def _fetch_later_additions(repo: str, names: tuple[str, ...], commit: str, *weights: str) -> None:
    """Fetch files that a checkpoint may have, and that earlier versions of this program did not fetch.

    Such a version may have filled the cache, which then still serves where the hub cannot be reached.
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


def shards(index: Path) -> list[str]:
    """The files that a sharded checkpoint's index names, which must lie beside it."""
    try:
        names = read_json(index, "an object with a `weight_map`")["weight_map"].values()
        found = sorted(set(names))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{index}: expected JSON with a `weight_map` of tensors and files ({error!r})"
        ) from error
    if not found:
        raise InputError(f"{index}: its `weight_map` names no file")
    for name in found:
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
        ):
            raise InputError(f"{index}: {name!r} is not the name of a .safetensors file beside it")
    return found


def fetch_if_present(repo: str, name: str, revision: str) -> Path | None:
    """As `fetch`; None where the repository has no such file, which the cache remembers."""
    try:
        if try_to_load_from_cache(repo, name, revision=revision) is _CACHED_NO_EXIST:
            return None
        return fetch(repo, name, revision)
    except HFValidationError as error:
        raise InputError(_explain(error, repo, name, revision)) from error
    except InputError as error:
        if isinstance(error.__cause__, EntryNotFoundError) and not isinstance(
            error.__cause__, LocalEntryNotFoundError
        ):
            return None
        raise


def fetch(repo: str, name: str, revision: str) -> Path:
    """A file of the repository, in the cache. A file that is new there is hashed first."""
    try:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        path = Path(hf_hub_download(repo, name, revision=revision))
    except (
        Exception
    ) as error:  # of huggingface_hub, the HTTP client below it, the operating system, or hf_xet
        raise InputError(_explain(error, repo, name, revision)) from error
    if str(path) != cached:
        check(path, pinned_sha256(repo, name, path.parent.name))
    return path


def pinned_sha256(repo: str, name: str, commit: str) -> str | None:
    return SHA256.get((repo, name)) if commit == PINNED.get(repo) else None


def check(path: Path, sha256: str | None = None) -> None:
    """Compare a cached file with the hash that it is stored under, and with `sha256` if given; a wrong one is deleted.

    Raises:
        InputError: they differ.
    """
    etag = (
        path.readlink().name if path.is_symlink() else ""
    )  # without symbolic links the cache does not keep it
    for expected in (known for known in (sha256, etag) if known and HASH.fullmatch(known)):
        actual = digest(path, "sha256" if len(expected) == 64 else "git")
        if actual != expected:
            for part in (path.resolve(), path.parent / path.readlink() if etag else path, path):
                part.unlink(missing_ok=True)
            raise InputError(
                f"{path.name}: arrived damaged and was deleted: expected hash {expected}, found {actual}; {REMEDY}"
            )


def digest(path: Path, kind: str = "sha256") -> str:
    """Hex hash of a file's content: `sha256`, or `git`, which hashes a header before it (Pro Git, 10.2)."""
    with path.open("rb") as file:
        if kind == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        header = b"blob %d\0" % path.stat().st_size
        return hashlib.file_digest(file, lambda: hashlib.sha1(header)).hexdigest()


def _explain(error: Exception, repo: str, name: str, revision: str) -> str:
    """One line for whatever went wrong on the way from the hub to the cache."""
    endpoint = public(constants.ENDPOINT)
    reason = unreachable(error, constants.ENDPOINT)
    match error:
        case GatedRepoError():
            return f"{repo}: access is restricted; ask for it at {endpoint}/{repo}, then `hf auth login`"
        case RepositoryNotFoundError():
            return f"{repo}: no such repository at {endpoint}, or a private one (`hf auth login`); nor a folder"
        case RevisionNotFoundError():
            return f"{repo}: no revision {revision!r}; expected a branch, a tag or a commit"
        case HFValidationError():
            return f"{repo!r}: neither a folder nor the name of a repository, `owner/name`"
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return f"{repo}: {name} is not in the cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE is set"
        case LocalEntryNotFoundError() if reason:
            return f"{repo}: {reason}; {REMEDY}"
        case LocalEntryNotFoundError():
            return f"{repo}: cannot reach {endpoint} ({_line(error.__cause__ or error)}); {REMEDY}"
        case EntryNotFoundError():
            return f"{repo}: has no {name} at revision {revision!r}; is it a GPT-2 in Hugging Face format?"
        case OSError(errno=errno.ENOSPC):
            return f"{repo}: no space left for {name} in {constants.HF_HUB_CACHE}; free some, or set HF_HUB_CACHE"
        case _:
            return f"{repo}: the download of {name} failed ({reason or _line(error)}); {REMEDY}"


def _line(error: BaseException) -> str:
    text = public(str(error).strip().partition("\n")[0])
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def public(text: str) -> str:
    """Without the name and password that an address may hold."""
    return re.sub(r"//[^/\s]+@", "//…@", text)
