"""From the decision to stop until the simulated plunger halts, while pictures flow and one client never reads.

    python stop_latency.py [STOPS]       1000 unless told otherwise

The pump is a process of its own, with the simulator's machine behind this project's server. Beside the controller it
serves a client that never reads, for which it also sends pictures of 2 MB fifteen times a second. The controller reads
pictures of 1024 x 1024 pixels fifteen times a second and 8 tools at 250 Hz from a third process in the loop that
decides. Both processes read the same clock. A stop is decided at a random moment of a run; halted is the first step of
the screw at which the plunger has not gone forward any more.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from multiprocessing.connection import Connection

import numpy as np

from sacroplasty.devices.fluoroscope import FluoroscopeRole
from sacroplasty.devices.link import Client, Server
from sacroplasty.devices.messages import Command, CommandReply, Image, String, Transform
from sacroplasty.devices.pump import PumpRole
from sacroplasty.devices.pump_protocol import DEVICE, STATE_NAME, STATE_PERIOD_S, means_stop
from sacroplasty.devices.tracker import TrackerRole
from sacroplasty.simulation.pump import PumpMachine
from sacroplasty.simulation.world import demonstration_world

SEED = 1
PICTURES_HZ, POSES_HZ, TOOLS = 15, 250, 8
GOAL_MS = 100.0
#: The loop that decides sleeps at most this long, as under a 5 ms timer.
POLL_S = 0.005


def picture(number: int, pixels: np.ndarray) -> Image:
    pixels[0, 0, 0] = number % 65536
    about = {"Geometry": "{}", "FrameRate": str(PICTURES_HZ)}
    return Image("Image_Detector", pixels, timestamp_s=time.monotonic(), metadata=about)


def serve_pump(pipe: Connection) -> None:
    """The pump; tells the time of each halt."""
    world = demonstration_world(SEED)
    machine = PumpMachine(world.pump, world.trocar)
    server = Server(port=0)
    pipe.send(server.port)
    pixels = np.zeros((1, 1024, 1024), np.uint16)
    next_state_s = next_picture_s = 0.0
    pictures = 0
    displaced_ml, moving, told_state = machine.syringe.displaced_ml, False, ""
    while not pipe.poll():
        now_s = time.monotonic()
        orders = [item for item in server.poll(now_s, 0.001) if isinstance(item.message, Command)]
        if any(means_stop(item.message.text) for item in orders):
            machine.stop("order")
        for item in orders:
            answer = machine.order(item.message.text, item.peer, now_s)
            if answer is not None:
                number, name = item.message.command_id, item.message.command
                server.send(CommandReply(DEVICE, command_id=number, command=name, text=answer.text()), to=item.peer)
        machine.tick(time.monotonic())
        goes_forward = machine.syringe.displaced_ml > displaced_ml
        displaced_ml = machine.syringe.displaced_ml
        if moving and not goes_forward and machine.state == "stopped":
            pipe.send(time.monotonic())
        moving = goes_forward or (moving and machine.state == "running")
        if machine.syringe.remaining_ml < 5.0:  # A syringe for a thousand stops.
            machine.syringe.displaced_ml = machine.syringe.out_ml = displaced_ml = 0.0
        if now_s >= next_state_s or machine.state != told_state:
            next_state_s, told_state = now_s + STATE_PERIOD_S, machine.state
            server.send(String(STATE_NAME, machine.told().text(), timestamp_s=now_s), replaceable=True)
        if now_s >= next_picture_s:
            next_picture_s = now_s + 1 / PICTURES_HZ
            pictures += 1
            deaf = [number for number in server.peers if number != machine.peer]
            if deaf:
                server.send(picture(pictures, pixels), to=deaf[0])
        server.flush(time.monotonic())
    server.close()


def serve_pictures_and_poses(pipe: Connection) -> None:
    server = Server(port=0)
    pipe.send(server.port)
    pixels = np.random.default_rng(SEED).integers(0, 65535, (1, 1024, 1024), dtype=np.uint16)
    began_s = time.monotonic()
    ticks = pictures = 0
    while not pipe.poll():
        now_s = time.monotonic()
        server.poll(now_s, max(0.0, began_s + ticks / POSES_HZ - now_s))
        while time.monotonic() >= began_s + ticks / POSES_HZ:
            ticks += 1
            for tool in range(TOOLS):
                about = {"TransformStatus": "OK"}
                server.send(Transform(f"Tool{tool}", np.eye(4), timestamp_s=time.monotonic(), metadata=about))
        if time.monotonic() >= began_s + pictures / PICTURES_HZ:
            pictures += 1
            server.send(picture(pictures, pixels))
    server.close()


def main() -> None:
    stops = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rng = np.random.default_rng(SEED)
    ends, children = [], []
    for serve in (serve_pump, serve_pictures_and_poses):
        near, far = multiprocessing.Pipe()
        children.append(multiprocessing.Process(target=serve, args=(far,)))
        children[-1].start()
        ends.append(near)
    pump_port, theatre_port = (end.recv() for end in ends)
    pump = PumpRole(Client(port=pump_port), "benchmark")
    theatre = Client(port=theatre_port)
    tracker, fluoroscope = TrackerRole(theatre), FluoroscopeRole(theatre)
    pictures = 0

    def turn() -> float:
        """One turn of the loop that decides."""
        nonlocal pictures
        now_s = time.monotonic()
        for received in theatre.poll(now_s, POLL_S):
            tracker.handle(received)
            fluoroscope.handle(received)
        pictures += len(fluoroscope.take_frames())
        pump.poll(time.monotonic())
        return time.monotonic()

    while not pump.reading(turn()).ready:
        pass
    deaf, next_deaf_s = socket.create_connection(("127.0.0.1", pump_port)), time.monotonic() + 5
    taken_ms: list[float] = []
    began_s = time.monotonic()
    while len(taken_ms) < stops:
        now_s = turn()
        if now_s > next_deaf_s:  # In time before the pump cuts it off.
            deaf.close()
            deaf, next_deaf_s = socket.create_connection(("127.0.0.1", pump_port)), now_s + 5
        state = pump.reading(now_s).state
        assert state is not None
        if state.state == "stopped":
            pump.reset(now_s)
        elif state.state == "idle":
            pump.arm(now_s)
        elif state.state == "armed":
            pump.run(0.2, 2.0, 2900, now_s)
        wait_until_s = now_s + 0.03
        while state.state != "running" and time.monotonic() < wait_until_s:
            turn()
        pump.take_answers()
        if (now_s := pump_runs(pump)) is None:
            continue
        decide_s = now_s + rng.uniform(0, 0.1)
        while time.monotonic() < decide_s:
            turn()
        decided_s = time.monotonic()
        pump.stop(decided_s)
        while not ends[0].poll():
            turn()
        taken_ms.append(1000 * (ends[0].recv() - decided_s))
        while pump.stop_pending:
            turn()
    seconds = time.monotonic() - began_s
    for end in ends:
        end.send("end")
    for child in children:
        child.join()
    deaf.close()
    cells = np.percentile(taken_ms, [50, 95, 99, 100])
    print(f"decision to halted plunger, ms, {stops} stops in {seconds:.0f} s, {pictures} pictures read meanwhile")
    print(f"{'median':>10}{'95 %':>10}{'99 %':>10}{'worst':>10}")
    print("".join(f"{cell:>10.2f}" for cell in cells))
    print(f"load of the machine in the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"99 % within {GOAL_MS:.0f} ms: {'reached' if cells[2] <= GOAL_MS else 'NOT reached'}")


def pump_runs(pump: PumpRole) -> float | None:
    """Now, when the pump says that it runs."""
    now_s = time.monotonic()
    state = pump.reading(now_s).state
    return now_s if state is not None and state.state == "running" else None


if __name__ == "__main__":
    main()
