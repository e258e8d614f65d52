"""Devices at the scene's door: connections, what they send as nodes, and the simulators as a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slicer import vtkMRMLScene, vtkMRMLTransformNode

from ..devices.fluoroscope import PLANES, FluoroscopeRole, Frame
from ..devices.link import Client
from ..devices.pump import PumpRole
from ..devices.pump_protocol import STATE_NAME
from ..devices.tracker import TrackerRole
from ..errors import DeviceError, GeometryError
from ..geometry import FloatArray, invert_rigid
from ..image import Volume
from ..xray.geometry import XrayGeometry
from .nodes import add_text, add_transform, add_volume, first_node, set_transform, set_volume

#: Tools are shown in the frame of the reference that is fixed to the patient.
_REFERENCE = "ReferenceToTracker"
#: The patient registration, above every tool that is seen from the reference.
REFERENCE_TO_RAS = "ReferenceToRAS"
#: On a transform node: whether its pose may be used ("1") or is only the last one known ("0"), and why.
VALID = "Sacroplasty.Valid"
REASON = "Sacroplasty.Reason"
_RATE_WINDOW_S = 1.0


@dataclass(frozen=True)
class DeviceRow:
    """One line of the device table. `ok` is False for anything that must not be relied upon; `text` says why."""

    role: str
    address: str
    ok: bool
    text: str
    rate_hz: float
    age_ms: float
    dropped: int
    last_error: str


@dataclass
class _Meter:
    """Messages per second over the last second."""

    marks: deque[tuple[float, int]] = field(default_factory=deque)

    def rate_hz(self, now_s: float, received: int) -> float:
        self.marks.append((now_s, received))
        while self.marks[0][0] < now_s - _RATE_WINDOW_S:
            self.marks.popleft()
        start_s, start = self.marks[0]
        return (received - start) / (now_s - start_s) if now_s > start_s else 0.0


class DeviceDesk:
    """Tracker, fluoroscope and pump of one procedure, mirrored into a scene.

    `poll` does all the work; call it from a timer of some milliseconds. Valid poses become transform nodes
    (`StylusToTracker`, and `StylusToReference` once the reference is seen), frames become a volume at the detector's
    place, and the pump's state becomes a text node. A pose that must not be used leaves its node where it was and marks
    it as not valid.

    Attributes:
        tracker, fluoroscope, pump: the roles; None while not connected to.
    """

    def __init__(self, scene: vtkMRMLScene, session: str) -> None:
        self._scene = scene
        self._session = session
        self._meters: dict[str, _Meter] = {}
        self._errors: dict[str, str] = {}
        self._polled = False
        self._shown: dict[str, FloatArray] = {}
        self.tracker: TrackerRole | None = None
        self.fluoroscope: FluoroscopeRole | None = None
        self.pump: PumpRole | None = None

    @property
    def connected(self) -> bool:
        """Whether any device is being talked to (or tried)."""
        return any(self._roles().values())

    def connect(self, host: str, tracker_port: int = 0, fluoroscope_port: int = 0, pump_port: int = 0) -> None:
        """Connect to each device whose port is not 0, in place of older connections.

        Raises:
            DeviceError: when the host is no address, or no port is given.
        """
        if not (tracker_port or fluoroscope_port or pump_port):
            raise DeviceError("every port is 0: give the port of at least one device")
        self.disconnect()
        self.tracker = TrackerRole(Client(host, tracker_port)) if tracker_port else None
        self.fluoroscope = FluoroscopeRole(Client(host, fluoroscope_port)) if fluoroscope_port else None
        self.pump = PumpRole(Client(host, pump_port), self._session) if pump_port else None
        self._meters = {name: _Meter() for name in self._roles()}
        self._errors = {}
        self._polled = False
        self._shown = {}

    def disconnect(self) -> None:
        """Close all connections. A pump stops by itself without its controller."""
        for role in self._roles().values():
            if role is not None:
                role.client.close()
        self.tracker = self.fluoroscope = self.pump = None

    def stop_pump(self, now_s: float) -> bool:
        """Stop the pump now. False when there is no connection over which it could be told."""
        if self.pump is None:
            return False
        self.pump.stop(now_s)
        return self.pump.client.connected

    def poll(self, now_s: float) -> None:
        """Receive, send, and bring the scene up to date."""
        self._polled = True
        if self.pump is not None:
            self.pump.poll(now_s)
            self._mirror_pump()
        if self.tracker is not None:
            self.tracker.poll(now_s)
            self._mirror_poses(now_s)
        if self.fluoroscope is not None:
            self.fluoroscope.poll(now_s)

    def take_frames(self) -> list[Frame]:
        """Every new frame since the last call, for the monitor; the newest of each plane goes into the scene too."""
        frames = self.fluoroscope.take_frames() if self.fluoroscope is not None else []
        for frame in {frame.plane: frame for frame in frames}.values():
            self._mirror_frame(frame)
        return frames

    def rows(self, now_s: float) -> list[DeviceRow]:
        """The state of every device, for the table."""
        rows = []
        for name, role in self._roles().items():
            if role is None:
                rows.append(DeviceRow(name, "–", False, "not connected", 0.0, float("inf"), 0, ""))
                continue
            client = role.client
            ok, text, age_s = self._judge(name, now_s)
            if self._polled and client.reason and not client.connected:
                self._errors[name] = client.reason
            counts = client.counts
            rows.append(
                DeviceRow(
                    role=name,
                    address=client.address,
                    ok=ok,
                    text=text,
                    rate_hz=self._meters[name].rate_hz(now_s, counts.received),
                    age_ms=1000 * age_s,
                    dropped=counts.superseded + counts.undelivered + counts.crc_errors + counts.malformed,
                    last_error=self._errors.get(name, ""),
                )
            )
        return rows

    def _roles(self) -> dict[str, TrackerRole | FluoroscopeRole | PumpRole | None]:
        return {"Tracker": self.tracker, "Fluoroscope": self.fluoroscope, "Pump": self.pump}

    def _judge(self, name: str, now_s: float) -> tuple[bool, str, float]:
        """Whether a device may be relied upon, in words, and the age in s of the newest it said."""
        if name == "Tracker" and self.tracker is not None:
            poses = [self.tracker.pose(transform, now_s) for transform in self.tracker.names]
            if not poses:
                return False, self.tracker.client.reason or "no transform yet", float("inf")
            lost = [pose.reason for pose in poses if pose.matrix is None]
            text = f"{len(poses) - len(lost)} of {len(poses)} tools seen"
            return not lost, f"{text}: {lost[0]}" if lost else text, min(pose.age_s for pose in poses)
        if name == "Fluoroscope" and self.fluoroscope is not None:
            view = self.fluoroscope.view(PLANES[0], now_s)
            return view.frame is not None, view.reason or "live", view.age_s
        assert self.pump is not None
        reading = self.pump.reading(now_s)
        if reading.state is None or not reading.ready:
            return False, reading.reason, reading.age_s
        state = reading.state
        text = f"{state.state} ({state.fault})" if state.fault else state.state
        return not state.fault, text, reading.age_s

    def _mirror_poses(self, now_s: float) -> None:
        assert self.tracker is not None
        reference = self.tracker.pose(_REFERENCE, now_s)
        for name in self.tracker.names:
            pose = self.tracker.pose(name, now_s)
            self._mirror_pose(name, pose.matrix, pose.reason)
            if name != _REFERENCE and name.endswith("ToTracker"):
                relative = f"{name.removesuffix('ToTracker')}ToReference"
                if pose.matrix is None or reference.matrix is None:
                    self._mirror_pose(relative, None, pose.reason or reference.reason)
                else:
                    self._mirror_pose(relative, invert_rigid(reference.matrix) @ pose.matrix, "")

    def _mirror_pose(self, name: str, matrix: FloatArray | None, reason: str) -> None:
        node = first_node(self._scene, "vtkMRMLLinearTransformNode", name)
        if node is None:
            if matrix is None:
                return
            node = add_transform(self._scene, matrix, name)
            self._shown[name] = matrix
            registration = first_node(self._scene, "vtkMRMLLinearTransformNode", REFERENCE_TO_RAS)
            if registration is not None and name.endswith("ToReference"):
                node.SetAndObserveTransformNodeID(registration.GetID())
        elif matrix is not None and not (name in self._shown and np.array_equal(matrix, self._shown[name])):
            # Only what is new: a node that is touched counts as fresh, and every view draws it again.
            set_transform(node, matrix)
            self._shown[name] = matrix
        _mark(node, matrix is not None, reason)

    def _mirror_frame(self, frame: Frame) -> None:
        try:
            geometry = XrayGeometry.from_dict(frame.geometry or {})
        except (GeometryError, KeyError, TypeError, ValueError):
            # Without its place a frame is not shown: it could be taken for one at another place.
            return
        volume = detector_volume(frame.pixels, geometry.resampled(frame.pixels.shape[1]))
        node = first_node(self._scene, "vtkMRMLScalarVolumeNode", frame.plane)
        if node is None:
            add_volume(self._scene, volume, frame.plane)
        else:
            set_volume(node, volume)

    def _mirror_pump(self) -> None:
        assert self.pump is not None
        state = self.pump.reading(0.0).state
        if state is None:
            return
        node = first_node(self._scene, "vtkMRMLTextNode", STATE_NAME)
        text = state.text()
        if node is None:
            add_text(self._scene, text, STATE_NAME)
        elif node.GetText() != text:
            node.SetText(text)


def detector_volume(pixels: np.ndarray, geometry: XrayGeometry) -> Volume:
    """A picture (rows, columns) as a volume of one slice that stands where the detector stands."""
    DetectorToRAS = invert_rigid(geometry.RASToDetector)
    return Volume(pixels[None], DetectorToRAS @ np.diag([*geometry.pixel_spacing_mm, 1.0, 1.0]))


def is_valid(node: vtkMRMLTransformNode) -> bool:
    """Whether a pose may be used. Nodes of other sources carry no mark and are judged by their age alone."""
    return node.GetAttribute(VALID) != "0"


def _mark(node: vtkMRMLTransformNode, valid: bool, reason: str) -> None:
    """Note validity on the node, touching it only when it changes."""
    for key, value in ((VALID, "1" if valid else "0"), (REASON, reason)):
        if node.GetAttribute(key) != value:
            node.SetAttribute(key, value)


class SimulatorProcess:
    """The built-in simulators in a process of their own, which ends with this one.

    Attributes:
        ports: by role (`tracker`, `carm`, `pump`), filled by `poll` as they become ready.
        problem: why it ended, in words; empty while it runs.
    """

    def __init__(self, python: str = sys.executable) -> None:
        """Start it. `python` is an interpreter without a window (PythonSlicer in 3D Slicer)."""
        engine = Path(__file__).resolve().parents[2]
        path = os.pathsep.join([str(engine), *filter(None, [os.environ.get("PYTHONPATH")])])
        # Not the command line: it needs packages that the Python of 3D Slicer lacks.
        told = json.dumps({"role": "all", "until_stdin_closes": True})
        try:
            self._process = subprocess.Popen(
                [python, "-m", "sacroplasty.simulation", told],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path},
                # On Windows a console program would open a window of its own.
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise DeviceError(f"the simulators cannot be started with {python}: {error.strerror}") from error
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
        self._lines = b""
        self.ports: dict[str, int] = {}
        self.problem = ""

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def poll(self) -> None:
        """Read what it has printed, without waiting."""
        assert self._process.stdout is not None and self._process.stderr is not None
        self._lines += self._process.stdout.read() or b""
        *complete, self._lines = self._lines.split(b"\n")
        for line in complete:
            try:
                record = json.loads(line)
                self.ports[str(record["role"])] = int(record["port"])
            except (ValueError, KeyError, TypeError):
                continue
        if not self.running and not self.problem:
            said = (self._process.stderr.read() or b"").decode(errors="replace").strip().splitlines()
            self.problem = (
                said[-1].removeprefix("sacroplasty: ")
                if said
                else f"the simulators ended with code {self._process.returncode}"
            )

    def stop(self, patience_s: float = 3.0) -> None:
        """End it: by closing its input, and if it does not listen, by force."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
