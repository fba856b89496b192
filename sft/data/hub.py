"""Data sets of the Hugging Face Hub: which files hold them, and at which commit.

The hub says which files form a data set in the card of its repository (`configs`). Without that,
the names of files and folders do, as the hub's documentation "File names and splits" describes.

The list of files and the commit are kept in this program's cache, so that the same data set is
found again without a network.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sft.atomic import read_json, write_json
from sft.config.schema import DataConfig
from sft.data.cache import cache_folder, name_of
from sft.data.formats import endings
from sft.download import check_arrived
from sft.errors import InputError
from sft.network import unreachable

log = logging.getLogger(__name__)

COMMIT = re.compile("[0-9a-f]{40}")

# The branch into which the hub itself writes data sets as Parquet: NAME/PART/0000.parquet.
CONVERTED = "refs/convert/parquet"

# Words in the names of files and folders that stand for a part.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


REMEDY = "try again, or use a file you have: data=file data.path=FILE"


def fetch_data(data: DataConfig, commit: str | None = None) -> tuple[list[Path], str]:
    """Fetch the files of a data set, with progress bars, or find them in the cache.

    Args:
        commit: the commit that a run began with; None: `data.revision`, or the newest.

    Returns:
        The files, in order of their names, and their commit.

    Raises:
        InputError: the hub cannot be reached, or there is no such data set, name or part.
    """
    [repo] = data.paths()
    revision = commit or data.revision
    kept = cache_folder() / "hub" / f"{name_of(repo, data.name, data.part, revision)}.json"
    listing = _listing(repo, data, revision, kept)
    paths = [_fetch(repo, name, listing["commit"]) for name in listing["files"]]

    # With all files in the cache, the list is kept under the revision and under the commit.
    for known in (revision, listing["commit"]):
        path = kept.with_name(f"{name_of(repo, data.name, data.part, known)}.json")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, listing)
        except (OSError, InputError) as error:
            log.info(f"{path}: cannot be written ({error}); the hub is asked again next time")
    return paths, listing["commit"]


def _listing(repo: str, data: DataConfig, revision: str | None, kept: Path) -> dict[str, Any]:
    """Return the commit and the names of the files, from the hub or as they were kept."""
    if kept.exists() and COMMIT.fullmatch(revision or ""):
        return read_json(kept)
    try:
        info = HfApi().dataset_info(repo, revision=revision)
    except Exception as error:
        # Errors come from huggingface_hub, from its HTTP client and from the operating system.
        offline = isinstance(error, OfflineModeIsEnabled) or unreachable(error, constants.ENDPOINT)
        if not (offline and kept.exists()):
            raise InputError(_explain(error, repo, revision)) from error
        log.info(f"{repo}: the hub cannot be reached, so the commit in the cache is used")
        return read_json(kept)

    names = [sibling.rfilename for sibling in info.siblings or ()]
    card = info.card_data
    configs = card.get("configs") if card is not None else None
    files = files_of_part(repo, names, configs or (), data.name, data.part, revision)
    return {"commit": info.sha, "files": files}


def files_of_part(
    repo: str,
    names: Sequence[str],
    configs: Iterable[dict[str, Any]],
    name: str | None,
    part: str,
    revision: str | None,
) -> list[str]:
    """Choose the files of one part of a data set.

    Args:
        names: all files of the repository.
        configs: from the repository's card; empty if it says nothing.

    Raises:
        InputError: there is no such name or part. The message lists those there are.
    """
    known = {config["config_name"]: config for config in configs if "config_name" in config}
    if not known and revision == CONVERTED:
        known = {place.partition("/")[0]: {} for place in names if place.count("/") > 1}
        known = {key: {"data_dir": key} for key in known}

    config: dict[str, Any] = {}
    if known:
        defaults = [key for key in known if known[key].get("default") or key == "default"]
        chosen = name or (list(known) if len(known) == 1 else [*defaults, ""])[0]
        if chosen not in known:
            problem = f"{name!r} is not there" if name else "missing"
            raise InputError(f"data.name: {problem}; {repo} has {_list(known)}")
        config = known[chosen]
    elif name is not None:
        config = {"data_dir": name}

    listed = config.get("data_files")
    if listed is None:
        parts = _parts_by_name(names, config.get("data_dir"), part)
    else:
        parts = _parts_by_card(names, listed)
    if not parts:
        raise InputError(
            f"{repo}: no file of records{f' for data.name={name}' if name else ''}; if the hub "
            f"shows the data set, data.revision={CONVERTED} may have it as Parquet"
        )
    if not parts.get(part):
        raise InputError(f"data.part: {part!r} is not there; {repo} has {_list(parts)}")
    return sorted(parts[part])


def _list(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - 20} others" if len(shown) > 20 else ""
    return ", ".join(shown[:20]) + more


def _parts_by_card(names: Sequence[str], listed: Any) -> dict[str, list[str]]:
    """Return the files of each part by the patterns in the card."""
    if isinstance(listed, str) or all(isinstance(item, str) for item in listed):
        listed = [{"split": "train", "path": listed}]
    parts: dict[str, list[str]] = {}
    for item in listed:
        paths = [item["path"]] if isinstance(item["path"], str) else item["path"]
        patterns = [_pattern(path) for path in paths]
        parts[item["split"]] = [
            name for name in names if any(pattern.fullmatch(name) for pattern in patterns)
        ]
    return parts


def _pattern(path: str) -> re.Pattern[str]:
    """Return the pattern of a path in which * stands for all but a slash, and ** for all."""
    text = re.escape(path.removeprefix("./"))
    for sign, meaning in ((r"\*\*/", "(.*/)?"), (r"\*\*", ".*"), (r"\*", "[^/]*"), (r"\?", "[^/]")):
        text = text.replace(sign, meaning)
    return re.compile(text)


def _parts_by_name(names: Sequence[str], folder: str | None, part: str) -> dict[str, list[str]]:
    """Return the files of each part by the words in their names; without such words, of train."""
    files = [name for name in names if name.lower().endswith(endings()) and name[0] != "."]
    if folder is not None:
        files = [name for name in files if name.startswith(f"{folder.strip('/')}/")]

    # Beside the records there may be other files, such as dataset_infos.json.
    kinds = Counter(Path(name.removesuffix(".gz")).suffix for name in files)
    if kinds:
        most = max(kinds.values())
        files = [name for name in files if kinds[Path(name.removesuffix(".gz")).suffix] == most]

    parts: defaultdict[str, list[str]] = defaultdict(list)
    for name in files:
        words = re.split(r"[/._ -]", name.lower())
        found = [key for key, synonyms in WORDS.items() if any(word in words for word in synonyms)]
        if part not in WORDS and re.search(rf"(^|/){re.escape(part)}(-\d+-of-\d+)?[./]", name):
            found = [part]
        if found:
            parts[found[0]].append(name)
    return parts or ({"train": files} if files else {})


def _fetch(repo: str, name: str, commit: str) -> Path:
    """Return the path of a file in the cache. A file that is new there is hashed."""
    try:
        cached = try_to_load_from_cache(repo, name, revision=commit, repo_type="dataset")
        path = Path(hf_hub_download(repo, name, repo_type="dataset", revision=commit))
    except Exception as error:
        raise InputError(_explain(error, repo, commit)) from error
    if str(path) != cached:
        check_arrived(path, REMEDY)
    return path


def _explain(error: Exception, repo: str, revision: str | None) -> str:
    """Return one line for whatever went wrong between the hub and the cache."""
    endpoint = re.sub(r"//[^/\s]+@", "//…@", constants.ENDPOINT)
    reason = unreachable(error, constants.ENDPOINT)
    match error:
        case GatedRepoError():
            line = f"access is restricted; ask for it at {endpoint}/datasets/{repo}, then "
            line += "`hf auth login`"
        case RepositoryNotFoundError():
            line = f"no such data set at {endpoint}, or a private one (`hf auth login`)"
        case RevisionNotFoundError():
            line = f"no revision {revision!r}; expected a branch, a tag or a commit"
        case HFValidationError():
            line = "not the name of a data set on the hub, which is owner/name"
        case OfflineModeIsEnabled():
            line = f"not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set"
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            line = f"not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set"
        case _:
            first = str(error).strip().partition("\n")[0][:300]
            line = f"{reason or f'the download failed ({type(error).__name__}: {first})'}; {REMEDY}"
    return f"data.path: {repo}: {line}"
