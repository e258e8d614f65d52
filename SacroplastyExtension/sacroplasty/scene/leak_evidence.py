"""Pictures of a leak as it was told, for the report and beside the journal."""

from __future__ import annotations

import time
from pathlib import Path

from slicer import vtkMRMLScene

from ..cement.evidence import picture_of, shots_of, write_pictures
from ..cement.monitor import MonitorReading, SpreadEvent, SpreadMonitor
from ..cement.picture import Shot
from .anatomy import readable
from .fluoroscopy import keep_for_report
from .spread_watch import SpreadWatch


class LeakEvidence:
    """Keeps what every view showed when the watch told of a leak, and draws it afterwards.

    Drawing takes a good part of the pump's heartbeat: one picture a turn, after the stop has gone out.
    """

    def __init__(self, scene: vtkMRMLScene, now_s: float, unix_s: float) -> None:
        self._scene = scene
        self._unix_at_zero_s = unix_s - now_s
        self._reading: MonitorReading | None = None
        self._waiting: list[tuple[SpreadMonitor, SpreadEvent, int, Shot]] = []

    def follow(self, watch: SpreadWatch, folder: Path | None) -> Path | None:
        """To be called after each turn of the watch, when the pump has its orders.

        Args:
            folder: where a picture's file goes as well; None for no files.

        Returns:
            A file that was written at this turn.

        Raises:
            ImageError, OSError: when it could not be written; the report has the picture all the same.
        """
        reading, monitor = watch.reading, watch.monitor
        if reading is not None and reading is not self._reading and monitor is not None:
            leak = next((event for event in reading.events if event.level == "leak"), None)
            if leak is not None:
                shots = shots_of(monitor)
                views = {view: number for number, view in enumerate(monitor.views, start=1)}
                self._waiting += [(monitor, leak, views[view], shot) for view, shot in shots.items()]
                self._reading = reading
                return None
        self._reading = reading
        return self._draw(*self._waiting.pop(0), folder) if self._waiting else None

    def _draw(
        self, monitor: SpreadMonitor, leak: SpreadEvent, number: int, shot: Shot, folder: Path | None
    ) -> Path | None:
        picture = picture_of(monitor, leak, shot)
        local = time.localtime(leak.time_s + self._unix_at_zero_s)
        title = f"Leak at {time.strftime('%H:%M:%S', local)}, view {number}"
        keep_for_report(self._scene, title, f"{title}: {readable(leak.route)}", picture)
        if folder is None:
            return None
        (path,) = write_pictures({f"view{number}": picture}, folder, time.strftime("leak-%Y-%m-%d_%H%M%S", local))
        return path
