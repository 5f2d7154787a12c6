"""Find damage that Pillow's decoders pass over in silence, leaving black or grey areas."""

from __future__ import annotations

import zlib

_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_PNG_SIGNATURE_BYTES = 8
_END_OF_CODESTREAM = b"\xff\xd9"


def find_damage(format_name: str | None, data: bytes) -> str | None:
    """Return what is wrong with the bytes of a PNG or JPEG 2000 file, None where nothing shows.

    Other formats give None: Pillow itself refuses what is missing from them.
    """
    if format_name == "PNG" and not png_pixels_match(data):
        return "the checksum of its pixel data does not match"
    if format_name == "JPEG2000" and not jpeg2000_is_whole(data):
        return "its codestream does not end"
    return None


def png_pixels_match(data: bytes) -> bool:
    """Say whether the checksums of all pixel chunks (IDAT) of a PNG hold, as far as it reaches."""
    view = memoryview(data)
    start = _PNG_SIGNATURE_BYTES
    while start + 12 <= len(data):
        length = int.from_bytes(view[start : start + 4], "big")
        end = start + 8 + length
        kind = bytes(view[start + 4 : start + 8])
        if kind == b"IEND":
            return True
        if kind == b"IDAT" and end + 4 <= len(data):
            stored = int.from_bytes(view[end : end + 4], "big")
            if zlib.crc32(view[start + 4 : end]) != stored:
                return False
        start = end + 4
    return True


def jpeg2000_is_whole(data: bytes) -> bool:
    """Say whether a JPEG 2000 codestream ends with its end marker (ISO 15444-1, A.4.4).

    `data` is a raw codestream or a JP2 file, whose boxes are walked to the one that holds it.
    """
    if not data.startswith(_JP2_SIGNATURE):
        return data.rstrip(b"\0").endswith(_END_OF_CODESTREAM)
    start = 0
    while start + 8 <= len(data):
        length, header = int.from_bytes(data[start : start + 4], "big"), 8
        kind = data[start + 4 : start + 8]
        if length == 1:
            length, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        # A length of zero means that the box reaches to the end of the file.
        end = start + length if length else len(data)
        if kind == b"jp2c":
            return end <= len(data) and data[end - 2 : end] == _END_OF_CODESTREAM
        if end < start + header:
            return False
        start = end
    return False
