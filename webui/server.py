"""waitress, with connections that may be slow: holding many costs nothing, and none may take for ever.

waitress goes over all of its connections before each wait, so two thousand that send nothing make each answer late. Here those
that wait for bytes are parked in an epoll of their own, which the loop sees as one more file; only what is being answered is
gone over. And a request must come whole in a bounded time: a byte now and then is no sign of life.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import select
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

from webui.pace import client_of
from webui.proxies import Network, is_of

log = logging.getLogger(__name__)

#: Connections at the same time; of more, `Yard.drop_one` closes one.
MOST_CONNECTIONS = 4096
#: Files that the process needs besides: the spool's, the index's, one for each answer.
OTHER_FILES = 512
#: Seconds that the head of a request may take to come, from the connection or its first byte on.
HEAD_S = 20.0
#: Seconds that its body may take, and one more for so many bytes that came: whoever sends slower is cut off.
BODY_S, BODY_BYTES_PER_S = 30.0, 8 << 10
#: Bytes of bodies that have not come whole, all together: waitress keeps them in files in /tmp before anybody asks for a key.
MOST_BODY_BYTES = 2 << 30
#: Seconds after which a client that takes nothing of its answer is cut off: its thread could wait for ever.
UNREAD_S = 60.0
#: Bytes of a body that go out together with the head of their answer.
ONE_PACKET = 16 << 10
#: Connections that are taken in before the others have their turn.
ACCEPTS = 64


class Answer(WSGITask):  # type: ignore[misc]
    """A request that is being answered."""

    wrote_header = False

    def write(self, data: bytes) -> None:
        is_short = 0 < len(data) <= ONE_PACKET and len(data) == self.content_length
        if is_short and self.complete and self.has_body and not self.wrote_header:
            # The head goes out together with the body: one packet, and one waking of who waits for it.
            self.channel.write_soon(self.build_response_header() + data)
            self.wrote_header = True
            self.content_bytes_written = len(data)
        else:
            super().write(data)


class Channel(HTTPChannel):  # type: ignore[misc]
    """One connection."""

    task_class = Answer
    parked = False

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        #: When the request that has not come whole began; None between two requests. The first is waited for from the start.
        self.began: float | None = time.monotonic()

    def idle(self) -> bool:
        """Whether nothing is to be done but to wait for bytes."""
        return not any((self.requests, self.total_outbufs_len, self.will_close, self.close_when_flushed))

    def readable(self) -> bool:
        # The loop asks this before each wait: whoever is idle leaves its round.
        if self._fileno is None:
            return False
        if self.idle():
            self.server.yard.park(self)
            return False
        readable: bool = super().readable()
        return readable

    def received(self, data: bytes) -> bool:
        before = self.request
        taken = bool(super().received(data))
        if self.request is None:
            self.began = None
        elif self.request is not before:
            self.began = time.monotonic()
        return taken

    def overdue(self, now: float) -> bool:
        """Whether its request, or the taking of its answer, lasts too long. `now` is of the monotonic clock."""
        if self.total_outbufs_len and time.time() - self.last_activity > UNREAD_S:
            return True
        if self.began is None or self.requests:
            return False
        request = self.request
        if request is None or not request.headers_finished:
            return now - self.began > HEAD_S
        return bool(now - self.began > BODY_S + request.body_bytes_received / BODY_BYTES_PER_S)

    def body_bytes(self) -> int:
        """What it holds of a body that has not come whole."""
        return self.request.body_bytes_received if self.request is not None else 0

    def close(self) -> None:
        # waitress closes all of its connections so at the end: what was not sent of an answer may be a file.
        self.handle_close()

    def del_channel(self, map: Any = None) -> None:
        self.server.yard.forget(self)
        super().del_channel(map)
        if self.request is not None:
            self.request.close()  # the file of its body goes now, not when the memory is next tidied up


class Yard:
    """Where idle connections wait. In the loop's map it stands for all of them; only the loop's thread calls it."""

    accepting = False

    def __init__(self, map: dict[int, Any], proxies: Sequence[Network]):
        self._map = map
        self._proxies = proxies
        self._epoll = select.epoll()
        self._there: dict[int, Channel] = {}  # who has waited longest comes first
        map[self._epoll.fileno()] = self

    def __len__(self) -> int:
        return len(self._there)

    def park(self, channel: Channel) -> None:
        fd = channel._fileno
        try:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLPRI)
        except OSError:  # RACE: its answer could not be sent, so the thread that made it has closed it
            return
        self._map.pop(fd, None)
        self._there[fd] = channel
        channel.parked = True

    def forget(self, channel: Channel) -> None:
        """Before a connection is closed, or goes back to the loop."""
        if channel.parked:
            channel.parked = False
            self._there.pop(channel._fileno, None)
            with contextlib.suppress(OSError):
                self._epoll.unregister(channel._fileno)

    def drop_one(self) -> None:
        """Close the connection that has waited longest of the client that has the most.

        A trusted proxy's are many people's, nobody here knows whose: each counts as a client's only one. So when there are no
        others, the one that has waited longest of all is closed.
        """
        there = [(self._whose(channel), channel) for channel in self._there.values()]
        if many := Counter(whose for whose, _ in there):
            most = many.most_common(1)[0][0]  # of several, the one that came first
            next(channel for whose, channel in there if whose == most).handle_close()

    def _whose(self, channel: Channel) -> object:
        peer = channel.addr[0]
        return channel if is_of(peer, self._proxies) else client_of(peer)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        for fd, flags in self._epoll.poll(0):
            channel = self._there.get(fd)
            if channel is None:
                continue
            wasyncore.readwrite(channel, flags)
            if channel.parked and not channel.idle():
                self.forget(channel)
                self._map[fd] = channel

    def handle_error(self) -> None:
        log.exception("waiting for connections")  # wasyncore calls this where it caught something

    def close(self) -> None:
        for channel in list(self._there.values()):
            channel.handle_close()
        self._map.pop(self._epoll.fileno(), None)
        self._epoll.close()


class Server(TcpWSGIServer):  # type: ignore[misc]
    """A listening socket and its connections."""

    channel_class = Channel

    def __init__(self, application: Any, map: dict[int, Any], proxies: Sequence[Network] = (), **options: Any):
        self.yard = Yard(map, proxies)
        self.most = min(MOST_CONNECTIONS, max(64, _files() - OTHER_FILES))
        super().__init__(application, map, **options)

    def handle_accept(self) -> None:
        for _ in range(ACCEPTS):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before:
                break
        while len(self.active_channels) > self.most and len(self.yard):
            self.yard.drop_one()

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        at = time.monotonic()
        for channel in list(self.active_channels.values()):
            # The socket of whoever reads nothing never becomes writable, and a parked one is in nobody's round: so at once.
            if channel.overdue(at) or (channel.parked and channel.will_close):
                channel.handle_close()
        held = sorted(self.active_channels.values(), key=Channel.body_bytes)
        total = sum(map(Channel.body_bytes, held))
        while total > MOST_BODY_BYTES:
            largest = held.pop()
            total -= largest.body_bytes()
            largest.handle_close()


def create_server(application: Any, proxies: Sequence[Network] = (), **options: Any) -> Any:
    """As waitress's own, for TCP. `proxies` are the networks of those that are trusted."""
    adjustments = Adjustments(connection_limit=MOST_CONNECTIONS + OTHER_FILES, **options)
    map: dict[int, Any] = {}
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(adjustments.threads)
    servers = [
        Server(application, map, proxies, dispatcher=dispatcher, adj=adjustments, sockinfo=sockinfo)
        for sockinfo in adjustments.listen
    ]
    if len(servers) == 1:
        return servers[0]
    listening = [(each.effective_host, each.effective_port) for each in servers]
    return MultiSocketServer(map, adjustments, listening, dispatcher, servers[-1].log_info)


def raise_files() -> None:
    """Let the process have as many files open as the system lets it, within reason: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (MOST_CONNECTIONS + OTHER_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _files() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
