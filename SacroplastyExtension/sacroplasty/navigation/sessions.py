"""Recorded device sessions as sequences of Plus, and Plus recordings as sessions that can be replayed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..devices.fluoroscope import PLANES
from ..devices.freshness import OLDEST_POSE_S
from ..devices.messages import Image, Message, Transform
from ..devices.session_file import LINK, RECEIVED, Session, pack_entry, pack_head, session_of
from ..devices.wire import encode
from ..errors import CalibrationError
from ..geometry import FloatArray
from .plus_sequence import PlusSequence, read_sequence, write_sequence


def tracker_sequence(session: Session) -> PlusSequence:
    """All poses of a session, one frame for each time stamp of the tracker.

    Raises:
        CalibrationError: when nothing was tracked.
    """
    frames: dict[float, dict[str, FloatArray]] = {}
    for time_s, message in _messages(session):
        if isinstance(message, Transform):
            stamp_s = message.timestamp_s or session.started_unix_s + time_s
            frame, pose = frames.setdefault(round(stamp_s, 6), {}), _usable(message)
            if not np.array_equal(frame.setdefault(message.name, pose), pose, equal_nan=True):
                raise CalibrationError(
                    f"{session.name} holds two poses of {message.name} at one time: two tools have one name; "
                    "rename one of them in the tracker's configuration"
                )
    names = sorted({name for frame in frames.values() for name in frame})
    if not names:
        raise CalibrationError(f"{session.name} holds no poses; was the tracker connected?")
    times = sorted(frames)
    nothing = np.full((4, 4), np.nan)
    return PlusSequence(
        np.array(times), {name: np.array([frames[stamp].get(name, nothing) for stamp in times]) for name in names}
    )


def image_sequence(session: Session, plane: str) -> tuple[PlusSequence, NDArray]:
    """The images of one plane with the poses that were valid when each of them came, and `DetectorToRAS`.

    Raises:
        CalibrationError: when the session holds no image of that plane, or images of different sizes.
    """
    poses: dict[str, tuple[float, FloatArray]] = {}
    times: list[float] = []
    images: list[NDArray] = []
    seen: list[dict[str, FloatArray]] = []
    for time_s, message in _messages(session):
        if isinstance(message, Transform):
            poses[message.name] = time_s, _usable(message)
        elif isinstance(message, Image) and message.name == plane:
            times.append(message.timestamp_s or session.started_unix_s + time_s)
            images.append(message.voxels[0])
            fresh = {name: pose for name, (since_s, pose) in poses.items() if time_s - since_s <= OLDEST_POSE_S}
            seen.append(fresh | _detector(message))
    if not images or len({image.shape for image in images}) != 1:
        raise CalibrationError(
            f"{session.name} holds no image of {plane}" if not images else f"{plane} has images of different sizes"
        )
    nothing = np.full((4, 4), np.nan)
    names = sorted({name for one in seen for name in one})
    transforms = {name: np.array([one.get(name, nothing) for one in seen]) for name in names}
    return PlusSequence(np.array(times), transforms), np.stack(images)


def write_plus(session: Session, path: Path) -> Path:
    """Write a session as a sequence metafile (`.igs.mha`): with the images of the first plane, if there are any.

    Returns:
        The path.

    Raises:
        CalibrationError: when the session holds neither poses nor images.
    """
    planes = {message.name for _, message in _messages(session) if isinstance(message, Image)}
    if PLANES[0] in planes:
        write_sequence(path, *image_sequence(session, PLANES[0]))
    else:
        write_sequence(path, tracker_sequence(session))
    return path


def session_of_plus(path: Path) -> Session:
    """A recording of Plus as the session of one link `Tracker`, with its own times and statuses.

    Raises:
        CalibrationError: for a file that holds no poses, or whose times do not rise.
    """
    sequence = read_sequence(path)
    times = sequence.time_s
    if not (np.isfinite(times).all() and (np.diff(times) >= 0).all()):
        raise CalibrationError(f"{path} has frames without a time, or times that do not rise")
    connected = json.dumps({"address": Path(path).name, "connected": True, "state": "connected"}).encode()
    parts = [pack_head(["Tracker"], float(times[0])), pack_entry(LINK, 0, 0.0, connected)]
    for number, time_s in enumerate(times):
        messages = [_message(name, matrices[number], float(time_s)) for name, matrices in sequence.transforms.items()]
        parts.append(pack_entry(RECEIVED, 0, float(time_s - times[0]), b"".join(map(encode, messages))))
    return session_of(memoryview(b"".join(parts)), Path(path).name)


def _message(name: str, matrix: FloatArray, time_s: float) -> Message:
    valid = bool(np.isfinite(matrix).all())
    metadata = {"TransformStatus": "OK" if valid else "INVALID", "TransformValid": str(valid).lower()}
    return Transform(name, matrix if valid else np.eye(4), timestamp_s=time_s, metadata=metadata)


def _messages(session: Session) -> list[tuple[float, Message]]:
    """What came over all links, by time."""
    found = [item for link in session.links for item in session.messages(link)]
    return sorted(found, key=lambda item: item[0])


def _usable(message: Transform) -> FloatArray:
    """The pose, or NaN when the sender says that it is not valid, or does not say."""
    valid = message.metadata.get("TransformValid", "true").lower() in ("true", "1")
    return message.matrix if message.metadata.get("TransformStatus") == "OK" and valid else np.full((4, 4), np.nan)


def _detector(message: Image) -> dict[str, FloatArray]:
    try:
        RASToDetector = np.array(json.loads(message.metadata["Geometry"])["RASToDetector"], float)
        return {"DetectorToRAS": np.linalg.inv(RASToDetector)}
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError):
        return {}
