"""Jobs drawn on other hosts: a real Redis, a real S3 server, real workers; whatever part fails, each job ends once (P2, P4).

What holds wherever a job is drawn is in test_contract.py.

One Redis, one store, one spooler and one worker are shared by the tests, in their order; the worker that is killed has a
successor.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from cluster import PASSWORD, SECRET_KEY, Cluster, cluster, free_port
from house import ROOT, Spooler, drop, missing, picture, wait_for, wait_running, wait_state
from PIL import Image

from spooler.place import Place
from spooler.record import Record
from spooler.remote.broker import COMMON, TASK, Broker, BrokerError, channel, key, queue_of, task_priority
from spooler.remote.wire import File, Name, Task
from spooler.settings import Settings
from spooler.spool import Spool
from spooler.status import LaneStatus

SHORT = {"prompt": "a large red circle on a blue background", "seed": 5, "steps": 4}
#: Long enough to be met in the middle.
LONG = {"prompt": "a large green square on a white background", "steps": 150, "seed": 1}
OVER_A_PICTURE = {"prompt": "a large red circle on a blue background", "image": "start.png", "steps": 6, "seed": 4}


class House:
    """The cluster with its spooler."""

    def __init__(self, made: Cluster, spool: Spool):
        self.cluster, self.spool = made, spool
        self.began = 0
        self.start()

    def start(self) -> None:
        self.spooler = Spooler(self.spool, *self.cluster.options, env=self.cluster.s3.env)

    def drop(self, name: str, job: dict[str, object]) -> None:
        drop(self.spool, f"{name}.json", job)

    def done(self, name: str) -> Record:
        """The record of a job that must end in done/, with its pictures whole."""
        return self.record(wait_state(self.spool, name, "done", "failed", "cancelled"), "done")

    def record(self, place: Place, state: str) -> Record:
        record = self.spool.read_record(place)
        assert record and place.state == state, record
        for image in record.images:
            picture(place.path / image.file)
        assert [found.state for found in self.everywhere(place.id)] == [state]
        return record

    def everywhere(self, name: str) -> list[Place]:
        folders = [
            path for state in ("done", "failed", "cancelled") for path in [self.spool.root / state / name] if path.exists()
        ]
        return [Place(name, path.parent.name, path) for path in folders]  # type: ignore[arg-type]

    def engines(self) -> tuple[LaneStatus, ...]:
        """The workers, as readers are told of them."""
        status = self.spooler.status()
        return status.engines if status else ()

    def stored(self, part: str) -> list[str]:
        """What the store has with that in its name."""
        return [name for name in self.cluster.s3.names() if part in name]

    def taken(self, name: str) -> str:
        """Wait until a worker has the job; the worker's name."""

        def worker() -> str | None:
            told = self.cluster.redis.client.get(key("test", name))
            return str(told).split("|")[2] if told and "|taken|" in str(told) else None

        return wait_for(worker, f"a worker to have {name}")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("celery")
    spool = Spool(folder / "spool")
    spool.create()
    with cluster(folder / "cluster") as made:
        worker = made.add_worker("--together", "2")
        house = House(made, spool)
        try:
            made.ready(worker)
            house.spooler.ready()
            yield house
        finally:
            house.spooler.stop()


def outcomes(record: Record) -> list[str]:
    return [(attempt.outcome or "").partition(":")[0] for attempt in record.attempts]


def test_a_done_job_s_pictures_stay_in_the_store_and_its_inputs_do_not(house: House) -> None:
    folder = house.spool.tmp / "over"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(OVER_A_PICTURE))
    Image.new("RGB", (128, 128), "green").save(folder / "start.png")
    folder.rename(house.spool.pending / "over")
    record = house.done("over")
    assert outcomes(record) == ["done"] and record.engine and record.engine.model == "demo"
    url = record.images[0].stored
    assert url and url.startswith(f"{house.cluster.s3.url}/test/over/1.") and url.endswith("/0.png")
    stored = house.cluster.s3.client().get_object(Bucket="pictures", Key=url.removeprefix("s3://pictures/"))["Body"].read()
    assert stored == (house.spool.root / "done" / "over" / "0.png").read_bytes()
    # The pictures that were sent along lie in the spool; in the store nobody needs them any more.
    wait_for(lambda: not house.stored("inputs"), "the inputs to be removed")


def test_a_cancel_reaches_a_job_that_a_worker_has_and_one_that_is_on_its_way(house: House) -> None:
    names = ["run1", "run2", "queued"]
    for name in names:
        house.drop(name, LONG | {"count": 4})
    wait_running(house.spool, "run1")
    house.taken("run2")
    client = house.cluster.redis.client
    wait_for(lambda: str(client.get(key("test", "queued"))).endswith("|waiting|"), "the third to wait for a worker")
    app = Broker.of(house.cluster.redis.settings).celery(60)
    active = wait_for(lambda: app.control.inspect(timeout=2).active(), "Celery's own tools to be answered")
    assert {task["id"].split(".")[0] for tasks in active.values() for task in tasks} == {"run1", "run2"}
    assert "a large green square" not in str(active), "nobody is told of a prompt"
    [stats] = wait_for(lambda: app.control.inspect(timeout=2).stats(), "the worker to tell of itself").values()
    assert stats["total"][TASK] >= 2 and stats["broker"]["transport_options"]["has_room"] is False
    for name in reversed(names):
        house.spool.cancel(name)
    for name in names:
        record = house.record(wait_state(house.spool, name, "done", "cancelled", "failed"), "cancelled")
        assert record.failure and record.failure.code == "cancelled" and not record.images
    assert "before a worker began it" in str(house.spool.read_record(house.everywhere("queued")[0]))
    wait_for(lambda: all(not beat.tasks for beat in house.cluster.beats().values()), "the worker to have nothing")


def test_what_no_spooler_wrote_is_not_drawn(house: House, tmp_path: Path) -> None:
    """P9: JSON and nothing else, only models of the catalogue, and no picture but the job's own."""
    client, app = house.cluster.redis.client, Broker.of(house.cluster.redis.settings).celery(60)
    ears = client.pubsub(ignore_subscribe_messages=True)
    ears.subscribe(channel("stranger"))
    ears.get_message(timeout=1)

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "run",)  # type: ignore[return-value]

    with app.connection_for_write() as connection:
        trap = connection.Producer()
        body = pickle.dumps(((Trap(),), {}, {}))
        headers = {"task": TASK, "id": "trap.1.000000000000", "lang": "py"}
        trap.publish(
            body,
            routing_key=COMMON,
            exchange="",
            headers=headers,
            content_type="application/x-python-serialize",
            content_encoding="binary",
        )
    house.drop("plain", SHORT)
    done = house.done("plain")
    assert done.parameters and not (tmp_path / "run").exists()

    run = {"type": "run", "id": "x", "folder": "/etc", "job": done.parameters, "cells": [done.parameters], "attempt": 1}
    unknown = run | {"cells": [done.parameters.model_copy(update={"model": "../secret"})]}
    strange = [
        ("x.1.00000000000a", unknown, (), "has no model '../secret'"),
        ("x.1.00000000000b", run, (File(name="passwd", size=1, sha256="0" * 64),), "other pictures than its job names"),
    ]
    for task_id, given, inputs, said in strange:
        task = Task.model_validate({"spooler": "stranger", "run": given, "inputs": inputs})
        client.set(key("stranger", "x"), f"{task_id}|waiting|")
        app.send_task(TASK, args=[task.model_dump(mode="json")], task_id=task_id, queue=COMMON)
        wait_for(lambda: ears.get_message(timeout=1), "the worker to answer")
        answer = json.loads(str(client.get(f"celery-task-meta-{task_id}")))
        assert answer["status"] == "SUCCESS" and said in answer["result"]["end"]["reason"]
    # Some that are nobody's: the key of the first is another's. That of the last is its own, but an engine would end over it.
    none = json.loads(task.model_copy(update={"inputs": ()}).model_dump_json())
    none["run"]["cells"] = []
    client.set(key("stranger", "x"), "x.1.00000000000e|waiting|")
    for task_id, given in (("c", task.model_dump(mode="json")), ("d", {"spooler": "../.."}), ("e", none)):
        app.send_task(TASK, args=[given], task_id=f"x.1.00000000000{task_id}", queue=COMMON)
    house.drop("after", SHORT)
    assert outcomes(house.done("after")) == ["done"]
    assert not [each for each in "cde" if client.exists(f"celery-task-meta-x.1.00000000000{each}")]


def test_a_message_that_comes_again_after_its_job_was_drawn_is_not_drawn_again(house: House) -> None:
    """As when a worker's word that it owns up to a task is lost."""
    client, app = house.cluster.redis.client, Broker.of(house.cluster.redis.settings).celery(60)
    house.drop("plain2", SHORT)
    job = house.done("plain2").parameters
    run = {"type": "run", "id": "twice", "folder": "", "job": job, "cells": [job], "attempt": 1}
    task = Task.model_validate({"spooler": "stranger", "run": run})
    client.set(key("stranger", "twice"), "twice.1.00000000000a|waiting|")
    for said in ("job twice: finished", "job twice: attempt 1 is not wanted any more"):
        app.send_task(TASK, args=[task.model_dump(mode="json")], task_id="twice.1.00000000000a", queue=COMMON)
        wait_for(lambda said=said: any(said in worker.log for worker in house.cluster.workers), said)  # type: ignore[misc]
        wait_for(lambda: all(not beat.tasks for beat in house.cluster.beats().values()), "the worker to have nothing")


def test_redis_that_forgets_everything_costs_no_job(house: House) -> None:
    """FLUSHALL while two are being drawn and one waits: each is done once, at its first try."""
    client = house.cluster.redis.client
    for name in ("flush0", "flush1", "flush-waits"):
        house.drop(name, (SHORT if name == "flush-waits" else LONG))
        wait_for(lambda name=name: client.get(key("test", name)), f"{name} to be sent")  # type: ignore[misc]
    house.taken("flush1")
    wait_running(house.spool, "flush0")
    assert str(client.get(key("test", "flush-waits"))).endswith("|waiting|")
    client.flushall()
    for name in ("flush0", "flush1", "flush-waits"):
        assert outcomes(house.done(name)) == ["done"]


def test_redis_that_is_killed_and_started_again_costs_no_job(house: House) -> None:
    house.drop("aof", LONG)
    house.drop("aof-waits", SHORT)
    wait_running(house.spool, "aof")
    house.cluster.redis.kill()
    wait_for(
        lambda: "cannot be used just now" in str((house.spooler.status() or "") and house.spooler.status()),
        "the trouble to be told",
    )
    wait_for(lambda: "job aof: finished" in house.cluster.workers[0].log, "the worker to have drawn it meanwhile")
    house.cluster.redis.start()
    for name in ("aof", "aof-waits"):
        assert outcomes(house.done(name)) == ["done"]
    wait_for(lambda: (status := house.spooler.status()) and not status.reason, "the trouble to be over")


def test_a_message_that_got_lost_is_sent_again(house: House) -> None:
    """As when a worker is killed that has fetched it from Redis and not begun it."""
    client = house.cluster.redis.client
    house.drop("first", LONG)
    house.drop("second", LONG)
    house.taken("second")
    house.drop("mislaid", SHORT)
    # The key says that it waits before the message is there.
    queues = wait_for(lambda: list(client.scan_iter("sdspool.[09]*", _type="list")), "its message to wait for a worker")
    assert sum(bool(client.delete(queue)) for queue in queues) == 1
    assert str(client.get(key("test", "mislaid"))).endswith("|waiting|")
    for name in ("first", "second"):
        house.spool.cancel(name)
    assert outcomes(house.done("mislaid")) == ["done"]


def test_a_message_that_comes_again_to_the_worker_that_draws_its_job_is_put_aside(house: House) -> None:
    """As when a job takes longer than Celery waits for a task to be owned up to."""
    client, worker = house.cluster.redis.client, house.cluster.workers[-1]
    house.drop("again", LONG | {"steps": [2, 150, 149, 148]})
    house.taken("again")
    wait_for(lambda: house.stored("/again/1."), "its first picture to be in the store")
    [message] = [json.loads(each)[0] for each in client.hvals("unacked") if "again" in each]
    client.lpush(COMMON, json.dumps(message))
    wait_for(lambda: not client.exists(COMMON), "the message to be fetched")
    wait_for(lambda: "job again: attempt 1 is at work here" in worker.log, "the message to be put aside")
    tasks = lambda: [task for beat in house.cluster.beats().values() for task in beat.tasks if "again" in task]  # noqa: E731
    wait_for(tasks, "the worker to tell that it has the first")
    house.spool.cancel("again")
    house.record(wait_state(house.spool, "again", "done", "cancelled", "failed"), "cancelled")
    wait_for(lambda: all(not beat.tasks for beat in house.cluster.beats().values()), "the worker to have nothing")
    assert worker.log.count("job again: attempt 1\n") == 1
    wait_for(lambda: not house.stored("/again/"), "its pictures to be gone")


def test_a_store_that_is_away_for_a_while_costs_no_job(house: House) -> None:
    house.cluster.s3.stop()
    names = ("store", "store-unwanted", "store-next")
    for name in names:
        house.drop(name, SHORT)
    for name in names:
        house.taken(name)  # the third too: what only waits for the store leaves its seat to the next
    wait_for(lambda: "The workers wait: the object store" in str(house.spooler.status()), "the spooler to say what is wrong")
    house.spool.cancel("store-unwanted")
    house.record(wait_state(house.spool, "store-unwanted", "cancelled", "done", "failed"), "cancelled")
    house.cluster.s3.start()
    assert outcomes(house.done("store")) == outcomes(house.done("store-next")) == ["done"]


def test_the_spooler_is_killed_and_its_next_life_does_not_hear_the_try_of_the_one_before(house: House) -> None:
    house.drop("orphan", LONG | {"steps": [2, 100]})
    wait_running(house.spool, "orphan")
    first = house.taken("orphan")
    wait_for(lambda: house.stored("/orphan/1."), "its first picture to be in the store")
    before = str(house.cluster.redis.client.get(key("test", "orphan"))).split("|")[0]
    house.spooler.kill()
    house.start()
    house.spooler.ready()
    record = house.done("orphan")
    assert outcomes(record) == ["worker-died", "done"] and Name.parse(before).attempt == 1
    assert [url for image in record.images if (url := image.stored) and "/orphan/2." in url] == [
        image.stored for image in record.images
    ]
    assert first in house.cluster.beats(), "the worker lives, and was told to stop the first try"
    wait_for(lambda: before not in [task for beat in house.cluster.beats().values() for task in beat.tasks], "the first to end")
    assert not house.stored("/orphan/1."), "nobody else knew of its picture"
    assert len(house.stored("/orphan/2.")) == 3, "two pictures and a sheet"


def test_p2_p4_a_worker_that_is_killed_costs_its_job_one_try_and_the_pictures_of_that_try(house: House) -> None:
    house.drop("killed", LONG | {"steps": [2, 100]})
    place = wait_running(house.spool, "killed")
    worker = house.taken("killed")
    assert worker == house.cluster.workers[0].name
    wait_for(lambda: ("killed",) in [each.running for each in house.engines() if each.name == worker], "readers to be told")
    told = wait_for(lambda: (now := house.spool.read_progress(place)) and now.images, "its first picture to be shown")
    assert [image.file for image in told] == ["0.png"] and "/killed/1." in str(told[0].stored)
    picture(place.path / "0.png")
    house.cluster.workers[0].kill()
    wait_for(lambda: (now := house.spool.read_record(place)) and outcomes(now) == ["worker-died"], "the worker to be missed")
    assert sorted(path.name for path in place.path.iterdir()) == ["job.json", "record.json"]
    house.cluster.ready(house.cluster.add_worker("--together", "2"))
    record = house.done("killed")
    assert outcomes(record) == ["worker-died", "done"]
    assert ["/killed/2." in str(image.stored) for image in record.images] == [True, True]
    assert worker not in house.cluster.beats() and worker not in [each.name for each in house.engines()]


def test_what_no_kombu_wrote_ends_no_worker(house: House) -> None:
    client, worker = house.cluster.redis.client, house.cluster.workers[-1]
    good = {
        "body": "e30=",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": TASK, "id": "a"},
    }
    strange = (
        b"\xff\xfe",
        "garbage",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        good,
        good | {"properties": None},
        good | {"headers": 5},
    )
    for number, raw in enumerate(strange):
        client.lpush(COMMON, json.dumps(raw) if isinstance(raw, dict) else raw)
        house.drop(f"strange{number}", SHORT | {"steps": 1})
        assert outcomes(house.done(f"strange{number}")) == ["done"]
    assert worker.process.poll() is None and "a message that no spooler wrote" in worker.log


def test_a_worker_without_a_temporary_folder_says_so_and_costs_no_job_a_try(house: House) -> None:
    folder = house.cluster.workers[-1].log_path.parent
    folder.rename(folder.with_name("aside"))
    try:
        house.drop("homeless", SHORT)
        ails = lambda: [beat.trouble for beat in house.cluster.beats().values() if beat.trouble]  # noqa: E731
        wait_for(lambda: any("a worker's disk: [Errno 2]" in each for each in ails()), "the worker to tell of its disk")
    finally:
        folder.with_name("aside").rename(folder)
    assert outcomes(house.done("homeless")) == ["done"]
    wait_for(lambda: not ails(), "the worker to be well again")


def test_no_secret_is_where_it_can_be_read(house: House) -> None:
    """Neither Redis's password nor the store's key is in a log, a process's line, Redis, the store or the spool."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()]
    files = [path for path in house.spool.root.parent.rglob("*") if path.is_file()]
    own = {house.cluster.redis.password_file, house.cluster.redis.folder / "redis.conf"}
    kept = {path: path.read_bytes() for path in files if path not in own}
    assert len([path for path in kept if path.suffix == ".log"]) >= 4 and any("appendonly" in str(path) for path in kept)
    for secret in (PASSWORD, SECRET_KEY):
        assert not [line for line in lines if secret.encode() in line]
        assert not [path for path, data in kept.items() if secret.encode() in data]


def test_sigterm_ends_a_worker_once_its_jobs_have_ended(house: House) -> None:
    house.drop("last", LONG)
    wait_running(house.spool, "last")
    worker = house.cluster.workers[-1]
    assert worker.stop() == 0
    assert outcomes(house.done("last")) == ["done"]
    wait_for(lambda: "No worker is there" in str(house.spooler.status()), "the spooler to say that no worker is there")


# -- without any process ---------------------------------------------------------------------------------------------


def test_tls_is_spoken_with_a_server_whose_certificate_is_good_and_with_no_other(tmp_path: Path) -> None:
    server = shutil.which("redis-server") or missing("redis-server")
    keys = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"), "-subj", "/CN=redis", "-days", "2"]
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(["openssl", "req", "-x509", "-nodes", *extra, *keys], check=True, capture_output=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-auth-clients", "no"]
    process = subprocess.Popen(
        [server, "--port", "0", "--bind", "127.0.0.1", "--save", "", *tls], cwd=tmp_path, stdout=subprocess.PIPE
    )
    try:
        url = f"rediss://127.0.0.1:{port}/0"
        broker = Broker.of(Settings(dispatch=f"{url}?ssl_ca_certs={tmp_path}/cert.pem"))

        def answers() -> bool:
            try:
                return bool(broker.client().ping())
            except redis.ConnectionError:
                return False

        wait_for(answers, "Redis to answer")
        app = broker.celery(60)
        app.send_task(TASK, args=[{}], task_id="x", queue=COMMON, priority=3)
        assert broker.client().llen(f"{COMMON}\x06\x163") == 1
        app.close()
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            Broker.of(Settings(dispatch=url)).client().ping()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://host", "must be redis://"),
        ("redis://", "must be redis://"),
        ("redis://host/name", "the number of a database"),
        ("rediss://host/0?ssl_cert_reqs=none", "has 'ssl_cert_reqs'"),
        ("redis://:pw@host:port/0", "cannot be read"),
    ],
)
def test_a_broker_that_cannot_be_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(BrokerError) as refused:
        Broker.of(Settings(dispatch=url))
    assert said in str(refused.value) and "pw" not in str(refused.value)


def test_a_password_comes_from_a_file_that_its_owner_alone_reads(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("a/b c\n")
    settings = Settings(dispatch="rediss://me@host:1/2?ssl_ca_certs=/ca.pem", dispatch_password_file=str(file))
    with pytest.raises(BrokerError, match="readable by its owner alone"):
        Broker.of(settings)
    file.chmod(0o600)
    broker = Broker.of(settings)
    assert (broker.url, broker.shown) == ("rediss://me:a%2Fb%20c@host:1/2", "rediss://host:1/2")
    assert "a%2Fb" not in repr(broker) and broker.tls == (("ssl_ca_certs", "/ca.pem"),)
    assert Broker.of(Settings(dispatch="redis://:x@[::1]")).shown == "redis://[::1]:6379/0"


def test_names_of_tasks_and_queues() -> None:
    name = Name.new("a.b-2", 3)
    assert Name.parse(str(name)) == name and name.folder("me") == f"me/a.b-2/3.{name.token}"
    for wrong in ("a.1", "../x.1.000000000000", "a.0.000000000000", "a.1.00000000000Z", ".1.000000000000"):
        with pytest.raises(ValueError, match="must be <job>"):
            Name.parse(wrong)
    assert queue_of("a model/x") < COMMON and queue_of("a b") != queue_of("a-b")
    assert [task_priority(number) for number in (7, 0, -1)] == [0, 3, 6]


def test_nothing_of_it_is_loaded_unless_it_is_asked_for() -> None:
    script = "import sys, spooler.cli, spooler.service, webui.app\n"
    script += "sys.exit(', '.join({'celery', 'redis', 'fsspec', 's3fs', 'spooler.remote'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
