"""A recorded fluoroscopy run: a folder with `frames.mha` and `recording.json`, and its replay through the monitor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..documents import read_document, write_document
from ..errors import DocumentError, ImageError
from ..files import staged_directory
from ..geometry import FloatArray
from ..image import read_itk, write_itk
from ..xray.geometry import XrayGeometry
from .monitor import Frame, MonitorReading, SpreadEvent, SpreadMonitor
from .reference import FEWEST_REFERENCE_FRAMES

FRAMES, RECORD = "frames.mha", "recording.json"

#: Reference frames taken where the recording does not say when the pump began.
_USUAL_REFERENCE_FRAMES = 8


@dataclass(frozen=True)
class Recording:
    """One view.

    Attributes:
        frames: (n, rows, columns) uint16.
        time_s: (n,), rising.
        geometries: one for all frames, or one each.
        pump_volume_ml: (n,) given until each frame; None when not recorded.
        air_level: signal of the unattenuated beam; None when not known.
    """

    frames: NDArray[np.uint16]
    time_s: FloatArray
    frame_rate_hz: float
    geometries: tuple[XrayGeometry, ...]
    pump_volume_ml: FloatArray | None = None
    air_level: float | None = None

    def frame(self, number: int) -> Frame:
        """One frame as the monitor takes it."""
        geometry = self.geometries[number if len(self.geometries) > 1 else 0]
        return Frame(self.frames[number], float(self.time_s[number]), geometry)

    @property
    def reference_frames(self) -> int:
        """Leading frames without cement: those before the pump gave anything."""
        if self.pump_volume_ml is None:
            return min(_USUAL_REFERENCE_FRAMES, len(self.frames))
        flowing = np.flatnonzero(self.pump_volume_ml > 0)
        return int(flowing[0]) if flowing.size else len(self.frames)


def write_recording(recording: Recording, folder: Path) -> None:
    """Write one view, whole or not at all.

    Raises:
        DocumentError: for times or volumes that do not fit the frames.
    """
    import SimpleITK as sitk

    _check(recording, str(folder))
    geometries = [geometry.to_dict() for geometry in recording.geometries]
    content: dict[str, Any] = {
        "frame_rate_hz": recording.frame_rate_hz,
        "time_s": recording.time_s,
        "geometry": geometries[0] if len(geometries) == 1 else geometries,
        "pump_volume_ml": recording.pump_volume_ml,
        "air_level": recording.air_level,
    }
    spacing = recording.geometries[0].pixel_spacing_mm
    with staged_directory(Path(folder)) as stage:
        image = sitk.GetImageFromArray(recording.frames)
        image.SetSpacing([*spacing, 1.0])
        write_itk(image, stage / FRAMES)
        write_document(stage / RECORD, "recording", {key: value for key, value in content.items() if value is not None})


def read_recording(folder: Path) -> Recording:
    """Read one view.

    Raises:
        DocumentError, ImageError, GeometryError: saying what is wrong with the folder.
    """
    import SimpleITK as sitk

    folder = Path(folder)
    record = read_document(folder / RECORD, "recording")
    frames = sitk.GetArrayFromImage(read_itk(folder / FRAMES))
    if frames.ndim != 3 or frames.dtype != np.uint16:
        raise ImageError(f"{folder / FRAMES} must hold columns x rows x frames of 16-bit unsigned numbers")
    given = record["geometry"]
    volume = record.get("pump_volume_ml")
    recording = Recording(
        frames=frames,
        time_s=np.asarray(record["time_s"], float),
        frame_rate_hz=float(record["frame_rate_hz"]),
        geometries=tuple(XrayGeometry.from_dict(one) for one in (given if isinstance(given, list) else [given])),
        pump_volume_ml=None if volume is None else np.asarray(volume, float),
        air_level=record.get("air_level"),
    )
    _check(recording, str(folder))
    return recording


def find_views(folder: Path) -> dict[str, Path]:
    """The views of a recording: the folder itself, or its subfolders that are recordings.

    Raises:
        DocumentError: when there is none or more than two.
    """
    folder = Path(folder)
    if (folder / RECORD).exists():
        return {folder.name: folder}
    if not folder.is_dir():
        raise DocumentError(f"{folder} is no folder; give the folder of a recording")
    views = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{RECORD}"))}
    if not 1 <= len(views) <= 2:
        raise DocumentError(
            f"{folder} holds {len(views)} recorded views; a recording has {RECORD} and {FRAMES} in the folder itself, "
            "or in one or two subfolders"
        )
    return views


def replay(
    monitor: SpreadMonitor,
    recordings: dict[str, Recording],
    reference_frames: int | None = None,
    progress: Callable[[float], None] | None = None,
    look: Callable[[MonitorReading], None] | None = None,
) -> list[MonitorReading]:
    """Readings of a monitor that sees the frames in the order of their times.

    Args:
        reference_frames: leading frames of each view that show no cement; by default those before the pump began.
        look: called with each reading while the monitor still has its frames.

    Raises:
        ImageError: when there are too few of them.
    """
    arrivals: list[tuple[float, str, int]] = []
    for view, recording in recordings.items():
        count = recording.reference_frames if reference_frames is None else reference_frames
        if not FEWEST_REFERENCE_FRAMES <= count < len(recording.frames):
            raise ImageError(
                f"view {view} has {count} of {len(recording.frames)} frames before the injection; the monitor needs at "
                f"least {FEWEST_REFERENCE_FRAMES} before and one after (see --reference-frames)"
            )
        monitor.set_reference(view, [recording.frame(number) for number in range(count)])
        arrivals += [(float(recording.time_s[number]), view, number) for number in range(count, len(recording.frames))]
    arrivals.sort(key=lambda arrival: arrival[0])
    # Both planes of a biplane unit fire within one period: judge them together.
    together_s = 0.5 / max(recording.frame_rate_hz for recording in recordings.values())
    readings: list[MonitorReading] = []
    while arrivals:
        start_s = arrivals[0][0]
        batch: dict[str, Frame] = {}
        while arrivals and arrivals[0][0] - start_s < together_s and arrivals[0][1] not in batch:
            _, view, number = arrivals.pop(0)
            batch[view] = recordings[view].frame(number)
            pump = recordings[view].pump_volume_ml
            pump_ml = None if pump is None else float(pump[number])
        readings.append(monitor.update(batch, max(frame.time_s for frame in batch.values()), pump_ml))
        if look is not None:
            look(readings[-1])
        if progress is not None:
            progress(1 - len(arrivals) / max(len(arrivals) + len(readings), 1))
    return readings


def events_content(readings: list[MonitorReading], views: dict[str, str]) -> dict[str, Any]:
    """The content of an events document. Numbers that are not known become null."""
    return {
        "coordinateSystem": "RAS",
        "views": views,
        "frames": [
            {
                "time_s": reading.time_s,
                "volume_ml": _number(reading.volume_ml),
                "volume_ml_sd": _number(reading.volume_ml_sd),
                "concentricity": _number(reading.concentricity),
                "health": reading.health,
            }
            for reading in readings
        ],
        "events": [_event(event) for reading in readings for event in reading.events],
    }


def _event(event: SpreadEvent) -> dict[str, Any]:
    return {
        "time_s": event.time_s,
        "level": event.level,
        "route": event.route,
        "position_ras": None if event.position_ras is None else event.position_ras.tolist(),
        "stop": event.stop,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _check(recording: Recording, where: str) -> None:
    count, rows, columns = recording.frames.shape
    if recording.time_s.shape != (count,) or not (np.diff(recording.time_s) > 0).all():
        raise DocumentError(f"{where}: time_s must hold {count} rising times, one for each frame")
    if len(recording.geometries) not in (1, count):
        raise DocumentError(f"{where}: give one geometry, or {count}, one for each frame")
    if recording.pump_volume_ml is not None and recording.pump_volume_ml.shape != (count,):
        raise DocumentError(f"{where}: pump_volume_ml must hold {count} numbers, one for each frame")
    for geometry in recording.geometries:
        if geometry.detector_pixels != (columns, rows):
            raise DocumentError(
                f"{where}: frames of {columns} x {rows} pixels do not fit the geometry's "
                f"{geometry.detector_pixels[0]} x {geometry.detector_pixels[1]}"
            )
