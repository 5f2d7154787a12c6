"""Weights from the Hugging Face hub, or a quick, clear answer that they cannot be had."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from vlood.errors import VloodError

CONNECT_SECONDS = 5.0


class NotDownloadedError(VloodError):
    """A file is not on this machine and cannot be fetched now."""


def fetch(repository: str, candidates: Sequence[str], *, model: str) -> Path:
    """Return the local path of the first of the candidate files that the repository has.

    A file of the local cache is taken without asking the hub. ``model`` is what error messages
    call the model.

    Raises:
        NotDownloadedError: the cache has none and there is no network.
        VloodError: the hub refuses, or the repository has none of the files.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in candidates:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    looked = f"{constants.HF_HUB_CACHE} for {repository}"
    # The hub client itself retries for half a minute a file before it gives up.
    reason = why_unreachable(constants.ENDPOINT, offline=constants.HF_HUB_OFFLINE)
    if reason is not None:
        raise NotDownloadedError(
            f"the weights of {model} are not on this machine (looked in {looked}) and could not be "
            f"downloaded ({reason}); connect once, or use --model bundled or "
            "--model local-dir:FOLDER"
        )
    for name in candidates:
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError as error:
            raise NotDownloadedError(
                f"the weights of {model} could not be downloaded from {repository} "
                f"({_first_line(error)}); try again, or use --model bundled or "
                "--model local-dir:FOLDER"
            ) from error
        except EntryNotFoundError:
            continue
        except Exception as error:
            raise VloodError(
                f"the hub does not give {repository} for --model {model} ({_first_line(error)}); "
                "check the name, or log in with `hf auth login` if it is private"
            ) from error
    raise VloodError(
        f"{repository} on the hub has none of {', '.join(candidates)}: "
        f"--model {model} does not name an open_clip model"
    )


def why_unreachable(endpoint: str, *, offline: bool = False) -> str | None:
    """Say in a few words why the hub does not answer within seconds, or None when it does."""
    if offline:
        return "HF_HUB_OFFLINE is set"
    if not endpoint.startswith(("https://", "http://")):
        return f"{endpoint} is no web address"
    try:
        urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=CONNECT_SECONDS
        ).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, ValueError) as error:
        return f"no network: {_first_line(getattr(error, 'reason', error))}"
    return None


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
