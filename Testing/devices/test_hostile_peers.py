"""Peers that mean harm, or behave as if they did: refused, logged, and the service goes on for the others."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
import tracemalloc

import numpy as np
import pytest

from sacroplasty.devices.link import SLOW_MESSAGE_S, Client, Server
from sacroplasty.devices.messages import Image, Opaque, String, Transform
from sacroplasty.devices.wire import encode

LARGE = encode(Image("Image_Detector", np.zeros((1, 1024, 1024), np.uint16)))


@pytest.fixture
def server(caplog):
    caplog.set_level(logging.INFO)
    server = Server(port=0, most_clients=4)
    yield server
    server.close()


@pytest.fixture
def honest(until, server):
    """A client that must not notice anything."""
    client = Client(port=server.port)
    until(lambda: client.connected and server.peers, server.poll, client.poll)
    yield client
    client.close()


def strangers(server: Server, count: int) -> list[socket.socket]:
    made = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    for one in made:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def is_served(until, server: Server, client: Client) -> bool:
    """Whether a pose and a text still go each way."""
    heard = []
    server.send(Transform("StylusToTracker", np.eye(4)))
    client.send(String("Note", "still here"))

    def step(now_s):
        heard.extend(item.message.name for item in server.poll(now_s) if isinstance(item.message, String))
        heard.extend(item.message.name for item in client.poll(now_s) if isinstance(item.message, Transform))

    until(lambda: {"Note", "StylusToTracker"} <= set(heard), step)
    return client.counts.connections == 1


def test_connections_beyond_the_limit_are_refused(until, server, honest, caplog):
    crowd = strangers(server, 30)
    until(lambda: server.refused == 27, server.poll)
    assert len(server.peers) == 4
    assert "4 clients are connected already" in server.last_problem
    lines = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    assert len(lines) == 1, "one line for all of them within a second"
    assert is_served(until, server, honest)
    crowd[0].close()
    until(lambda: len(server.peers) == 3, server.poll)
    crowd += strangers(server, 1)
    until(lambda: len(server.peers) == 4, server.poll)
    for one in crowd:
        one.close()


def test_a_flood_of_connections_is_taken_in_portions(until, server, honest):
    crowd = strangers(server, 4)
    for _ in range(40):
        crowd += strangers(server, 4)
        server.poll(time.monotonic())
    assert is_served(until, server, honest)
    assert server.refused > 100
    for one in crowd:
        one.close()


def test_a_peer_off_the_allow_list_is_refused_and_logged(until, caplog):
    caplog.set_level(logging.INFO)
    server = Server(port=0, host="127.0.0.1", allow=["192.0.2.7"])
    (stranger,) = strangers(server, 1)
    until(lambda: server.refused == 1, server.poll)
    assert "127.0.0.1" in caplog.text and "is not on the allow-list" in caplog.text
    assert stranger.recv(10) == b"", "not a word is said to it"
    stranger.close()
    server.close()


def test_a_message_that_comes_byte_by_byte_ends_the_connection(until, server, honest, caplog):
    """Slow loris: each byte comes in time, the message never ends."""
    (loris,) = strangers(server, 1)
    until(lambda: len(server.peers) == 2, server.poll)
    start_s = now_s = time.monotonic()
    sent = 0
    while len(server.peers) == 2 and now_s < start_s + 3 * SLOW_MESSAGE_S:
        loris.sendall(LARGE[sent : sent + 1])
        sent += 1
        time.sleep(0.001)
        now_s = start_s + sent
        for item in server.poll(now_s):
            assert not isinstance(item.message, Image)
        honest.poll(now_s)
    assert now_s - start_s < SLOW_MESSAGE_S + 3
    assert "bytes of a message in" in server.last_problem and "was cut off" in caplog.text
    assert honest.connected
    loris.close()


def test_a_slow_line_that_moves_on_is_not_cut_off(until, server):
    client = Client(port=server.port)
    raw = socket.create_connection(("127.0.0.1", server.port))
    until(lambda: client.connected and len(server.peers) == 2, server.poll, client.poll)
    now_s, sent, pictures = time.monotonic(), 0, 0
    while sent < len(LARGE):
        raw.sendall(LARGE[sent : sent + 50_000])  # 50 kB/s: 42 s for a picture.
        sent += 50_000
        time.sleep(0.0005)
        now_s += 1.0
        pictures += sum(isinstance(item.message, Image) for item in server.poll(now_s))
        client.poll(now_s)
    until(lambda: pictures == 1 or any(isinstance(i.message, Image) for i in server.poll(now_s)))
    assert len(server.peers) == 2
    raw.close()
    client.close()


@pytest.mark.parametrize("type_name", ["IMAGE", "TRANSFORM", "POLYDATA", "X"])
def test_an_absurd_size_costs_neither_memory_nor_service(type_name, until, server, honest):
    header = bytearray(encode(Opaque("x", type_name, b"", header_version=1)))
    (liar,) = strangers(server, 1)
    until(lambda: len(server.peers) == 2, server.poll, honest.poll)
    tracemalloc.start()
    try:
        for size in (2**32, 2**63, 2**64 - 1, 2**26 + 1):
            struct.pack_into(">Q", header, 42, size)
            liar.sendall(header)
            server.poll(time.monotonic())
        liar.sendall(encode(String("Note", "after all")))
        heard = []
        until(lambda: heard, lambda now_s: heard.extend(i for i in server.poll(now_s) if isinstance(i.message, String)))
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert heard[0].message.text == "after all"
    assert is_served(until, server, honest)
    liar.close()


def test_announced_bytes_take_memory_only_as_they_come(until, server, honest):
    """Sixty-three MB are announced by three peers, and never sent."""
    header = bytearray(encode(Opaque("x", "POLYDATA", b"", header_version=1)))
    struct.pack_into(">Q", header, 42, 63 * 2**20)
    before_kb = resident_kb()
    liars = strangers(server, 3)
    for liar in liars:
        liar.sendall(header)
    until(lambda: len(server.peers) == 4, server.poll, honest.poll)
    assert is_served(until, server, honest)
    assert resident_kb() - before_kb < 20_000
    for liar in liars:
        liar.close()


def resident_kb() -> int:
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    except FileNotFoundError:
        pytest.skip("the memory that a process really has is read from /proc")


def test_names_with_control_characters_are_refused_and_logged_harmlessly(until, server, honest, caplog):
    (rude,) = strangers(server, 1)
    rude.sendall(encode(String("\x1b[2Jgone", "x")) + encode(String("a\r\nb", "x")) + encode(String("Note", "good")))
    heard = []

    def step(now_s):
        heard.extend(item.message.name for item in server.poll(now_s) if isinstance(item.message, String))
        honest.poll(now_s)

    until(lambda: heard, step)
    assert heard == ["Note"]
    assert server.counts.malformed == 2
    assert "control characters" in caplog.text
    assert all(record.getMessage().isprintable() for record in caplog.records)
    rude.close()


def test_damage_is_logged_once_a_second_at_most(until, server, honest, caplog):
    (noisy,) = strangers(server, 1)
    damaged = bytearray(encode(String("Note", "x")))
    damaged[-1] ^= 1
    now_s = time.monotonic()
    for tick in range(300):
        noisy.sendall(damaged)
        time.sleep(0.0002)
        server.poll(now_s + 0.01 * tick)
        honest.poll(now_s + 0.01 * tick)
    lines = [record.getMessage() for record in caplog.records if "wrong checksum" in record.getMessage()]
    assert 2 <= len(lines) <= 4
    assert "more before" in lines[-1]
    assert server.counts.crc_errors > 200
    noisy.close()


def test_a_flood_of_messages_does_not_keep_the_others_waiting(until, server, honest):
    """Each poll takes a bounded share from each peer."""
    (flood,) = strangers(server, 1)
    flood.setblocking(False)
    stream = encode(String("Flood", "x")) * 5000
    taken = []
    for _ in range(30):
        with contextlib.suppress(BlockingIOError):
            flood.send(stream)
        honest.send(String("Note", "me too"))
        honest.poll(time.monotonic())
        items = server.poll(time.monotonic())
        taken.append(len(items))
    assert max(taken) < 8000
    assert is_served(until, server, honest)
    flood.close()
