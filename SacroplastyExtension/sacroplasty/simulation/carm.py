"""The simulated C-arm: what its detector would see of patient, trocars and cement."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..devices.fluoroscope import PLANES
from ..devices.link import Received
from ..devices.messages import Command, CommandReply, Image
from ..errors import DeviceError, GeometryError, SacroplastyError
from ..geometry import FloatArray, invert_rigid, rigid, transform_points
from ..image import Volume
from ..xray.detector import automatic_air_level, expose
from ..xray.geometry import CArm, XrayGeometry
from ..xray.project import (
    CEMENT_PER_MM,
    ProjectableVolume,
    attenuation_from_hu,
    cylinder_line_integrals,
    line_integrals,
)
from .cement import Deposit
from .faults import FaultyServer
from .live import HandState, LiveFolder
from .world import World

_FASTEST_HZ = 30.0
_PIXELS = (32, 1024)
#: Cement pictures are renewed when this much more has flowed.
_CEMENT_STEP_ML = 0.02

_Image = NDArray[np.float32]


@dataclass
class _Plane:
    """One detector at one pose: nominal geometry as asked for, true geometry as it stands."""

    nominal: XrayGeometry
    true: XrayGeometry
    background: Future[_Image]
    air_level: float | None = None
    tools: dict[str, tuple[FloatArray, _Image]] = field(default_factory=dict)
    cement: dict[str, tuple[float, _Image]] = field(default_factory=dict)


class SimulatedCArm:
    """Streams IMAGE `Image_Detector` (and `Image_Detector2`) as COMMAND `CArm` asks.

    The patient behind the tools is projected once per pose, in a thread, so that the link stays alive meanwhile.

    Args:
        epoch_s: seconds since 1970 at `now_s` zero, for time stamps.
    """

    def __init__(
        self, world: World, server: FaultyServer, live: LiveFolder, rng: np.random.Generator, epoch_s: float
    ) -> None:
        self._world = world
        self._server = server
        self._live = live
        self._rng = rng
        self._epoch_s = epoch_s
        self._ct = world.ct()
        self._attenuation = ProjectableVolume.of(self._ct.like(attenuation_from_hu(self._ct.voxels)))
        self._worker = ThreadPoolExecutor(1)
        self._planes: list[_Plane] = []
        self._exposing = False
        self._frames_left: float = float("inf")
        self._power_cuts = 0
        self._period_s = 0.2
        self._next_s = float("-inf")
        self._frames = 0
        self._deposits: dict[str, tuple[FloatArray, Future[Deposit]]] = {}
        self._TrueToSeen = _about(_center_ras(self._ct), world.carm.geometry_error)
        if world.demonstration:
            self._aim(_demonstration_order())

    def step(self, now_s: float, wait_s: float) -> None:
        """Obey what came, expose when due, wait at most `wait_s` for more."""
        if self._server.power_cuts != self._power_cuts:
            self._power_cuts = self._server.power_cuts
            self._planes, self._exposing, self._frames = [], False, 0
        due_in_s = max(0.0, self._next_s - now_s) if self._live_picture() else wait_s
        for received in self._server.poll(now_s, min(wait_s, due_in_s)):
            self._obey(received)
        if self._live_picture() and now_s >= self._next_s:
            late = now_s - self._next_s > self._period_s
            self._next_s = (now_s if late else self._next_s) + self._period_s
            hand, delivered = self._live.read_hand(), self._live.read_delivered()
            deposits = {side: self._deposit(side, pose) for side, pose in hand.cannulas.items()}
            if any(not deposits[side].done() for side in deposits if delivered.get(side, 0.0) > 0):
                return  # Rather no picture than one without the cement that is there.
            self._expose(hand, delivered, self._epoch_s + now_s)
            self._frames_left -= 1
            self._exposing = self._frames_left > 0
            self._server.flush(now_s)

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _live_picture(self) -> bool:
        return self._exposing and bool(self._planes) and all(plane.background.done() for plane in self._planes)

    def _obey(self, received: Received) -> None:
        message = received.message
        if not isinstance(message, Command) or message.name != "CArm":
            return
        try:
            body = json.loads(message.text)
            if not isinstance(body, dict):
                raise DeviceError("an order to the C-arm is a JSON object")
            self._aim(body)
            answer = {"accepted": True, "reason": ""}
        except (SacroplastyError, KeyError, TypeError, ValueError) as error:
            reason = (
                str(error) if isinstance(error, SacroplastyError) else f"the order lacks or garbles something: {error}"
            )
            answer = {"accepted": False, "reason": reason}
        reply = CommandReply("CArm", command_id=message.command_id, command=message.command, text=json.dumps(answer))
        self._server.send(reply, to=received.peer)

    def _aim(self, order: dict[str, Any]) -> None:
        records = [_posed(angles, order).to_dict() for angles in order["angles"]] if "angles" in order else None
        records = order["geometries"] if records is None else records
        rate_hz, columns = float(order.get("frame_rate_hz", 5.0)), int(order.get("pixels", 256))
        if not isinstance(records, list) or not 1 <= len(records) <= len(PLANES):
            raise DeviceError(f"geometries must be a list of one or two, not {records!r:.60}")
        if not 0 < rate_hz <= _FASTEST_HZ or not _PIXELS[0] <= columns <= _PIXELS[1]:
            raise DeviceError(f"{rate_hz} frames/s of {columns} columns: at most {_FASTEST_HZ}/s of {_PIXELS}")
        wanted = [XrayGeometry.from_dict(record).resampled(columns) for record in records]
        old = {id(plane): plane for plane in self._planes}
        self._planes = [self._plane(nominal, list(old.values())) for nominal in wanted]
        frames = order.get("frames")
        if frames is not None and not (isinstance(frames, int) and frames > 0):
            raise DeviceError(f"frames must be a whole number from 1, or left out for a live picture, not {frames!r}")
        self._frames_left = float("inf") if frames is None else frames
        # Of the full detector: with larger pixels the middle of the first one lies elsewhere.
        RASToDetector = XrayGeometry.from_dict(records[0]).RASToDetector @ self._TrueToSeen
        self._live.write_detector(invert_rigid(RASToDetector))
        self._period_s = 1 / rate_hz
        self._exposing = bool(order.get("expose", True))

    def _plane(self, nominal: XrayGeometry, old: list[_Plane]) -> _Plane:
        for plane in old:
            if plane.nominal.to_dict() == nominal.to_dict():
                return plane
        true = replace(nominal, RASToDetector=nominal.RASToDetector @ self._TrueToSeen).check()
        inside = self._ct.kji_of(true.source_ras)
        if (inside > 0).all() and (inside < np.array(self._ct.voxels.shape) - 1).all():
            raise GeometryError("the X-ray source would stand inside the patient; move it away")
        return _Plane(nominal, true, self._worker.submit(line_integrals, self._attenuation, true))

    def _expose(self, hand: HandState, delivered: dict[str, float], stamp_s: float) -> None:
        self._frames += 1
        for name, plane in zip(PLANES, self._planes, strict=False):
            background = plane.background.result()
            if plane.air_level is None:
                plane.air_level = automatic_air_level(background)
            integrals = background + self._tools(plane, hand) + self._cement(plane, hand, delivered)
            model = self._world.carm
            pixels = expose(
                integrals,
                self._rng,
                air_level=plane.air_level,
                photons_per_pixel=model.photons_per_pixel,
                blur_pixels=model.blur_pixels,
            )
            geometry = {"Geometry": json.dumps(plane.nominal.to_dict())} if model.sends_geometry else {}
            metadata = geometry | {
                "AirLevel": repr(plane.air_level),
                "FrameRate": repr(1 / self._period_s),
                "FrameNumber": str(self._frames),
            }
            IJKToRAS = invert_rigid(plane.nominal.RASToDetector) @ np.diag([*plane.nominal.pixel_spacing_mm, 1.0, 1.0])
            self._server.send(Image(name, pixels[None], IJKToRAS, timestamp_s=stamp_s, metadata=metadata))

    def _tools(self, plane: _Plane, hand: HandState) -> _Image:
        poses = {f"cannula {side}": pose for side, pose in hand.cannulas.items()}
        if hand.TrocarToRAS is not None:
            poses["hand"] = hand.TrocarToRAS
        total: _Image = np.zeros(plane.true.detector_pixels[::-1], np.float32)
        for key, pose in poses.items():
            known = plane.tools.get(key)
            if known is None or not np.array_equal(known[0], pose):
                plane.tools[key] = known = pose, self._shaft(plane.true, pose)
            total += known[1]
        return total

    def _shaft(self, geometry: XrayGeometry, TipToRAS: FloatArray) -> _Image:
        trocar = self._world.trocar
        tip, hub = transform_points(TipToRAS, np.array([[0, 0, 0], [0, 0, -trocar.length_mm]]))
        try:
            return cylinder_line_integrals(geometry, tip, hub, trocar.outer_diameter_mm, trocar.inner_diameter_mm)
        except GeometryError:  # Held behind the X-ray source: it throws no shadow.
            return np.zeros(geometry.detector_pixels[::-1], np.float32)

    def _cement(self, plane: _Plane, hand: HandState, delivered: dict[str, float]) -> _Image:
        total: _Image = np.zeros(plane.true.detector_pixels[::-1], np.float32)
        for side, pose in hand.cannulas.items():
            volume_ml = delivered.get(side, 0.0)
            if volume_ml <= 0:
                continue
            known = plane.cement.get(side)
            if known is None or abs(known[0] - volume_ml) >= _CEMENT_STEP_ML:
                shadow = np.zeros_like(total)
                for depot in self._deposit(side, pose).result().truth(volume_ml).depots:
                    shadow += line_integrals(depot.like(depot.voxels * np.float32(CEMENT_PER_MM)), plane.true)
                plane.cement[side] = known = volume_ml, shadow
            total += known[1]
        return total

    def _deposit(self, side: str, pose: FloatArray) -> Future[Deposit]:
        known = self._deposits.get(side)
        if known is None or not np.array_equal(known[0], pose):
            future = self._worker.submit(Deposit, self._world, side, pose, self._ct)
            self._deposits[side] = known = pose, future
            for plane in self._planes:
                plane.cement.pop(side, None)
        return known[1]


def _center_ras(volume: Volume) -> FloatArray:
    return volume.ras_of((np.array(volume.voxels.shape) - 1) / 2)


def _about(center: FloatArray, matrix: FloatArray) -> FloatArray:
    """The transform done about a point instead of the origin."""
    return rigid(np.eye(3), center) @ matrix @ rigid(np.eye(3), -center)


def _posed(angles: Any, order: dict[str, Any]) -> XrayGeometry:
    """The pose of two angles in degrees, LAO and CRA as DICOM's positioner has them, about `isocenter_ras`.

    At zero the detector stands in front of the patient, who lies along the scanner's axes.
    """
    lao_deg, cranial_deg = (float(angle) for angle in angles)
    isocenter = np.array(order.get("isocenter_ras", [0.0, 0.0, 0.0]), float)
    if isocenter.shape != (3,) or not np.isfinite([lao_deg, cranial_deg, *isocenter]).all():
        raise DeviceError("angles are pairs of numbers in degrees and isocenter_ras three numbers in mm")
    return CArm().at_positioner_angles(isocenter, lao_deg, cranial_deg)


def _demonstration_order() -> dict[str, Any]:
    geometry = CArm().pose([0, 0, 0], [0, -1, 0], [0, 0, 1])
    return {"geometries": [geometry.to_dict()], "frame_rate_hz": 5, "pixels": 256, "expose": True}
