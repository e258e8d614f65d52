"""Is an image file whole? ITK reads a cut or damaged NIfTI or MHA file without a word and fills what is missing."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import ImageError

_CHUNK_BYTES = 1 << 20
#: First bytes of NIfTI files: the size of the header, 348 in version 1 and 540 in version 2, of either byte order.
_NIFTI_STARTS = tuple(size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big"))
_KINDS = "give NIfTI (.nii, .nii.gz), NRRD (.nrrd) or MHA (.mha), or the folder of a DICOM series"


@dataclass(frozen=True)
class StoredImage:
    """How much an image file holds.

    Attributes:
        is_nifti: whether the header counts in `stored_bytes`, as NIfTI says itself where its voxels begin.
        stored_bytes: after decompression; None for an encoding whose reader checks by itself.
    """

    is_nifti: bool
    stored_bytes: int | None


def measure(path: Path) -> StoredImage:
    """Measure an image file, with all checksums of compressed data verified.

    Raises:
        ImageError: for a file of another kind, with its voxels in a second file, or damaged.
    """
    with open(path, "rb") as file:
        start = file.read(16)
        file.seek(0)
        if start[:2] == b"\x1f\x8b":
            return StoredImage(True, _inflated_bytes(file, path))
        if start[:4] in _NIFTI_STARTS:
            return StoredImage(True, path.stat().st_size)
        if start[:4] == b"NRRD":
            return StoredImage(False, _nrrd_bytes(file, path))
        if start.startswith((b"ObjectType", b"NDims", b"Comment")):
            return StoredImage(False, _meta_image_bytes(file, path))
    raise ImageError(f"{path} is {'no image of a known kind' if start else 'empty'}; {_KINDS}")


def _nrrd_bytes(file: BinaryIO, path: Path) -> int | None:
    fields = dict(_fields(file, b":", last=b""))
    _refuse_detached(fields.get(b"data file", fields.get(b"datafile", b"LOCAL")), path)
    encoding = fields.get(b"encoding", b"")
    if encoding in (b"gzip", b"gz"):
        return _inflated_bytes(file, path)
    return _rest_bytes(file) if encoding == b"raw" else None


def _meta_image_bytes(file: BinaryIO, path: Path) -> int:
    fields = dict(_fields(file, b"=", last=b"elementdatafile"))
    _refuse_detached(fields.get(b"elementdatafile", b""), path)
    return _inflated_bytes(file, path) if fields.get(b"compresseddata") == b"True" else _rest_bytes(file)


def _fields(file: BinaryIO, separator: bytes, last: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Header lines as lower-case name and value; the file stands behind the one named `last` afterwards."""
    for line in iter(file.readline, b""):
        name, _, value = line.partition(separator)
        yield name.strip().lower(), value.strip()
        if name.strip().lower() == last:
            return


def _refuse_detached(data_file: bytes, path: Path) -> None:
    if data_file not in (b"LOCAL", b"Local", b"local"):
        raise ImageError(f"{path} keeps its voxels in another file, or is cut off; save it as one file: {_KINDS}")


def _rest_bytes(file: BinaryIO) -> int:
    here = file.tell()
    return file.seek(0, 2) - here


def _inflated_bytes(file: BinaryIO, path: Path) -> int:
    """Size of the gzip or zlib data from here on; zlib compares their checksums."""
    total, data = 0, file.read(_CHUNK_BYTES)
    try:
        while data:
            part = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
            while data and not part.eof:
                total += len(part.decompress(data))
                data = part.unused_data or file.read(_CHUNK_BYTES)
            if not part.eof:
                raise ImageError(f"{path} is cut off; copy or export it again")
            # Gzip files may be several, one behind the other; zeros pad them on tapes.
            if not data.startswith(b"\x1f\x8b"):
                break
    except zlib.error as error:
        raise ImageError(f"{path} is damaged ({error}); copy or export it again") from None
    return total
