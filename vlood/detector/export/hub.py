"""A detector as a repository for the Hugging Face hub: its files, and a card the hub can read."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vlood.backbone.spec import ModelForm, ModelSpec
from vlood.detector.card import card
from vlood.detector.export.members import members_of
from vlood.detector.folder import CARD_FILE
from vlood.errors import UsageError, VloodError
from vlood.features.atomic import atomic_folder

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LONGEST = 96
_PIPELINE = "zero-shot-image-classification"


def hub_card(saved: SavedDetector, source: Path) -> str:
    """Return the detector's card with the front matter that the hub sorts models by."""
    from huggingface_hub import ModelCardData

    own = source / CARD_FILE
    text = own.read_text(encoding="utf-8") if own.is_file() else card(saved)
    if text.startswith("---\n"):
        return text
    data = ModelCardData(
        base_model=base_model_of(saved.base_model),
        library_name="open_clip",
        pipeline_tag=_PIPELINE,
        tags=["out-of-distribution-detection", "ood-detection", "clip", "vlood",
              saved.detector.method],
    )  # fmt: skip
    return f"---\n{data.to_yaml().strip()}\n---\n\n{text}"


def base_model_of(model: str | None) -> str | None:
    """Return the hub repository of a detector's model, or None where it has none."""
    if model is None:
        return None
    try:
        spec = ModelSpec.parse(model)
    except UsageError:
        return None
    if spec.form is ModelForm.HUB:
        return spec.source
    if spec.form is not ModelForm.TAG:
        return None
    from vlood.backbone.library import open_clip

    known = open_clip.get_pretrained_cfg(spec.architecture, spec.source).get("hf_hub") or ""
    return "/".join(str(known).split("/")[:2]) or None


def hub_listing(saved: SavedDetector, source: Path) -> list[dict[str, Any]]:
    """Return the repository's files with their sizes in bytes, sorted; nothing is written."""
    sizes = {name: source.joinpath(name).stat().st_size for name in members_of(source)}
    sizes[CARD_FILE] = len(_encoded(hub_card(saved, source)))
    return [{"file": name, "bytes": sizes[name]} for name in sorted(sizes)]


def write_repository(saved: SavedDetector, source: Path, target: Path) -> int:
    """Write the repository's folder; return how many files it has.

    Raises:
        OSError: the place cannot be written; nothing is left behind.
    """
    with atomic_folder(target) as partial:
        return _fill(saved, source, partial)


def upload(saved: SavedDetector, source: Path, repository: str) -> str:
    """Upload a detector to the hub, making the repository where there is none; return its address.

    Raises:
        UsageError: no such name can be, or nobody is logged in.
        VloodError: the hub cannot be reached or refuses.
    """
    check_repository(repository)
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise UsageError(
            f"--repo {repository}: nobody is logged in to the hub; run `hf auth login` or set "
            "HF_TOKEN, or write the folder with -o"
        )
    with tempfile.TemporaryDirectory(prefix="vlood-hub-") as place:
        folder = Path(place)
        _fill(saved, source, folder)
        try:
            hub = HfApi(token=token)
            address = hub.create_repo(repository, repo_type="model", exist_ok=True)
            hub.upload_folder(
                repo_id=repository,
                folder_path=folder,
                repo_type="model",
                commit_message=f"Add a {saved.detector.method} detector",
            )
        except Exception as error:  # the client raises a dozen kinds, and its transport others
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise VloodError(
                f"--repo {repository}: could not be uploaded ({reason}); check the name, the token "
                "and the network, or write the folder with -o"
            ) from error
    return str(address)


def check_repository(repository: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        UsageError: saying what was expected.
    """
    if _REPOSITORY.fullmatch(repository) is None or len(repository) > _LONGEST:
        raise UsageError(f"--repo {repository}: expected ORG/NAME, as in acme/fruit-detector")


def _fill(saved: SavedDetector, source: Path, folder: Path) -> int:
    names = {*members_of(source), CARD_FILE} - {CARD_FILE}
    for name in sorted(names):
        place = folder.joinpath(*PurePosixPath(name).parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, place)
    (folder / CARD_FILE).write_bytes(_encoded(hub_card(saved, source)))
    return len(names) + 1


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
