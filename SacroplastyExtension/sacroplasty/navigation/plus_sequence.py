"""Tracker recordings in the sequence metafiles of the Plus toolkit (.igs.mha, .mha)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..files import atomic_file
from ..geometry import FloatArray

_ELEMENT_TYPES: dict[Any, str] = {np.uint8: "MET_UCHAR", np.uint16: "MET_USHORT"}
_FIELD = re.compile(r"^Seq_Frame(\d+)_(\w+?)\s*=\s*(.*?)\s*$")
_SUFFIX = "Transform"

#: A header line never gets longer; a file without line ends is no metafile.
_LONGEST_HEADER_BYTES = 200_000_000


@dataclass(frozen=True)
class PlusSequence:
    """Poses over time.

    Attributes:
        time_s: (n,) of each frame, by the recorder's clock.
        transforms: by name (`StylusToTracker`), matrices (n, 4, 4) in mm, NaN where the tracker did not report OK.
    """

    time_s: FloatArray
    transforms: dict[str, FloatArray]

    def poses(self, tool: str, reference: str) -> FloatArray:
        """ToolToReference (n, 4, 4), NaN where either of them was out of sight.

        Recorded directly, or both to a common third frame (the tracker).

        Raises:
            CalibrationError: listing what the recording holds.
        """
        direct = f"{tool}To{reference}"
        if direct in self.transforms:
            return self.transforms[direct]
        for name, ToolToBase in self.transforms.items():
            origin, _, base = name.partition("To")
            other = f"{reference}To{base}"
            if origin == tool and other in self.transforms:
                return _relative(self.transforms[other], ToolToBase)
        raise CalibrationError(
            f"the recording does not relate {tool!r} to {reference!r}; it holds {', '.join(sorted(self.transforms))}"
        )


def read_sequence(path: Path) -> PlusSequence:
    """Read the transforms of a sequence metafile; its images, if any, are left alone.

    Raises:
        CalibrationError: for a file that cannot be read or holds no transforms.
    """
    fields: dict[int, dict[str, str]] = {}
    try:
        with open(path, "rb") as file:
            first = file.readline(1000)
            if not first.startswith((b"ObjectType", b"NDims")):
                raise CalibrationError(
                    f"{path} is no sequence metafile of Plus (.igs.mha); export the recording as one"
                )
            for raw in file:
                if raw.startswith(b"ElementDataFile") or file.tell() > _LONGEST_HEADER_BYTES:
                    break
                match = _FIELD.match(raw.decode("utf-8", "replace"))
                if match:
                    fields.setdefault(int(match[1]), {})[match[2]] = match[3]
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}") from None
    frames = [fields[number] for number in sorted(fields)]
    names = sorted({key.removesuffix(_SUFFIX) for frame in frames for key in frame if key.endswith(_SUFFIX)})
    if not names:
        raise CalibrationError(f"{path} holds no transforms; record them with the tracker running")
    transforms = {name: np.array([_pose(frame, name, path) for frame in frames]) for name in names}
    return PlusSequence(np.array([_number(frame.get("Timestamp", "nan")) for frame in frames]), transforms)


def write_sequence(path: Path, sequence: PlusSequence, frames: NDArray | None = None) -> None:
    """Write a sequence metafile that Plus, 3D Slicer and ITK read, whole or not at all.

    Args:
        frames: (n, rows, columns), uint8 or uint16, one image for each time; None for transforms alone.

    Raises:
        CalibrationError: when images and times do not fit together.
    """
    count = len(sequence.time_s)
    if frames is not None and (frames.ndim != 3 or len(frames) != count or frames.dtype.type not in _ELEMENT_TYPES):
        raise CalibrationError(f"{path}: {count} times need as many images of 8 or 16 bit, not {frames.shape}")
    rows, columns = (0, 0) if frames is None else frames.shape[1:]
    header = [
        "ObjectType = Image",
        "NDims = 3",
        "AnatomicalOrientation = RAI",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CenterOfRotation = 0 0 0",
        "CompressedData = False",
        f"DimSize = {columns} {rows} {count}",
        "Kinds = domain domain list",
        "ElementSpacing = 1 1 1",
        f"ElementType = {'MET_OTHER' if frames is None else _ELEMENT_TYPES[frames.dtype.type]}",
        "Offset = 0 0 0",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        f"UltrasoundImageOrientation = {'XX' if frames is None else 'MF'}",
        f"UltrasoundImageType = {'XX' if frames is None else 'BRIGHTNESS'}",
    ]
    for number in range(count):
        field = f"Seq_Frame{number:04d}"
        header.append(f"{field}_FrameNumber = {number}")
        for name, matrices in sequence.transforms.items():
            valid = bool(np.isfinite(matrices[number]).all())
            pose = matrices[number] if valid else np.eye(4)
            header.append(f"{field}_{name}{_SUFFIX} = {' '.join(f'{value:.9g}' for value in pose.ravel())}")
            header.append(f"{field}_{name}{_SUFFIX}Status = {'OK' if valid else 'INVALID'}")
        header.append(f"{field}_Timestamp = {sequence.time_s[number]:.6f}")
        header.append(f"{field}_UnfilteredTimestamp = {sequence.time_s[number]:.6f}")
        header.append(f"{field}_ImageStatus = {'INVALID' if frames is None else 'OK'}")
    header.append("ElementDataFile = LOCAL\n")
    with atomic_file(Path(path)) as draft, draft.open("wb") as file:
        file.write("\n".join(header).encode())
        if frames is not None:
            file.write(np.ascontiguousarray(frames, frames.dtype.newbyteorder("<")).data)


def _pose(frame: dict[str, str], name: str, path: Path) -> FloatArray:
    text, status = frame.get(name + _SUFFIX), frame.get(f"{name}{_SUFFIX}Status", "")
    if text is None or status.strip().upper() != "OK":
        return np.full((4, 4), np.nan)
    numbers = [_number(part) for part in text.split()]
    if len(numbers) != 16:
        raise CalibrationError(
            f"{path}: a {name} transform has {len(numbers)} numbers instead of 16; is the file whole?"
        )
    return np.reshape(numbers, (4, 4))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _relative(ReferenceToBase: FloatArray, ToolToBase: FloatArray) -> FloatArray:
    """ToolToReference (n, 4, 4) of rigid poses; NaN stays NaN."""
    rotation = ReferenceToBase[:, :3, :3].transpose(0, 2, 1)
    poses = np.zeros_like(ToolToBase)
    poses[:, :3, :3] = rotation @ ToolToBase[:, :3, :3]
    poses[:, :3, 3] = np.einsum("nij,nj->ni", rotation, ToolToBase[:, :3, 3] - ReferenceToBase[:, :3, 3])
    poses[:, 3, 3] = 1
    return poses
