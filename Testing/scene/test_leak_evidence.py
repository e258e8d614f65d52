"""A leak under two live views: its pictures, and the cement in three dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from monitored_case import FORAMEN, PERIOD_S, TIP, LiveViews, show_case
from sacroplasty.cement.interlock import Limits
from sacroplasty.scene.cement_estimate import LiveEstimate
from sacroplasty.scene.fluoroscopy import report_pictures
from sacroplasty.scene.leak_evidence import LeakEvidence
from sacroplasty.scene.nodes import first_node
from sacroplasty.scene.spread_watch import SpreadWatch


class Devices:
    """A desk of devices whose fluoroscope shows what `live` says at `now_s`."""

    def __init__(self, live):
        self.live, self.now_s = live, 0.0
        self.fluoroscope = live.fluoroscope

    def take_frames(self):
        return self.live.frames(self.now_s)


@pytest.fixture
def room(scene):
    show_case(scene)
    devices = Devices(LiveViews(pixels=128))
    watch = SpreadWatch(scene, devices, Limits(frame_period_s=PERIOD_S))
    watch.learn("left")
    evidence, estimate = LeakEvidence(scene, 0.0, 1000.0), LiveEstimate(scene)

    def turns(count, given_ml, folder=None):
        files = []
        for _ in range(count):
            devices.now_s += PERIOD_S / 2
            watch.tick(devices.now_s, given_ml)
            files.append(evidence.follow(watch, folder))
            estimate.tick(watch.monitor, "left", given_ml, devices.now_s)
        return [path for path in files if path is not None]

    return devices.live, watch, turns


def test_a_leak_leaves_a_picture_of_each_view_in_report_and_folder_once(scene, room, tmp_path):
    live, watch, turns = room
    turns(45, 0.0)
    live.cement = [(TIP, 1.0)]
    assert turns(4, 1.0, tmp_path) == [] and report_pictures(scene) == []
    live.cement.append((FORAMEN, 0.3))
    files = turns(10, 1.3, tmp_path)
    assert watch.reading.leak
    assert len(files) == 2 and all(path.parent == tmp_path and path.read_bytes()[1:4] == b"PNG" for path in files)
    captions = [caption for caption, _ in report_pictures(scene)]
    assert len(captions) == 2 and all(caption.endswith("Foramen S1 left") for caption in captions)
    # The leak goes on to be there; it was told once.
    assert turns(6, 1.3, tmp_path) == []


def test_the_cement_is_shown_where_it_is(scene, room):
    live, _, turns = room
    turns(45, 0.0)
    live.cement = [(TIP, 0.7)]
    turns(6, 0.7)
    live.cement = [(TIP, 2.0)]
    turns(12, 2.0)
    surface = first_node(scene, "vtkMRMLModelNode", "Cement seen left").GetPolyData()
    bounds = np.array(surface.GetBounds()).reshape(3, 2)
    assert np.linalg.norm(bounds.mean(axis=1) - TIP) < 2.0
    # 2 mL of dense cement are a sphere of 7.8 mm; in bone they would take 8.3 mm.
    assert np.all(np.abs((bounds[:, 1] - bounds[:, 0]) / 2 - 8.0) < 2.0)
