"""Connections over real sockets: several clients, slow readers, silence, reconnection, pyigtl as peer."""

from __future__ import annotations

import contextlib
import socket
import time

import numpy as np
import pyigtl
import pytest

from sacroplasty.devices.link import KEEP_ALIVE_S, SILENCE_S, Client, Server
from sacroplasty.devices.messages import Command, Image, NamedPoint, Point, Status, String, Transform
from sacroplasty.devices.wire import encode
from sacroplasty.errors import DeviceError

LARGE = np.random.default_rng(0).integers(0, 65535, (1, 1024, 1024), dtype=np.uint16)


@pytest.fixture
def server():
    server = Server(port=0)
    yield server
    server.close()


@pytest.fixture
def client(server):
    client = Client(port=server.port)
    yield client
    client.close()


def connect(until, server, *clients):
    until(
        lambda: all(c.connected for c in clients) and len(server.peers) == len(clients),
        server.poll,
        *[c.poll for c in clients],
    )


def texts(received):
    return [item.message.text for item in received if isinstance(item.message, String)]


def test_a_message_reaches_every_client_and_an_answer_only_its_own(until, server):
    clients = [Client(port=server.port) for _ in range(3)]
    connect(until, server, *clients)
    server.send(String("Note", "to all"))
    clients[1].send(Command("Pump", command_id=1, command="arm", text=""))
    heard = {number: [] for number in range(3)}

    def step(now_s):
        for item in server.poll(now_s):
            if isinstance(item.message, Command):
                server.send(String("Note", "to one"), to=item.peer)
        for number, one in enumerate(clients):
            heard[number] += texts(one.poll(now_s))

    until(lambda: "to one" in heard[1], step)
    step(time.monotonic())
    assert heard == {0: ["to all"], 1: ["to all", "to one"], 2: ["to all"]}
    for one in clients:
        one.close()


def test_an_order_arrives_quickly_while_pictures_flow_both_ways(until, server, client):
    """The stop path: pictures of 2 MB go each way as fast as they can, and orders do not wait behind them."""
    connect(until, server, client)
    arrived, sent_s = [], {}

    def step(now_s):
        client.send(Image("Up", LARGE))
        server.send(Image("Down", LARGE))
        if len(sent_s) < 10 and len(sent_s) == len(arrived):
            number = len(sent_s)
            client.send(Command("Pump", command_id=number, command="stop", text=""))
            sent_s[number] = time.monotonic()
        for item in server.poll(now_s):
            if isinstance(item.message, Command):
                arrived.append(time.monotonic() - sent_s[item.message.command_id])
        client.poll(now_s)

    until(lambda: len(arrived) == 10, step, limit_s=15)
    # A step here codes and checks four pictures of 2 MB, some 60 ms; an order may meet two of those.
    assert np.median(arrived) < 0.3
    assert client.counts.superseded > 0


def test_a_slow_reader_gets_every_alarm_and_the_newest_picture(until, server, client):
    connect(until, server, client)
    for number in range(40):
        server.send(Image("Image_Detector", LARGE + np.uint16(number)))
        server.send(String("Alarm", str(number)))
        server.send(Status("Pump", 1, subcode=number))
        server.poll(time.monotonic())
    assert server.counts.superseded > 20
    found, last = [], []

    def step(now_s):
        server.poll(now_s)
        for item in client.poll(now_s):
            if isinstance(item.message, String):
                found.append(item.message.text)
            elif isinstance(item.message, Image):
                last[:] = [item.message]

    until(lambda: len(found) == 40 and last and (last[0].voxels == LARGE + np.uint16(39)).all(), step)
    assert found == [str(number) for number in range(40)]


def test_who_never_reads_is_cut_off_and_costs_bounded_memory(until, server):
    deaf = socket.create_connection(("127.0.0.1", server.port))
    until(lambda: server.peers, server.poll)
    text = "x" * 60000
    for _ in range(400):
        server.send(String("Alarm", text))
        server.poll(time.monotonic())
    assert not server.peers
    assert server.counts.undelivered > 0
    deaf.close()


def test_a_silent_server_is_given_up_and_tried_again():
    listener = socket.create_server(("127.0.0.1", 0))
    client = Client(port=listener.getsockname()[1])
    now_s = 100.0
    while not client.connected:
        client.poll(now_s)
    client.poll(now_s + SILENCE_S - 0.1)
    assert client.connected
    client.poll(now_s + SILENCE_S + 0.1)
    assert not client.connected and "nothing heard" in client.reason
    for step in range(100):
        client.poll(now_s + SILENCE_S + 0.3 + 0.01 * step)
    assert client.connected and client.counts.connections == 2
    client.close()
    listener.close()


def test_an_idle_link_is_kept_alive_by_its_server(until, server, client):
    connect(until, server, client)
    now_s = time.monotonic()
    for step in range(100):
        later_s = now_s + step * KEEP_ALIVE_S / 5
        server.poll(later_s)
        time.sleep(0.0005)
        client.poll(later_s)
    assert client.connected and client.counts.connections == 1


def test_attempts_to_connect_back_off_to_one_in_five_seconds():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Client(port=port)
    for tick in range(2000):
        client.poll(tick * 0.01)
    assert "nothing listens" in client.reason
    assert 6 <= client.counts.attempts <= 12  # After 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5 ... s within 20 s.
    client.close()


def test_a_client_comes_back_when_the_server_does(until):
    server = Server(port=0)
    client = Client(port=server.port)
    connect(until, server, client)
    port = server.port
    server.close()
    until(lambda: not client.connected, client.poll)
    assert not client.send(Command("Pump", command_id=1, command="run", text="")), "nothing is kept for later"
    server = Server(port=port)
    heard = []
    until(lambda: client.connected and server.peers, client.poll, lambda now_s: heard.extend(server.poll(now_s)))
    assert not any(isinstance(item.message, Command) for item in heard)
    client.close()
    server.close()


def test_a_message_that_stops_half_way_does_not_block_those_after_it(until, server):
    raw = socket.create_connection(("127.0.0.1", server.port))
    heard = []
    raw.sendall(encode(Image("Image_Detector", LARGE))[:50000])
    now_s = time.monotonic()
    until(lambda: server.peers, server.poll)
    server.poll(now_s)
    raw.sendall(encode(String("Alarm", "leak")))
    time.sleep(0.05)
    heard += server.poll(now_s + 0.1)
    assert not heard
    heard += server.poll(now_s + 3.0)
    assert texts(heard) == ["leak"]
    raw.close()


def test_a_port_in_use_is_one_clear_line(server):
    with pytest.raises(DeviceError, match=f"port {server.port} on 127.0.0.1 is in use"):
        Server(port=server.port)


def test_a_server_open_to_the_network_needs_an_allow_list_and_keeps_to_it(until):
    with pytest.raises(DeviceError, match="allow-list"):
        Server(port=0, host="0.0.0.0")
    server = Server(port=0, host="0.0.0.0", allow=["192.0.2.0/24"])
    assert server.open_to_network
    stranger = socket.create_connection(("127.0.0.1", server.port))
    until(lambda: server.refused == 1, server.poll)
    assert not server.peers
    stranger.close()
    server.close()
    assert not Server(port=0).open_to_network
    with pytest.raises(DeviceError, match="is no address"):
        Client(host="pump.local")


def test_pyigtl_as_client_exchanges_poses_and_texts(until, server):
    peer = pyigtl.OpenIGTLinkClient("127.0.0.1", server.port)
    heard = []
    try:
        until(lambda: server.peers, server.poll)
        server.send(Transform("StylusToTracker", np.diag([1.0, -1, -1, 1]), timestamp_s=5.0))
        peer.send_message(pyigtl.StringMessage("hello", device_name="Note"), wait=False)
        until(lambda: texts(heard) == ["hello"], lambda now_s: heard.extend(server.poll(now_s)))
        found = peer.wait_for_message("StylusToTracker", timeout=2)
        np.testing.assert_allclose(found.matrix, np.diag([1.0, -1, -1, 1]))
    finally:
        peer.stop()


def test_pyigtl_as_server_exchanges_poses_and_texts(until):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    peer = pyigtl.OpenIGTLinkServer(port=port, local_server=True)
    client = Client(port=port, silence_s=None)  # pyigtl sends no keep-alive.
    heard = []
    try:
        until(lambda: client.connected and peer.is_connected(), client.poll)
        sent = pyigtl.TransformMessage(np.eye(4), device_name="StylusToTracker")
        peer.send_message(sent, wait=False)
        client.send(String("Note", "hello", header_version=1))
        until(
            lambda: any(isinstance(i.message, Transform) for i in heard), lambda now_s: heard.extend(client.poll(now_s))
        )
        assert peer.wait_for_message("Note", timeout=2).string == "hello"
    finally:
        client.close()
        with contextlib.suppress(OSError):
            peer.stop()


@pytest.mark.parametrize("as_server", [True, False])
def test_pyigtl_exchanges_pictures_and_points(as_server, until):
    pixels = np.arange(600, dtype=np.uint16).reshape(1, 20, 30)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if as_server:
        peer = pyigtl.OpenIGTLinkServer(port=port, local_server=True)
        link = Client(port=port, silence_s=None)
        ready = lambda: link.connected and peer.is_connected()  # noqa: E731
    else:
        link = Server(port=port)
        peer = pyigtl.OpenIGTLinkClient("127.0.0.1", port)
        ready = lambda: link.peers and peer.is_connected()  # noqa: E731
    heard = {}

    def step(now_s):
        heard.update((item.message.name, item.message) for item in link.poll(now_s))

    try:
        until(ready, step)
        peer.send_message(pyigtl.ImageMessage(pixels, device_name="Picture"), wait=False)
        peer.send_message(pyigtl.PointMessage([(1.0, 2.0, 3.0)], device_name="Points"), wait=False)
        until(lambda: {"Picture", "Points"} <= set(heard), step)
        np.testing.assert_array_equal(heard["Picture"].voxels, pixels)
        assert heard["Points"].points[0].position == (1.0, 2.0, 3.0)
        link.send(Image("Ours", pixels, metadata={"FrameNumber": "7"}))
        link.send(Point("OurPoints", (NamedPoint("promontory", (1.0, -2.0, 3.5)),)))
        until(lambda: "Ours" in peer.incoming_messages and "OurPoints" in peer.incoming_messages, step)
        found = peer.wait_for_message("Ours", timeout=2)
        np.testing.assert_array_equal(found.image, pixels)
        assert found.metadata == {"FrameNumber": "7"}
        assert peer.wait_for_message("OurPoints", timeout=2).positions == [(1.0, -2.0, 3.5)]
    finally:
        link.close()
        with contextlib.suppress(OSError):
            peer.stop()


def test_a_peer_of_header_version_1_gets_no_metadata(until):
    server = Server(port=0, header_version=1)
    client = Client(port=server.port)
    connect(until, server, client)
    server.send(Transform("StylusToTracker", np.eye(4), metadata={"TransformStatus": "OK"}))
    heard = []
    until(
        lambda: any(isinstance(item.message, Transform) for item in heard),
        server.poll,
        lambda now_s: heard.extend(client.poll(now_s)),
    )
    assert {item.message.header_version for item in heard} == {1}
    assert all(not item.message.metadata for item in heard)
    client.close()
    server.close()


def test_a_waiting_client_wakes_up_for_what_arrives(server, client, until):
    connect(until, server, client)
    client.poll(time.monotonic())
    server.send(String("Note", "wake up"))
    server.poll(time.monotonic())
    start_s = time.monotonic()
    heard = []
    while not texts(heard):
        heard += client.poll(time.monotonic(), wait_s=2.0)
    assert time.monotonic() - start_s < 1.0


def test_a_message_says_how_long_the_line_takes(until, server, client):
    connect(until, server, client)
    server.send(String("Note", "x"))
    heard = []
    until(lambda: texts(heard), server.poll, lambda now_s: heard.extend(client.poll(now_s)))
    assert 0 <= heard[-1].delay_s < 0.05, "on the same machine"


def test_small_messages_travel_together_and_are_counted_one_by_one(until, server, client):
    connect(until, server, client)
    sent = server.counts.sent
    for number in range(500):
        server.send(String("Note", str(number)))
    heard = []
    until(lambda: len(texts(heard)) == 500, server.poll, lambda now_s: heard.extend(client.poll(now_s)))
    assert texts(heard) == [str(number) for number in range(500)]
    assert server.counts.sent - sent == 500


def test_of_poses_that_wait_the_newest_64_are_kept_and_of_pictures_one(server, client, until):
    connect(until, server, client)
    server.send(Image("Image_Detector", LARGE))
    server.flush(time.monotonic())  # The line is full now.
    for number in range(100):
        for name in ("Stylus", "Trocar"):
            server.send(Transform(name, np.eye(4), message_id=number))
        server.send(Image("Image_Detector2", LARGE[:, :8], message_id=number))
    heard = []

    def step(now_s):
        server.poll(now_s)
        heard.extend((item.message.name, item.message.message_id) for item in client.poll(now_s))

    until(lambda: ("Image_Detector2", 99) in heard and ("Trocar", 99) in heard, step)
    assert [number for name, number in heard if name == "Stylus"] == list(range(36, 100))
    assert [number for name, number in heard if name == "Trocar"] == list(range(36, 100))
    assert [number for name, number in heard if name == "Image_Detector2"] == [99]
    assert server.counts.superseded == 2 * 36 + 99
