"""Files of a Hugging Face Hub repository, in the Hub library's own cache.

In: a repository's id and file names. Out: local paths, or a `StartupError` of one sentence. It must
not know what the files mean.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import huggingface_hub
from huggingface_hub import errors

from csm_trio.errors import StartupError

T = TypeVar("T")

# (httpx.HTTPError, OSError); (httpx2.HTTPError, OSError) since version 2 of the Hub library.
_TRANSPORT_ERRORS = cast(tuple[type[Exception], ...], errors.HfHubHTTPError.__bases__)

_FAILURES: tuple[type[Exception], ...] = (
    errors.EntryNotFoundError,
    errors.HFValidationError,
    errors.OfflineModeIsEnabled,
    RuntimeError,  # hf_xet, the Hub library's transfer in Rust, reports a broken transfer with it
    *_TRANSPORT_ERRORS,
)


def fetch_matching(repo_id: str, patterns: list[str]) -> Path:
    """Fetch the repository's files that match `patterns`; return the folder that holds them.

    The folder may not exist if none matched. Raises `StartupError` if the fetch fails.
    """

    def fetch() -> str:
        return huggingface_hub.snapshot_download(repo_id, allow_patterns=patterns)

    return Path(_fetch_or_fail(repo_id, repo_id, fetch))


def fetch_file(repo_id: str, name: str) -> Path | None:
    """Fetch one file; return None if the repository has no such file.

    Raises `StartupError` if the fetch fails.
    """

    def fetch() -> str | None:
        try:
            return huggingface_hub.hf_hub_download(repo_id, name)
        except errors.RemoteEntryNotFoundError:
            return None

    path = _fetch_or_fail(f"{name} of {repo_id}", repo_id, fetch)
    return None if path is None else Path(path)


def _fetch_or_fail(target: str, repo_id: str, fetch: Callable[[], T]) -> T:
    try:
        return fetch()
    except _FAILURES as error:
        raise StartupError(_sentence(target, repo_id, error)) from error


def _sentence(target: str, repo_id: str, error: Exception) -> str:
    match error:
        case errors.GatedRepoError():
            return (
                f"{repo_id} is gated: accept its terms at https://huggingface.co/{repo_id} "
                "and set HF_TOKEN to a token of that account."
            )
        case errors.RepositoryNotFoundError() | errors.RevisionNotFoundError():
            return (
                f"The Hub has no model repository {repo_id}, or it is private and HF_TOKEN does "
                "not open it."
            )
        case errors.DisabledRepoError():
            return f"The Hub has disabled the repository {repo_id}."
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return (
                f"{target} is not in the local Hub cache, and the Hub cannot be reached "
                "(no network, or HF_HUB_OFFLINE is set)."
            )
        case errors.HFValidationError():
            return f"{repo_id!r} is no repository id of the form owner/name."
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"The Hub refuses {target}: set HF_TOKEN to a token that may read it."
        case errors.HfHubHTTPError():
            return f"The Hub answered {error.response.status_code} for {target}; try again later."
        case _:
            detail = " ".join(str(error).split()) or type(error).__name__
            return f"{target} could not be fetched from the Hub: {detail}"
