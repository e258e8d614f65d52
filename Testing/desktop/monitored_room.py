"""The cement monitor's page over live views whose spread is really watched, for tests and the benchmark."""

from __future__ import annotations

import numpy as np

from desktop.test_cement_injection import NAME, Room
from monitored_case import FORAMEN, TIP, LiveViews, show_case

__all__ = ["NAME", "MonitoredRoom"]


class MonitoredRoom(Room):
    """The module over views of a sacrum; the spread is really watched, and cement flows as the pump gives it."""

    def __init__(self, desktop, monkeypatch, folder, pixels=256):
        self.views = LiveViews(pixels)
        self.leak_ml = 0.0
        super().__init__(desktop, monkeypatch, folder)
        self.fluoroscope = self.views.fluoroscope
        self.ui.pageTabWidget.currentIndex = 1
        self.panel = self.widget._readouts[0].parts

    def show_case(self, scene):
        show_case(scene)

    def begin_watch(self):
        pass

    def take_frames(self):
        given_ml = self.machine.syringe.out_ml
        self.views.cement = [(TIP, given_ml)] * (given_ml > 0) + [(FORAMEN, self.leak_ml)] * (self.leak_ml > 0)
        return self.views.frames(self.now_s)

    def learned(self):
        self.ui.referenceButton.click()
        # A breath, and a little more.
        self.wait(4.6)
        assert self.ui.referenceLabel.text.startswith("✔"), self.ui.referenceLabel.text
        return self

    def injecting(self, seconds=3.0):
        """Views learned, and cement flows faster than anybody would let it."""
        self.ui.rateSpinBox.value, self.ui.stepSpinBox.value = 0.2, 2.0
        self.ui.techniqueButton.click()
        self.wait(0.3)
        self.learned()
        self.armed()
        self.wait(seconds, held=True)
        assert self.machine.state == "running", self.logic.readout().reason
        return self

    def pixels(self, number=0):
        """What the picture of a view shows (rows, columns, RGB)."""
        from PySide6.QtGui import QImage

        image = getattr(self.panel, f"picture{number}Label").pixmap.toImage().convertToFormat(QImage.Format_RGB32)
        return np.array(image.constBits()).reshape(image.height(), image.width(), 4)[..., 2::-1]
