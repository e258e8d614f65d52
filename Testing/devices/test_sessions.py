"""Recorded sessions: what a kill, a full disk and a damaged file leave, and replays that give the same again."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from sacroplasty.cement.recording import find_views
from sacroplasty.cement.session_views import fluoroscopy_of
from sacroplasty.cli import session as session_command
from sacroplasty.devices.fluoroscope import FluoroscopeRole
from sacroplasty.devices.link import Client, Server
from sacroplasty.devices.messages import Image, Status, String, Transform
from sacroplasty.devices.recorder import SessionRecorder
from sacroplasty.devices.replay import ReplayClock, ReplayLink
from sacroplasty.devices.session_file import LINK, RECEIVED, REMARK, SENT, pack_entry, pack_head, read_session
from sacroplasty.devices.tracker import TrackerRole
from sacroplasty.devices.wire import encode
from sacroplasty.errors import CalibrationError, DeviceError, DocumentError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.navigation.plus_sequence import read_sequence, write_sequence
from sacroplasty.navigation.sessions import image_sequence, session_of_plus, tracker_sequence
from sacroplasty.simulation.serve import Service, end, read_ready, start
from sacroplasty.xray.geometry import CArm

OK = {"TransformStatus": "OK", "TransformValid": "true"}
TRACKING = ("SyntheticTrackerBuffer20.igs.mha", "WaterTankBottomTranslationTrackerBuffer-trimmed.igs.mha")


@pytest.fixture
def link(until):
    """A server, a client that is connected to it, and steps that poll both."""
    server = Server(port=0)
    client = Client(port=server.port)
    until(lambda: client.connected and server.peers, client.poll, server.poll)
    yield server, client
    client.close()
    server.close()


def pose(number: int) -> np.ndarray:
    return rigid(rotation_about([1, 2, 3], 3.0 * number), [100.0 + number, 20, -900])


def send_poses(server, client, recorder, numbers, start_s=100.0):
    """One pose in each 10 ms of a clock turned by hand, with a word from the client now and then."""
    for number in numbers:
        now_s = start_s + 0.01 * number
        server.send(Transform("StylusToTracker", pose(number), timestamp_s=1.7e9 + 0.01 * number, metadata=OK))
        if number % 10 == 0:
            client.send(Status("Note", 1, text=str(number)))
        server.poll(now_s)
        time.sleep(0.0003)
        client.poll(now_s)
        recorder.poll(now_s)


def stamps(session, kind=RECEIVED):
    found = (message for _, message in session.messages("Tracker", kind) if isinstance(message, Transform))
    return [round(100 * (message.timestamp_s - 1.7e9)) for message in found]


def test_everything_received_and_sent_is_in_the_file(link, tmp_path):
    server, client = link
    recorder = SessionRecorder(tmp_path / "a.session", {"Tracker": client}, 100.0, 1.7e9)
    send_poses(server, client, recorder, range(50))
    recorder.remark(100.6, "finding", code="late")
    recorder.close()
    session = read_session(tmp_path / "a.session")
    assert session.links == ("Tracker",) and session.started_unix_s == 1.7e9 and session.damaged_bytes == 0
    assert stamps(session) == list(range(50))
    sent = [message.text for _, message in session.messages("Tracker", SENT) if isinstance(message, Status)]
    assert [text for text in sent if text] == ["0", "10", "20", "30", "40"]
    assert [entry.record["connected"] for entry in session.entries if entry.kind == LINK] == [True]
    (remark,) = (entry for entry in session.entries if entry.kind == REMARK)
    assert remark.record == {"event": "finding", "code": "late"} and remark.time_s == pytest.approx(0.6)
    assert client.tap is None


def test_a_recording_replaces_nothing_and_says_why_it_cannot_begin(link, tmp_path):
    _, client = link
    taken = tmp_path / "taken.session"
    taken.write_text("a surgeon's notes")
    with pytest.raises(DeviceError, match="never replaces"):
        SessionRecorder(taken, {"Tracker": client}, 0.0, 0.0)
    with pytest.raises(DeviceError, match="cannot be recorded to"):
        SessionRecorder(taken / "inside.session", {"Tracker": client}, 0.0, 0.0)
    assert taken.read_text() == "a surgeon's notes"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_program_loses_nothing_that_it_had_received(tmp_path):
    """A process that records a simulated tracker is killed without warning while it records."""
    tracker = start(Service("tracker"))
    try:
        port = read_ready(tracker)["port"]
        program = f"""
import sys, time
from pathlib import Path
from sacroplasty.devices.link import Client
from sacroplasty.devices.recorder import SessionRecorder
client = Client(port={port})
path = Path({str(tmp_path / "killed.session")!r})
recorder = SessionRecorder(path, {{"Tracker": client}}, time.monotonic(), time.time())
count = 0
while True:
    now = time.monotonic()
    count += len(client.poll(now))
    recorder.poll(now)
    print(count, flush=True)
    time.sleep(0.002)
"""
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        seen = 0
        while seen < 200:
            seen = int(child.stdout.readline())
        child.kill()
        seen = max([seen, *map(int, child.stdout.read().split("\n")[:-1])])
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
    finally:
        end([tracker])
    session = read_session(tmp_path / "killed.session")
    assert sum(1 for _ in session.messages("Tracker")) >= seen
    assert session.damaged_bytes < 100_000


class FullDisk:
    """The system's write on a disk that holds so many bytes, until room is made."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, file: int, data: bytes | memoryview) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = min(len(data), self.room)
        self.room -= count
        return os.write(file, data[:count])


def test_a_full_disk_costs_a_gap_and_neither_the_session_nor_what_was_recorded(link, tmp_path):
    server, client = link
    disk = FullDisk(20_000)
    recorder = SessionRecorder(tmp_path / "full.session", {"Tracker": client}, 100.0, 1.7e9, disk)
    send_poses(server, client, recorder, range(200))
    assert recorder.problem == "nothing is recorded: No space left on device" and recorder.lost_bytes > 0
    assert client.connected
    disk.room = 10**9
    send_poses(server, client, recorder, range(200, 400))
    assert recorder.problem == ""
    recorder.close()
    session = read_session(tmp_path / "full.session")
    found = stamps(session)
    missing = sorted(set(range(400)) - set(found))
    assert found == sorted(found) and 0 < session.damaged_bytes < 2000
    # One gap: all that came while the disk was full, up to a second longer until it is tried again.
    assert missing == list(range(missing[0], missing[-1] + 1)) and 50 < missing[0] < 200 and missing[-1] < 320
    (gap,) = (entry.record for entry in session.entries if entry.kind == REMARK)
    assert gap["event"] == "gap" and gap["lost_bytes"] == recorder.lost_bytes


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_the_systems_own_limit_on_a_file_is_survived(tmp_path):
    """No stand-in: the kernel refuses to let the file grow, as a full disk does."""
    program = f"""
import resource, time
from pathlib import Path
from sacroplasty.devices.link import Client, Server
from sacroplasty.devices.messages import String
from sacroplasty.devices.recorder import SessionRecorder
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
server = Server(port=0)
client = Client(port=server.port)
recorder = SessionRecorder(Path({str(tmp_path / "limit.session")!r}), {{"Pump": client}}, 0.0, 0.0)
received = 0
for number in range(300):
    server.send(String("Note", "x" * 500))
    server.poll(number * 0.01)
    time.sleep(0.0003)
    received += len(client.poll(number * 0.01))
    recorder.poll(number * 0.01)
print(received, recorder.problem)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    received, _, problem = done.stdout.strip().partition(" ")
    assert int(received) > 250 and problem.startswith("nothing is recorded: ")
    session = read_session(tmp_path / "limit.session")
    assert sum(1 for _ in session.messages("Pump")) > 50


def test_damage_in_the_middle_costs_the_damaged_entries_only(tmp_path, rng):
    file = tmp_path / "a.session"
    texts = [f"{number} SRec {number}" for number in range(100)]  # The mark itself may stand in what is recorded.
    parts = [pack_head(["Pump"], 0.0)]
    parts += [pack_entry(RECEIVED, 0, n * 0.1, encode(String("Note", text))) for n, text in enumerate(texts)]
    data = bytearray(b"".join(parts))
    for place in rng.integers(len(parts[0]), len(data), 8):
        data[place] ^= 0xFF
    file.write_bytes(data + parts[-1][:40])
    session = read_session(file)
    found = [message.text for _, message in session.messages("Pump")]
    assert set(found) <= set(texts) and 92 <= len(found) < 100 and session.damaged_bytes > 40
    for content, words in ((b"", "no recording"), (b"SRec" * 50, "no recording"), (os.urandom(5000), "no recording")):
        file.write_bytes(content)
        with pytest.raises(DeviceError, match=words):
            read_session(file)
    newer = pack_entry(0, 0, 0.0, json.dumps({"schema": {"version": 9}, "links": [], "started_unix_s": 0}).encode())
    file.write_bytes(newer)
    with pytest.raises(DeviceError, match="version 9"):
        read_session(file)
    with pytest.raises(DeviceError, match="cannot be read"):
        read_session(tmp_path / "nothing.session")


def judged(session, speed, step_s):
    """What a tracker role says of each tool at each tenth of a second of the recording's own time."""
    begun_s = 5000.0
    clock = ReplayClock(begun_s, speed)
    role = TrackerRole(ReplayLink(session, "Tracker", begun_s))
    told, next_s, now_s = [], begun_s + 0.1, begun_s
    while next_s <= begun_s + session.duration_s:
        now_s += step_s
        while next_s <= min(clock.time_s(now_s), begun_s + session.duration_s):
            role.poll(next_s)
            found = [role.pose(name, next_s) for name in role.names]
            told.append([(pose.reason, None if pose.matrix is None else pose.matrix.tolist()) for pose in found])
            next_s += 0.1
        role.poll(clock.time_s(now_s))
    return told


def test_a_replay_gives_the_same_at_every_speed_and_step(tmp_path):
    """A noisy tracker that is hidden, drops and repeats is recorded live and replayed."""
    tracker = start(Service("tracker", faults=("drop@0.5", "jitter@1", "bad-crc@0.5"), seed=4, tools=5))
    try:
        client = Client(port=read_ready(tracker)["port"])
        recorder = SessionRecorder(tmp_path / "a.session", {"Tracker": client}, time.monotonic(), time.time())
        end_s = time.monotonic() + 3
        while (now_s := time.monotonic()) < end_s:
            client.poll(now_s)
            recorder.poll(now_s)
            time.sleep(0.002)
        counts = client.counts
        recorder.close()
        client.close()
    finally:
        end([tracker])
    session = read_session(tmp_path / "a.session")
    first = judged(session, 1.0, 0.005)
    assert len(first) > 20 and any(matrix for row in first for _, matrix in row)
    assert any(reason for row in first for reason, _ in row)
    for speed, step_s in ((1.0, 0.05), (0.25, 0.005), (8.0, 0.013), (1000.0, 1.0)):
        assert judged(session, speed, step_s) == first, (speed, step_s)
    replayed = ReplayLink(session, "Tracker", 0.0)
    received = replayed.poll(session.duration_s)
    assert len(received) >= counts.received and replayed.counts.crc_errors == counts.crc_errors
    assert not replayed.send(String("Note", "x"))
    replayed.poll(session.duration_s + 1)
    assert not replayed.connected and "at its end" in replayed.reason
    with pytest.raises(ValueError, match="positive"):
        ReplayClock(0.0, 0.0)


@pytest.mark.parametrize("name", TRACKING)
def test_real_plus_recordings_are_replayed_and_written_back_as_they_were(name, shared_data, tmp_path):
    """Against the numbers in the files themselves, found here without the reader."""
    path = shared_data / "tracking" / name
    fields = dict(
        line.split(" = ", 1)
        for line in path.read_text(encoding="latin-1").splitlines()
        if line.startswith("Seq_Frame") and " = " in line
    )
    session = session_of_plus(path)
    found = {
        (message.name, round(message.timestamp_s, 4)): message
        for _, message in session.messages("Tracker")
        if isinstance(message, Transform)
    }
    poses = valid = 0
    for key, text in fields.items():
        if not key.endswith("Transform"):
            continue
        frame, _, transform = key.removesuffix("Transform").partition("_")[2].partition("_")
        message = found[transform, round(float(fields[f"Seq_{frame}_Timestamp"]), 4)]
        poses += 1
        if fields[f"{key}Status"].strip() == "OK":
            valid += 1
            np.testing.assert_allclose(message.matrix.ravel(), np.array(text.split(), float), atol=2e-4)
            assert message.metadata["TransformStatus"] == "OK"
        else:
            assert message.metadata["TransformStatus"] == "INVALID"
    assert poses == len(found) and 0 < valid <= poses
    written = tmp_path / "again.igs.mha"
    write_sequence(written, tracker_sequence(session))
    before, after = read_sequence(path), read_sequence(written)
    np.testing.assert_allclose(after.time_s, before.time_s, atol=1e-6)
    assert set(after.transforms) == set(before.transforms)
    for transform, matrices in before.transforms.items():
        np.testing.assert_allclose(after.transforms[transform], matrices, atol=2e-4)


def test_a_role_on_a_plus_recording_ages_between_its_frames(shared_data):
    session = session_of_plus(shared_data / "tracking" / TRACKING[1])
    link = ReplayLink(session, "Tracker", 0.0)
    role = TrackerRole(link)
    role.poll(10.0)
    assert role.pose("StylusToTracker", 10.0).matrix is not None or role.pose("ProbeToTracker", 10.0).matrix is not None
    assert role.pose("ProbeToTracker", 10.5).matrix is None


def session_with_images(tmp_path: Path, until) -> Path:
    geometry = CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(32)
    server = Server(port=0)
    client = Client(port=server.port)
    until(lambda: client.connected and server.peers, client.poll, server.poll)
    recorder = SessionRecorder(tmp_path / "images.session", {"Fluoroscope": client}, 50.0, 1.7e9)
    for number in range(20):
        now_s = 50 + 0.2 * number
        state = {"protocol": 1, "counter": number, "state": "running", "fault": "", "delivered_ml": 0.1 * number}
        state |= {"run_ml": 0.0, "remaining_ml": 10.0, "pressure_kpa": 1.0, "rate_ml_s": 0.5}
        state |= {"session": "", "sequence": 0}
        server.send(String("PumpState", json.dumps(state), timestamp_s=1.7e9 + 0.2 * number))
        status = OK if number != 7 else {"TransformStatus": "MISSING"}
        server.send(Transform("StylusToTracker", pose(number), timestamp_s=1.7e9 + 0.2 * number, metadata=status))
        pixels = np.full((1, 32, 32), 1000 * number, np.uint16)
        pixels[0, 0, 1] = 7
        metadata = {"Geometry": json.dumps(geometry.to_dict()), "AirLevel": "60000", "FrameRate": "5"}
        server.send(Image("Image_Detector", pixels, timestamp_s=1.7e9 + 0.2 * number, metadata=metadata))
        server.poll(now_s)
        time.sleep(0.001)
        client.poll(now_s)
        recorder.poll(now_s)
    recorder.close()
    client.close()
    server.close()
    return tmp_path / "images.session"


def test_images_become_a_plus_sequence_that_itk_reads(tmp_path, until):
    session = read_session(session_with_images(tmp_path, until))
    sequence, frames = image_sequence(session, "Image_Detector")
    write_sequence(tmp_path / "images.igs.mha", sequence, frames)
    read = sitk.ReadImage(str(tmp_path / "images.igs.mha"))
    voxels = sitk.GetArrayFromImage(read)
    assert voxels.shape == (len(frames), 32, 32) and voxels.dtype == np.uint16
    assert voxels[5, 3, 3] == 5000 and voxels[5, 0, 1] == 7
    again = read_sequence(tmp_path / "images.igs.mha")
    assert np.isnan(again.transforms["StylusToTracker"][7]).all()
    np.testing.assert_allclose(again.transforms["StylusToTracker"][5], pose(5), atol=1e-3)
    assert set(again.transforms) == {"StylusToTracker", "DetectorToRAS"}
    with pytest.raises(CalibrationError, match="no image of Image_Detector2"):
        image_sequence(session, "Image_Detector2")
    with pytest.raises(CalibrationError, match="as many images"):
        write_sequence(tmp_path / "bad.igs.mha", sequence, frames[:3])
    assert not (tmp_path / "bad.igs.mha").exists()


def test_the_command_line_tells_and_converts(tmp_path, until):
    file = session_with_images(tmp_path, until)
    ran = CliRunner().invoke(session_command.command, [str(file), "--json"])
    summary = json.loads(ran.output)
    assert summary["received"] == {
        "Fluoroscope": {
            "IMAGE Image_Detector": 20,
            "STATUS KeepAlive": summary["received"]["Fluoroscope"]["STATUS KeepAlive"],
            "STRING PumpState": 20,
            "TRANSFORM StylusToTracker": 20,
        }
    }
    assert summary["duration_s"] == pytest.approx(3.8) and summary["damaged_bytes"] == 0
    for out in ("a.igs.mha", "views"):
        ran = CliRunner().invoke(session_command.command, [str(file), "--out", str(tmp_path / out)])
        assert ran.exit_code == 0, ran.output
    assert list(find_views(tmp_path / "views")) == ["Image_Detector"]
    assert sitk.ReadImage(str(tmp_path / "a.igs.mha")).GetSize() == (32, 32, 20)
    ran = CliRunner().invoke(session_command.command, [str(file), "--out", str(tmp_path / "a.avi")])
    assert "cannot become a.avi" in str(ran.exception)


def test_fluoroscopy_of_a_session_is_what_the_monitor_reads(tmp_path, until):
    session = read_session(session_with_images(tmp_path, until))
    (recording,) = fluoroscopy_of(session).values()
    assert recording.frames.shape == (20, 32, 32) and recording.frame_rate_hz == 5.0 and recording.air_level == 60000
    np.testing.assert_allclose(recording.pump_volume_ml, 0.1 * np.arange(20), atol=1e-9)
    np.testing.assert_allclose(np.diff(recording.time_s), 0.2, atol=1e-6)
    role = FluoroscopeRole(ReplayLink(session, "Fluoroscope", 0.0))
    role.poll(3.81)
    assert role.view("Image_Detector", 3.81).frame is not None and len(role.take_frames()) == 20
    empty = tmp_path / "empty.session"
    empty.write_bytes(pack_head(["Tracker"], 0.0))
    with pytest.raises(DocumentError, match="no frame"):
        fluoroscopy_of(read_session(empty))
    with pytest.raises(CalibrationError, match="no poses"):
        tracker_sequence(read_session(empty))


def test_two_tools_with_one_name_become_no_sequence(tmp_path: Path) -> None:
    here, there = (
        encode(Transform("StylusToTracker", rigid(np.eye(3), [x, 0, 900]), timestamp_s=5.0, metadata=OK))
        for x in (0, 80)
    )
    path = tmp_path / "two.session"
    path.write_bytes(
        pack_head(["Tracker", "Second"], 0.0) + pack_entry(RECEIVED, 0, 1.0, here) + pack_entry(RECEIVED, 1, 1.0, there)
    )
    with pytest.raises(CalibrationError, match="two poses of StylusToTracker at one time: two tools have one name"):
        tracker_sequence(read_session(path))
