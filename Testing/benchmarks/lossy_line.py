"""A network of two computers with a line between them that loses, delays or carries nothing, and a tracker across it.

Two network namespaces of Linux, each with a TUN interface of its own; a thread of this process carries the packets from
one to the other, as late and as incompletely as it is told. So the real TCP of the operating system deals with the
loss, and no kernel module is needed.

    python lossy_line.py tracker | navigator      what `good_and_bad_times` runs at either end
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from sacroplasty.devices.fluoroscope import FluoroscopeRole
from sacroplasty.devices.link import Client, Server
from sacroplasty.devices.messages import Image, Transform
from sacroplasty.devices.tracker import TrackerRole
from sacroplasty.geometry import rigid

ADDRESSES = ("10.199.0.1", "10.199.0.2")
PORT = 18944
POSES_HZ, FRAMES_HZ = 60, 10
_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x1001


def why_not() -> str:
    """Why no such network can be made here; empty when it can."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        return "only root can make network namespaces"
    if shutil.which("ip") is None:
        return "needs the Debian package iproute2 (make test-peers installs it)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    name = f"sacroplasty-{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "network namespaces are not permitted here"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


class LossyLine:
    """The line. `with` makes it and takes it away.

    Attributes:
        delay_s: each way.
        loss: share of the packets that is lost.
        is_cut: whether nothing gets through.
    """

    def __init__(self, seed: int) -> None:
        self.delay_s = 0.0
        self.loss = 0.0
        self.is_cut = False
        self._rng = np.random.default_rng(seed)
        self._names = [f"sacroplasty-{os.getpid()}-{end}" for end in "ab"]
        self._ends: list[int] = []
        self._running = True
        self._thread = threading.Thread(target=self._carry)

    def __enter__(self) -> LossyLine:
        try:
            for index, name in enumerate(self._names):
                ip("netns", "add", name)
                interface = f"sacro{os.getpid() % 10**6}{'ab'[index]}"
                end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                self._ends.append(end)
                fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", interface.encode(), _TUN_WITHOUT_HEADER))
                ip("link", "set", interface, "netns", name)
                ip("-n", name, "address", "add", ADDRESSES[index], "peer", ADDRESSES[1 - index], "dev", interface)
                ip("-n", name, "link", "set", interface, "up")
        except BaseException:
            self._take_away()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()
        self._take_away()

    def run_at(self, end: int, what: str) -> subprocess.Popen[str]:
        """Start one of this module's programs at an end; it ends when its input does."""
        command = ["ip", "netns", "exec", self._names[end], sys.executable, str(Path(__file__)), what]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _take_away(self) -> None:
        for end in self._ends:
            os.close(end)
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def _carry(self) -> None:
        under_way: list[tuple[float, int, int, bytes]] = []
        count = 0
        while self._running:
            wait_s = min(0.05, max(0.0, under_way[0][0] - time.monotonic())) if under_way else 0.05
            for end in select.select(self._ends, [], [], wait_s)[0]:
                packet = os.read(end, 65536)
                if self.is_cut or self._rng.random() < self.loss:
                    continue
                count += 1
                other = self._ends[1 - self._ends.index(end)]
                heapq.heappush(under_way, (time.monotonic() + self.delay_s, count, other, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, other, packet = heapq.heappop(under_way)
                if not self.is_cut:
                    os.write(other, packet)


def good_and_bad_times(seed: int) -> dict[str, list[dict]]:
    """What the navigator believed meanwhile: lines of `navigate` by the name of the time, with true ages."""
    times = {}

    def meanwhile(name: str, seconds: float, delay_s: float = 0.0, loss: float = 0.0, is_cut: bool = False) -> None:
        line.delay_s, line.loss, line.is_cut = delay_s, loss, is_cut
        start_s = time.monotonic()
        time.sleep(seconds)
        times[name] = start_s, time.monotonic()

    with LossyLine(seed) as line:
        tracker = line.run_at(0, "tracker")
        assert tracker.stdout is not None
        start_s = json.loads(tracker.stdout.readline())["start_s"]
        navigator = line.run_at(1, "navigator")
        meanwhile("begin", 2.0)
        meanwhile("good", 1.5)
        meanwhile("loss", 2.5, loss=0.05)
        meanwhile("good again", 0.5)
        meanwhile("delay", 1.5, delay_s=0.2)
        meanwhile("short cut", 1.0, is_cut=True)
        meanwhile("after the short cut", 2.5)
        meanwhile("long cut", 4.5, is_cut=True)
        meanwhile("back with loss and delay", 6.0, loss=0.05, delay_s=0.2)
        meanwhile("good at last", 3.0)
        out, _ = navigator.communicate("end\n", timeout=10)
        tracker.communicate("end\n", timeout=10)
    entries = [json.loads(text) for text in out.splitlines()]
    for entry in entries:
        for what in ("pose", "frame"):
            made_s = entry[f"{what}_made_s"]
            entry[f"{what}_age_s"] = None if made_s is None else entry["now_s"] - start_s - made_s
    return {name: [e for e in entries if begin <= e["now_s"] < end] for name, (begin, end) in times.items()}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def serve_tracker() -> None:
    """Poses and small pictures that carry the time when they were made, by the clock that both ends share."""
    server = Server(PORT, host=ADDRESSES[0], allow=[ADDRESSES[1]])
    next_pose_s = next_frame_s = start_s = time.monotonic()
    print(json.dumps({"ready": True, "start_s": start_s}), flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        now_s = time.monotonic()
        server.poll(now_s, 0.002)
        stamp_s = 1.7e9 + now_s
        if now_s >= next_pose_s:
            next_pose_s += 1 / POSES_HZ
            pose = rigid(np.eye(3), [now_s - start_s, 0, 0])
            metadata = {"TransformStatus": "OK"}
            server.send(Transform("StylusToTracker", pose, timestamp_s=stamp_s, metadata=metadata))
        if now_s >= next_frame_s:
            next_frame_s += 1 / FRAMES_HZ
            pixels = np.full((1, 8, 8), int(1e4 * (now_s - start_s)), np.uint32)
            metadata = {"Geometry": "{}", "FrameRate": str(FRAMES_HZ)}
            server.send(Image("Image_Detector", pixels, timestamp_s=stamp_s, metadata=metadata))
    server.close()


def navigate() -> None:
    """What a navigator believes: a line every 10 ms with its clock, the links' state, and what is shown as live."""
    client = Client(ADDRESSES[0], PORT)
    tracker, fluoroscope = TrackerRole(client), FluoroscopeRole(client)
    tracker_lines = []
    next_line_s = time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        now_s = time.monotonic()
        for received in client.poll(now_s, 0.002):
            tracker.handle(received)
            fluoroscope.handle(received)
        now_s = time.monotonic()
        if now_s >= next_line_s:
            next_line_s = now_s + 0.01
            pose = tracker.pose("StylusToTracker", now_s)
            frame = fluoroscope.view("Image_Detector", now_s).frame
            line = {
                "now_s": now_s,
                "connected": client.connected,
                "connections": client.counts.connections,
                "pose_made_s": None if pose.matrix is None else float(pose.matrix[0, 3]),
                "frame_made_s": None if frame is None else float(frame.pixels[0, 0]) / 1e4,
                "reason": pose.reason,
            }
            tracker_lines.append(json.dumps(line))
    print("\n".join(tracker_lines), flush=True)


if __name__ == "__main__":
    {"tracker": serve_tracker, "navigator": navigate}[sys.argv[1]]()
