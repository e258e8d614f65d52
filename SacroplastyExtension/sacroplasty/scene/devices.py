"""Devices at the scene's door: connections, what they send as nodes, what is wrong with them, record and replay."""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from slicer import vtkMRMLScene, vtkMRMLTransformNode

from ..devices.fluoroscope import PLANES, FluoroscopeRole, Frame
from ..devices.link import Client
from ..devices.link_watch import LinkWatch, implausible
from ..devices.messages import Image, Transform
from ..devices.pump import PumpReading, PumpRole
from ..devices.pump_protocol import STATE_NAME
from ..devices.recorder import SessionRecorder
from ..devices.replay import ReplayClock, ReplayLink
from ..devices.session_file import Session
from ..devices.tracker import TrackerRole
from ..errors import DeviceError, GeometryError
from ..geometry import FloatArray, invert_rigid
from ..image import Volume
from ..xray.distortion import Distortion, Undistorter, read_distortion
from ..xray.geometry import CArm, XrayGeometry
from .connector import ADDRESS as SCENE_ADDRESS
from .connector import ATTRIBUTE as CONNECTOR_ATTRIBUTE
from .connector import SceneLink
from .nodes import add_text, add_transform, add_volume, first_node, matrix_of, set_transform, set_volume
from .records import read_record, write_record

TRACKER, FLUOROSCOPE, PUMP = ROLES = ("Tracker", "Fluoroscope", "Pump")
#: Tools are shown in the frame of the reference that is fixed to the patient.
_REFERENCE = "ReferenceToTracker"
#: The patient registration, above every tool that is seen from the reference.
REFERENCE_TO_RAS = "ReferenceToRAS"
#: On a transform node: whether its pose may be used ("1") or is only the last one known ("0"), and why.
VALID = "Sacroplasty.Valid"
REASON = "Sacroplasty.Reason"
#: On a transform node that a recorded session moves: the session's name.
REPLAY = "Sacroplasty.Replay"
#: Poses by which a C-arm that only sends pictures is known: its marker, and the detector's place at the marker.
_C_ARM = "CArmToTracker"
DETECTOR_TO_C_ARM = "DetectorToCArm"
#: On the node of an X-ray: its geometry record, as JSON.
GEOMETRY = "Sacroplasty.Geometry"
#: What the scene calls the calibrated distortion of the intensifier.
DISTORTION_NAME = "Sacroplasty intensifier distortion"
_RATE_WINDOW_S = 1.0
_TELL_AGAIN_S = 10.0
_FIGURES = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")
_LOG = logging.getLogger("sacroplasty.devices")

Level = Literal["off", "live", "check", "stopped", "none", "alarm"]
_Role = TrackerRole | FluoroscopeRole | PumpRole


@dataclass(frozen=True)
class DeviceRow:
    """One line of the device table.

    Attributes:
        level: `off` (not connected to), `live`, `check` (may be used, but something is wrong), `stopped` (a pump that
            rests in its stop), `none` (nothing that may be relied upon) or `alarm` (a person must act).
        text: in words, what it does or why it may not be relied upon.
        latency_ms: by which the newest message came later than the quickest of this connection.
        dropped: messages lost, superseded or damaged.
    """

    role: str
    address: str
    level: Level
    text: str
    rate_hz: float
    age_ms: float
    latency_ms: float
    dropped: int
    last_error: str

    @property
    def ok(self) -> bool:
        """Whether the device may be relied upon."""
        return self.level in ("live", "check")


@dataclass(frozen=True)
class Event:
    """Something that happened to a device, for the screen; it is in the log and in a recording too."""

    unix_s: float
    role: str
    text: str
    alarm: bool = False


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
        recorder: of the session under way; None when none is recorded.
        events: what happened lately, the newest last; `event_count` counts all of it.
    """

    def __init__(self, scene: vtkMRMLScene, session: str) -> None:
        self._scene = scene
        self._session = session
        self._meters: dict[str, _Meter] = {}
        self._watches: dict[str, LinkWatch] = {}
        self._errors: dict[str, str] = {}
        self._impossible: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._told_s: dict[str, float] = {}
        self._alarm = self._record_problem = ""
        self._pump_trouble = (False, "")
        self._polled = False
        self._unix_s = 0.0
        self._shown: dict[str, FloatArray] = {}
        self._clock: ReplayClock | None = None
        self._replayed = ""
        self.tracker: TrackerRole | None = None
        self.fluoroscope: FluoroscopeRole | None = None
        self.pump: PumpRole | None = None
        self.recorder: SessionRecorder | None = None
        self.events: deque[Event] = deque(maxlen=500)
        self.event_count = 0

    @property
    def connected(self) -> bool:
        """Whether any device is being talked to (or tried), or a replay stands in for them."""
        return any(self._roles().values())

    @property
    def replaying(self) -> bool:
        return self._clock is not None

    def connect(self, addresses: Mapping[str, str]) -> None:
        """Connect to the devices with an address, in place of older connections.

        Args:
            addresses: by role, `host:port` such as `192.168.7.10:18944`; empty for a device that is not there;
                `scene` for tracker or fluoroscope whose nodes another connector keeps up to date (see `connector`).

        Raises:
            DeviceError: when an address is none, or there is none at all; older connections stay then.
        """
        wanted = {role: address.strip() for role, address in addresses.items() if address.strip()}
        if not wanted:
            raise DeviceError("no device has an address: give at least one, such as 127.0.0.1:18944")
        links = {role: self._link(role, address) for role, address in wanted.items()}
        self.disconnect()
        self._addresses = dict(addresses)
        self._take(links)

    def reconnect(self) -> None:
        """Begin all connections anew, as after a device was switched off and on."""
        self.connect(self._addresses)

    def disconnect(self) -> None:
        """Close all connections, or end the replay. A pump stops by itself without its controller."""
        for role in self._roles().values():
            if role is not None:
                role.client.close()
        if self.recorder is not None:
            for name in ROLES:
                self.recorder.follow(name, None)
        self.tracker = self.fluoroscope = self.pump = None
        self._clock, self._replayed = None, ""

    def replay(self, session: Session, now_s: float, speed: float = 1.0) -> None:
        """Let a recorded session stand in for the devices. Nothing can be ordered, and no pump becomes ready.

        Raises:
            DeviceError: when the session recorded no device.
        """
        links = {role: ReplayLink(session, role, now_s) for role in ROLES if role in session.links}
        if not links:
            raise DeviceError(f"{session.name} holds none of {', '.join(ROLES)}")
        self.disconnect()
        self._clock, self._replayed = ReplayClock(now_s, speed), session.name
        # A ReplayLink answers to all that a role asks of a Client.
        self._take({role: cast(Client, link) for role, link in links.items()})

    def record(self, path: Path, now_s: float, unix_s: float) -> None:
        """Begin to record all that is received and sent, across reconnections, until `stop_recording`.

        Raises:
            DeviceError: when the file exists or cannot be written.
        """
        self.stop_recording()
        self.recorder = SessionRecorder(path, dict.fromkeys(ROLES), now_s, unix_s)
        for name, role in self._roles().items():
            self._follow(name, role)

    def use_distortion(self, path: Path | None) -> None:
        """Take a calibrated distortion out of all frames from now on, and keep that in the scene; None for none.

        The views have to be learned anew: the pictures are others. A recorded session keeps frames as they came.

        Raises:
            DocumentError: for a file that is no calibration; nothing changes then.
        """
        record = {} if path is None else read_distortion(path).to_dict()
        write_record(self._scene, DISTORTION_NAME, record)
        self._correct_distortion()

    @property
    def distortion(self) -> Distortion | None:
        """The calibration that the scene holds; None when frames are shown as they come."""
        record = read_record(self._scene, DISTORTION_NAME)
        return Distortion.from_dict(record) if record else None

    def _correct_distortion(self) -> None:
        distortion = self.distortion
        if self.fluoroscope is not None:
            self.fluoroscope.correct = None if distortion is None else Undistorter(distortion)

    def stop_recording(self) -> None:
        if self.recorder is not None:
            self.recorder.close()
        self.recorder = None
        self._record_problem = ""

    def stop_pump(self, now_s: float) -> bool:
        """Stop the pump now. False when there is no connection over which it could be told."""
        if self.pump is None or self.replaying:
            return False
        self.pump.stop(now_s)
        return self.pump.client.connected

    def poll(self, now_s: float, unix_s: float = 0.0) -> None:
        """Receive, send, and bring the scene up to date.

        Args:
            unix_s: wall time, for the list of events.
        """
        self._polled = True
        self._unix_s = unix_s
        time_s = self._time_s(now_s)
        for name, role in self._roles().items():
            if role is not None:
                self._receive(name, role, time_s)
        if self.pump is not None:
            self.pump.tend(time_s)
            self._mirror_pump()
            self._tell_pump(self.pump.reading(time_s), now_s)
        if self.tracker is not None:
            self._mirror_poses(time_s)
        if self.recorder is not None:
            self.recorder.poll(now_s)
            if self.recorder.problem != self._record_problem:
                self._record_problem = self.recorder.problem
                self._tell("Recording", self._record_problem or "recording goes on", now_s)

    def take_frames(self) -> list[Frame]:
        """Every new frame since the last call, for the monitor; the newest of each plane goes into the scene too."""
        frames = self.fluoroscope.take_frames() if self.fluoroscope is not None else []
        if self.fluoroscope is not None and not isinstance(self.fluoroscope.client, SceneLink):
            for frame in {frame.plane: frame for frame in frames}.values():
                self._mirror_frame(frame)
        return frames

    def rows(self, now_s: float) -> list[DeviceRow]:
        """The state of every device, for the table."""
        time_s = self._time_s(now_s)
        rows = []
        for name, role in self._roles().items():
            if role is None:
                rows.append(DeviceRow(name, "–", "off", "not connected", 0.0, float("inf"), float("nan"), 0, ""))
                continue
            client = role.client
            level, text, age_s = self._judge(name, time_s)
            findings = self._watches[name].findings(time_s)
            if level == "live" and findings:
                level, text = "check", findings[0].text
            if self._polled and client.reason and not client.connected:
                self._errors[name] = client.reason
            elif findings:
                self._errors[name] = findings[0].text
            counts = client.counts
            rows.append(
                DeviceRow(
                    role=name,
                    address=client.address,
                    level=level,
                    text=text,
                    rate_hz=self._meters[name].rate_hz(time_s, counts.received),
                    age_ms=1000 * age_s,
                    latency_ms=1000 * self._watches[name].latency_s,
                    dropped=counts.superseded + counts.undelivered + counts.crc_errors + counts.malformed,
                    last_error=self._errors.get(name, ""),
                )
            )
        return rows

    def _time_s(self, now_s: float) -> float:
        return now_s if self._clock is None else self._clock.time_s(now_s)

    def _roles(self) -> dict[str, _Role | None]:
        return {TRACKER: self.tracker, FLUOROSCOPE: self.fluoroscope, PUMP: self.pump}

    def _link(self, role: str, address: str) -> Client:
        if address == SCENE_ADDRESS:
            if role == PUMP:
                raise DeviceError("the pump needs a connection of its own: no order goes through nodes")
            # A SceneLink answers to all that a role asks of a Client.
            return cast(Client, SceneLink(self._scene))
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise DeviceError(f"{address!r} is no address of the {role.lower()}; give one such as 127.0.0.1:18944")
        return Client(host.strip("[]"), int(port))

    def _take(self, links: Mapping[str, Client]) -> None:
        self.tracker = TrackerRole(links[TRACKER]) if TRACKER in links else None
        self.fluoroscope = FluoroscopeRole(links[FLUOROSCOPE]) if FLUOROSCOPE in links else None
        self._correct_distortion()
        self.pump = PumpRole(links[PUMP], self._session) if PUMP in links else None
        self._meters = {name: _Meter() for name in ROLES}
        self._watches = {name: LinkWatch() for name in ROLES}
        self._errors = {}
        self._impossible = {}
        self._polled = False
        self._shown = {}
        self._told_s = {}
        self._alarm, self._pump_trouble = "", (False, "")
        for name, role in self._roles().items():
            self._follow(name, role)

    def _follow(self, name: str, role: _Role | None) -> None:
        if self.recorder is not None and role is not None and isinstance(role.client, Client):
            self.recorder.follow(name, role.client)

    def _receive(self, name: str, role: _Role, time_s: float) -> None:
        watch = self._watches[name]
        for received in role.client.poll(time_s):
            message = received.message
            if isinstance(message, Image) and message.name == PLANES[0] and "Geometry" not in message.metadata:
                received = replace(received, message=self._with_tracked_geometry(message, time_s))
            elif isinstance(message, Transform):
                self._impossible[message.name] = implausible(message)
            watch.observe(received)
            role.handle(received)
        watch.assess(time_s, role.client.connected, role.client.reason, role.client.counts)
        for finding in watch.take_news():
            self._tell(name, finding.text, time_s)

    def _with_tracked_geometry(self, message: Image, now_s: float) -> Image:
        """A picture with the geometry that the tracked marker of the C-arm gives it, if all of the chain is known now.

        The chain: the detector at the C-arm's marker (calibrated, `DetectorToCArm`), marker and reference at the
        tracker, and the patient registration. The hardware is that of `xray.geometry.CArm`; the picture must be square
        as its detector is.
        """
        names = (DETECTOR_TO_C_ARM, REFERENCE_TO_RAS)
        calibration, registration = (first_node(self._scene, "vtkMRMLLinearTransformNode", name) for name in names)
        rows, columns = message.voxels.shape[1:3]
        if self.tracker is None or calibration is None or registration is None or rows != columns:
            return message
        marker, reference = (self._usable(name, now_s)[0] for name in (_C_ARM, _REFERENCE))
        if marker is None or reference is None:
            return message
        DetectorToReference = invert_rigid(reference) @ marker @ matrix_of(calibration)
        RASToDetector = invert_rigid(matrix_of(registration) @ DetectorToReference)
        geometry = replace(CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1]), RASToDetector=RASToDetector)
        record = json.dumps(geometry.resampled(columns).to_dict())
        return replace(message, metadata=message.metadata | {"Geometry": record})

    def _tell_pump(self, reading: PumpReading, now_s: float) -> None:
        """Tell once that the pump raises an alarm, stops by itself, or is not ready any more, and why."""
        begun, self._alarm = not self._alarm and bool(reading.alarm), reading.alarm
        if begun:
            self._tell(PUMP, reading.alarm, now_s, alarm=True)
        fault = reading.state.fault if reading.state is not None else ""
        trouble = (reading.ready, fault)
        if trouble != self._pump_trouble and not reading.alarm:
            if self._pump_trouble[0] and not reading.ready:
                self._tell(PUMP, f"not ready: {reading.reason}" + (f" (stopped: {fault})" if fault else ""), now_s)
            elif fault and fault != self._pump_trouble[1]:
                self._tell(PUMP, f"stopped: {fault}", now_s)
        self._pump_trouble = trouble

    def _tell(self, role: str, text: str, now_s: float, alarm: bool = False) -> None:
        """Note an event, unless the same was noted a moment ago with other figures."""
        kind = f"{role} {_FIGURES.sub('#', text)}"
        if now_s - self._told_s.get(kind, float("-inf")) < _TELL_AGAIN_S:
            return
        self._told_s[kind] = now_s
        self.events.append(Event(self._unix_s, role, text, alarm))
        self.event_count += 1
        _LOG.log(logging.ERROR if alarm else logging.WARNING, "%s%s: %s", "ALARM " if alarm else "", role, text)
        if self.recorder is not None:
            self.recorder.remark(now_s, "alarm" if alarm else "finding", role=role, text=text)

    def _judge(self, name: str, now_s: float) -> tuple[Level, str, float]:
        """How far a device may be relied upon, in words, and the age in s of the newest it said."""
        if name == TRACKER and self.tracker is not None:
            poses = {transform: self.tracker.pose(transform, now_s) for transform in self.tracker.names}
            if not poses:
                return "none", self.tracker.client.reason or "no transform yet", float("inf")
            reasons = {name: pose.reason or self._impossible.get(name, "") for name, pose in poses.items()}
            lost = [reason for reason in reasons.values() if reason]
            text = f"{len(poses) - len(lost)} of {len(poses)} tools seen"
            level: Level = "none" if len(lost) == len(poses) else "check" if lost else "live"
            return level, f"{text}: {lost[0]}" if lost else text, min(pose.age_s for pose in poses.values())
        if name == FLUOROSCOPE and self.fluoroscope is not None:
            views = [self.fluoroscope.view(plane, now_s) for plane in PLANES]
            shown = [view for view in views if view.age_s < float("inf")] or views[:1]
            wrong = [view.reason or _geometry_problem(view.frame) for view in shown]
            reason = next((text for text in wrong if text), "")
            age_s = max(view.age_s for view in shown)
            return (
                ("none", reason, age_s)
                if reason
                else ("live", "one live view" if len(shown) == 1 else f"{len(shown)} live views", age_s)
            )
        assert self.pump is not None
        reading = self.pump.reading(now_s)
        if reading.alarm:
            return "alarm", reading.alarm, reading.age_s
        if reading.state is None or not reading.ready:
            return "none", reading.reason, reading.age_s
        state = reading.state
        if state.state == "stopped":
            return "stopped", f"stopped ({state.fault})" if state.fault else "stopped", reading.age_s
        return "live", f"{state.state}, {state.delivered_ml:.2f} mL given", reading.age_s

    def _mirror_poses(self, now_s: float) -> None:
        assert self.tracker is not None
        names = self.tracker.names
        reference, reference_reason = self._usable(_REFERENCE, now_s)
        for name in names:
            matrix, reason = self._usable(name, now_s)
            self._mirror_pose(name, matrix, reason)
            relative = f"{name.removesuffix('ToTracker')}ToReference"
            if name == _REFERENCE or not name.endswith("ToTracker") or relative in names:
                continue
            if matrix is None or reference is None:
                self._mirror_pose(relative, None, reason or reference_reason)
            else:
                self._mirror_pose(relative, invert_rigid(reference) @ matrix, "")

    def _usable(self, name: str, now_s: float) -> tuple[FloatArray | None, str]:
        """The pose of a transform if it may be used, else why not."""
        assert self.tracker is not None
        pose = self.tracker.pose(name, now_s)
        reason = pose.reason or self._impossible.get(name, "")
        return (None if reason else pose.matrix), reason

    def _mirror_pose(self, name: str, matrix: FloatArray | None, reason: str) -> None:
        assert self.tracker is not None
        node = first_node(self._scene, "vtkMRMLLinearTransformNode", name)
        if node is not None and isinstance(self.tracker.client, SceneLink) and name in self.tracker.names:
            pass  # The connector keeps it; here it is only marked.
        elif node is None:
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
        if (node.GetAttribute(REPLAY) or "") != self._replayed:
            node.SetAttribute(REPLAY, self._replayed)

    def _mirror_frame(self, frame: Frame) -> None:
        try:
            geometry = XrayGeometry.from_dict(frame.geometry or {})
        except GeometryError:
            # Without its place a frame is not shown: it could be taken for one at another place.
            return
        geometry = geometry.resampled(frame.pixels.shape[1])
        volume = detector_volume(frame.pixels, geometry)
        node = first_node(self._scene, "vtkMRMLScalarVolumeNode", frame.plane)
        if node is None:
            node = add_volume(self._scene, volume, frame.plane)
        else:
            set_volume(node, volume)
        text = json.dumps(geometry.to_dict())
        if node.GetAttribute(GEOMETRY) != text:
            node.SetAttribute(GEOMETRY, text)

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


def _geometry_problem(frame: Frame | None) -> str:
    """Why a frame's place cannot be, in words; empty when it can."""
    try:
        XrayGeometry.from_dict((frame.geometry if frame is not None else None) or {})
    except GeometryError as error:
        return str(error)
    return ""


def detector_volume(pixels: np.ndarray, geometry: XrayGeometry) -> Volume:
    """A picture (rows, columns) as a volume of one slice that stands where the detector stands."""
    DetectorToRAS = invert_rigid(geometry.RASToDetector)
    return Volume(pixels[None], DetectorToRAS @ np.diag([*geometry.pixel_spacing_mm, 1.0, 1.0]))


def pose_problem(node: vtkMRMLTransformNode) -> str:
    """What the source of a pose says against it, in words; empty when it may be used, as far as its age allows.

    Nodes that SlicerOpenIGTLink keeps carry the status of their tracker; nodes of other sources carry no mark.
    """
    if node.GetAttribute(VALID) == "0":
        return node.GetAttribute(REASON) or "not valid"
    status, valid = (node.GetAttribute(CONNECTOR_ATTRIBUTE + key) for key in ("TransformStatus", "TransformValid"))
    if status not in (None, "", "OK"):
        return status.lower().replace("_", " ")
    return "invalid" if valid not in (None, "") and valid.strip().lower() not in ("true", "1") else ""


def is_valid(node: vtkMRMLTransformNode) -> bool:
    """Whether a pose may be used, as far as its age allows."""
    return not pose_problem(node)


def recording_of(scene: vtkMRMLScene, node: vtkMRMLTransformNode) -> str:
    """What a pose is replayed from, in words; empty for a live one."""
    session = node.GetAttribute(REPLAY)
    if session:
        return f"replay of {session}"
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode")
        if browser.IsProxyNodeID(node.GetID()) and not browser.GetRecordingActive():
            return f"playback of {browser.GetName()}"
    return ""


def _mark(node: vtkMRMLTransformNode, valid: bool, reason: str) -> None:
    """Note validity on the node, touching it only when it changes."""
    for key, value in ((VALID, "1" if valid else "0"), (REASON, reason)):
        if node.GetAttribute(key) != value:
            node.SetAttribute(key, value)
