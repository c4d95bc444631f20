"""The object store: whatever kind it is of, a picture comes back as it went there, or it is told what is wrong."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cluster import BUCKET, S3, Google, cluster
from house import Spooler, picture, wait_for, wait_state
from PIL import Image

from spooler.remote import store as stores
from spooler.remote.store import DamagedError, Store, StoreAddressError, StoreError
from spooler.remote.wire import File
from spooler.spool import Spool

FOLDER = "a/job/1.x"
Server = S3 | Google


def server_of(kind: str, folder: Path) -> Server:
    if kind == "gs":
        return Google(folder)
    server = S3()
    server.client().create_bucket(Bucket=BUCKET)
    return server


@pytest.fixture(params=["s3", "gs"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = server_of(request.param, tmp_path / "server")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


@pytest.fixture(params=["file", "s3", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "file":
        yield Store(f"file://{tmp_path}/store")
        return
    server = server_of(request.param, tmp_path / "server")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    yield Store(server.url)
    server.stop()


def test_a_file_comes_back_as_it_went_there_or_not_at_all(store: Store) -> None:
    file = store.put(FOLDER, "0.png", b"picture")
    assert store.get(FOLDER, file) == b"picture"
    for other in (b"picturE", b"picture and more", b"pic", b""):
        store.put(FOLDER, "0.png", other)
        with pytest.raises(DamagedError, match="not what was put there"):
            store.get(FOLDER, file)
    assert store.address(FOLDER, "0.png") == f"{store.url}/{FOLDER}/0.png"


def test_a_folder_is_removed_with_all_that_is_in_it_and_nothing_else(store: Store) -> None:
    gone = [store.put(FOLDER, "0.png", b"one"), store.put(FOLDER, "1.png", b"two")]
    below, beside = store.put(f"{FOLDER}/inputs", "in.png", b"three"), store.put(f"{FOLDER}y", "0.png", b"four")
    store.remove(f"{FOLDER}/inputs")
    with pytest.raises(DamagedError, match="not in the store"):
        store.get(f"{FOLDER}/inputs", below)
    assert [store.get(FOLDER, file) for file in gone] == [b"one", b"two"]
    store.remove(FOLDER)
    store.remove(FOLDER)
    for file in gone:
        with pytest.raises(DamagedError, match="not in the store"):
            store.get(FOLDER, file)
    assert store.get(f"{FOLDER}y", beside) == b"four"


def test_a_store_that_is_away_is_told_of_at_once_and_used_again_when_it_is_back(server: Server) -> None:
    store = Store(server.url)
    file = store.put(FOLDER, "0.png", b"picture")
    server.stop()
    for ask in (
        lambda: store.put(FOLDER, "1.png", b"x"),
        lambda: store.get(FOLDER, file),
        lambda: store.remove(FOLDER),
    ):
        with pytest.raises(StoreError, match=r"the object store: .*(C|c)onnect to .*127\.0\.0\.1"):
            ask()
    server.start()
    assert store.get(FOLDER, file) == b"picture"


def test_a_bucket_that_is_not_there_is_told_of_and_no_race_with_whoever_adopts_a_job(server: Server) -> None:
    store = Store(server.url.replace(BUCKET, "nowhere"))
    with pytest.raises(StoreError, match=f"there is no {store.url}"):
        store.put(FOLDER, "0.png", b"x")


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_store_that_takes_a_connection_and_says_nothing_is_given_up(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_of(kind, tmp_path / "server").stop()  # so that what it needs is there
    monkeypatch.setattr(stores, "READ_S", 0.5)
    monkeypatch.setattr(stores, "SLOWEST", 64 << 20)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=16)) as mute:
        at = f"http://127.0.0.1:{mute.getsockname()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-key", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {"AWS_ENDPOINT_URL": at, "STORAGE_EMULATOR_HOST": at, **keys}.items():
            monkeypatch.setenv(name, value)
        store = Store(f"{kind}://{BUCKET}/jobs")
        for ask in (
            lambda: store.put(FOLDER, "0.png", b"x"),
            lambda: store.put(FOLDER, "0.png", bytes(16 << 20)),  # more than the system takes before anybody reads it
            lambda: store.get(FOLDER, File.of("0.png", b"x")),
            lambda: store.remove(FOLDER),
        ):
            with pytest.raises(StoreError, match="the object store: no answer in time"):
                ask()


def test_an_address_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for wrong in ("folder", "s3://key:secret@bucket/x", "gs://key:secret@bucket/x", "nothing://x"):
        with pytest.raises(StoreAddressError) as refused:
            Store(wrong)
        assert "secret" not in str(refused.value)


def test_google_without_credentials_or_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Google(tmp_path / "server").stop()  # so that what it needs is there
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StoreAddressError, match=r"none\.json was not found"):
        Store("gs://bucket/x")
    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    with pytest.raises(StoreAddressError, match=r"pip install 'sdspool\[gs\]'"):
        Store("gs://bucket/x")


def test_a_job_s_pictures_go_by_google_s_store_which_may_be_away_for_a_while(tmp_path: Path) -> None:
    google, spool = Google(tmp_path / "google"), Spool(tmp_path / "spool")
    spool.create()
    with closing(google), cluster(tmp_path / "cluster", google.url, google.env) as made:
        worker = made.add_sleeper(0.2)
        spooler = Spooler(spool, *made.options, env=google.env)
        try:
            spooler.ready()
            made.ready(worker)
            send(spool, "over")
            record = spool.read_record(wait_state(spool, "over", "done", "failed"))
            assert record and record.images and record.images[0].stored, record
            assert record.images[0].stored.startswith(f"{google.url}/test/over/1.")
            kept = record.images[0].stored.removeprefix(f"gs://{BUCKET}/")
            wait_for(lambda: google.names() == [kept], "what it was drawn over to be removed, and nothing else")
            picture(spool.root / "done" / "over" / "0.png")
            google.stop()
            send(spool, "later")
            wait_for(lambda: "the object store" in str(spooler.status()), "the spooler to say what is wrong")
            google.start()
            record = spool.read_record(wait_state(spool, "later", "done", "failed"))
            assert record and [attempt.outcome for attempt in record.attempts] == ["done"], record
            picture(spool.root / "done" / "later" / "0.png")
        finally:
            spooler.stop()


def send(spool: Spool, name: str) -> None:
    """A job with a picture, which goes to the worker by the store."""
    folder = spool.tmp / name
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"prompt": "a cat", "image": "start.png", "steps": 2, "seed": 4}))
    Image.new("RGB", (64, 64), "green").save(folder / "start.png")
    folder.rename(spool.pending / name)
