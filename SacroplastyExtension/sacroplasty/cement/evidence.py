"""What the monitor saw when it told of a leak: in each view the cement's outline, the place, and what is threatened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..image import Volume, write_itk
from ..xray.geometry import XrayGeometry
from ..xray.overlay import Outline, outline, surface_of
from .monitor import SpreadEvent, SpreadMonitor
from .picture import LEAK_COLOR, RGB, TIP_COLOR, Lines, Shot, lines_of, paint, place_mark, shot_of, tip_mark
from .zones import Zones

#: Of the routes these have a shape of their own; the others are all that lies on one side of the bone.
_SHAPED = ("foramen_", "sacral_canal", "si_joint_")

#: Where cement belongs.
_PLANNED_COLOR = (120, 220, 120)


def evidence_of(monitor: SpreadMonitor, event: SpreadEvent) -> dict[str, RGB]:
    """Pictures (rows, columns, 3) of the last frames, by view; views without a frame that can be used are left out."""
    return {view: picture_of(monitor, event, shot) for view, shot in shots_of(monitor).items()}


def shots_of(monitor: SpreadMonitor) -> dict[str, Shot]:
    """What each view shows now. Quick, so that the pictures can be drawn later."""
    shots = {}
    for view in monitor.views:
        background, seen = monitor.seen(view)
        frame = monitor.last_frame(view)
        if frame is not None and seen is not None:
            geometry = None if frame.geometry is None else background.full_geometry
            per_mm = monitor.settings.cement_per_mm
            shots[view] = shot_of(frame.pixels, frame.time_s, geometry, background, seen, per_mm)
    return shots


def picture_of(monitor: SpreadMonitor, event: SpreadEvent, shot: Shot) -> RGB:
    """A shot (rows, columns, 3) with what the event is about; the cement alone where the pose is not known.

    White is the cement's outline, green the planned ala, blue the tip, the red ring the place; what the route is named
    after has its own color.
    """
    return paint(shot, [] if shot.geometry is None else _lines(monitor, event, shot.geometry))


def write_pictures(pictures: Mapping[str, RGB], folder: Path, stem: str) -> list[Path]:
    """Write each view's picture as PNG, `STEM-VIEW.png`, whole or not at all; returns the files.

    Raises:
        ImageError, OSError: when one cannot be written.
    """
    import SimpleITK as sitk

    paths = []
    for view, picture in pictures.items():
        paths.append(folder / f"{stem}-{view}.png")
        write_itk(sitk.GetImageFromArray(picture, isVector=True), paths[-1])
    return paths


def _lines(monitor: SpreadMonitor, event: SpreadEvent, geometry: XrayGeometry) -> list[Lines]:
    lines = []
    if monitor.zones is not None:
        lines.append(lines_of([_zone(monitor.zones, "planned", geometry)], geometry, _PLANNED_COLOR))
        if event.route.startswith(_SHAPED) and event.route in monitor.zones.names:
            lines.append(lines_of([_zone(monitor.zones, event.route, geometry)], geometry))
    if monitor.tip_ras is not None:
        lines.append(lines_of([tip_mark(monitor.tip_ras, geometry)], geometry, TIP_COLOR))
    if event.position_ras is not None:
        lines.append(lines_of([place_mark(event.position_ras, geometry)], geometry, LEAK_COLOR))
    return lines


def _zone(zones: Zones, name: str, geometry: XrayGeometry) -> Outline:
    mask: Volume = zones.labels.like(zones.mask(name).astype(np.uint8))
    return outline(surface_of(name, mask), geometry)
