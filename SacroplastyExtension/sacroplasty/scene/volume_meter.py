"""A scale or syringe sensor over OpenIGTLink as the source of volumes given by hand."""

from __future__ import annotations

from ..cement.interlock import Observed
from ..devices.link import Client
from ..devices.volume_meter import VolumeMeterRole
from ..errors import DeviceError


class MeteredVolumes:
    """Volumes as a meter tells them; every look at them receives what has come."""

    valid_s = 1.0
    by_hand = False

    def __init__(self, client: Client) -> None:
        self._role = VolumeMeterRole(client)

    def read(self, now_s: float) -> Observed[float] | None:
        self._role.poll(now_s)
        told = self._role.volume_ml()
        return None if told is None else Observed(*told)

    def close(self) -> None:
        self._role.client.close()


def metered_volumes(address: str) -> MeteredVolumes:
    """The meter at an address such as `192.168.7.10:18947`.

    Raises:
        DeviceError: when the address is none.
    """
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise DeviceError(f"{address!r} is no address of a scale or sensor; give one such as 127.0.0.1:18947")
    return MeteredVolumes(Client(host.strip("[]"), int(port)))
