"""The Python client: the same tests over HTTP and straight on the folder. No engine: the spool's own verbs end a job."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from house import ROOT, offer, wait_for
from PIL import Image
from test_api import Web, finish

from spooler import client
from spooler.client import Client
from spooler.job import Job
from spooler.record import Record, Timings, utc_now
from spooler.spool import Spool
from spooler.status import Progress

PROMPT = {"prompt": "a red circle"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Web, Spool]]:
    spool = Spool(tmp_path_factory.mktemp("client") / "spool")
    spool.create()
    (spool.claimed / "me").mkdir()
    offer(spool)
    web = Web(spool, "--web-threads", "4")
    yield web, spool
    web.stop()


@pytest.fixture
def spool(house: tuple[Web, Spool]) -> Spool:
    return house[1]


@pytest.fixture(params=["http", "folder"])
def there(request: pytest.FixtureRequest, house: tuple[Web, Spool]) -> Client:
    web, spool = house
    return Client(f"http://127.0.0.1:{web.port}" if request.param == "http" else spool.root)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def test_a_job_goes_in_and_its_pictures_come_out(there: Client, spool: Spool, tmp_path: Path) -> None:
    job_id = there.submit("a red circle")
    view = there.job(job_id)
    assert view.status == "waiting" and not view.ended and view.job == Job(prompt="a red circle")
    threading.Timer(0.2, finish, (spool, job_id, "done", 2)).start()
    done = there.wait(job_id, timeout_s=60)
    assert done.status == "done" and done.completed and [image.seed for image in done.images] == [0, 1]
    assert there.images(job_id) == [b"\x89PNG picture"] * 2
    paths = there.save(job_id, tmp_path / "out")
    assert [path.name for path in paths] == [f"{job_id}-0.png", f"{job_id}-1.png"]


def test_a_job_may_be_a_record_with_an_id_and_pictures(there: Client, spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(png())
    job = Job(prompt="x", image="a.png", mask="b.png", seed=3)
    wanted = f"mine-{type(there._door).__name__}"
    assert there.submit(job, id=wanted, inputs={"a.png": png(), "b.png": tmp_path / "b.png"}) == wanted
    place = spool.find(wanted)
    assert place and (place.path / "inputs" / "a.png").read_bytes() == png() and there.job(wanted).job == job
    with pytest.raises(client.WrongStateError):
        there.submit(PROMPT, id=wanted)


@pytest.mark.parametrize(
    ("job", "field"),
    [
        ({"prompt": "x", "steps": 0}, "steps"),
        ({"steps": 9}, "prompt"),
        ({"prompt": "x", "model": "dmo"}, "model"),
        ({"prompt": "x", "image": "a.png"}, "image"),
    ],
)
def test_a_bad_job_is_refused_with_each_mistake(there: Client, spool: Spool, job: dict[str, object], field: str) -> None:
    before = sorted(spool.pending.iterdir())
    with pytest.raises(client.RefusedError) as error:
        there.submit(job)
    assert [mistake.field for mistake in error.value.mistakes] == [field] and str(error.value)
    assert sorted(spool.pending.iterdir()) == before


def test_a_batch_goes_in_as_a_whole(there: Client, spool: Spool) -> None:
    batch = there.submit_batch([PROMPT, "a blue square", Job(prompt="x", seed=7)])
    assert [there.job(job_id).job.prompt for job_id in batch.jobs] == ["a red circle", "a blue square", "x"]
    assert there.batch(batch.id) == batch
    before = sorted(spool.pending.iterdir())
    with pytest.raises(client.RefusedError) as error:
        there.submit_batch([PROMPT, {"prompt": "x", "steps": 0}])
    assert error.value.mistakes[0].field == "steps" and error.value.mistakes[0].message.startswith("line 2: ")
    assert sorted(spool.pending.iterdir()) == before
    with pytest.raises(client.NoSuchJobError):
        there.batch("none")


def test_hold_release_top_priority_edit_cancel_retry(there: Client, spool: Spool) -> None:
    job_id = there.submit(PROMPT)
    there.hold(job_id)
    assert there.job(job_id).status == "held"
    there.release(job_id)
    there.top(job_id)
    assert (spool.pending / f"{job_id}.priority").read_text() == "top\n"
    there.priority(job_id, 5)
    there.priority(job_id, None)
    assert not (spool.pending / f"{job_id}.priority").exists()
    assert there.edit(job_id, steps=7, cfg_scale=3).job.guidance_scale == 3.0
    assert there.edit(job_id, steps=None).job.steps is None
    for call in (lambda: there.edit(job_id, steps=0), lambda: there.priority(job_id, 101)):
        with pytest.raises(client.RefusedError):
            call()
    there.cancel(job_id)
    assert there.job(job_id).status == "cancelled" and there.job(job_id).failure
    for late in (lambda: there.hold(job_id), lambda: there.cancel(job_id), lambda: there.edit(job_id, steps=3)):
        with pytest.raises(client.WrongStateError):
            late()
    there.retry(job_id)
    assert there.job(job_id).status == "waiting"
    there.cancel(job_id)


def test_the_same_again_with_other_values(there: Client, spool: Spool) -> None:
    job_id = there.submit({"prompt": "x", "image": "a.png", "seed": 3}, inputs={"a.png": png()})
    with pytest.raises(client.WrongStateError):
        there.again(job_id)
    there.cancel(job_id)
    new = there.again(job_id, seed=9, steps=4)
    place = spool.find(new)
    assert place and new != job_id and (place.path / "inputs" / "a.png").read_bytes() == png()
    assert there.job(new).job == Job(prompt="x", image="a.png", seed=9, steps=4) and there.job(job_id).status == "cancelled"
    with pytest.raises(client.RefusedError):
        there.again(job_id, steps=0)


def test_star_and_delete(there: Client, spool: Spool) -> None:
    job_id = there.submit(PROMPT)
    with pytest.raises(client.WrongStateError):
        there.delete(job_id)
    finish(spool, job_id)
    there.star(job_id)
    assert there.job(job_id).starred
    with pytest.raises(client.WrongStateError, match="star"):
        there.delete(job_id)
    there.unstar(job_id)
    there.delete(job_id)
    with pytest.raises(client.NoSuchJobError):
        there.job(job_id)


def test_lists_by_status_and_owner(there: Client, spool: Spool) -> None:
    owner = type(there._door).__name__
    waits, ended = (there.submit(PROMPT | {"owner": owner}) for _ in range(2))
    finish(spool, ended)
    wait_for(lambda: [view.id for view in there.jobs("done", owner)] == [ended], "the index to have seen it")
    assert [view.id for view in there.jobs("waiting", owner)] == [waits]
    assert {view.id for view in there.jobs(owner=owner)} == {waits, ended} and len(there.jobs(limit=1)) == 1
    assert there.models().default == "demo"


def test_events_tell_each_change(there: Client, spool: Spool) -> None:
    job_id = there.submit(PROMPT)
    seen: list[str] = []

    def follow() -> None:
        seen.extend(f"{view.status} {view.progress.step if view.progress else ''}".strip() for view in there.events(job_id))

    thread = threading.Thread(target=follow)
    thread.start()
    wait_for(lambda: seen, "the first event")
    place = spool.claim(f"{job_id}.json", "me")
    assert place
    record = Record(id=job_id, queued=utc_now())
    spool.prepare(place, record)
    spool.write_progress(place, Progress(phase="denoise", step=3, steps=9))
    spool.publish(place, record.finish((), Timings()), "done")
    thread.join(60)
    assert seen[0] == "waiting" and seen[-1] == "done"


def test_watching_tells_of_every_job_after_none_for_listing(there: Client, spool: Spool) -> None:
    seen: list[client.ChangeView | None] = []

    def follow() -> None:
        for each in there.watch(120):
            seen.append(each)
            if each and each.status == "done":
                return

    thread = threading.Thread(target=follow)
    thread.start()
    wait_for(lambda: seen, "the first word")
    assert seen[0] is None
    job_id = there.submit(PROMPT)

    def told(*wanted: str | None) -> bool:
        return [each.status for each in list(seen) if each and each.id == job_id] == list(wanted)

    wait_for(lambda: told("waiting"), "the job to be told of")
    place = spool.claim(f"{job_id}.json", "me")
    assert place
    record = Record(id=job_id, queued=utc_now())
    spool.prepare(place, record)
    wait_for(lambda: told("waiting", "running"), "its beginning")
    spool.write_progress(place, Progress(phase="denoise", step=3, steps=9))
    wait_for(lambda: told("waiting", "running", "running"), "its progress")
    spool.publish(place, record.finish((), Timings()), "done")
    thread.join(60)
    assert told("waiting", "running", "running", "done")
    last = [each for each in seen if each and each.id == job_id]
    assert [each.was for each in last] == [None, "waiting", "running", "running"]
    assert last[2].progress and last[2].progress.step == 3 and last[3].progress is None


def test_waiting_ends_when_its_time_is_over(there: Client, spool: Spool) -> None:
    job_id = there.submit(PROMPT)
    with pytest.raises(client.WaitError, match="is waiting"):
        there.wait(job_id, timeout_s=0.3)
    with pytest.raises(client.NoSuchJobError):
        there.wait("none", timeout_s=0.3)


def test_more_may_wait_than_the_server_has_seats(there: Client, spool: Spool) -> None:
    ids = [there.submit(PROMPT) for _ in range(4)]  # of two seats
    ended: list[str] = []
    waiting = [threading.Thread(target=lambda job_id=each: ended.append(there.wait(job_id, 120).status)) for each in ids]
    for thread in waiting:
        thread.start()
    for job_id in ids:
        finish(spool, job_id)
    for thread in waiting:
        thread.join()
    assert ended == ["done"] * 4


def test_pause_and_resume(there: Client, spool: Spool) -> None:
    there.pause()
    assert spool.paused
    there.resume()
    assert not spool.paused


def test_a_server_that_breaks_off_gets_the_job_once(house: tuple[Web, Spool]) -> None:
    """A proxy that swallows the first answer: nobody knows whether the job is in, and it is, once."""
    web, spool = house
    swallowed: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for number in range(2):
                inward, _ = listener.accept()
                with inward, socket.create_connection(("127.0.0.1", web.port)) as outward:
                    request = inward.recv(1 << 16)
                    while b"\r\n\r\n" not in request or not request.endswith(b"}"):
                        request += inward.recv(1 << 16)
                    outward.sendall(request)
                    answer = outward.recv(1 << 16)
                    while not answer.rstrip().endswith(b"}"):  # the head and the body may come apart
                        answer += outward.recv(1 << 16)
                    if number:
                        inward.sendall(answer)
                    else:
                        swallowed.append(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        job_id = Client(f"http://127.0.0.1:{listener.getsockname()[1]}").submit({"prompt": "once", "owner": "proxy"})
        thread.join()
    assert b"201 CREATED" in swallowed[0].upper()
    found = [place.id for place in spool.places("pending") if spool.read_job(place).owner == "proxy"]
    assert found == [job_id]


def test_who_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(client.UnreachableError, match="There is no spool"):
        Client(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(client.UnreachableError):
        Client(f"http://127.0.0.1:{port}", timeout_s=1).job("x")
    with pytest.raises(client.UnreachableError):
        Client("http://")


def test_the_client_loads_neither_torch_nor_the_web() -> None:
    script = "import sys, spooler.client, spooler.door_http, spooler.door_folder\n"
    script += "sys.exit(', '.join({'torch', 'flask', 'webui'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("given", ["cat", None])
def test_after_a_cut_an_id_is_ours_only_if_it_was_made_here(given: str | None) -> None:
    """The first request is cut off, and to the next one the id is taken: by whom, only who made the id knows."""

    def answer(server: socket.socket) -> None:
        for number in range(2):
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                if number:
                    body = json.dumps({"error": {"message": "The id is taken.", "code": "conflict"}}).encode()
                    head = f"HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                    connection.sendall(head.encode() + body)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        door = client.Client(f"http://127.0.0.1:{server.getsockname()[1]}")
        if given:
            with pytest.raises(client.WrongStateError):
                door.submit("a cat", id=given)
        else:
            assert door.submit("a cat")
        thread.join()


BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<h1>502</h1>\n"


@contextmanager
def behind_proxy(port: int, *answers: str) -> Iterator[str]:
    """The address of a proxy that answers the first requests as it is told, and then lets all pass.

    "away": with a page that says 502, "late": the same, once the server has had the request.
    """
    left = list(answers)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve(inward: socket.socket) -> None:
        answer = left.pop(0) if left else "pass"
        with inward, socket.create_connection(("127.0.0.1", port)) as outward:
            if answer == "pass":
                back = threading.Thread(target=pump, args=(outward, inward))
                back.start()
                pump(inward, outward)
                back.join()
                return
            request = inward.recv(1 << 16)
            if answer == "late":
                outward.sendall(request)
                outward.recv(1 << 16)
            inward.sendall(BAD_GATEWAY)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    assert not left


def test_who_waits_behind_a_proxy_waits_on_while_the_server_is_away(house: tuple[Web, Spool]) -> None:
    web, spool = house
    job_id = Client(spool.root).submit(PROMPT)
    with behind_proxy(web.port, "away", "away", "pass", "away", "away", "away") as address:
        door = Client(address)
        assert door.job(job_id).status == "waiting", "asked for again"
        looks = door.events(job_id, 120)
        assert next(looks).status == "waiting"
        finish(spool, job_id)
        assert [view.status for view in looks][-1] == "done"


def test_a_cancel_that_was_served_before_the_cut_is_one(house: tuple[Web, Spool]) -> None:
    web, spool = house
    job_id = Client(spool.root).submit(PROMPT)
    with behind_proxy(web.port, "late") as address:
        door = Client(address)
        door.cancel(job_id)
        assert door.job(job_id).status == "cancelled"
        with pytest.raises(client.WrongStateError):
            door.cancel(job_id)
