"""A busy operating room on 127.0.0.1: 8 tools at 250 Hz and 15 pictures a second of 1024 x 1024 pixels of 16 bit.

    python link_soak.py [SECONDS]       600 unless told otherwise

Sender and receiver are processes of their own. A time is from just before the sender packs a message until the role
(tracker or fluoroscope) has taken it, so it holds packing, way, checking, unpacking and judging.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection

import numpy as np

from sacroplasty.devices.fluoroscope import FluoroscopeRole
from sacroplasty.devices.link import Client, Server
from sacroplasty.devices.messages import Image, Transform
from sacroplasty.devices.tracker import TrackerRole
from sacroplasty.geometry import rigid

SEED = 1
TOOLS, POSES_HZ, PICTURES_HZ = 8, 250, 15
GOAL_MS, GOAL_CORE = 5.0, 0.4


def processor_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def send(seconds: float, pipe: Connection) -> None:
    """The devices: poses of all tools every 4 ms, and pictures whose pixels change."""
    rng = np.random.default_rng(SEED)
    server = Server(port=0)
    pipe.send(server.port)
    while not server.peers:
        server.poll(time.monotonic(), 0.01)
    pixels = rng.integers(0, 65535, (1, 1024, 1024), dtype=np.uint16)
    metadata = {"TransformStatus": "OK", "TransformValid": "true"}
    names = [f"Tool{tool}ToTracker" for tool in range(TOOLS)]
    poses = [rigid(np.eye(3), position) for position in rng.normal(0, 100, (1000, 3))]
    began_s, began_processor_s = time.monotonic(), processor_s()
    ticks = pictures = 0
    while (now_s := time.monotonic()) < began_s + seconds:
        due_s = began_s + min(ticks / POSES_HZ, pictures / PICTURES_HZ)
        server.poll(now_s, max(0.0, due_s - now_s))
        if time.monotonic() >= began_s + ticks / POSES_HZ:
            for tool, name in enumerate(names):
                pose = poses[(ticks + 97 * tool) % len(poses)]
                stamp_s = time.monotonic()
                server.send(Transform(name, pose, timestamp_s=stamp_s, metadata=metadata, message_id=ticks))
            ticks += 1
            server.flush(time.monotonic())
        if time.monotonic() >= began_s + pictures / PICTURES_HZ:
            pixels[0, 0, 0] = pictures % 65536
            about = {"Geometry": "{}", "FrameRate": str(PICTURES_HZ), "FrameNumber": str(pictures)}
            server.send(Image("Image_Detector", pixels, timestamp_s=time.monotonic(), metadata=about))
            pictures += 1
            server.flush(time.monotonic())
    wall_s, used_s = time.monotonic() - began_s, processor_s() - began_processor_s
    end_s = time.monotonic() + 1.0
    while time.monotonic() < end_s:
        server.poll(time.monotonic(), 0.01)
    pipe.send((ticks * TOOLS, pictures, server.counts.superseded, used_s / wall_s))
    pipe.recv()
    server.close()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    pipe, other = multiprocessing.Pipe()
    sender = multiprocessing.Process(target=send, args=(seconds, other))
    sender.start()
    client = Client(port=pipe.recv())
    tracker, fluoroscope = TrackerRole(client), FluoroscopeRole(client)
    pose_s: list[float] = []
    picture_s: list[float] = []
    pose_gaps = out_of_order = 0
    last: dict[str, int] = {}
    began_s = began_processor_s = 0.0
    while not pipe.poll():
        for received in client.poll(time.monotonic(), 0.005):
            message = received.message
            if isinstance(message, Transform):
                tracker.handle(received)
                pose_s.append(time.monotonic() - message.timestamp_s)
                step = message.message_id - last.get(message.name, -1)
                last[message.name] = message.message_id
                pose_gaps += max(0, step - 1)
                out_of_order += step < 1
            elif isinstance(message, Image):
                fluoroscope.handle(received)
                picture_s.append(time.monotonic() - message.timestamp_s)
        fluoroscope.take_frames()
        if pose_s and not began_s:
            began_s, began_processor_s = time.monotonic(), processor_s()
    core = (processor_s() - began_processor_s) / (time.monotonic() - began_s)
    poses_sent, pictures_sent, superseded, sender_core = pipe.recv()
    pipe.send("end")
    sender.join()
    counts = client.counts
    client.close()

    print(f"{seconds:.0f} s, {TOOLS} tools at {POSES_HZ} Hz and {PICTURES_HZ} pictures a second, sent to taken, ms")
    print(f"{'':<10}{'sent':>10}{'taken':>10}{'median':>9}{'95 %':>9}{'99 %':>9}{'99.9 %':>9}{'worst':>9}")
    for name, sent, values in (("poses", poses_sent, pose_s), ("pictures", pictures_sent, picture_s)):
        cells = 1000 * np.percentile(values, [50, 95, 99, 99.9, 100])
        print(f"{name:<10}{sent:>10}{len(values):>10}" + "".join(f"{cell:>9.2f}" for cell in cells))
    print(f"superseded by the sender {superseded}, by the receiver {counts.superseded}")
    print(f"poses missing {pose_gaps}, out of order {out_of_order}, damaged {counts.crc_errors + counts.malformed}")
    print(f"one core: receiver {100 * core:.0f} %, sender {100 * sender_core:.0f} %")
    lost = poses_sent + pictures_sent - len(pose_s) - len(picture_s) - superseded - counts.superseded
    worst_ms = 1000 * max(np.percentile(pose_s, 95), np.percentile(picture_s, 95))
    reached = lost == 0 and pose_gaps == 0 and worst_ms <= GOAL_MS and core <= GOAL_CORE
    print(
        f"goal (nothing lost, 95 % within {GOAL_MS:.0f} ms, core {100 * GOAL_CORE:.0f} %): {'yes' if reached else 'NO'}"
    )


if __name__ == "__main__":
    main()
