"""Redis between a spooler and its workers: where it is, how Celery is to use it, and the names of what is kept there.

| name in Redis                | what                                                        | who writes it | gone after |
|------------------------------|-------------------------------------------------------------|---------------|------------|
| sdspool:job:<spooler>:<job>  | the one try that is wanted: `<task>|waiting|`, or           | both          | a week     |
|                              | `<task>|taken|<worker>`, or `<task>|cancel|`                |               |            |
| sdspool:worker:<worker>      | its heartbeat (wire.Beat)                                   | the worker    | BEAT_TTL_S |
| sdspool:workers              | set of the workers' names                                   | the worker    |            |
| sdspool:said:<spooler>       | channel: progress, previews, "it has ended" (wire.Said)     | the worker    | not kept   |
| sdspool.0.<model>, sdspool.9 | Celery's queues: for who has the model warm, and for all    | the spooler   | when taken |
| celery-task-meta-<task>      | Celery's result: wire.Result                                | the worker    | an hour    |
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import redis
from celery import Celery
from kombu.exceptions import KombuError
from redis.backoff import NoBackoff
from redis.retry import Retry

from spooler import durable
from spooler.remote.transport import Room
from spooler.settings import Settings

#: What tells that Redis cannot be reached, or not be used just now.
BROKER_ERRORS = (redis.RedisError, KombuError, OSError)

TASK = "sdspool.draw"
#: The queue of all workers. kombu listens in the order of the names, so one's own model comes before it.
COMMON = "sdspool.9"
WORKERS = "sdspool:workers"

BEAT_S = 1.0
BEAT_TTL_S = 6
#: A try that is gone from Redis is told no worker any more; whoever has it would have told so long before.
KEY_TTL_S = 7 * 86_400
RESULT_TTL_S = 3600
TIMEOUT_S = 5.0
#: Seconds that the store may not answer a worker before a job is given back, for a worker that reaches it better.
STORE_PATIENCE_S = 600.0
MAX_PASSWORD_BYTES = 4096

#: Make the key say another thing, if it says what it is thought to say. One step: two may wish it at the same time.
SWAP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
"""
#: What these keys hold, as MGET tells it; an empty text for what is none, or is longer than its bound: whoever holds the
#: password can write anything, and what is not read takes no memory.
READ = """
local found = {}
for i, name in ipairs(KEYS) do
  local size = redis.pcall('STRLEN', name)
  found[i] = (type(size) == 'table' or size > tonumber(ARGV[i])) and '' or redis.call('GET', name)
end
return found
"""
#: Remove the key, if it is of that try.
DROP = """
local said = redis.call('GET', KEYS[1])
if said and string.sub(said, 1, #ARGV[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class BrokerError(ValueError):
    """Redis cannot be used as it is named: met by whoever starts a spooler with --dispatch, or a worker."""


@dataclass(frozen=True)
class Broker:
    """A Redis. `url` may have a password, so it is never shown; `shown` has none."""

    url: str = field(repr=False)
    shown: str
    tls: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Broker:
        """The Redis of the settings. Raises BrokerError, whose sentence has no password."""
        try:
            parts = urlsplit(settings.dispatch)
            port = parts.port or 6379
        except ValueError:
            raise BrokerError("`dispatch` must be an address, redis://host:port/db, but it cannot be read") from None
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise BrokerError("`dispatch` must be redis://host:port/db or rediss://host:port/db")
        if not re.fullmatch(r"/?|/\d{1,5}", parts.path):
            raise BrokerError(f"`dispatch` must end with the number of a database, /0 say, but ends with {parts.path!a}")
        tls = tuple(parse_qsl(parts.query))
        if unknown := {name for name, _ in tls} - {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}:
            raise BrokerError(f"`dispatch` may have ssl_ca_certs, ssl_certfile and ssl_keyfile, but has {sorted(unknown)[0]!a}")
        password, user = parts.password, parts.username or ""
        if settings.dispatch_password_file:
            password, user = quote(_secret(Path(settings.dispatch_password_file)), safe=""), user
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        place = f"{host}:{port}/{parts.path.strip('/') or '0'}"
        account = f"{user}:{password}@" if password else ""
        return cls(f"{parts.scheme}://{account}{place}", f"{parts.scheme}://{place}", tls)

    @property
    def _ssl(self) -> dict[str, Any]:
        """With TLS a server must show a certificate that is good for its name: there is no way to leave that out."""
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **dict(self.tls)} if self.url.startswith("rediss:") else {}

    def client(self) -> redis.Redis:
        """Talks to it from any thread; a command fails after one more try, and whoever asked decides what then."""
        return redis.Redis.from_url(
            self.url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            health_check_interval=15,
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
            encoding_errors="replace",  # what is no text is no message either, and ends nobody
            **self._ssl,
        )

    def celery(self, deadline_s: float, has_room: Callable[[], bool] = lambda: True) -> Celery:
        """Celery as both sides have it. `deadline_s`: seconds after which a task that nobody owned up to is given out again;
        a job that takes longer is not drawn twice, for the key tells who has it. `has_room`: whether a worker may fetch more.
        """
        app = Celery("sdspool", broker=self.url, backend=self.url, set_as_current=False)
        app.conf.update(
            # JSON and nothing else: a pickle would be a program that Redis gives us to run (P9).
            task_serializer="json",
            result_serializer="json",
            accept_content=["json"],
            result_accept_content=["json"],
            task_acks_late=True,
            task_reject_on_worker_lost=True,
            worker_prefetch_multiplier=1,
            task_default_queue=COMMON,
            broker_transport="spooler.remote.transport:Transport",
            broker_connection_retry_on_startup=True,
            broker_connection_max_retries=None,
            broker_transport_options={
                "has_room": Room(has_room),
                "visibility_timeout": deadline_s,
                "queue_order_strategy": "sorted",
                "socket_timeout": 2 * TIMEOUT_S,
                "socket_connect_timeout": TIMEOUT_S,
                "socket_keepalive": True,
            },
            redis_socket_timeout=2 * TIMEOUT_S,
            redis_socket_connect_timeout=TIMEOUT_S,
            result_expires=RESULT_TTL_S,
            result_backend_always_retry=True,
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
            **({"broker_use_ssl": self._ssl, "redis_backend_use_ssl": self._ssl} if self._ssl else {}),
        )
        return app


def key(spooler: str, job: str) -> str:
    """Tells which try at the job is wanted."""
    return f"sdspool:job:{spooler}:{job}"


def beat_key(worker: str) -> str:
    return f"sdspool:worker:{worker}"


def channel(spooler: str) -> str:
    return f"sdspool:said:{spooler}"


def result_key(task: str) -> str:
    return f"celery-task-meta-{task}"


def queue_of(model: str) -> str:
    """The queue for workers that have that model warm. A model's name may be anything, a queue's is plain."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", model)[:40]
    return f"sdspool.0.{plain}.{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def task_priority(priority: int) -> int:
    """A job's priority as one of those that kombu keeps lists for in Redis, of which 0 is served first."""
    return 0 if priority > 0 else 3 if priority == 0 else 6


def deadline_s(settings: Settings) -> float:
    """Seconds after which Celery may deliver a task anew: longer than a worker can be silent over a job and go on."""
    return 2 * (settings.load_s + settings.stall_s + STORE_PATIENCE_S)


def _secret(path: Path) -> str:
    """Raises BrokerError when there is none, or others may read it."""
    try:
        path = path.expanduser()
        if path.stat().st_mode & 0o077:
            raise BrokerError(f"`dispatch_password_file` must be readable by its owner alone, but {path} is not: chmod 600")
        text = durable.read_small(path, MAX_PASSWORD_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(f"`dispatch_password_file` cannot be read: {error}") from None
    if not text:
        raise BrokerError(f"`dispatch_password_file` must have a password, but {path} is empty")
    return text
