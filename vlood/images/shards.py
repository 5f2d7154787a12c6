"""Images inside `.tar` shards, in webdataset's layout or as plain archived folders."""

# Paths stay the text the user gave, which pathlib would rewrite.
# ruff: noqa: PTH118, PTH119, PTH120

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator

from vlood.errors import UsageError
from vlood.images.folders import has_image_suffix
from vlood.images.item import ImageItem
from vlood.images.lists import label_text

COMPRESSED_SUFFIXES = (".tgz", ".tar.gz", ".tbz", ".tar.bz2", ".txz", ".tar.xz", ".tar.zst")
_LABEL_SUFFIXES = ("cls", "json")
_MAX_LABEL_BYTES = 1 << 20
NO_END = "its end is missing or damaged"


def read_shard(path: str) -> Iterator[ImageItem]:
    """Yield the images of a tar shard in its order, reading headers and labels but no pixels.

    Neighbouring members that share a key (the name up to its first dot) are one sample: `key.cls`
    or the `label` of `key.json` is the label of `key.jpg`. Without them the label is the name of
    the folder the member lies in. Items are called `shard.tar/member`. A shard that breaks off
    ends with one unreadable item.

    Raises:
        UsageError: the file is not an uncompressed tar archive.

    """
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115 (closed below; opening has its own errors)
    except (tarfile.TarError, OSError) as error:
        raise UsageError(
            f"the shard {path} is not an uncompressed tar archive: {reason_of(error)}"
        ) from None
    with archive:
        sample: list[tarfile.TarInfo] = []
        key: str | None = None
        try:
            for member in archive:
                # The archive keeps every header it has seen; a shard may have millions.
                archive.members = []  # type: ignore[attr-defined]
                if not usable_member(member):
                    continue
                member_key = sample_key(member.name)
                if member_key != key:
                    yield from _items(archive, path, sample)
                    sample, key = [], member_key
                sample.append(member)
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            yield from _items(archive, path, sample)
            yield ImageItem(path, fault=f"the shard breaks off: {reason_of(error)}")
            return
        yield from _items(archive, path, sample)
        if not ends_well(archive):
            yield ImageItem(path, fault=f"the shard breaks off: {NO_END}")


def _items(
    archive: tarfile.TarFile, shard: str, sample: list[tarfile.TarInfo]
) -> Iterator[ImageItem]:
    images = [member for member in sample if has_image_suffix(member.name)]
    if not images:
        return
    stored = _stored_label(archive, sample)
    for member in images:
        name = member.name.removeprefix("./")
        label = stored if stored is not None else os.path.basename(os.path.dirname(name)) or None
        shown = f"{shard}/{name}"
        if member.isreg() and not member.issparse():
            yield ImageItem(shown, label, shard, member.offset_data, member.size)
        else:
            fault = "the member is a link or a sparse file; store its bytes in the shard"
            yield ImageItem(shown, label, fault=fault)


def _stored_label(archive: tarfile.TarFile, sample: list[tarfile.TarInfo]) -> str | None:
    for member in sample:
        suffix = member.name.rpartition(".")[2].lower()
        if suffix not in _LABEL_SUFFIXES or not member.isreg() or member.size > _MAX_LABEL_BYTES:
            continue
        file = archive.extractfile(member)
        if file is None:
            continue
        text = file.read().decode("utf-8", "replace")
        label = label_text(text) if suffix == "cls" else _json_label(text)
        if label is not None:
            return label
    return None


def _json_label(text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return label_text(value)
    return next(
        (label_text(value[name]) for name in ("label", "cls", "class") if name in value), None
    )


def usable_member(member: tarfile.TarInfo) -> bool:
    """Say whether a member may belong to a sample: folders and hidden files do not."""
    hidden = os.path.basename(member.name).startswith(".")
    return not hidden and (member.isreg() or member.issym() or member.islnk())


def sample_key(name: str) -> str:
    """Return the key of a member's sample: its name up to the first dot."""
    folder, base = os.path.split(name)
    return os.path.join(folder, base.partition(".")[0])


def ends_well(archive: tarfile.TarFile) -> bool:
    """Say whether a shard whose members were all read ends with the mark of an archive's end.

    Reading stops without an error at a header that is cut short or damaged.
    """
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def reason_of(error: Exception) -> str:
    """Return why an archive cannot be read, in the system's words where it has some."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
