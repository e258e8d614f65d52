"""The bytes and figures in docs/device-protocol.md are those of the code."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from xml.etree import ElementTree

import crcmod
import pytest

from sacroplasty.devices import pump, pump_protocol, pump_watch
from sacroplasty.devices.fluoroscope import PLANES
from sacroplasty.devices.messages import Command, CommandReply, Sensor, Status, String
from sacroplasty.devices.pump_protocol import Answer, Order, PumpState, parse_answer, parse_order, parse_state
from sacroplasty.devices.session_file import pack_entry
from sacroplasty.devices.wire import Decoder, encode
from sacroplasty.simulation.faults import FAULTS

PAGE_FILE = Path(__file__).parents[2] / "docs" / "device-protocol.md"
PAGE = PAGE_FILE.read_text(encoding="utf-8")
SESSION = "ward-7"


def order(sequence: int, command: str, **numbers: float) -> Command:
    text = Order(command, SESSION, sequence, numbers).text()
    return Command("Pump", command_id=sequence, command=command, text=text)


EXAMPLES = {
    "hello": order(1, "hello"),
    "hello answered": CommandReply(
        "Pump", command_id=1, command="hello", text=Answer(1, "hello", True, "ok", "", "idle").text()
    ),
    "arm": order(2, "arm"),
    "hello refused": CommandReply(
        "Pump",
        command_id=1,
        command="hello",
        text=Answer(1, "hello", False, "version", "this pump speaks protocol 1, not 2", "idle").text(),
    ),
    "run answered": CommandReply(
        "Pump", command_id=3, command="run", text=Answer(3, "run", True, "ok", "", "running").text()
    ),
    "reset": order(6, "reset"),
    "PumpState stopped": String(
        "PumpState",
        PumpState(57, "stopped", "order", 0.742, 0.742, 19.258, 4.9, 0.0, SESSION, 4).text(),
        timestamp_s=1700000001.5,
    ),
    "PumpSensor": Sensor("PumpSensor", (0.731, 482.5, 0.05), timestamp_s=1700000000.5),
    "run": order(3, "run", rate_ml_s=0.05, volume_ml=1.0, pressure_limit_kpa=2500.0),
    "run refused": CommandReply(
        "Pump",
        command_id=3,
        command="run",
        text=Answer(3, "run", False, "latched", "the pump is stopped (order); reset it first", "stopped").text(),
    ),
    "stop": order(4, "stop"),
    "heartbeat": order(4, "heartbeat"),
    "PumpState": String(
        "PumpState",
        PumpState(42, "running", "", 0.731, 0.731, 19.2, 482.5, 0.05, SESSION, 3).text(),
        timestamp_s=1700000000.5,
    ),
    "Pump status": Status("Pump", 15, error_name="stopped", text="dead-man", timestamp_s=1700000000.5),
}


def block(name: str) -> tuple[str, bytes]:
    found = re.search(rf"Example `{re.escape(name)}`, text `(.*?)`:\n\n```hex\n(.*?)```", PAGE, re.S)
    assert found, f"the page has no example {name!r}"
    return found[1], bytes.fromhex(found[2])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_the_code_sends_and_understands(name):
    text, data = block(name)
    assert data == encode(EXAMPLES[name])
    (message,) = Decoder().feed(data)
    if isinstance(message, Sensor):
        assert message.values == EXAMPLES[name].values and text == ""
        return
    assert message.text == text == EXAMPLES[name].text
    if isinstance(message, Command):
        assert parse_order(message.text).session == SESSION
    elif isinstance(message, CommandReply):
        assert parse_answer(message.text).sequence == message.command_id
    elif isinstance(message, String):
        assert parse_state(message.text).counter in (42, 57)


def test_the_table_of_bytes_is_enough_to_read_the_first_example():
    """Read by the page's own offsets, with an independent checksum and no code of this package."""
    text, data = block("hello")
    number = {2: ">H", 4: ">I", 8: ">Q"}
    field = lambda first, last: data[first : last + 1]  # noqa: E731
    value = lambda first, last: struct.unpack(number[last + 1 - first], field(first, last))[0]  # noqa: E731
    for row in ("0 to 1", "42 to 49", "50 to 57", "58 to 59", "70 to 73", "74 to 201", "204 to 207"):
        assert f"| {row} |" in PAGE
    assert value(0, 1) == 2 and field(2, 13).rstrip(b"\0") == b"COMMAND" and field(14, 33).rstrip(b"\0") == b"Pump"
    assert value(42, 49) == len(data) - 58
    crc = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, rev=False, initCrc=0, xorOut=0)
    assert value(50, 57) == crc(data[58:])
    assert value(58, 59) == 12 and value(60, 61) == 2 and value(62, 65) == 0 and value(70, 73) == 1
    assert field(74, 201).rstrip(b"\0") == b"hello" and value(202, 203) == 3
    assert data[208 : 208 + value(204, 207)].decode() == text == data[208:-2].decode()


def test_the_page_tells_the_layout_and_limits_that_the_code_has():
    assert pack_entry(1, 2, 0.5, b"xyz")[8:] == struct.pack("<BBId", 1, 2, 3, 0.5) + b"xyz"
    assert zlib.crc32(pack_entry(1, 2, 0.5, b"xyz")[8:]) == struct.unpack("<I", pack_entry(1, 2, 0.5, b"xyz")[4:8])[0]
    limits = (pump._CONFIRM_S, pump_watch._RESTS_ML, pump_watch._LARGEST_SYRINGE_ML, pump_watch._PRESSURES_KPA[1])
    for words in ("| 0.5 s |", "0.02 mL", "100 mL in the syringe", "20 000 kPa", "a quarter", "over 1 s"):
        assert words in PAGE, words
    assert limits == (0.5, 0.02, 100.0, 20_000.0)
    assert (pump_watch._LEAST_SHARE, pump_watch._WINDOW_S) == (0.25, 1.0)


def test_the_page_names_every_order_state_and_fault():
    for word in (*pump_protocol.ORDERS, *pump_protocol.STATES, *FAULTS):
        assert f"`{word}`" in PAGE, word
    for code in (
        "latched",
        "not-armed",
        "busy",
        "hello-first",
        "occupied",
        "version",
        "old-sequence",
        "bad-order",
        "limit",
    ):
        assert f"`{code}`" in PAGE, code
    assert f"{pump_protocol.DEAD_MAN_S * 1000:.0f} ms" in PAGE
    assert f"protocol {pump_protocol.PROTOCOL}" in PAGE


def test_the_plus_configuration_sends_what_the_roles_read():
    """Names fit into 20 bytes, every transform has its tool, every tool its stream, and the picture is a plane."""
    file = PAGE_FILE.parent / "plus" / "Sacroplasty_NDIVega_FrameGrabbedCArm.xml"
    root = ElementTree.parse(file).getroot()
    tools = {source.get("Id") for source in root.iter("DataSource") if source.get("Type") == "Tool"}
    channels = {channel.get("Id") for channel in root.iter("OutputChannel")}
    servers = {server.get("ListeningPort"): server for server in root.findall("PlusOpenIGTLinkServer")}
    assert set(servers) == {"18944", "18945"}
    assert {server.get("OutputChannelId") for server in servers.values()} <= channels
    names = [transform.get("Name") for transform in servers["18944"].iter("Transform")]
    assert {name.removesuffix("ToTracker") for name in names} == tools and "ReferenceToTracker" in names
    assert all(len(name.encode()) <= 20 for name in names)
    (image,) = servers["18945"].iter("Image")
    assert f"{image.get('Name')}_{image.get('EmbeddedTransformToFrame')}" == PLANES[0]
    (defined,) = root.find("CoordinateDefinitions")
    assert (defined.get("From"), defined.get("To")) == (image.get("Name"), image.get("EmbeddedTransformToFrame"))
    assert len(defined.get("Matrix").split()) == 16
    # Invalid poses come with their status, so that the reason is shown.
    assert servers["18944"].get("SendValidTransformsOnly") == "false"
