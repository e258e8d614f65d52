"""`sacroplasty monitor`: a recorded injection through the spread monitor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import OUTPUT_FILE, json_option, progress, report

if TYPE_CHECKING:
    from ..cement.recording import Recording
    from ..cement.unplaced_view import PictureMarks
    from ..planning.model import Trajectory


@click.command("monitor")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--anatomy", "anatomy_folder", metavar="DIR", type=click.Path(path_type=Path), help="Of `segment`.")
@click.option("--plan", "plan_path", type=click.Path(path_type=Path), help="Plan document; tells the tip.")
@click.option(
    "--ct",
    "ct_path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Of the patient; tells whether a view is too dark to show cement.",
)
@click.option("--side", type=click.Choice(["left", "right"]), help="Of the injection, when the plan has both.")
@click.option("--reference-frames", type=int, help="Leading frames without cement.  [default: before the pump began]")
@click.option("--tip-pixel", type=float, nargs=2, metavar="COLUMN ROW", help="Of the tip, where no geometry is known.")
@click.option("--pixel-mm", type=float, help="Size of a pixel in the patient, where no geometry is known.")
@click.option("--distortion", "distortion_path", type=click.Path(path_type=Path), help="Of `distortion`: taken out.")
@click.option("--out", type=OUTPUT_FILE, help="Events document.  [default: RECORDING/events.json]")
@json_option
def command(
    recording: Path,
    anatomy_folder: Path | None,
    plan_path: Path | None,
    ct_path: Path | None,
    side: str | None,
    reference_frames: int | None,
    tip_pixel: tuple[float, float] | None,
    pixel_mm: float | None,
    distortion_path: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Replay RECORDING through the spread monitor: a folder of one view or with a subfolder for each of two, or DICOM.

    Leaks are judged only with both --anatomy and --plan and with the C-arm's geometry; the volume needs neither. With
    --ct and --plan a view that is too dark to show cement is refused, as before an injection; leave --ct out to replay
    it all the same. DICOM holds no such geometry: mark the tip with --tip-pixel, and give --pixel-mm for a volume.
    Pictures of the first leak are written beside the events document.
    """
    from dataclasses import replace

    import numpy as np

    from ..anatomy.files import read_anatomy
    from ..cement.cannula import planned_cannula
    from ..cement.evidence import evidence_of, write_pictures
    from ..cement.monitor import MonitorReading, MonitorSettings, SpreadMonitor
    from ..cement.picture import RGB
    from ..cement.recording import events_content, find_views, read_recording, replay
    from ..cement.zones import make_zones
    from ..documents import write_document
    from ..errors import AnatomyError
    from ..image import read_ct
    from ..planning.files import read_plan
    from ..xray.project import ProjectableVolume, attenuation_from_hu

    folders = find_views(recording)
    recordings = {view: read_recording(folder) for view, folder in folders.items()}
    if tip_pixel is not None or pixel_mm is not None:
        recordings = {
            view: replace(one, marks=_marks(recordings, tip_pixel, pixel_mm)) for view, one in recordings.items()
        }
    if distortion_path is not None:
        recordings = {view: _undistorted(one, distortion_path) for view, one in recordings.items()}
    anatomy = None if anatomy_folder is None else read_anatomy(anatomy_folder)
    image_hash = None if anatomy is None else anatomy.image_hash
    attenuation = None
    if ct_path is not None:
        ct = read_ct(ct_path)
        attenuation = ProjectableVolume.of(ct.like(attenuation_from_hu(ct.voxels)))
        if image_hash not in (None, ct.content_hash()):
            raise AnatomyError(f"{anatomy_folder} was segmented in another CT than {ct_path}; give that one")
        image_hash = ct.content_hash()
    planned = None
    if plan_path is not None:
        planned = _planned(read_plan(plan_path, image_hash).trajectories, side, plan_path)
    tip = None if planned is None else planned.target
    cannula = None if planned is None else planned_cannula(planned)
    zones = None
    if anatomy is not None and planned is not None:
        zones = make_zones(anatomy, planned.target, (planned.side,), technique=planned.technique, cannula=cannula)
    slowest_hz = min(one.frame_rate_hz for one in recordings.values())
    monitor = SpreadMonitor(zones, tip, MonitorSettings(frame_period_s=1 / slowest_hz), cannula, attenuation)
    evidence: dict[str, RGB] = {}

    def look(reading: MonitorReading) -> None:
        leak = next((event for event in reading.events if event.level == "leak"), None)
        if leak is not None and not evidence:
            evidence.update(evidence_of(monitor, leak))

    with progress("Watching the spread") as update:
        readings = replay(monitor, recordings, reference_frames, update, look)

    path = out or (recording if recording.is_dir() else recording.parent) / "events.json"
    pictures = write_pictures(evidence, path.parent, f"{path.stem}-leak")
    notes = sorted({f"{view}: {note}" for view, one in recordings.items() for note in one.notes})
    sources = {view: str(folder) for view, folder in folders.items()}
    write_document(path, "events", events_content(readings, sources, monitor.cannot_tell, notes))
    events = [event for reading in readings for event in reading.events]
    seen = [reading for reading in readings if np.isfinite(reading.volume_ml)]
    stops = [event for event in events if event.stop]
    summary = {
        "out": str(path),
        "frames": len(readings),
        "blind_frames": len(readings) - len(seen),
        "volume_ml": seen[-1].volume_ml if seen else None,
        "volume_ml_sd": seen[-1].volume_ml_sd if seen else None,
        "leaks_judged": monitor.judges_leaks,
        "smallest_ml": {view: seen.smallest_ml for view, seen in monitor.visibility.items()},
        "cannot_tell": list(monitor.cannot_tell),
        "notes": notes,
        "events": len(events),
        "pictures": [str(picture) for picture in pictures],
        "first_stop": None
        if not stops
        else {"time_s": stops[0].time_s, "level": stops[0].level, "route": stops[0].route},
    }
    lines = [f"{len(readings)} frames, {summary['blind_frames']} of them blind"]
    lines += [
        f"view {view} would show {one.smallest_ml:.2f} mL of cement at the tip"
        for view, one in monitor.visibility.items()
    ]
    if seen:
        lines.append(f"cement at the end: {seen[-1].volume_ml:.2f} mL (sd {seen[-1].volume_ml_sd:.2f})")
    lines += [*notes, *(f"not known: {what}" for what in monitor.cannot_tell)]
    if not monitor.judges_leaks:
        lines.append("leaks were not judged: that needs --anatomy, --plan and the C-arm's geometry")
    lines += [f"{event.time_s:8.2f} s  {event.level}: {event.route}" for event in events]
    report(as_json, summary, "\n".join([*lines, *(f"Written to {one}" for one in (path, *pictures))]))


def _undistorted(recording: Recording, path: Path) -> Recording:
    """The recording as the intensifier would show it without its distortion. Marks are of its pictures as they are."""
    from dataclasses import replace

    import numpy as np

    from ..xray.distortion import Undistorter, read_distortion

    undistorter = Undistorter(read_distortion(path))
    note = f"distortion is taken out, as calibrated in {path}"
    frames = np.stack([undistorter(frame) for frame in recording.frames])
    return replace(recording, frames=frames, notes=(*recording.notes, note))


def _planned(trajectories: tuple[Trajectory, ...], side: str | None, path: Path) -> Trajectory:
    """The best accepted trajectory of the side."""
    from ..errors import PlanError

    accepted = [item for item in trajectories if item.accepted and side in (None, item.side)]
    if not accepted:
        raise PlanError(f"{path} has no accepted trajectory{f' on the {side}' if side else ''}")
    if side is None and len({item.side for item in accepted}) > 1:
        raise PlanError(f"{path} plans both sides; say which one the recording shows with --side")
    return accepted[0]


def _marks(
    recordings: dict[str, Recording], tip_pixel: tuple[float, float] | None, pixel_mm: float | None
) -> PictureMarks:
    from ..cement.unplaced_view import PictureMarks
    from ..errors import ImageError

    if len(recordings) > 1 or any(one.geometries for one in recordings.values()):
        raise ImageError("--tip-pixel and --pixel-mm are for one view without geometry; this recording knows more")
    return PictureMarks(tip_pixel, pixel_mm)
