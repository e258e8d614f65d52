"""Tracker recordings in the sequence metafiles of the Plus toolkit (.igs.mha, .mha)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import CalibrationError
from ..geometry import FloatArray

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
