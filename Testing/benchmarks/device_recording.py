"""What recording a session costs, what a kill leaves of it, and whether a replay is what was.

    python Testing/benchmarks/device_recording.py

A server process sends 8 tools 250 times a second and 15 pictures of 1024 x 1024 pixels; a client process receives them
for 10 s, without and with a recorder, and its processor time is compared. Then the client is killed without warning, 10
times at a random moment, and what it had told to have received is looked for in its file. At last a session is replayed
as fast as it goes and at several speeds, and what a tracker role says of it is compared.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sacroplasty.devices.link import Client, Server
from sacroplasty.devices.messages import Image, Transform
from sacroplasty.devices.recorder import SessionRecorder
from sacroplasty.devices.replay import ReplayClock, ReplayLink
from sacroplasty.devices.session_file import read_session
from sacroplasty.devices.tracker import TrackerRole

SEED = 3
SECONDS = 10.0
TOOLS = [f"Tool{number}ToTracker" for number in range(8)]


def serve() -> None:
    rng = np.random.default_rng(SEED)
    server = Server(port=0)
    print(server.port, flush=True)
    pixels = rng.integers(0, 65535, (1, 1024, 1024), dtype=np.uint16)
    next_pose = next_picture = begun = time.monotonic()
    while time.monotonic() - begun < 120:
        now = time.monotonic()
        if now >= next_picture:
            next_picture += 1 / 15
            server.send(Image("Image_Detector", pixels, timestamp_s=time.time()))
        if now >= next_pose:
            next_pose += 1 / 250
            for name in TOOLS:
                matrix = np.eye(4)
                matrix[:3, 3] = rng.normal(900, 0.1, 3)
                metadata = {"TransformStatus": "OK"}
                server.send(Transform(name, matrix, timestamp_s=time.time(), metadata=metadata))
        server.poll(now, max(0.0, min(next_pose, next_picture) - time.monotonic()))


def receive(port: int, path: str, seconds: float) -> None:
    """Receive for so long; prints after each poll how many messages came, and at the end the processor time."""
    client = Client(port=port)
    recorder = None
    count, spent, begun = 0, 0.0, None
    while begun is None or time.monotonic() - begun < seconds:
        now = time.monotonic()
        count += len(client.poll(now))
        if client.connected and begun is None:
            begun, spent, count = now, time.process_time(), 0
            if path:
                recorder = SessionRecorder(Path(path), {"Tracker": client}, now, time.time())
        if recorder is not None:
            recorder.poll(now)
        sys.stdout.write(f"{count}\n")
        sys.stdout.flush()
        time.sleep(0.002)
    written = recorder.written_bytes if recorder is not None else 0
    print(f"done {time.process_time() - spent:.3f} {written}", flush=True)


def child(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def share(port: int, path: str) -> tuple[float, int]:
    """Processor time of receiving, as a share of one core, and bytes recorded."""
    out, _ = child("receive", port, path, SECONDS).communicate()
    _, spent_s, written = out.strip().splitlines()[-1].split()
    return float(spent_s) / SECONDS, int(written)


def killed(port: int, path: Path, rng: np.random.Generator) -> tuple[int, int, int]:
    """Messages that a killed receiver had told of, those in its file, and bytes of the file that belong to no entry."""
    receiver = child("receive", port, path, 60)
    time.sleep(1.0 + float(rng.uniform(0, 1)))
    receiver.kill()
    told = [int(line) for line in receiver.stdout.read().split("\n")[:-1]]
    receiver.wait()
    session = read_session(path)
    kept = sum(1 for _ in session.messages("Tracker"))
    return told[-1], kept, session.damaged_bytes


def verdicts(session, speed: float, step_s: float) -> list:
    begun_s = 1000.0
    clock, role = ReplayClock(begun_s, speed), TrackerRole(ReplayLink(session, "Tracker", begun_s))
    told, tick, now_s = [], 1, begun_s
    while tick * 0.05 < session.duration_s:
        now_s += step_s
        while tick * 0.05 < session.duration_s and begun_s + tick * 0.05 <= clock.time_s(now_s):
            at_s = begun_s + tick * 0.05
            role.poll(at_s)
            for name in TOOLS:
                pose = role.pose(name, at_s)
                told.append((pose.reason, None if pose.matrix is None else pose.matrix.tobytes()))
            tick += 1
    return told


def main() -> None:
    rng = np.random.default_rng(SEED)
    server = child("serve")
    port = int(server.stdout.readline())
    try:
        with tempfile.TemporaryDirectory(prefix="sacroplasty-recording-") as place:
            folder = Path(place)
            without, _ = share(port, "")
            recorded, written = share(port, str(folder / "a.session"))
            print(f"receiving, share of a core: {without:.1%}; with a recorder: {recorded:.1%}")
            print(f"recorded: {written / 1e6 / SECONDS:.1f} MB/s")
            kills = [killed(port, folder / f"kill{number}.session", rng) for number in range(10)]
            lost = sum(max(0, told - kept) for told, kept, _ in kills)
            received, cut = sum(told for told, _, _ in kills), max(damaged for _, _, damaged in kills)
            print(f"10 kills: {received} messages had been received, {lost} of them are missing; {cut} bytes cut short")
            session = read_session(folder / "a.session")
            begun = time.perf_counter()
            first = verdicts(session, 1.0, 0.005)
            took = time.perf_counter() - begun
            print(f"replay: {session.duration_s:.1f} s in {took:.2f} s")
            cases = ((1.0, 0.05), (0.25, 0.005), (4.0, 0.013), (1000.0, 1.0))
            same = [verdicts(session, speed, step_s) == first for speed, step_s in cases]
            print(f"{len(first)} verdicts the same at {sum(same)} of {len(cases)} other speeds and steps")
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["receive"]:
        receive(int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
    else:
        main()
