"""A recorded fluoroscopy run, and its replay through the monitor: a folder with `frames.mha` and `recording.json`, or
DICOM XA and RF images as a C-arm stores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from ..xray.images import read_xray
from .frames import grey_signal
from .monitor import Frame, MonitorReading, SpreadEvent, SpreadMonitor
from .reference import FEWEST_REFERENCE_FRAMES, taken_share
from .unplaced_view import PictureMarks

FRAMES, RECORD = "frames.mha", "recording.json"

#: Reference frames taken where the recording does not say when the pump began, and is too short for a breath.
_USUAL_REFERENCE_FRAMES = 8
#: Taken where a DICOM run does not tell its times [Hz].
_USUAL_RATE_HZ = 7.5


@dataclass(frozen=True)
class Recording:
    """One view.

    Attributes:
        frames: (n, rows, columns), larger values brighter.
        time_s: (n,), rising.
        geometries: one for all frames, or one each; none when it is not known where the C-arm stood.
        pump_volume_ml: (n,) given until each frame; None when not recorded.
        air_level: signal of the unattenuated beam; None when not known.
        marks: what is known of pictures without geometry.
        notes: what the reader did or what to beware of, one line each.
    """

    frames: NDArray
    time_s: FloatArray
    frame_rate_hz: float
    geometries: tuple[XrayGeometry, ...]
    pump_volume_ml: FloatArray | None = None
    air_level: float | None = None
    marks: PictureMarks = field(default_factory=PictureMarks)
    notes: tuple[str, ...] = ()

    def frame(self, number: int) -> Frame:
        """One frame as the monitor takes it."""
        geometry = self.geometries[number % len(self.geometries)] if self.geometries else None
        return Frame(self.frames[number], float(self.time_s[number]), geometry)

    @property
    def reference_frames(self) -> int:
        """Leading frames without cement: those before the pump gave anything."""
        if self.pump_volume_ml is None:
            half = len(self.frames) // 2
            breath = (count for count in range(1, half + 1) if taken_share(list(self.time_s[:count])) == 1.0)
            return next(breath, min(_USUAL_REFERENCE_FRAMES, len(self.frames)))
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
        "geometry": (geometries[0] if len(geometries) == 1 else geometries) if geometries else None,
        "tip_pixel": recording.marks.tip_uv,
        "pixel_mm_in_patient": recording.marks.pixel_mm,
        "pump_volume_ml": recording.pump_volume_ml,
        "air_level": recording.air_level,
    }
    spacing = recording.geometries[0].pixel_spacing_mm if recording.geometries else (1.0, 1.0)
    with staged_directory(Path(folder)) as stage:
        image = sitk.GetImageFromArray(recording.frames)
        image.SetSpacing([*spacing, 1.0])
        write_itk(image, stage / FRAMES)
        write_document(stage / RECORD, "recording", {key: value for key, value in content.items() if value is not None})


def read_recording(path: Path) -> Recording:
    """Read one view: a folder with `recording.json`, a DICOM file, or a folder of DICOM files of one frame each.

    Raises:
        DocumentError, ImageError, GeometryError: saying what is wrong, and where.
    """
    path = Path(path)
    return _read_own(path) if (path / RECORD).exists() else _read_images(path)


def _read_own(folder: Path) -> Recording:
    import SimpleITK as sitk

    record = read_document(folder / RECORD, "recording")
    pixels = sitk.GetArrayFromImage(read_itk(folder / FRAMES))
    try:
        frames = np.stack([grey_signal(one) for one in pixels]) if pixels.ndim > 2 else grey_signal(pixels)[None]
    except ImageError as error:
        raise ImageError(f"{folder / FRAMES} does not hold columns x rows x frames of greys: {error}") from None
    given, volume, tip = record.get("geometry", []), record.get("pump_volume_ml"), record.get("tip_pixel")
    rate_hz = float(record["frame_rate_hz"])
    times = record.get("time_s")
    recording = Recording(
        frames=frames,
        time_s=np.arange(len(frames)) / rate_hz if times is None else np.asarray(times, float),
        frame_rate_hz=rate_hz,
        geometries=tuple(XrayGeometry.from_dict(one) for one in (given if isinstance(given, list) else [given])),
        pump_volume_ml=None if volume is None else np.asarray(volume, float),
        air_level=record.get("air_level"),
        marks=PictureMarks(None if tip is None else (tip[0], tip[1]), record.get("pixel_mm_in_patient")),
        notes=() if times is not None else (f"no times are recorded: {rate_hz:g} frames a second are taken",),
    )
    _check(recording, str(folder))
    return recording


def _read_images(path: Path) -> Recording:
    """Frames of DICOM files; their headers do not tell where in the CT the C-arm stands."""
    files = [path] if path.is_file() else _dicom_files(path)
    if not files:
        raise DocumentError(f"{path} holds neither {RECORD} nor DICOM images; give the folder of a recording")
    images = [read_xray(file) for file in files]
    shapes = {image.frames.shape[1:] for image in images}
    if len(shapes) > 1:
        sizes = " and ".join(f"{columns} x {rows}" for rows, columns in sorted(shapes))
        raise ImageError(f"the pictures in {path} are of {sizes} pixels; a recording shows one view in one size")
    frames = np.concatenate([image.frames for image in images])
    times = np.array(images[0].frame_times_s if len(images) == 1 else [])
    notes = {note for image in images for note in image.notes}
    if len(times) != len(frames):
        times = np.arange(len(frames)) / _USUAL_RATE_HZ
        notes.add(f"no times are recorded: {_USUAL_RATE_HZ:g} frames a second are taken, in the order of the files")
    if images[0].signal in ("logarithmic", "displayed"):
        notes.add(f"beware: greys are {images[0].signal}; volumes need the pump's to be right")
    step_s = float(np.median(np.diff(times))) if len(times) > 1 else 1 / _USUAL_RATE_HZ
    recording = Recording(frames, times, 1 / step_s, (), notes=tuple(sorted(notes)))
    _check(recording, str(path))
    return recording


def _dicom_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in (".dcm", ".ima"))


def find_views(path: Path) -> dict[str, Path]:
    """The views of a recording: the folder or DICOM file itself, or the subfolders that are recordings.

    Raises:
        DocumentError: when there is none or more than two.
    """
    path = Path(path)
    if path.is_file() or (path / RECORD).exists():
        return {path.stem: path}
    if not path.is_dir():
        raise DocumentError(f"{path} is no folder; give the folder of a recording")
    if _dicom_files(path):
        return {path.name: path}
    views = {
        sub.name: sub
        for sub in sorted(path.iterdir())
        if (sub / RECORD).exists() or (sub.is_dir() and _dicom_files(sub))
    }
    if not 1 <= len(views) <= 2:
        raise DocumentError(
            f"{path} holds {len(views)} recorded views; a recording has {RECORD} and {FRAMES}, or DICOM images, in the "
            "folder itself or in one or two subfolders"
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
        monitor.set_reference(view, [recording.frame(number) for number in range(count)], recording.marks)
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


def events_content(
    readings: list[MonitorReading], views: dict[str, str], cannot_tell: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
    """The content of an events document. Numbers that are not known become null.

    Args:
        views: where each came from.
        cannot_tell: what the monitor did not know even where it saw well.
        notes: of the readers.
    """
    return {
        "coordinateSystem": "RAS",
        "views": views,
        "cannot_tell": list(cannot_tell),
        "notes": list(notes),
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
    if recording.time_s.shape != (count,):
        raise DocumentError(f"{where}: time_s must hold {count} rising times, one for each frame")
    wrong = np.flatnonzero(~(np.diff(recording.time_s) > 0))
    if wrong.size:
        before, after = recording.time_s[wrong[0] : wrong[0] + 2]
        raise DocumentError(
            f"{where}: time_s must hold rising times, but frame {wrong[0] + 2}, at {after:g} s, follows {before:g} s"
        )
    recording.marks.check((rows, columns))
    if len(recording.geometries) not in (0, 1, count):
        raise DocumentError(f"{where}: give one geometry, or {count}, one for each frame")
    if recording.pump_volume_ml is not None and recording.pump_volume_ml.shape != (count,):
        raise DocumentError(f"{where}: pump_volume_ml must hold {count} numbers, one for each frame")
    for geometry in recording.geometries:
        if geometry.detector_pixels != (columns, rows):
            raise DocumentError(
                f"{where}: frames of {columns} x {rows} pixels do not fit the geometry's "
                f"{geometry.detector_pixels[0]} x {geometry.detector_pixels[1]}"
            )
