"""A busy operating room on 127.0.0.1: 8 tools at 250 Hz and 15 pictures a second of 1024 x 1024 pixels of 16 bit.

    python link_soak.py [SECONDS]       600 unless told otherwise

Sender and receiver are processes of their own. `received to taken` is from the first bytes that a poll takes from the
socket until the role (tracker or fluoroscope) has taken the message: checking, unpacking, judging and those before it.
`sent to taken` begins before the sender packs the message; it holds the way and what else the machine does as well.
"""

from __future__ import annotations

import multiprocessing
import os
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
    ready_s = float("inf")
    while time.monotonic() < ready_s:
        server.poll(time.monotonic(), 0.01)
        if server.peers:
            ready_s = min(ready_s, time.monotonic() + 1.0)
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
    pose_s: list[tuple[float, float]] = []
    picture_s: list[tuple[float, float]] = []
    taps_s: list[float] = []
    client.tap = lambda direction, *_: taps_s.append(time.monotonic()) if direction == "received" else None
    pose_gaps = out_of_order = 0
    last: dict[str, int] = {}
    began_s = began_processor_s = 0.0
    while not pipe.poll():
        taps_s.clear()
        for received in client.poll(time.monotonic(), 0.005):
            message = received.message
            if isinstance(message, Transform):
                tracker.handle(received)
                now_s = time.monotonic()
                pose_s.append((now_s - taps_s[0], now_s - message.timestamp_s))
                step = message.message_id - last.get(message.name, -1)
                last[message.name] = message.message_id
                pose_gaps += max(0, step - 1)
                out_of_order += step < 1
            elif isinstance(message, Image):
                fluoroscope.handle(received)
                now_s = time.monotonic()
                picture_s.append((now_s - taps_s[0], now_s - message.timestamp_s))
        fluoroscope.take_frames()
        if pose_s and not began_s:
            began_s, began_processor_s = time.monotonic(), processor_s()
    core = (processor_s() - began_processor_s) / (time.monotonic() - began_s)
    poses_sent, pictures_sent, superseded, sender_core = pipe.recv()
    pipe.send("end")
    sender.join()
    counts = client.counts
    client.close()

    print(f"{seconds:.0f} s, {TOOLS} tools at {POSES_HZ} Hz and {PICTURES_HZ} pictures a second, ms")
    print(f"{'':<28}{'sent':>9}{'taken':>9}{'median':>9}{'95 %':>9}{'99 %':>9}{'99.9 %':>9}{'worst':>9}")
    for name, sent, values in (("poses", poses_sent, pose_s), ("pictures", pictures_sent, picture_s)):
        for way, column in (("received to taken", 0), ("sent to taken", 1)):
            cells = 1000 * np.percentile(np.array(values)[:, column], [50, 95, 99, 99.9, 100])
            counts_text = f"{sent:>9}{len(values):>9}"
            print(f"{name + ', ' + way:<28}{counts_text}" + "".join(f"{cell:>9.2f}" for cell in cells))
    print(f"superseded by the sender {superseded}, by the receiver {counts.superseded}")
    print(f"poses missing {pose_gaps}, out of order {out_of_order}, damaged {counts.crc_errors + counts.malformed}")
    print(f"one core: receiver {100 * core:.0f} %, sender {100 * sender_core:.0f} %")
    lost = poses_sent + pictures_sent - len(pose_s) - len(picture_s) - superseded - counts.superseded
    worst_ms = 1000 * max(np.percentile(np.array(values)[:, 0], 95) for values in (pose_s, picture_s))
    reached = lost == 0 and pose_gaps == 0 and worst_ms <= GOAL_MS and core <= GOAL_CORE
    print(f"load of the machine in the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    words = f"nothing lost, 95 % received to taken within {GOAL_MS:.0f} ms, at most {100 * GOAL_CORE:.0f} % of a core"
    print(f"{words}: {'reached' if reached else 'NOT reached'}")


if __name__ == "__main__":
    main()
