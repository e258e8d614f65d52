"""How long the monitor page takes for new frames of two views, beside what Slicer takes to show them as plain volumes.

Run: python Testing/benchmarks/monitor_page.py [--refreshes N]     (default 40; some minutes)
The page is the real module on the desktop harness (Qt off-screen) over simulated views in which cement grows; time is
turned by hand. A refresh is everything that the page does for one new frame of each view: small grey pictures,
subtraction, first-seen times, outlines, dials, figures, curves, and painting. The peer, in the same run and on the same
frames: `slicer.util.updateVolumeFromArray` on two volumes, without rendering them. At 7.5 frames/s there are 133 ms.
What counts is the time of the processor, so that other programs on the machine do not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest

from desktop.harness.desktop import Desktop
from desktop.monitored_room import MonitoredRoom
from sacroplasty.scene.host import HeadlessHost
from sacroplasty.scene.monitor_page import MonitorPage

PERIOD_MS = 1000 / 7.5


class Stopwatch:
    """Adds up the time of some calls; `lap` ends one refresh."""

    def __init__(self) -> None:
        self.laps_ms: list[float] = []
        self._now_ms = 0.0

    def around(self, work: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            begun = time.process_time()
            try:
                return work(*arguments)
            finally:
                self._now_ms += 1000 * (time.process_time() - begun)

        return timed

    def lap(self) -> None:
        self.laps_ms.append(self._now_ms)
        self._now_ms = 0.0


def measure(desktop: Desktop, patch: pytest.MonkeyPatch, pixels: int, screen: bool, refreshes: int) -> None:
    import slicer.util

    import slicer

    desktop.clear()
    with tempfile.TemporaryDirectory() as folder:
        room = MonitoredRoom(desktop, patch, Path(folder), pixels)
        room.injecting(2.0)
        if screen:
            room.ui.screenButton.click()
        page, peer, watched = Stopwatch(), Stopwatch(), Stopwatch()
        patch.setattr(MonitorPage, "follow", page.around(MonitorPage.follow))
        patch.setattr(room.desk.watch, "tick", watched.around(room.desk.watch.tick))
        volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode") for _ in range(2)]
        for _ in range(refreshes):
            # Two turns, in each of which the monitor looks at one of the two new frames.
            for _ in range(2):
                room.now_s += 0.1
                room.line.advance(room.now_s)
                room.pump.poll(room.now_s)
                room.ui.injectButton.down = True
                room.logic.tick(room.now_s)
            page.around(room.widget.showReadout)()
            frames = room.views.newest()
            for volume, pixels_of in zip(volumes, frames, strict=True):
                peer.around(slicer.util.updateVolumeFromArray)(volume, pixels_of[None])
            for watch in (page, peer, watched):
                watch.lap()
        patch.undo()
        shown = "panel and large screen" if screen else "panel"
        medians = [float(np.median(watch.laps_ms)) for watch in (page, peer, watched)]
        worst = float(np.percentile(page.laps_ms, 99))
        print(
            f"{pixels:5d} {shown:22s} {medians[0]:8.1f} {worst:8.1f} {100 * medians[0] / PERIOD_MS:8.0f} % "
            f"{medians[1]:8.1f} {medians[0] / medians[1]:8.1f} {medians[2]:10.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refreshes", type=int, default=40)
    refreshes = parser.parse_args().refreshes
    desktop = Desktop(HeadlessHost())
    desktop.set_up()
    print("pixels shown on               page, ms  99 %  of a period  volumes, ms  ratio  the monitor itself, ms")
    for pixels in (512, 1024):
        for screen in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                measure(desktop, patch, pixels, screen, refreshes)
    desktop.tear_down()


if __name__ == "__main__":
    main()
