"""The C++ example programs of the OpenIGTLink library as peers, both directions.

What they send is compared with what their source says, what they receive with what they print.
"""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
import time

import numpy as np
import pytest
from openigtlink_programs import EXAMPLES, example, missing_packages

from sacroplasty.devices.link import Client, Server
from sacroplasty.devices.messages import (
    Capability,
    Command,
    Image,
    NamedPoint,
    Opaque,
    Point,
    Query,
    Sensor,
    Status,
    String,
    TrackedTool,
    TrackingData,
    Transform,
)
from sacroplasty.geometry import rigid, rotation_about

pytestmark = pytest.mark.skipif(
    bool(missing_packages()),
    reason=f"needs the Debian packages {', '.join(missing_packages())} (make test-peers installs them)",
)

POSE = rigid(rotation_about([1, 2, 3], 40), [10.5, -20.25, 300.125])
WORDS = ["OpenIGTLink", "Network", "Communication", "Protocol", "Image Guided Therapy"]
#: PointServer.cxx and PointClient.cxx. What the library calls radius, the protocol calls diameter.
POINTS = tuple(
    NamedPoint(f"POINT_{i}", (30.0 * i + 10, 30.0 * i + 20, 30.0 * i + 30), "GROUP_0", rgba, 30.0 * i + 15, "IMAGE_0")
    for i, rgba in enumerate([(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)])
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Peer:
    """A running program with what it prints."""

    def __init__(self, name: str, *arguments: object) -> None:
        command = [str(example(name)), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def printed(self) -> str:
        """All that it printed, after it has ended or was told to."""
        try:
            out, _ = self._process.communicate(timeout=0.5)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGTERM)
            out, _ = self._process.communicate(timeout=5)
        return out.decode()


@pytest.fixture
def peers():
    """Starts programs and ends them, whatever happens."""
    running: list[Peer] = []

    def start(name: str, *arguments: object) -> Peer:
        running.append(Peer(name, *arguments))
        return running[-1]

    yield start
    for peer in running:
        if peer._process.poll() is None:
            peer._process.kill()
        peer._process.communicate()


def heard_from_server(peers, until, name, *arguments, count, ask=None, keep_alive=True):
    """Messages of an example server, from its first one on."""
    port = free_port()
    peer = peers(name, port, *arguments)
    client = Client(port=port, silence_s=None, header_version=1, keep_alive=keep_alive)
    messages, asked = [], []

    def step(now_s):
        messages.extend(item.message for item in client.poll(now_s))
        if client.connected and ask is not None and not asked:
            asked.extend(client.send(question) for question in ask)

    until(lambda: len(messages) >= count, step, limit_s=15)
    counts = client.counts
    client.close()
    assert counts.crc_errors == counts.malformed == counts.skipped_bytes == 0
    assert {message.header_version for message in messages} == {1}
    return messages, peer


def heard_from_client(peers, until, name, *arguments, count):
    """Messages of an example client."""
    server = Server(port=0, header_version=1)
    peer = peers(name, "127.0.0.1", server.port, *arguments)
    messages = []
    until(
        lambda: len(messages) >= count,
        lambda now_s: messages.extend(item.message for item in server.poll(now_s)),
        limit_s=15,
    )
    counts = server.counts
    server.close()
    assert counts.crc_errors == counts.malformed == counts.skipped_bytes == 0
    return messages, peer


def expected_pose(step: int) -> np.ndarray:
    """GetRandomTestMatrix of the examples: (w, x, y, z) of a unit quaternion by the usual formula, and a circle."""
    return quaternion_pose(0.2 * step, 0.1 * step)


def quaternion_pose(phi: float, theta: float) -> np.ndarray:
    x, y, z, w = 0.0, 0.6666666666 * np.cos(theta), 0.577350269189626, 0.6666666666 * np.sin(theta)
    length = np.sqrt(x * x + y * y + z * z + w * w)
    x, y, z, w = x / length, y / length, z / length, w / length
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return rigid(np.array(rotation), [50 * np.cos(phi), 50 * np.sin(phi), 50 * np.cos(phi)])


def printed_matrices(text: str) -> list[np.ndarray]:
    row = r"(-?[\d.e+-]+), (-?[\d.e+-]+), (-?[\d.e+-]+), (-?[\d.e+-]+)\n"
    return [np.array(found, float).reshape(4, 4) for found in re.findall(r"=+\n" + row * 4 + r"=+\n", text)]


def check_test_picture(message: Image, number: int) -> None:
    raw = (EXAMPLES / "Imager" / "img" / f"igtlTestImage{number % 5 + 1}.raw").read_bytes()
    np.testing.assert_array_equal(message.voxels, np.frombuffer(raw, np.uint8).reshape(1, 256, 256))
    np.testing.assert_allclose(message.IJKToRAS[:3, :3], np.diag([1.0, -1.0, 5.0]))
    np.testing.assert_allclose(message.IJKToRAS @ [127.5, 127.5, 0, 1], [0, 0, 0, 1], atol=1e-5)


@pytest.mark.parametrize("name", ["Tracker/TrackerServer", "Bind/BindServer"])
def test_poses_of_a_server(name, peers, until):
    messages, peer = heard_from_server(peers, until, name, 50, count=20)
    for step, message in enumerate(messages[:20]):
        assert isinstance(message, Transform) and message.name == "Tracker"
        np.testing.assert_allclose(message.matrix, expected_pose(step), atol=1e-4)  # Angles add up in float.
    for message, matrix in zip(messages, printed_matrices(peer.printed()), strict=False):
        np.testing.assert_allclose(message.matrix, matrix, rtol=1e-5, atol=1e-5)


def test_poses_of_a_client(peers, until):
    start_s = time.time()
    messages, peer = heard_from_client(peers, until, "Tracker/TrackerClient", 50, count=20)
    for step, message in enumerate(messages[:20]):
        np.testing.assert_allclose(message.matrix, expected_pose(step), atol=1e-4)  # Angles add up in float.
        assert start_s - 1 < message.timestamp_s < time.time() + 1
    assert all(np.diff([message.timestamp_s for message in messages]) > 0)
    assert peer.printed()


def test_pictures_of_a_server_and_a_client(peers, until):
    folder = EXAMPLES / "Imager" / "img"
    messages, _ = heard_from_server(peers, until, "Imager/ImagerServer", 50, folder, count=7)
    for number, message in enumerate(messages[:7]):
        check_test_picture(message, number)
    messages, _ = heard_from_client(peers, until, "Imager/ImagerClient", 50, folder, count=7)
    for number, message in enumerate(messages[:7]):
        check_test_picture(message, number)


def test_states_of_a_server_and_a_client(peers, until):
    for messages, _ in (
        heard_from_server(peers, until, "Status/StatusServer", count=1),
        heard_from_client(peers, until, "Status/StatusClient", count=1),
    ):
        state = messages[0]
        assert isinstance(state, Status) and state.name == "Device"
        assert (state.code, state.subcode, state.error_name) == (1, 128, "OK!")
        assert state.text == "This is a test to send status message."


def test_texts_of_a_server_and_a_client(peers, until):
    for messages, peer in (
        heard_from_server(peers, until, "String/StringServer", 50, count=10),
        heard_from_client(peers, until, "String/StringClient", 50, count=10),
    ):
        assert [message.text for message in messages[:10]] == WORDS * 2
        assert peer.printed().startswith("Sending string: OpenIGTLink\n")


def test_texts_come_back_as_they_went(peers, until):
    sent = ["plain", "größer", "", "x" * 60_000]
    questions = [String("Note", text) for text in sent]
    messages, peer = heard_from_server(
        peers, until, "String/StringEchoServer", count=4, ask=questions, keep_alive=False
    )
    assert [message.text for message in messages] == sent
    assert "Echoing: größer\n" in peer.printed()


def test_tracking_data_of_a_server_are_started_and_stopped(peers, until):
    start = Query("Me", "STT", "TDATA", struct.pack(">i32s", 20, b"Patient"))
    messages, peer = heard_from_server(peers, until, "TrackingData/TrackingDataServer", count=10, ask=[start])
    for step, message in enumerate(messages[:10]):
        assert isinstance(message, TrackingData)
        assert [(tool.name, tool.kind) for tool in message.tools] == [
            ("Channel 0", 1),
            ("Channel 1", 2),
            ("Channel 2", 4),
        ]
        for tool, by_phi, by_theta in zip(message.tools, (0.1, 0.2, 0.3), (0.2, 0.1, 0.05), strict=True):
            np.testing.assert_allclose(tool.matrix, quaternion_pose(by_phi * step, by_theta * step), atol=5e-5)
    text = peer.printed()
    assert "Received a STT_TDATA message." in text and "Interval = 20 (ms)" in text

    port = free_port()
    peer = peers("TrackingData/TrackingDataServer", port)
    client = Client(port=port, silence_s=None, header_version=1)
    until(lambda: client.connected, client.poll)
    client.send(start)
    until(lambda: client.counts.received > 3, client.poll)
    client.send(Query("Me", "STP", "TDATA"))
    until(lambda: not client.connected, client.poll)
    assert "closed the connection" in client.reason
    assert "Received a STP_TDATA message." in peer.printed()
    client.close()


def test_tracking_data_for_a_client_that_asks(peers, until):
    server = Server(port=0, header_version=1)
    peer = peers("TrackingData/TrackingDataClient", "127.0.0.1", server.port, 20)
    queries = []

    def step(now_s):
        for item in server.poll(now_s):
            if isinstance(item.message, Query):
                queries.append(item.message)
        if queries:
            server.send(TrackingData("Tracker", (TrackedTool("Stylus", POSE), TrackedTool("Trocar", np.eye(4), 3))))

    until(lambda: len(queries) > 1, step)
    server.close()
    first, second = queries[:2]
    assert (first.name, first.action, first.target) == ("TDataClient", "STT", "TDATA")
    assert struct.unpack(">i32s", first.content) == (50, b"Patient".ljust(32, b"\0"))
    assert (second.action, second.target) == ("STP", "TDATA")
    text = peer.printed()
    assert re.search(r"Name +: Stylus\n Type +: 2\n", text) and re.search(r"Name +: Trocar\n Type +: 3\n", text)
    np.testing.assert_allclose(printed_matrices(text)[0], POSE, rtol=1e-5)


def test_abilities_of_a_server_and_a_client(peers, until):
    for messages, _ in (
        heard_from_server(peers, until, "Capability/CapabilityServer", count=1),
        heard_from_client(peers, until, "Capability/CapabilityClient", count=1),
    ):
        assert isinstance(messages[0], Capability)
        assert messages[0].types == ("TRANSFORM", "GET_IMAGE", "GET_LBMETA")


def test_points_of_a_server_and_a_client(peers, until):
    for messages, _ in (
        heard_from_server(peers, until, "Point/PointServer", count=1),
        heard_from_client(peers, until, "Point/PointClient", count=1),
    ):
        assert isinstance(messages[0], Point) and messages[0].name == "PointSender"
        assert messages[0].points == POINTS


def test_what_is_not_understood_is_passed_on_whole(peers, until):
    """Types without a codec here: the bytes are those that the source of each server names."""
    messages, _ = heard_from_server(
        peers, until, "PolyData/PolyDataServer", count=1, ask=[Query("Cube", "GET", "POLYDATA")], keep_alive=False
    )
    surface = messages[0]
    assert isinstance(surface, Opaque) and (surface.type_name, surface.name) == ("POLYDATA", "Cube")
    assert struct.unpack_from(">I", surface.body) == (8,)
    corners = np.frombuffer(surface.body, ">f4", 24, offset=40).reshape(8, 3)
    assert {tuple(corner) for corner in corners.tolist()} == {(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)}

    for messages, _ in (
        heard_from_server(peers, until, "Trajectory/TrajectoryServer", count=1),
        heard_from_client(peers, until, "Trajectory/TrajectoryClient", count=1),
    ):
        trajectories = messages[0]
        assert isinstance(trajectories, Opaque)
        assert (trajectories.type_name, trajectories.name) == ("TRAJ", "TrajectorySender")
        assert len(trajectories.body) == 3 * 150 and trajectories.body.startswith(b"TRAJECTORY_0\0")

    messages, _ = heard_from_server(
        peers, until, "ImageMeta/ImageMetaServer", count=1, ask=[Query("All", "GET", "IMGMETA")], keep_alive=False
    )
    assert messages[0].type_name == "IMGMETA" and b"PATIENT_ID_2" in messages[0].body

    start = Query("Me", "STT", "QTDATA", struct.pack(">i32s", 20, b"Patient"))
    name = "QuaternionTrackingData/QuaternionTrackingDataServer"
    messages, _ = heard_from_server(peers, until, name, count=3, ask=[start])
    assert {message.type_name for message in messages} == {"QTDATA"}
    assert all(message.body.startswith(b"Channel 0\0") for message in messages)


def test_the_receiver_prints_all_that_is_sent(peers, until):
    server = Server(port=0, header_version=1)
    peer = peers("Receiver/ReceiveClient", "127.0.0.1", server.port)
    until(lambda: server.peers, server.poll)
    pixels = np.zeros((2, 3, 4), np.uint16)
    for message in (
        Transform("Pose", POSE, timestamp_s=1.7e9 + 0.5, metadata={"TransformStatus": "OK"}),
        Image("Picture", pixels, POSE @ np.diag([0.5, 0.25, 2, 1])),
        Status("Pump", 18, subcode=-7, error_name="stall", text="the screw does not turn"),
        String("Note", "größer"),
        Point("Landmarks", (NamedPoint("promontory", (1.5, -2.0, 3.25), "sacrum", (1, 2, 3, 4), 2.5, "CT"),)),
        TrackingData("Tools", (TrackedTool("Stylus", POSE, 4),)),
        Capability("", ("IMAGE", "STATUS")),
        Sensor("PumpSensor", (1.0, 2.0)),
        Command("Pump", command_id=1, command="hello", text="{}"),
    ):
        assert server.send(message, replaceable=False)
    server.send(String("Note", "the end"), replaceable=False)
    until(lambda: server.counts.sent >= 11, server.poll)
    time.sleep(0.3)
    server.close()
    text = peer.printed()
    for words in (
        "Time stamp: 1700000000.500000000\nReceiving TRANSFORM data type.",
        "Device Name           : Picture\nScalar Type           : 5\nDimensions            : (4, 3, 2)\nSpacing",
        "Sub-Volume dimensions : (4, 3, 2)\nSub-Volume offset     : (0, 0, 0)\n",
        " Code      : 18\n SubCode   : -7\n Error Name: stall\n Status    : the screw does not turn\n",
        "Encoding: 106; String: größer\n",
        " Name      : promontory\n GroupName : sacrum\n RGBA      : ( 1, 2, 3, 4 )\n"
        " Position  : ( 1.500000, -2.000000, 3.250000 )\n Radius    : 2.500000\n Owner     : CT\n",
        " Name       : Stylus\n Type       : 4\n",
        "Typename #0: IMAGE\nTypename #1: STATUS\n",
        "Receiving : SENSOR\n",
        "Receiving : COMMAND\n",
        "Encoding: 3; String: the end\n",
    ):
        assert words in text, words
    (spacing,) = re.findall(r"Spacing +: \(([\d.]+), ([\d.]+), ([\d.]+)\)", text)
    assert tuple(map(float, spacing)) == pytest.approx((0.5, 0.25, 2.0), abs=1e-6)
    poses = printed_matrices(text)
    assert len(poses) == 2
    for pose in poses:
        np.testing.assert_allclose(pose, POSE, rtol=1e-5)
