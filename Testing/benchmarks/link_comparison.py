"""Throughput and latency of the device link beside pyigtl and beside the C++ library's own client, in the same run.

    python link_comparison.py [--quick]

Sender and receiver are processes of their own on 127.0.0.1; each of the three libraries plays either. A sender makes
and packs every message anew. A user of pyigtl does not see every message, since it keeps the newest of a name; its
figures are those of its own thread when it has unpacked one, which is better than a user of it can have. NaN: the
connection broke off in all three attempts (pyigtl gives up when a picture does not leave within 10 ms).

Needs the Debian packages libopenigtlink-dev and g++ for the C++ library; without them those rows are left out.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyigtl
from openigtlink_programs import missing_packages, program

from sacroplasty.devices.link import Client, Server
from sacroplasty.devices.messages import Image, Transform
from sacroplasty.geometry import rigid

SEED = 1
LIBRARIES = ("this link", "pyigtl", "C++")
#: Messages for throughput and for latency, and how many a second for latency.
FULL = {"pose": (100_000, 2500, 250.0), "picture": (300, 150, 15.0)}
QUICK = {"pose": (20_000, 500, 250.0), "picture": (60, 30, 15.0)}
POSE = rigid(np.eye(3), [10.0, 20.0, 30.0])
NAMES = {"pose": "StylusToTracker", "picture": "Image_Detector"}


def pixels() -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, 65535, (1, 1024, 1024), dtype=np.uint16)


def send_ours(port: int, kind: str, count: int, rate: float) -> None:
    server = Server(port, header_version=1)  # As the other two send.
    print("ready", flush=True)
    while not server.peers:
        server.poll(time.time(), 0.1)
    picture = pixels()
    waiting = 200 if kind == "pose" else 2
    start_s, before = time.time() + 0.5, server.counts.sent
    number = 0
    while number < count:
        now_s = time.time()
        due_s = start_s + number / rate if rate else 0.0
        if now_s >= due_s and number - (server.counts.sent - before) < waiting:
            make = (Transform, POSE) if kind == "pose" else (Image, picture)
            server.send(make[0](NAMES[kind], make[1], timestamp_s=now_s, header_version=1), replaceable=False)
            number += 1
            if rate or number % waiting == 0:
                server.flush(now_s)
        else:
            server.poll(now_s, min(0.001, max(0.0, due_s - now_s)) if rate else 0.001)
    while server.peers:
        server.poll(time.time(), 0.01)


def receive_ours(port: int, count: int) -> tuple[float, list[float]]:
    client = Client(port=port, silence_s=None)
    latencies: list[float] = []
    kinds = (Transform, Image)
    start_s = 0.0
    # Pictures that arrive together are superseded by the newest, and count as taken.
    while len(latencies) + client.counts.superseded < count:
        for received in client.poll(time.time(), 0.01):
            if isinstance(received.message, kinds):
                now_s = time.time()
                start_s = start_s or now_s
                latencies.append(now_s - received.message.timestamp_s)
    end_s = time.time()
    client.close()
    return end_s - start_s, latencies


def send_pyigtl(port: int, kind: str, count: int, rate: float) -> None:
    server = pyigtl.OpenIGTLinkServer(port=port, local_server=True)
    print("ready", flush=True)
    while not server.is_connected():
        time.sleep(0.001)
    picture = pixels()
    start_s = time.time() + 0.5
    for number in range(count):
        while rate and time.time() < start_s + number / rate:
            time.sleep(0.00005)
        while len(server.outgoing_messages) > 90:  # It drops what is beyond 100.
            time.sleep(0.0002)
        make = {"pose": (pyigtl.TransformMessage, POSE), "picture": (pyigtl.ImageMessage, picture)}[kind]
        server.send_message(make[0](make[1], timestamp=time.time(), device_name=NAMES[kind]), wait=False)
    while server.outgoing_messages:
        time.sleep(0.01)
    sys.stdin.readline()


def receive_pyigtl(port: int, count: int) -> tuple[float, list[float]]:
    client = pyigtl.OpenIGTLinkClient("127.0.0.1", port, start_now=False)
    latencies: list[float] = []
    times: list[float] = []
    receive = client._receive_message_from_socket

    def counted(handle: socket.socket) -> bool:
        done = receive(handle)
        if done:
            times.append(time.time())
            latencies.append(times[-1] - next(iter(client.incoming_messages.values())).timestamp)
        return done

    client._receive_message_from_socket = counted
    client.start()
    while len(times) < count:
        time.sleep(0.001)
    client.stop()
    return times[-1] - times[0], latencies


def as_peer(arguments: list[str]) -> None:
    what, library, port, *rest = arguments
    if what == "send":
        send: Callable[..., None] = {"this link": send_ours, "pyigtl": send_pyigtl}[library]
        send(int(port), rest[0], int(rest[1]), float(rest[2]))
    else:
        receive = {"this link": receive_ours, "pyigtl": receive_pyigtl}[library]
        seconds, latencies = receive(int(port), int(rest[0]))
        print(seconds, int(rest[0]), *latencies, sep="\n", flush=True)


def command(what: str, library: str, port: int, *rest: object) -> list[str]:
    if library == "C++":
        peer = program(Path(__file__).with_name("openigtlink_peer.cxx"))
        return [str(peer), what, str(port), *map(str, rest)]
    return [sys.executable, __file__, "--peer", what, library, str(port), *map(str, rest)]


def run(sender: str, receiver: str, kind: str, count: int, rate: float) -> tuple[float, np.ndarray]:
    """Messages a second, and latencies in ms; NaN when the connection broke off before all had come."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sending = subprocess.Popen(
        command("send", sender, port, kind, count, rate),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert sending.stdout is not None
        while sending.stdout.readline().strip() != "ready":
            pass
        done = subprocess.run(command("receive", receiver, port, count), capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        done = None
    finally:
        sending.kill()
        sending.communicate()
    if done is None or done.returncode:
        return float("nan"), np.full(1, np.nan)
    numbers = [float(word) for word in done.stdout.split()]
    return (numbers[1] - 1) / numbers[0], 1000 * np.array(numbers[2:])


def main() -> None:
    if "--peer" in sys.argv:
        as_peer(sys.argv[sys.argv.index("--peer") + 1 :])
        return
    there = [name for name in LIBRARIES if name != "C++" or not {"g++", "libopenigtlink-dev"} & set(missing_packages())]
    for kind, (many, few, rate) in (QUICK if "--quick" in sys.argv else FULL).items():
        print(f"\n{kind}s a second, from process to process (best of three)")
        print(f"{'sender':<12}" + "".join(f"{'to ' + name:>16}" for name in there))
        best = {}
        for sender in there:
            for receiver in there:
                best[sender, receiver] = np.fmax.reduce([run(sender, receiver, kind, many, 0)[0] for _ in range(3)])
            print(f"{sender:<12}" + "".join(f"{best[sender, receiver]:>16.0f}" for receiver in there))
        ours = best["this link", "this link"]
        for name in there[1:]:
            ratio = ours / best[name, name]
            print(f"whole way of this link over whole way of {name}: {ratio:.2f}")
        sender = there[-1]
        print(f"\n{kind} at {rate:.0f} a second sent by {sender}, latency in ms")
        print(f"{'receiver':<12}{'median':>10}{'95 %':>10}{'99 %':>10}{'worst':>10}")
        for receiver in there:
            latencies = run(sender, receiver, kind, few, rate)[1]
            cells = np.percentile(latencies, [50, 95, 99, 100])
            print(f"{receiver:<12}" + "".join(f"{cell:>10.3f}" for cell in cells))


if __name__ == "__main__":
    main()
