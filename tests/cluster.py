"""A small cluster for the tests: a real Redis, a real store, real workers with the demo model, all ended with it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path

import psutil
import redis
from house import ROOT, missing, wait_for

from spooler.remote.broker import WORKERS, Broker, beat_key
from spooler.remote.wire import Beat
from spooler.settings import Settings

PASSWORD = "a-password-that-nobody/may:see"  # noqa: S105
SECRET_KEY = "a-secret-key-of-the-store"  # noqa: S105
BUCKET = "pictures"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Redis:
    """redis-server of Debian, with a password, that keeps what it is told (AOF)."""

    def __init__(self, folder: Path):
        self.port, self.folder = free_port(), folder
        folder.mkdir(parents=True)
        self.password_file = folder / "password"
        self.password_file.write_text(PASSWORD + "\n")
        self.password_file.chmod(0o600)
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {folder}", "appendonly yes", "appendfsync always", 'save ""']
        conf = "\n".join([*lines, f"requirepass {PASSWORD}"]) + "\n"
        (folder / "redis.conf").write_text(conf)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.settings = Settings(dispatch=self.url, dispatch_password_file=str(self.password_file))
        self.start()

    def start(self) -> None:
        server = shutil.which("redis-server") or missing("redis-server")
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([server, str(self.folder / "redis.conf")], stdout=log, stderr=log)
        self.client = Broker.of(self.settings).client()

        def answers() -> bool:
            try:
                return bool(self.client.ping())
            except redis.RedisError:
                return False

        wait_for(answers, "Redis to answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class S3:
    """moto's S3 server, in a thread: stopped, it keeps what it has."""

    def __init__(self) -> None:
        self.port = free_port()
        self.env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.url = f"s3://{BUCKET}/jobs"
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()

    def stop(self) -> None:
        self.server.stop()
        # moto leaves the socket open: who connects then would wait for an answer until the next server, and after.
        self.server._server.server_close()

    def client(self):  # type: ignore[no-untyped-def]
        import boto3

        keys = {"aws_access_key_id": "an-id", "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.env["AWS_ENDPOINT_URL"], **keys)

    def names(self) -> list[str]:
        return [each["Key"] for each in self.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])]


class Google:
    """An emulator of Google's store, in a thread, that keeps what it has in a folder."""

    def __init__(self, folder: Path) -> None:
        for package in ("gcsfs", "gcp_storage_emulator"):
            if not importlib.util.find_spec(package):
                missing(f"the Python package {package}")
        self.port, self.folder = free_port(), folder
        folder.mkdir(parents=True)
        self.env = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.port}"}
        self.url = f"gs://{BUCKET}/jobs"
        self.start()

    def start(self) -> None:
        from gcp_storage_emulator.server import create_server

        bucket = None if list(self.folder.iterdir()) else BUCKET
        self.server = create_server("127.0.0.1", self.port, default_bucket=bucket, data_dir=str(self.folder))
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    close = stop

    def names(self) -> list[str]:
        """Of what it has, in the bucket."""
        bucket = self.folder / ".cloudstorage" / BUCKET
        return [str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()]


class Worker:
    """`sdspool worker` as a process."""

    def __init__(self, folder: Path, options: list[str], env: Mapping[str, str], program: tuple[str, ...]):
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "worker.log"
        command = [sys.executable, "-m", *program, *options]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **env, "TMPDIR": str(folder)},
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def name(self) -> str | None:
        said = [line for line in self.log.splitlines() if ": ready for " in line]
        return said[-1].split("worker ")[-1].partition(":")[0] if said else None

    def engine_pid(self) -> int:
        """The process number of its engine."""
        children = psutil.Process(self.process.pid).children
        return wait_for(lambda: [child.pid for child in children()], "the engine's process")[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Cluster:
    """Redis, the store, and whatever workers a test wants."""

    def __init__(self, folder: Path, store: str = "", env: Mapping[str, str] | None = None):
        """`store`: its address, `env`: of whoever uses it; none: an S3 server is started."""
        self.folder = folder
        self.redis = Redis(folder / "redis")
        self._store = store
        self.env = env or {}
        if not store:
            self.s3 = S3()
            self.s3.client().create_bucket(Bucket=BUCKET)
            self._store, self.env = self.s3.url, self.s3.env
        self.workers: list[Worker] = []

    @property
    def options(self) -> list[str]:
        return ["--dispatch", self.redis.url, "--dispatch-password-file", str(self.redis.password_file), "--store", self._store]

    def add_worker(self, *options: str) -> Worker:
        return self._add(["--broker", self.redis.url, *options], ("spooler.cli", "worker"))

    def add_sleeper(self, sleep_s: float, *options: str) -> Worker:
        """A worker whose engine sleeps so long over a job, and draws one colour."""
        return self._add([*options], ("bench.sleeping_worker", str(sleep_s)))

    def _add(self, options: list[str], program: tuple[str, ...]) -> Worker:
        worker = Worker(self.folder / f"worker-{len(self.workers)}", [*self.options, *options], self.env, program)
        self.workers.append(worker)
        return worker

    def ready(self, worker: Worker) -> Worker:
        def is_ready() -> bool:
            assert worker.process.poll() is None, f"the worker ended:\n{worker.log}"
            return bool(worker.name and worker.name in self.beats())

        wait_for(is_ready, "the worker to be ready")
        return worker

    def beats(self) -> dict[str, Beat]:
        """The heartbeats that are there, by the workers' names."""
        found = [self.redis.client.get(beat_key(str(name))) for name in self.redis.client.smembers(WORKERS)]
        return {beat.worker: beat for beat in (Beat.model_validate_json(str(each)) for each in found if each)}

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.redis.kill()
        if hasattr(self, "s3"):
            self.s3.stop()


def cluster(folder: Path, store: str = "", env: Mapping[str, str] | None = None) -> AbstractContextManager[Cluster]:
    return closing(Cluster(folder, store, env))
