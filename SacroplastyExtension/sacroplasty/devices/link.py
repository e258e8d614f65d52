"""OpenIGTLink connections without threads and without waiting: `poll(now_s)` does all the work.

Call `poll` every few milliseconds from whatever loop there is (a Qt timer, a test, a simulator). It never blocks.

What is kept and what may be replaced: on a live connection every STATUS, STRING, COMMAND and reply is delivered, in
order and before waiting pictures; an IMAGE or SENSOR that still waits is replaced by the next one of its name, which is
counted (`superseded`). Of TRANSFORM and TDATA the newest few of a name may wait, a quarter of a second of a quick
tracker, so that none is lost while a picture goes out. Nothing is kept for a peer that is not connected: an order must
never act later than it was meant; `send` says so by returning False.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import DeviceError
from .messages import Image, Message, Status, StatusCode
from .wire import Decoder, encode

_log = logging.getLogger(__name__)

DEFAULT_PORT = 18944
KEEP_ALIVE_S = 1.0
SILENCE_S = 3.0
#: After this long without the rest of a message its size field is taken as damaged.
UNFINISHED_S = 2.0
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 5.0
CONNECT_S = 3.0
#: Waiting text and orders for one peer; beyond this it does not read any more and is cut off.
BACKLOG_BYTES = 8 * 2**20
#: Who takes longer than this over one message, and is slower than that, only keeps the connection busy and is cut off.
SLOW_MESSAGE_S = 10.0
SLOWEST_BYTES_S = 1000.0

#: Messages that a newer one of their name may replace, and how many of a name may wait.
_REPLACEABLE = {"TRANSFORM": 64, "TDATA": 64, "IMAGE": 1, "SENSOR": 1}
#: Bounds the time of one poll, for each connection; the rest waits for the next. A message costs time beside its bytes.
_BYTES_PER_POLL = 8 * 2**20
_BYTES_PER_MESSAGE = 4096
_ACCEPTED_PER_POLL = 64
#: Small messages go to the socket together up to this size.
_SENT_TOGETHER_BYTES = 2**14
#: A small kernel buffer keeps pictures replaceable and orders quick.
_SEND_BUFFER_BYTES = 2**18
_UNACKNOWLEDGED_MS = 10_000
#: Strangers must not be able to fill the disk with lines about them.
_LOG_PERIOD_S = 1.0
_ROUND_TRIP_PERIOD_S = 0.5
#: Place of the smallest round trip in Linux's struct tcp_info (linux/tcp.h), microseconds.
_TCP_MIN_RTT = struct.Struct("=148xI")
_STREAM_ENDED = "the peer closed the connection"

MessageKey = tuple[str, str]
#: Called with `received` or `sent`, the time of the poll, and the bytes just as they passed the socket.
Tap = Callable[[str, float, bytes | memoryview], None]


@dataclass(frozen=True)
class Received:
    """A message, when it was taken from the socket (the poller's clock) and from which peer (for replies).

    `delay_s` is how long it was under way at least, half the quickest round trip; 0 when that is not known.
    """

    message: Message
    received_s: float
    peer: int
    delay_s: float = 0.0


@dataclass
class LinkCounts:
    """What happened on a link since it was made."""

    received: int = 0
    sent: int = 0
    superseded: int = 0
    undelivered: int = 0
    crc_errors: int = 0
    malformed: int = 0
    skipped_bytes: int = 0
    attempts: int = 0
    connections: int = 0


@dataclass
class Connection:
    """One open socket: its decoder and its two queues. Used by Client and Server."""

    socket: socket.socket
    address: str
    heard_s: float
    sent_s: float
    decoder: Decoder = field(default_factory=Decoder)
    urgent: deque[bytes] = field(default_factory=deque)
    urgent_bytes: int = 0
    latest: dict[MessageKey, deque[bytes]] = field(default_factory=dict)
    sending: memoryview | None = None
    sending_count: int = 0
    unfinished_s: float | None = None
    counted: tuple[int, int, int] = (0, 0, 0)
    tap: Tap | None = None

    def put(self, data: bytes, key: MessageKey | None, counts: LinkCounts) -> None:
        """Queue bytes; with a key, in place of what waits under that key."""
        if key is None:
            self.urgent.append(data)
            self.urgent_bytes += len(data)
            return
        queue = self.latest.setdefault(key, deque())
        queue.append(data)
        if len(queue) > _REPLACEABLE.get(key[0], 1):
            queue.popleft()
            counts.superseded += 1

    @property
    def waiting(self) -> bool:
        return self.sending is not None or bool(self.urgent) or bool(self.latest)

    def flush(self, now_s: float, counts: LinkCounts) -> str | None:
        """Write what the socket takes; the reason when the connection is lost."""
        budget = _BYTES_PER_POLL
        while budget > 0:
            if self.sending is None:
                if not self.waiting:
                    return None
                self._take_next()
            assert self.sending is not None
            try:
                count = self.socket.send(self.sending)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                return f"sending failed: {error.strerror or error}"
            self.sent_s = now_s
            if self.tap is not None:
                self.tap("sent", now_s, self.sending[:count])
            budget -= count
            self.sending = self.sending[count:]
            if not self.sending:
                self.sending = None
                counts.sent += self.sending_count
        if self.urgent_bytes > BACKLOG_BYTES:
            return f"the peer does not read: {self.urgent_bytes} bytes wait"
        return None

    def _take_next(self) -> None:
        """What goes to the socket next: the urgent first, small messages together."""
        together: list[bytes] = []
        size = 0
        while size < _SENT_TOGETHER_BYTES and (self.urgent or self.latest):
            key = None if self.urgent else next(iter(self.latest))
            queue = self.urgent if key is None else self.latest[key]
            data = queue[0]
            if together and size + len(data) > _SENT_TOGETHER_BYTES:
                break
            queue.popleft()
            if key is None:
                self.urgent_bytes -= len(data)
            else:  # The next name has its turn.
                del self.latest[key]
                if queue:
                    self.latest[key] = queue
            together.append(data)
            size += len(data)
        self.sending = memoryview(together[0] if len(together) == 1 else b"".join(together))
        self.sending_count = len(together)

    def read(self, now_s: float, counts: LinkCounts) -> tuple[list[Message], str | None]:
        """The messages that arrived, and the reason when the connection is lost."""
        messages: list[Message] = []
        lost = None
        budget = _BYTES_PER_POLL
        while budget > 0:
            space = self.decoder.space()
            try:
                count = self.socket.recv_into(space)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                lost = f"receiving failed: {error.strerror or error}"
                break
            if not count:
                lost = _STREAM_ENDED
                break
            self.heard_s = now_s
            if self.tap is not None:
                self.tap("received", now_s, space[:count])
            found = self.decoder.filled(count)
            messages += found
            budget -= count + _BYTES_PER_MESSAGE * len(found)
            if count < len(space):  # That was all there is.
                break
        return self._judged(messages, now_s, counts), lost or self._too_slow(now_s, bool(messages))

    def idle(self, now_s: float, counts: LinkCounts) -> tuple[list[Message], str | None]:
        """What `read` returns when nothing arrived: messages behind one that will not be finished."""
        return self._judged([], now_s, counts), None

    def _judged(self, messages: list[Message], now_s: float, counts: LinkCounts) -> list[Message]:
        if self.decoder.pending_bytes and now_s - self.heard_s > UNFINISHED_S:
            messages += self.decoder.resynchronize()
        self._count(counts)
        counts.received += len(messages)
        return _newest_images(messages, counts)

    def _too_slow(self, now_s: float, got_messages: bool) -> str | None:
        """The reason to cut off a peer that sends a message byte by byte."""
        pending_bytes = self.decoder.pending_bytes
        if got_messages or not pending_bytes:
            self.unfinished_s = None
        elif self.unfinished_s is None:
            self.unfinished_s = now_s
        elif (since_s := now_s - self.unfinished_s) > SLOW_MESSAGE_S and pending_bytes < SLOWEST_BYTES_S * since_s:
            return f"the peer sent only {pending_bytes} bytes of a message in {since_s:.0f} s"
        return None

    def _count(self, counts: LinkCounts) -> None:
        decoder = self.decoder
        now = decoder.crc_errors, decoder.malformed, decoder.skipped_bytes
        counts.crc_errors += now[0] - self.counted[0]
        counts.malformed += now[1] - self.counted[1]
        counts.skipped_bytes += now[2] - self.counted[2]
        self.counted = now

    def close(self, counts: LinkCounts) -> None:
        counts.undelivered += len(self.urgent) + sum(map(len, self.latest.values()))
        counts.undelivered += self.sending_count if self.sending else 0
        self.urgent.clear()
        self.latest.clear()
        self.sending = None
        self.socket.close()


class Client:
    """A connection to one OpenIGTLink server that comes back by itself.

    Attributes:
        state: `connecting`, `connected`, `waiting` (for the next attempt) or `closed`.
        reason: why it is not connected, in words; empty when it is.
        counts: what happened since the beginning.
        round_trip_s: the quickest way to the server and back of this connection; 0 when not known.
        tap: who is shown every byte that passes, such as a recorder; None for nobody. The bytes are lent for the call.

    Args:
        host: a numeric address or `localhost` (no name service is asked, since that would wait).
        silence_s: a server that says nothing for this long counts as lost. None for a server without keep-alive.
        header_version: 2, or 1 for a server older than OpenIGTLink 3, which gets no metadata.
        keep_alive: False for a server that takes every message for one of the type that it expects.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        silence_s: float | None = SILENCE_S,
        header_version: int = 2,
        keep_alive: bool = True,
    ) -> None:
        self._address = _numeric_address(host), port
        self._silence_s = silence_s
        self._header_version = header_version
        self._keep_alive = encode(_spoken(_KEEP_ALIVE, header_version)) if keep_alive else b""
        self._selector = selectors.DefaultSelector()
        self._connection: Connection | None = None
        self._attempt_s: float | None = None
        self._not_yet_s = 0.0
        self._next_round_trip_s = 0.0
        self._next_attempt_s = 0.0
        self._retry_s = FIRST_RETRY_S
        self.state = "waiting"
        self.reason = "not tried yet"
        self.counts = LinkCounts()
        self.round_trip_s = 0.0
        self.tap: Tap | None = None

    @property
    def connected(self) -> bool:
        return self.state == "connected"

    @property
    def address(self) -> str:
        return f"{self._address[0]}:{self._address[1]}"

    def send(self, message: Message, replaceable: bool | None = None) -> bool:
        """Queue a message for the next poll; False when there is no connection, and then it is not kept.

        Args:
            replaceable: whether a newer message of this type and name may take its place while it waits; by its type
                when None.
        """
        if self.state != "connected" or self._connection is None:
            self.counts.undelivered += 1
            return False
        data = encode(_spoken(message, self._header_version))
        self._connection.put(data, _key(message, replaceable), self.counts)
        return True

    def poll(self, now_s: float, wait_s: float = 0.0) -> list[Received]:
        """Connect, receive, keep alive, send. Returns what arrived, in order.

        Args:
            wait_s: while connected, sleep up to this long until something arrives, for a program that has nothing else
                to do. `now_s` is the time before.
        """
        if self.state == "closed":
            return []
        if self._connection is None:
            if now_s >= self._next_attempt_s:
                self._begin(now_s)
            if self._connection is None:
                return []
        if self.state == "connecting":
            self._finish_connecting(now_s)
        if self.state != "connected":
            return []
        self._connection.tap = self.tap
        ready = _ready(self._selector, [self._connection], wait_s)
        messages, lost = (self._connection.read if ready else self._connection.idle)(now_s, self.counts)
        if messages and now_s >= self._next_round_trip_s:
            self._next_round_trip_s = now_s + _ROUND_TRIP_PERIOD_S
            self.round_trip_s = _round_trip_s(self._connection.socket, self.round_trip_s)
        received = [Received(message, now_s, 0, self.round_trip_s / 2) for message in messages]
        if lost is None:
            silent_s = now_s - self._connection.heard_s
            if self._silence_s is not None and silent_s > self._silence_s:
                lost = f"nothing heard for {silent_s:.1f} s"
        if lost is None:
            if not self._connection.waiting and now_s - self._connection.sent_s >= KEEP_ALIVE_S:
                self._say_alive(self._connection)
            lost = self._connection.flush(now_s, self.counts)
        if lost is not None:
            self._lose(now_s, lost)
        elif received:
            self._retry_s = FIRST_RETRY_S
        return received

    def close(self) -> None:
        """Close for good. What can be sent without waiting is sent."""
        if self._connection is not None:
            if self.state == "connected":
                self._connection.flush(self._connection.heard_s, self.counts)
            self._drop()
        self.state = "closed"
        self.reason = "closed"
        self._selector.close()

    def _begin(self, now_s: float) -> None:
        host, _ = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            handle = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # Too many files open.
            self._retry_later(now_s, f"no connection can be made: {error.strerror}")
            return
        _prepare(handle)
        result = handle.connect_ex(self._address)
        self._connection = Connection(handle, self.address, heard_s=now_s, sent_s=now_s)
        self._attempt_s = self._not_yet_s = now_s
        self.counts.attempts += 1
        self.state = "connecting"
        if result not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN):
            self._lose(now_s, _connect_failure(self.address, result))
            return
        self._selector.register(handle, selectors.EVENT_WRITE)

    def _finish_connecting(self, now_s: float) -> None:
        assert self._connection is not None and self._attempt_s is not None
        if not self._selector.select(0):
            self._not_yet_s = now_s
            if now_s - self._attempt_s > CONNECT_S:
                self._lose(now_s, f"{self.address} does not answer")
            return
        result = self._connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result:
            self._lose(now_s, _connect_failure(self.address, result))
            return
        self.state, self.reason = "connected", ""
        _log.info("%s: connected", self.address)
        self.counts.connections += 1
        self._connection.heard_s = now_s
        self._selector.modify(self._connection.socket, selectors.EVENT_READ)
        # The connection took at least this long to come about, which is one way there and back.
        self.round_trip_s, self._next_round_trip_s = self._not_yet_s - self._attempt_s, now_s
        # The first word is in header version 2, so that a server knows it may answer with metadata.
        self._say_alive(self._connection)

    def _say_alive(self, connection: Connection) -> None:
        if self._keep_alive:
            connection.put(self._keep_alive, None, self.counts)

    def _lose(self, now_s: float, reason: str) -> None:
        if self.state == "connected":
            _log.warning("%s: connection lost: %s", self.address, reason)
        self._drop()
        self._retry_later(now_s, reason)

    def _retry_later(self, now_s: float, reason: str) -> None:
        self.state, self.reason = "waiting", reason
        self._next_attempt_s = now_s + self._retry_s
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    def _drop(self) -> None:
        assert self._connection is not None
        if self._connection.socket in self._selector.get_map():
            self._selector.unregister(self._connection.socket)
        self._connection.close(self.counts)
        self._connection = None


class Server:
    """An OpenIGTLink server for many clients at once.

    Attributes:
        port: the port it listens on, also when 0 (any free one) was asked for.
        refused: connections turned away by the allow-list or for want of room.
        last_problem: the latest refusal, cut-off or damage in words; empty while all is well.
        counts: what happened since the beginning, all clients together.

    Args:
        host: the address to listen on. Other than this very machine needs an allow-list.
        allow: addresses or networks (`192.168.7.0/24`) that may connect.
        silence_s: a client that says nothing for this long is cut off; None since many clients never speak.
        header_version: 2, or 1 for clients older than OpenIGTLink 3, which get no metadata.

    Raises:
        DeviceError: when the port is in use or the address is not of this machine.
    """

    def __init__(
        self,
        port: int = DEFAULT_PORT,
        host: str = "127.0.0.1",
        allow: Iterable[str] = (),
        silence_s: float | None = None,
        most_clients: int = 16,
        header_version: int = 2,
    ) -> None:
        self._host = _numeric_address(host)
        try:
            self._allowed = [ipaddress.ip_network(entry, strict=False) for entry in allow]
        except ValueError as error:
            raise DeviceError(f"the allow-list is wrong: {error}") from None
        if self.open_to_network and not self._allowed:
            raise DeviceError(f"listening on {host} opens the device to the network; name who may connect (allow-list)")
        self._silence_s = silence_s
        self._most_clients = most_clients
        self._header_version = header_version
        self._keep_alive = encode(_spoken(_KEEP_ALIVE, header_version))
        self.counts = LinkCounts()
        self.refused = 0
        self.last_problem = ""
        self._next_log_s = float("-inf")
        self._not_logged = 0
        self._peers: dict[int, Connection] = {}
        self._next_peer = 1
        self._listener = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((self._host, port))
            self._listener.listen(_ACCEPTED_PER_POLL)
        except (OSError, OverflowError) as error:
            self._listener.close()
            in_use = getattr(error, "errno", None) == errno.EADDRINUSE
            what = (
                "is in use; choose another with --port, or 0 for any free one" if in_use else f"cannot be used: {error}"
            )
            raise DeviceError(f"port {port} on {host} {what}") from None
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    @property
    def open_to_network(self) -> bool:
        """Whether others than this machine can reach it; to be stated on screen."""
        return not ipaddress.ip_address(self._host).is_loopback

    @property
    def peers(self) -> dict[int, str]:
        """Address of each connected client by its number."""
        return {number: connection.address for number, connection in self._peers.items()}

    def send(self, message: Message, to: int | None = None, replaceable: bool | None = None) -> bool:
        """Queue a message for one client or for all; False when there is nobody.

        Args:
            to: the number of a client, as in `Received.peer`.
            replaceable: as in `Client.send`.
        """
        return self.send_encoded(encode(_spoken(message, self._header_version)), _key(message, replaceable), to)

    def send_encoded(self, data: bytes, key: MessageKey | None, to: int | None = None) -> bool:
        """Queue bytes; with a key, in place of what waits under that key."""
        connections = list(self._peers.values()) if to is None else [self._peers[to]] if to in self._peers else []
        for connection in connections:
            connection.put(data, key, self.counts)
        return bool(connections)

    def poll(self, now_s: float, wait_s: float = 0.0) -> list[Received]:
        """Accept, receive, keep alive, send. Returns what arrived, in order for each client.

        Args:
            wait_s: sleep up to this long until something arrives, for a process that has nothing else to do.
        """
        ready = _ready(self._selector, self._peers.values(), wait_s)
        if self._listener in ready:
            self._accept(now_s)
        received: list[Received] = []
        for number, connection in list(self._peers.items()):
            read = connection.read if connection.socket in ready else connection.idle
            damaged = connection.counted
            messages, lost = read(now_s, self.counts)
            received += [Received(message, now_s, number) for message in messages]
            if connection.counted != damaged:
                self._note(now_s, f"{connection.address}: {connection.decoder.last_problem}")
            if lost is None and self._silence_s is not None and now_s - connection.heard_s > self._silence_s:
                lost = f"nothing heard for {now_s - connection.heard_s:.1f} s"
            if lost is None and not connection.waiting and now_s - connection.sent_s >= KEEP_ALIVE_S:
                connection.put(self._keep_alive, None, self.counts)
            if lost is not None:
                self._leave(number, now_s, lost)
        self.flush(now_s)
        return received

    def flush(self, now_s: float) -> None:
        """Send what waits, at once: for an answer that must not wait for the next poll."""
        for number, connection in list(self._peers.items()):
            lost = connection.flush(now_s, self.counts)
            if lost is not None:
                self._leave(number, now_s, lost)

    def close(self) -> None:
        for connection in self._peers.values():
            connection.close(self.counts)
        self._peers.clear()
        self._selector.close()
        self._listener.close()

    def _accept(self, now_s: float) -> None:
        for _ in range(_ACCEPTED_PER_POLL):
            try:
                handle, address = self._listener.accept()
            except OSError:  # Nobody waits, or whoever did is gone.
                return
            name = f"{address[0]}:{address[1]}"
            if not self._welcome(address[0]):
                refusal = "is not on the allow-list" if self._allowed else "is not this machine"
            elif len(self._peers) >= self._most_clients:
                refusal = f"comes when {self._most_clients} clients are connected already"
            else:
                refusal = ""
            if refusal:
                handle.close()
                self.refused += 1
                self._note(now_s, f"{name} was refused: it {refusal}")
                continue
            _prepare(handle)
            connection = Connection(handle, name, heard_s=now_s, sent_s=now_s)
            connection.put(self._keep_alive, None, self.counts)
            self._selector.register(handle, selectors.EVENT_READ)
            self._peers[self._next_peer] = connection
            self._next_peer += 1
            self.counts.connections += 1

    def _welcome(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        if not self._allowed:
            return address.is_loopback
        return any(address in network for network in self._allowed)

    def _leave(self, number: int, now_s: float, reason: str) -> None:
        connection = self._peers.pop(number)
        self._selector.unregister(connection.socket)
        connection.close(self.counts)
        if reason != _STREAM_ENDED:
            self._note(now_s, f"{connection.address} was cut off: {reason}")

    def _note(self, now_s: float, problem: str) -> None:
        """Keep a problem, and write it to the log when that had no line for a while."""
        self.last_problem = problem
        if now_s < self._next_log_s:
            self._not_logged += 1
            return
        more = f" (and {self._not_logged} more before)" if self._not_logged else ""
        _log.warning("port %d: %s%s", self.port, problem, more)
        self._next_log_s, self._not_logged = now_s + _LOG_PERIOD_S, 0


_KEEP_ALIVE = Status("KeepAlive", code=StatusCode.OK)


def _ready(selector: selectors.BaseSelector, connections: Iterable[Connection], wait_s: float) -> set[Any]:
    """Sockets that can be read, after at most `wait_s`; room to write what waits ends the wait as well."""
    if wait_s > 0:
        for connection in connections:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.waiting else 0)
            if selector.get_key(connection.socket).events != events:
                selector.modify(connection.socket, events)
    return {key.fileobj for key, events in selector.select(wait_s) if events & selectors.EVENT_READ}


def _spoken(message: Message, header_version: int) -> Message:
    """The message as a peer of that header version understands it."""
    if header_version > 1 or message.header_version == 1:
        return message
    return replace(message, header_version=1, metadata={}, message_id=0)


def _key(message: Message, replaceable: bool | None) -> MessageKey | None:
    if replaceable is None:
        replaceable = message.type_name in _REPLACEABLE
    return (message.type_name, message.name) if replaceable else None


def _newest_images(messages: list[Message], counts: LinkCounts) -> list[Message]:
    """Of several pictures of one name that arrived together, only the newest."""
    if sum(isinstance(message, Image) for message in messages) < 2:
        return messages
    newest = {message.name: index for index, message in enumerate(messages) if isinstance(message, Image)}
    kept = [m for index, m in enumerate(messages) if not isinstance(m, Image) or newest[m.name] == index]
    counts.superseded += len(messages) - len(kept)
    return kept


def _prepare(handle: socket.socket) -> None:
    handle.setblocking(False)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: a peer that vanished without a word.
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)


def _round_trip_s(handle: socket.socket, otherwise_s: float) -> float:
    """The quickest round trip that the operating system has seen on a connection, where it tells (Linux)."""
    if not hasattr(socket, "TCP_INFO"):
        return otherwise_s
    try:
        information = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_MIN_RTT.size)
        (microseconds,) = _TCP_MIN_RTT.unpack(information)
    except (OSError, struct.error):
        return otherwise_s
    return otherwise_s if microseconds == 0xFFFFFFFF else 1e-6 * microseconds


def _numeric_address(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise DeviceError(f"{host!r} is no address; give a numeric one such as 192.168.7.10, or localhost") from None


def _connect_failure(address: str, code: int) -> str:
    if code == errno.ECONNREFUSED:
        return f"nothing listens on {address}; is the device switched on?"
    return f"{address} cannot be reached ({errno.errorcode.get(code, code)})"
