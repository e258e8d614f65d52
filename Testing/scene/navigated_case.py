"""A registered patient with a calibrated stylus and trocar, whose poses are written into transform nodes."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from sacroplasty.geometry import invert_rigid, rigid, rotation_about, rotation_between, transform_points
from sacroplasty.scene import calibration, navigation, nodes, planning
from scene.simple_case import make_ct, make_plan

NOW = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
TIP, DIVOT = np.array([2.0, -1.0, 140.0]), np.array([5.0, 6, 7])
LANDMARKS = {
    "promontory": [0.0, 0, 40],
    "psis_left": [-45.0, -35, -5],
    "psis_right": [45.0, -35, -5],
    "crest": [0.0, -45, -10],
    "hiatus": [3.0, -30, -70],
}
ReferenceToRAS = rigid(rotation_about([1, 2, 3], 40), [100, -50, 20])


def pivot(collector, tilt_deg=35.0, roll_deg=2.0):
    """Turn a tool about its tip, which rests in the divot."""
    rng = np.random.default_rng(1)
    for turn in range(150):
        axis = [np.cos(0.1 * turn), np.sin(0.1 * turn), 0.0]
        rotation = rotation_about(axis, tilt_deg) @ rotation_about([0, 0, 1], roll_deg * turn)
        place = DIVOT - rotation @ TIP + rng.normal(0, 0.03, 3)
        nodes.set_transform(collector.tool, rigid(rotation, place))
        collector.collect()


def calibrated(scene, name):
    """A tool of the scene with its tip under it."""
    tool = nodes.add_transform(scene, np.eye(4), f"{name}ToReference")
    collector = calibration.PoseCollector(tool)
    pivot(collector)
    calibration.calibrate(scene, collector, NOW)
    return tool


def put_tip_at(tool, point_ras):
    """Hold a tool upright with its tip at a point of the patient."""
    in_reference = transform_points(invert_rigid(ReferenceToRAS), point_ras)
    nodes.set_transform(tool, rigid(np.eye(3), in_reference - TIP))


def touch_all(scene, stylus, landmarks=LANDMARKS):
    watch = calibration.PoseWatch(stylus, lambda: 0.0)
    for name, point in landmarks.items():
        put_tip_at(stylus, point)
        navigation.touch(scene, name, watch, NOW)
    watch.close()


class NavigatedCase:
    """`now_s` is the clock; `hold` moves the trocar as a tracker would, with a little noise."""

    def __init__(self, scene):
        self.scene, self.now_s, self.rng = scene, 10.0, np.random.default_rng(3)
        self.ct = nodes.add_volume(scene, make_ct(), "CT")
        planning.show_plan(scene, make_plan(make_ct()))
        self.trajectory = planning.plan_of(scene).trajectories[0]
        self.line = planning.trajectory_rows(scene)[0].line
        self.stylus, self.trocar = calibrated(scene, "Stylus"), calibrated(scene, "Trocar")
        self.landmarks = nodes.add_points(scene, LANDMARKS, "Landmarks")
        touch_all(scene, self.stylus)
        navigation.register(scene, self.landmarks)
        self.tip = nodes.first_node(scene, "vtkMRMLLinearTransformNode", "TrocarTipToTrocar")
        self.along = self.trajectory.target - self.trajectory.entry_skin
        self.along = self.along / np.linalg.norm(self.along)

    def clock(self):
        return self.now_s

    def hold(self, tip_ras, ahead=None, seconds=0.0, noise_mm=0.02):
        """The trocar with its tip there, pointing along its plan, for so long at 50 Hz (once, without a time)."""
        known = calibration.calibration_of(self.scene, "Trocar")
        TipToRAS = rigid(rotation_between([0, 0, 1], self.along if ahead is None else ahead), tip_ras)
        TrocarToReference = invert_rigid(ReferenceToRAS) @ TipToRAS @ invert_rigid(known.TipToTool)
        for _ in range(max(1, round(50 * seconds))):
            self.now_s += 0.02 if seconds else 0.0
            shaken = rigid(np.eye(3), self.rng.normal(0, noise_mm, 3)) @ TrocarToReference
            nodes.set_transform(self.trocar, shaken)
