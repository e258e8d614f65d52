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
from .pose_checks import check_roles, valid_poses

_ELEMENT_TYPES: dict[Any, str] = {np.uint8: "MET_UCHAR", np.uint16: "MET_USHORT"}
_FIELD = re.compile(r"^Seq_Frame(\d+)_(\w+?)\s*=\s*(.*?)\s*$")
_SUFFIX = "Transform"
_NAME = re.compile(r"^(.+?)To([A-Z].*)$")

#: A header line never gets longer; a file without line ends is no metafile.
_LONGEST_HEADER_BYTES = 200_000_000


@dataclass(frozen=True)
class PlusSequence:
    """Poses over time.

    Attributes:
        time_s: (n,) of each frame, by the recorder's clock.
        transforms: by name (`StylusToTracker`), matrices (n, 4, 4) in mm, NaN where the tracker did not report OK.
        without_status: transforms of which the file never says whether they were valid; their poses are all taken.
    """

    time_s: FloatArray
    transforms: dict[str, FloatArray]
    without_status: tuple[str, ...] = ()

    def poses(self, tool: str, reference: str) -> FloatArray:
        """ToolToReference (n, 4, 4), NaN where either of them was out of sight.

        Recorded directly, the other way round, or both to a common third frame (the tracker).

        Raises:
            CalibrationError: when the recording does not relate the two, saying which tools it holds, or when what it
                holds cannot be the poses of these two.
        """
        if tool == reference:
            raise CalibrationError(f"tool and reference are both {tool!r}; name two different frames")
        if f"{tool}To{reference}" in self.transforms:
            return self._seen(f"{tool}To{reference}")
        if f"{reference}To{tool}" in self.transforms:
            ReferenceToTool = self._seen(f"{reference}To{tool}")
            return _relative(ReferenceToTool, np.broadcast_to(np.eye(4), ReferenceToTool.shape))
        for name in self.transforms:
            origin, base = _frames(name)
            if origin == tool and f"{reference}To{base}" in self.transforms:
                ToolToBase, ReferenceToBase = self._seen(name), self._seen(f"{reference}To{base}")
                check_roles(ToolToBase, ReferenceToBase, tool, reference)
                return _relative(ReferenceToBase, ToolToBase)
        raise CalibrationError(f"the recording does not relate {tool!r} to {reference!r}; {self._held(tool)}")

    def _held(self, tool: str) -> str:
        bases = [_frames(name)[1] for name in self.transforms if _frames(name)[0] == tool]
        others = f"; {tool} can be had relative to {' or '.join(bases)}" if bases else ""
        return f"it holds {', '.join(sorted(self.transforms))}{others}"

    def _seen(self, name: str) -> FloatArray:
        """The poses of one transform, NaN where there is none."""
        poses = self.transforms[name].copy()
        poses[~valid_poses(poses, name)] = np.nan
        return poses


def _frames(name: str) -> tuple[str, str]:
    """The two frames of a transform's name: `ToolToTracker` goes from Tool to Tracker."""
    match = _NAME.match(name)
    return (match[1], match[2]) if match else (name, "")


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
                    _take(fields.setdefault(int(match[1]), {}), match[2], match[3], f"{path}: frame {int(match[1])}")
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}") from None
    frames = [fields[number] for number in sorted(fields)]
    names = sorted({key.removesuffix(_SUFFIX) for frame in frames for key in frame if key.endswith(_SUFFIX)})
    if not names:
        raise CalibrationError(f"{path} holds no transforms; record them with the tracker running")
    without = tuple(name for name in names if not any(f"{name}{_SUFFIX}Status" in frame for frame in frames))
    transforms = {name: np.array([_pose(frame, name, path, name in without) for frame in frames]) for name in names}
    return PlusSequence(np.array([_number(frame.get("Timestamp", "nan")) for frame in frames]), transforms, without)


def _take(frame: dict[str, str], key: str, value: str, where: str) -> None:
    """Keep one field of a frame; a field that comes twice with two values belongs to two tools.

    Raises:
        CalibrationError: then.
    """
    if frame.setdefault(key, value) != value and key.endswith(_SUFFIX):
        raise CalibrationError(
            f"{where} holds {key.removesuffix(_SUFFIX)} twice with different poses: two tools have one name; "
            "rename one of them in the tracker's configuration"
        )


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


def _pose(frame: dict[str, str], name: str, path: Path, without_status: bool) -> FloatArray:
    text = frame.get(name + _SUFFIX)
    status = "OK" if without_status else frame.get(f"{name}{_SUFFIX}Status", "")
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
