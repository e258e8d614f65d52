"""How long a pose takes to become guidance, and how soon guidance is gone without poses; beside pyigtl in the same run.

    python guidance_latency.py [SECONDS]       20 for each way unless told otherwise

A tracker in a process of its own sends trocar, stylus and reference at 60 Hz over a socket of this computer. Both
processes read the same clock. The pose carries its number in its depth, so that each reading is known by its pose.

Ways: the roles of this project with the procedure's guidance, TRANSFORM and TDATA messages; the device desk with
guidance in a headless scene, polled every 5 ms as under its timer; pyigtl with a plain guidance (distance from the
line, angle, depth, and one look-up in each distance field along the shaft, without error, warnings or checks). On a
busy computer these times are those of waiting for a core; the processor time shows what the programs themselves need.

Silence: the tracker pauses for 0.4 s after every half second; guidance in the scene is asked every 20 ms, as by the
module.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyigtl
from pyigtl.messages import MessageBase
from scipy.ndimage import map_coordinates

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.devices.link import Client, Received, Server
from sacroplasty.devices.messages import TrackedTool, TrackingData, Transform
from sacroplasty.devices.tracker import TrackerRole
from sacroplasty.devices.wire import HEADER_BYTES, Decoder, encode
from sacroplasty.geometry import (
    FloatArray,
    angle_between_deg,
    invert_rigid,
    rigid,
    rotation_about,
    rotation_between,
    transform_points,
    unit,
)
from sacroplasty.navigation.clearance import ShaftClearance
from sacroplasty.navigation.guidance import guide
from sacroplasty.navigation.smoothing import PoseSmoother
from sacroplasty.planning.model import Trajectory
from sacroplasty.planning.pose_uncertainty import PoseUncertainty
from sacroplasty.planning.sacrum_view import view_along_foramina
from sacroplasty.planning.structures import Structures
from sacroplasty.procedure.navigate import TrocarError
from sacroplasty.scene import calibration, navigation
from sacroplasty.scene.devices import DeviceDesk
from sacroplasty.scene.guidance import Guide
from sacroplasty.scene.host import HeadlessHost
from scene.navigated_case import NOW, NavigatedCase
from simple_sacrum import USUAL_SACRUM_TO_RAS, simple_sacrum

RATE_HZ, STEP_MM = 60.0, 0.01
#: As in the module: how often the screen asks, and how long what it shows may stand.
TICK_S, SHOWN_S = 0.02, 0.03
GOAL_LATENCY_MS, GOAL_CLEARANCE_MS, GOAL_BLANK_MS = 10.0, 2.0, 100.0
ReferenceToTracker = rigid(rotation_about([1, 0, 0], 30), [50, -80, 1500])
OK = {"TransformStatus": "OK", "TransformValid": "true"}
_SENT = 20_000


def send(pipe: Connection, sent: object, poses: FloatArray, as_tdata: bool, pauses: bool) -> None:
    """The tracker: notes when each pose is handed to the socket."""
    server = Server(port=0)
    pipe.send(server.port)
    times = np.frombuffer(sent.get_obj())  # type: ignore[attr-defined]
    number, next_s = 0, 0.0
    while not pipe.poll():
        now_s = time.monotonic()
        server.poll(now_s, 0.0)
        silent = pauses and now_s % 0.9 > 0.5
        if now_s < next_s or silent or not server.peers:
            time.sleep(0.0005)
            continue
        next_s = max(next_s + 1 / RATE_HZ, now_s)
        shift = rigid(np.eye(3), [5e-4 * (number % 3), 0, 0])
        tools = {
            "ReferenceToTracker": shift @ ReferenceToTracker,
            "StylusToTracker": shift @ rigid(np.eye(3), [0, 0, 1400]),
            "TrocarToTracker": shift @ ReferenceToTracker @ poses[number % len(poses)],
        }
        times[number % _SENT] = time.monotonic()
        if as_tdata:
            tracked = tuple(TrackedTool(name, matrix) for name, matrix in tools.items())
            server.send(TrackingData("Tools", tracked, timestamp_s=now_s))
        else:
            for name, matrix in tools.items():
                server.send(Transform(name, matrix, timestamp_s=now_s, metadata=OK))
        server.flush(time.monotonic())
        number += 1


class Tracker:
    """The sending process; `sent_s` tells when each pose was sent."""

    def __init__(self, poses: FloatArray, as_tdata: bool = False, pauses: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        shared = context.Array("d", _SENT)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=send, args=(theirs, shared, poses, as_tdata, pauses))
        self._process.start()
        self.port: int = self._pipe.recv()
        self.sent_s = np.frombuffer(shared.get_obj())

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("end")
        self._process.join()


class Bench:
    """A registered case whose trocar goes down its planned line, step by step."""

    def __init__(self) -> None:
        self.host = HeadlessHost()
        self.case = NavigatedCase(self.host.scene)
        sacrum = simple_sacrum(2.5, SacrumToRAS=USUAL_SACRUM_TO_RAS)
        self.anatomy = segment_from_labels(sacrum.ct, sacrum.bones)
        self.clearance = ShaftClearance.of_anatomy(self.anatomy)
        registration, known = navigation.registration_of(self.host.scene), self.known()
        assert registration is not None
        self.registration, self.trajectory = registration, self.case.trajectory
        self.along = unit(self.trajectory.target - self.trajectory.entry_skin)
        self.start_mm = 30.0
        turn = rotation_between([0, 0, 1], self.along)
        depths = self.start_mm - STEP_MM * np.arange(4000)
        tips = self.trajectory.target - depths[:, None] * self.along
        RASToReference = invert_rigid(registration.MovingToFixed)
        self.poses = np.array([RASToReference @ rigid(turn, tip) @ invert_rigid(known.TipToTool) for tip in tips])

    def known(self) -> calibration.ToolCalibration:
        found = calibration.calibration_of(self.host.scene, "Trocar")
        assert found is not None
        return found

    def error(self) -> TrocarError:
        return TrocarError(self.known(), self.registration, np.eye(4))

    def number(self, depth_mm: float) -> int:
        """Of the pose that a reading was made of."""
        return round((self.start_mm - depth_mm) / STEP_MM)


def latencies(
    bench: Bench, tracker: Tracker, seconds: float, step: Callable[[], float | None], period_s: float
) -> FloatArray:
    """Milliseconds from sending to the reading, one for each reading; `step` gives the depth of a new one.

    The first figure is the processor time of a reading, with all the polling in between.
    """
    found: dict[int, float] = {}
    begun, used_s = time.monotonic(), time.thread_time()
    while time.monotonic() - begun < seconds + 1.0:
        depth_mm = step()
        if depth_mm is not None:
            number = bench.number(depth_mm)
            # The first second is for connecting.
            if time.monotonic() - begun > 1.0 and number not in found:
                found[number] = 1000 * (time.monotonic() - tracker.sent_s[number % _SENT])
        time.sleep(period_s)
    used_ms = 1000 * (time.thread_time() - used_s) / max(len(found), 1)
    return np.array([used_ms, *found.values()])


def by_roles(bench: Bench, seconds: float, as_tdata: bool) -> FloatArray:
    known, registration, error = bench.known(), bench.registration, bench.error()
    with Tracker(bench.poses, as_tdata) as tracker:
        role = TrackerRole(Client("127.0.0.1", tracker.port), require_status=not as_tdata)
        last: list[FloatArray] = []

        def step() -> float | None:
            for received in role.client.poll(time.monotonic(), 0.005):
                role.handle(received)
            now_s = time.monotonic()
            tool, reference = role.pose("TrocarToTracker", now_s), role.pose("ReferenceToTracker", now_s)
            if tool.matrix is None or reference.matrix is None or (last and last[0] is tool.matrix):
                return None
            last[:] = [tool.matrix]
            TrocarToRAS = registration.MovingToFixed @ invert_rigid(reference.matrix) @ tool.matrix
            uncertainty = error.at(TrocarToRAS)
            age_s = max(tool.age_s, reference.age_s)
            pose = TrocarToRAS @ known.TipToTool
            return guide(pose, age_s, bench.trajectory, bench.clearance, uncertainty).depth_to_target_mm

        result = latencies(bench, tracker, seconds, step, 0.0)
        role.client.close()
    return result


def follow(bench: Bench, tracker: Tracker, smoothing_s: float = 0.0) -> tuple[DeviceDesk, Guide]:
    desk = DeviceDesk(bench.host.scene, "bench")
    desk.connect({"Tracker": f"127.0.0.1:{tracker.port}"})
    case = bench.case
    followed = Guide(
        bench.host.scene, case.tip, case.line, time.monotonic, lambda: NOW, bench.clearance, None, smoothing_s, SHOWN_S
    )
    return desk, followed


def in_the_scene(bench: Bench, seconds: float) -> FloatArray:
    with Tracker(bench.poses) as tracker:
        desk, followed = follow(bench, tracker)
        last: list[object] = []

        def step() -> float | None:
            desk.poll(time.monotonic(), time.time())
            seen = followed.reading()
            if not seen.valid or (last and last[0] is seen):
                return None
            last[:] = [seen]
            return seen.depth_to_target_mm

        result = latencies(bench, tracker, seconds, step, 0.005)
        followed.close()
        desk.disconnect()
    return result


def by_pyigtl(bench: Bench, seconds: float, plain: Callable[[FloatArray], float]) -> FloatArray:
    with Tracker(bench.poses) as tracker:
        client = pyigtl.OpenIGTLinkClient("127.0.0.1", tracker.port)
        poses: dict[str, FloatArray] = {}

        def step() -> float | None:
            for message in client.get_latest_messages():
                poses[message.device_name] = np.asarray(message.matrix, float)
            if len(poses) < 3 or "new" in poses:
                return None
            TrocarToReference = invert_rigid(poses["ReferenceToTracker"]) @ poses.pop("TrocarToTracker")
            return plain(TrocarToReference)

        result = latencies(bench, tracker, seconds, step, 0.001)
        client.stop()
    return result


def plain_guidance(bench: Bench) -> Callable[[FloatArray], float]:
    """Guidance without error, warnings or checks: one look-up in each distance field."""
    fields, RASToView = fields_of(bench)
    TipToTool, MovingToFixed = bench.known().TipToTool, bench.registration.MovingToFixed
    trajectory: Trajectory = bench.trajectory

    def plain(TrocarToReference: FloatArray) -> float:
        pose = MovingToFixed @ TrocarToReference @ TipToTool
        tip, ahead = pose[:3, 3], pose[:3, 2]
        depth = float((trajectory.target - tip) @ bench.along)
        np.linalg.norm((trajectory.target - tip) - depth * bench.along)
        angle_between_deg(ahead, bench.along)
        field_by_field(fields, RASToView, tip, tip - trajectory.length_mm * ahead)
        return depth

    return plain


def fields_of(bench: Bench) -> tuple[list[tuple[FloatArray, FloatArray]], FloatArray]:
    """Values and origin of each distance field, and the transform into their grid."""
    view = view_along_foramina(bench.anatomy)
    origin = np.array([view.left_mm[0], view.back_mm[0], view.up_mm[0]])
    found = Structures(bench.anatomy, view).fields.values()
    return [(field.values, origin) for field in found], invert_rigid(view.ViewToRAS)


def field_by_field(
    fields: list[tuple[FloatArray, FloatArray]], RASToView: FloatArray, tip: FloatArray, back: FloatArray
) -> list[float]:
    """The smallest distance from each structure, one interpolation for each: how it was done before."""
    count = int(np.ceil(np.linalg.norm(back - tip) / 0.5)) + 1
    points = transform_points(RASToView, tip + np.linspace(0, 1, count)[:, None] * (back - tip))
    return [
        float(map_coordinates(values, (points - origin).T, order=1, mode="nearest").min()) for values, origin in fields
    ]


def timed_ms(action: Callable[[], object], repeats: int = 400) -> FloatArray:
    """Processor time: how long it takes when nothing else wants the processor."""
    action()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        action()
        times.append(1000 * (time.thread_time() - start))
    return np.array(times)


def row(name: str, times_ms: FloatArray, goal: str = "") -> None:
    median, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    print(f"{name:<62}{median:8.2f}{p95:8.2f}{p99:8.2f}{len(times_ms):8d}  {goal}", flush=True)


def clearance_table(bench: Bench) -> None:
    fields, RASToView = fields_of(bench)
    middle = transform_points(USUAL_SACRUM_TO_RAS, [38, 10, -32])
    back = transform_points(USUAL_SACRUM_TO_RAS, [45, 120, -45])
    uncertainty = PoseUncertainty.isotropic(middle, 0.5, 0.5)
    assess = bench.clearance.assess
    length_mm = float(np.linalg.norm(back - middle))
    print(f"clearance of a shaft of {length_mm:.0f} mm from {len(fields)} structures, processor time, ms")
    print(f"{'':<62}{'median':>8}{'95 %':>8}{'99 %':>8}{'times':>8}  goal")
    row(
        "one interpolation for each structure, as before",
        timed_ms(lambda: field_by_field(fields, RASToView, middle, back)),
    )
    row("all structures at once, and what lies ahead", timed_ms(lambda: assess(middle, back, 3.048)))
    row(
        "the same with error and breach probability",
        timed_ms(lambda: assess(middle, back, 3.048, None, uncertainty)),
        f"95 % {GOAL_CLEARANCE_MS:g}",
    )
    rng, off = np.random.default_rng(1), []
    for _ in range(200):
        tip, end = (transform_points(USUAL_SACRUM_TO_RAS, rng.uniform([-60, low, -90], [60, high, 20]))
                    for low, high in ((-20, 40), (60, 140)))  # fmt: skip
        found = list(bench.clearance.distances_mm(tip, end, 3.048).values())
        before = np.array(field_by_field(fields, RASToView, tip, end)) - 1.524
        off.append(np.abs(np.sort(found) - np.sort(before)).max())
    print(f"largest difference from the plan's figures, 200 shafts (seed 1): {max(off):.1e} mm")


def processor_table(bench: Bench) -> None:
    """From the bytes of three tools to guidance, all in one thread: what the programs themselves take."""
    known, registration, error, plain = bench.known(), bench.registration, bench.error(), plain_guidance(bench)
    tools = {"ReferenceToTracker": ReferenceToTracker, "StylusToTracker": ReferenceToTracker}
    counter = iter(range(1_000_000))

    def messages() -> list[bytes]:
        number = next(counter)
        tools["TrocarToTracker"] = ReferenceToTracker @ bench.poses[number % len(bench.poses)]
        return [
            encode(Transform(name, matrix, timestamp_s=1.0 + number, metadata=OK)) for name, matrix in tools.items()
        ]

    waiting: list[list[bytes]] = [messages() for _ in range(401)]
    role, decoder, numbers = TrackerRole(Client("127.0.0.1", 1), frozen_s=None), Decoder(), iter(range(401))

    def ours() -> object:
        number = next(numbers)
        now_s = 1.0 + number
        for data in waiting[number]:
            for message in decoder.feed(data):
                role.handle(Received(message, now_s, 0))
        tool, reference = role.pose("TrocarToTracker", now_s), role.pose("ReferenceToTracker", now_s)
        assert tool.matrix is not None and reference.matrix is not None
        TrocarToRAS = registration.MovingToFixed @ invert_rigid(reference.matrix) @ tool.matrix
        uncertainty = error.at(TrocarToRAS)
        seen = guide(TrocarToRAS @ known.TipToTool, tool.age_s, bench.trajectory, bench.clearance, uncertainty)
        assert seen.valid
        return seen

    their_data = [pyigtl.TransformMessage(matrix, device_name=name).pack() for name, matrix in tools.items()]

    def theirs() -> object:
        poses = {}
        for data in their_data:
            fields = MessageBase.parse_header(data[:HEADER_BYTES])
            message = MessageBase.create_message(fields["message_type"])
            message.unpack(fields, data[HEADER_BYTES:])
            poses[message.device_name] = np.asarray(message.matrix, float)
        return plain(invert_rigid(poses["ReferenceToTracker"]) @ poses["TrocarToTracker"])

    print("\nbytes of three tools to guidance, processor time, ms")
    print(f"{'':<62}{'median':>8}{'95 %':>8}{'99 %':>8}{'poses':>8}")
    row("this link, roles, whole error budget, guidance", timed_ms(ours))
    row("pyigtl's codec and a plain guidance", timed_ms(theirs))


def smoothing_table() -> None:
    """Noise of a resting tool and the lag behind a moving one, by what is allowed."""
    print("\nsmoothing at 60 Hz, noise 0.1 mm per axis (seed 2)")
    for delay_ms in (0, 20, 40):
        rng, smoother = np.random.default_rng(2), PoseSmoother(delay_ms / 1000)
        made = [smoother.add(rigid(np.eye(3), rng.normal(0, 0.1, 3)), tick / 60) for tick in range(3000)]
        noise = float(np.std([pose[:3, 3] for pose, _ in made[20:]]))
        lag = max(delay for _, delay in made)
        print(f"  allowed {delay_ms:2d} ms: noise {noise:.3f} mm, adds {1000 * lag:.1f} ms at most")


def silence_table(bench: Bench, seconds: float) -> None:
    """From the last pose that was sent to the screen without figures."""
    blank: list[float] = []
    with Tracker(bench.poses, pauses=True) as tracker:
        desk, followed = follow(bench, tracker)
        begun, shown, last_depth = time.monotonic(), False, 0.0
        next_tick = 0.0
        while time.monotonic() - begun < seconds:
            desk.poll(time.monotonic(), time.time())
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_S
                seen = followed.reading()
                if seen.valid and seen.depth_to_target_mm is not None:
                    shown, last_depth = True, seen.depth_to_target_mm
                elif shown:
                    shown = False
                    blank.append(1000 * (time.monotonic() - tracker.sent_s[bench.number(last_depth) % _SENT]))
            time.sleep(0.005)
        followed.close()
        desk.disconnect()
    print(
        f"\nlast pose sent to blank, {len(blank)} times: median {np.median(blank):.0f} ms, worst {max(blank):.0f} ms "
        f"(goal {GOAL_BLANK_MS:g} ms)"
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    bench = Bench()
    clearance_table(bench)
    processor_table(bench)
    load = os.getloadavg()[0]
    print(f"\npose sent to guidance, {RATE_HZ:g} Hz, three tools, ms; {load:.0f} programs want {os.cpu_count()} cores")
    print(f"{'':<62}{'median':>8}{'95 %':>8}{'99 %':>8}{'poses':>8}  goal")
    goal = f"95 % {GOAL_LATENCY_MS:g}"
    plain = plain_guidance(bench)
    ways: dict[str, tuple[Callable[[], FloatArray], str]] = {
        "roles and guidance, TRANSFORM": (lambda: by_roles(bench, seconds, as_tdata=False), goal),
        "roles and guidance, TDATA": (lambda: by_roles(bench, seconds, as_tdata=True), goal),
        "device desk (every 5 ms) and guidance in the scene": (lambda: in_the_scene(bench, seconds), goal),
        "pyigtl and a plain guidance, TRANSFORM": (lambda: by_pyigtl(bench, seconds, plain), ""),
    }
    for name, (measure, wanted) in ways.items():
        used_ms, *times_ms = measure()
        row(name, np.array(times_ms), f"{wanted:<8}{used_ms:6.1f} processor")
    silence_table(bench, seconds)
    smoothing_table()


if __name__ == "__main__":
    main()
