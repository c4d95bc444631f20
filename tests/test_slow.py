"""S12: who sends or reads slowly keeps nobody waiting, and holds nothing for ever. Through real sockets."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from house import wait_for

from webui import server as slow_server
from webui.proxies import networks
from webui.server import Server, create_server

Connect = Callable[..., socket.socket]
BIG = 40 << 20


def application(environ: dict[str, object], start: Callable[..., object]) -> Iterator[bytes]:
    """Answers with what it was sent, or with much."""
    body = environ["wsgi.input"].read()  # type: ignore[attr-defined]
    body = body or b"nothing"
    large = BIG if environ["PATH_INFO"] == "/big" else 0
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(large + len(body)))])
    for _ in range(large >> 16):
        yield bytes(1 << 16)
    yield body


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of 4 threads whose patience is short, in a thread."""
    for name, value in (("HEAD_S", 0.6), ("BODY_S", 0.6), ("BODY_BYTES_PER_S", 1 << 20), ("UNREAD_S", 1.0)):
        monkeypatch.setattr(slow_server, name, value)
    made = create_server(
        application,
        host="127.0.0.1",
        port=0,
        threads=4,
        cleanup_interval=1,
        asyncore_loop_timeout=1,  # waitress takes whole seconds: of a fraction it makes none, and the loop never rests
        asyncore_use_poll=True,
    )
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.task_dispatcher.shutdown()
    made.trigger.pull_trigger(lambda: made.asyncore.close_all(made._map))  # in the loop's own thread, which ends then
    thread.join()


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Makes connections that send so much and wait; closes them in the end."""
    with contextlib.ExitStack() as open_ones:

        def made(head: bytes = b"") -> socket.socket:
            connection = open_ones.enter_context(socket.create_connection(("127.0.0.1", int(server.effective_port)), 60))
            connection.sendall(head)
            return connection

        yield made


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def ask(server: Server, path: str = "/", body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", int(server.effective_port), timeout=60)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    told = answer.status, answer.read()
    connection.close()
    return told


def cut_off(dripping: socket.socket) -> bool:
    """Whether one that sends another byte finds that it was closed."""
    try:
        dripping.send(b"x")
    except OSError:
        return True
    return is_closed(dripping)


def test_a_head_that_never_ends_is_cut_off(server: Server, connect: Connect) -> None:
    """Whether it sends nothing or a byte now and then, which to waitress alone is a sign of life."""
    silent, dripping = connect(), connect(b"GET / HTTP/1.1\r\n")
    wait_for(lambda: cut_off(dripping), "the dripping one to be closed")
    wait_for(lambda: is_closed(silent), "the silent one to be closed")
    wait_for(lambda: not server.active_channels, "nothing to be left")
    assert ask(server, body=b"x") == (200, b"x")


def test_a_body_that_drips_is_cut_off(server: Server, connect: Connect) -> None:
    slow = connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n")
    wait_for(lambda: cut_off(slow), "it to be closed")


def test_a_large_body_that_comes_steadily_is_taken(server: Server, connect: Connect) -> None:
    """More than the head's time and the body's first seconds: what came counts."""
    body = bytes(4 << 20)
    slow = connect(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
    for start in range(0, len(body), 1 << 18):
        slow.sendall(body[start : start + (1 << 18)])
        threading.Event().wait(0.1)  # 2.5 MiB a second
    slow.settimeout(60)
    assert slow.recv(15) == b"HTTP/1.1 200 OK"


def test_the_end_closes_what_was_not_sent_of_an_answer(server: Server, connect: Connect) -> None:
    """Which is in a file: pytest makes an error of one that is left to the garbage collector."""
    body = bytes(8 << 20)
    unread = connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert unread.recv(15) == b"HTTP/1.1 200 OK"
    (channel,) = server.active_channels.values()
    wait_for(lambda: not channel.requests, "all of the answer to be in the server's hands")
    files = [outbuf.getfile() for outbuf in channel.outbufs]
    assert channel.total_outbufs_len
    server.trigger.pull_trigger(channel.close)  # as waitress does with each of them
    wait_for(lambda: all(file.closed for file in files), "its files to be closed")


def test_bodies_that_wait_to_be_whole_are_bounded_all_together(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For they lie on the disk before anybody is asked for a key: the largest goes."""
    monkeypatch.setattr(slow_server, "MOST_BODY_BYTES", 3 << 20)
    monkeypatch.setattr(slow_server, "BODY_S", 600.0)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"
    small, large = connect(head + bytes(1 << 20)), connect(head + bytes(5 << 19))
    wait_for(lambda: is_closed(large), "the largest to be closed")
    assert not is_closed(small) and len(server.active_channels) == 1


def test_a_connection_serves_many_requests_and_two_in_one_packet(server: Server, connect: Connect) -> None:
    kept = http.client.HTTPConnection("127.0.0.1", int(server.effective_port), timeout=60)
    for number in range(50):
        kept.request("POST", "/", b"%d" % number)
        assert kept.getresponse().read() == b"%d" % number
    port = kept.sock.getsockname()
    threading.Event().wait(1.0)  # longer than a head may take: between two requests nothing is overdue
    kept.request("POST", "/", b"later")
    assert kept.getresponse().read() == b"later"
    assert kept.sock.getsockname() == port, "still the same connection"
    kept.close()
    two = connect(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    told = b""
    while piece := two.recv(9999):
        told += piece
    assert told.count(b"200 OK") == 2


def test_who_reads_nothing_holds_no_thread(server: Server, connect: Connect) -> None:
    """An answer that is larger than what waitress keeps for a client: each holds a thread of the four until it is cut off."""
    for _ in range(6):
        connect(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    assert ask(server, body=b"x") == (200, b"x")
    wait_for(lambda: not server.active_channels, "the deaf ones to be closed", 60)


def test_of_too_many_connections_the_oldest_idle_one_of_the_greediest_goes(server: Server, connect: Connect) -> None:
    server.most = 20
    slow_server.HEAD_S = 600.0  # the fixture's patch puts it back
    held = [connect(b"GET") for _ in range(60)]

    def asked() -> bool:
        assert ask(server, body=b"x") == (200, b"x")
        return len(server.active_channels) <= 21

    wait_for(asked, "the oldest ones to be closed")
    assert is_closed(held[0]) and is_closed(held[30]) and not is_closed(held[59])


def test_a_proxy_s_connections_are_many_people_s(server: Server, connect: Connect) -> None:
    """One client with the second most goes first; of the proxy's own, when there are no others, the one that waited longest."""
    server.yard._proxies = networks("127.0.0.1")
    slow_server.HEAD_S = 600.0
    address = ("127.0.0.1", int(server.effective_port))
    of_proxy = [connect(b"GET") for _ in range(12)]
    wait_for(lambda: len(server.yard) == 12, "the proxy's to be parked")
    greedy = [socket.create_connection(address, 60, source_address=("127.0.0.2", 0)) for _ in range(6)]
    wait_for(lambda: len(server.yard) == 18, "all of them to be parked")

    def leaves(most: int) -> None:
        server.most = most
        more = connect()
        wait_for(lambda: len(server.active_channels) <= most, "some to be closed")
        of_proxy.append(more)

    try:
        leaves(14)
        assert [is_closed(each) for each in greedy] == [True] * 5 + [False] and not any(map(is_closed, of_proxy))
        leaves(12)
        assert [is_closed(each) for each in of_proxy] == [True] * 3 + [False] * 11
    finally:
        for each in greedy:
            each.close()


def test_five_hundred_half_open_connections_keep_nobody_waiting(server: Server, connect: Connect) -> None:
    """They are parked: the loop goes over those that are being answered. `./run.sh bench slow` has times."""
    slow_server.HEAD_S = slow_server.BODY_S = 600.0  # a third of them has sent its head
    held = [connect((b"", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")[number % 3]) for number in range(500)]
    wait_for(lambda: len(server.yard) == 500, "all of them to be parked")
    assert len(server._map) <= 4, "the listening socket, the trigger, the yard"
    assert ask(server, body=b"x") == (200, b"x")
    held[1].sendall(b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    held[1].settimeout(60)
    assert held[1].recv(15) == b"HTTP/1.1 200 OK", "and one that goes on is answered"
