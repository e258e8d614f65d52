"""Speed of the device link on this machine, beside pyigtl in the same run.

Checksum and codec of a 1024 x 1024 picture and of a pose; then the way of a pose and of a stop order over a socket on
127.0.0.1 while pictures flow at 15 per second. One process plays both ends, so the figures include both.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import crcmod
import numpy as np
import pyigtl
from pyigtl.messages import MessageBase

from sacroplasty.devices.crc64 import crc64
from sacroplasty.devices.link import Client, Server
from sacroplasty.devices.messages import Command, Image, Transform
from sacroplasty.devices.wire import HEADER_BYTES, Decoder, encode

SEED = 1
SECONDS = 5.0


def best_ms(action: Callable[[], object], repeats: int) -> float:
    """Best of some repetitions, processor time in ms."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def unpack(data: bytes) -> object:
    fields = MessageBase.parse_header(data[:HEADER_BYTES])
    message = MessageBase.create_message(fields["message_type"])
    message.unpack(fields, data[HEADER_BYTES:])
    return message


def codec_rows(pixels: np.ndarray, pose: np.ndarray) -> list[tuple[str, float, float]]:
    reference = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, rev=False, initCrc=0, xorOut=0)
    data = pixels.tobytes()
    image, transform = Image("Image_Detector", pixels), Transform("StylusToTracker", pose)
    their_image = pyigtl.ImageMessage(pixels, device_name="Image_Detector")
    their_transform = pyigtl.TransformMessage(pose, device_name="StylusToTracker")
    their_data = their_image.pack()
    image_data, transform_data = encode(image), encode(transform)
    return [
        ("CRC-64 of 2 MiB", best_ms(lambda: crc64(data), 20), best_ms(lambda: reference(data), 20)),
        ("picture to bytes", best_ms(lambda: encode(image), 20), best_ms(their_image.pack, 20)),
        (
            "bytes to picture",
            best_ms(lambda: Decoder().feed(image_data), 20),
            best_ms(lambda: unpack(their_data), 20),
        ),
        ("pose to bytes", best_ms(lambda: encode(transform), 500), best_ms(their_transform.pack, 500)),
        (
            "bytes to pose",
            best_ms(lambda: Decoder().feed(transform_data), 500),
            best_ms(lambda: unpack(transform_data), 500),
        ),
    ]


def latencies_ms(pixels: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ways of poses (250 per second) to the client and of orders (10 per second) to the server, polled every ms."""
    server = Server(port=0)
    client = Client(port=server.port)
    start = time.perf_counter()
    while not (client.connected and server.peers):
        client.poll(time.perf_counter())
        server.poll(time.perf_counter())
    poses, orders = [], []
    next_picture, next_pose, next_order, sent = start, start, start, {}
    while (now := time.perf_counter()) < start + SECONDS:
        if now >= next_picture:
            next_picture += 1 / 15
            server.send(Image("Image_Detector", pixels))
        if now >= next_pose:
            next_pose += 1 / 250
            # The reading of this clock fits a time stamp.
            server.send(Transform("StylusToTracker", pose, timestamp_s=time.perf_counter()))
        if now >= next_order:
            next_order += 0.1
            number = len(sent)
            sent[number] = time.perf_counter()
            client.send(Command("Pump", command_id=number, command="stop", text="{}"))
        for received in server.poll(now):
            if isinstance(received.message, Command):
                orders.append(time.perf_counter() - sent[received.message.command_id])
        for received in client.poll(now):
            if isinstance(received.message, Transform):
                poses.append(time.perf_counter() - received.message.timestamp_s)
        time.sleep(0.0005)
    client.close()
    server.close()
    return 1000 * np.array(poses), 1000 * np.array(orders)


def main() -> None:
    rng = np.random.default_rng(SEED)
    pixels = rng.integers(0, 65535, (1, 1024, 1024), dtype=np.uint16)
    pose = np.eye(4)
    print(f"{'best of several, ms':<24}{'this link':>12}{'pyigtl':>12}")
    for name, ours, theirs in codec_rows(pixels, pose):
        print(f"{name:<24}{ours:>12.3f}{theirs:>12.3f}")
    print("pyigtl does not check the sum of what it receives.\n")
    poses, orders = latencies_ms(pixels, pose)
    print(f"{'way over 127.0.0.1, ms':<24}{'median':>12}{'95 %':>12}{'worst':>12}{'count':>8}")
    for name, values in (("pose", poses), ("stop order", orders)):
        low, high = np.percentile(values, [50, 95])
        print(f"{name:<24}{low:>12.2f}{high:>12.2f}{values.max():>12.2f}{len(values):>8}")


if __name__ == "__main__":
    main()
