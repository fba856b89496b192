"""Upload a checkpoint's files to the hub."""

from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from sft.checkpoint.hub import public
from sft.errors import InputError
from sft.network import unreachable

LOG_IN = "`hf auth login`, or set HF_TOKEN, with a token that may write"


def upload(folder: Path, names: list[str], repo: str) -> str:
    """Put files into a repository, in one commit. The repository is created if it is missing.

    Args:
        names: files of the folder; `*` stands for any letters.
        repo: `owner/name`.

    Returns:
        The repository's address.

    Raises:
        InputError: the hub cannot be reached, or refuses the files.
    """
    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        if repo.count("/") != 1:
            raise HFValidationError
        made = api.create_repo(repo, exist_ok=True)
        chosen = [path.name for path in folder.iterdir() if any(path.match(name) for name in names)]
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, allow_patterns=chosen)
    except Exception as error:
        # Errors come from huggingface_hub, its HTTP client, hf_xet and the operating system.
        raise InputError(_explain(error, repo)) from error
    return str(made)


def _explain(error: Exception, repo: str) -> str:
    """Return one line for whatever went wrong, without headers, which hold the token."""
    endpoint = public(constants.ENDPOINT)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    match error:
        case HFValidationError():
            return f"{repo!r}: not the name of a repository; expected `owner/name`"
        case HfHubHTTPError() if status == 401:
            line = f"{endpoint} does not know who asks; {LOG_IN}"
        case HfHubHTTPError() if status == 403:
            line = f"{endpoint} does not let you write there; take a name of your own, or {LOG_IN}"
        case HfHubHTTPError():
            line = f"{endpoint} refused with status {status}; try again later"
        case _:
            reason = unreachable(error, constants.ENDPOINT) or type(error).__name__
            line = f"cannot be uploaded to {endpoint} ({reason}); is the network there?"
    return f"{repo}: {line}"
