"""The bytes and figures in docs/device-protocol.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sacroplasty.devices import pump_protocol
from sacroplasty.devices.messages import Command, CommandReply, Status, String
from sacroplasty.devices.pump_protocol import Answer, Order, PumpState, parse_answer, parse_order, parse_state
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
    assert message.text == text == EXAMPLES[name].text
    if isinstance(message, Command):
        assert parse_order(message.text).session == SESSION
    elif isinstance(message, CommandReply):
        assert parse_answer(message.text).sequence == message.command_id
    elif isinstance(message, String):
        assert parse_state(message.text).counter == 42


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
