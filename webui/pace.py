"""How often somebody may do something, and how much at once. What is remembered of strangers is bounded.

A bucket of tokens for each client: as many as may come at once, filled up steadily. Of the libraries for it, `limits` keeps an
entry for each key until its window has passed, however many keys there are; here the one that was quiet longest is forgotten.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache

MOST_CLIENTS = 4096


class Pace:
    """`burst` at once, and `per_s` more each second, of each client. Safe for many threads."""

    def __init__(self, per_s: float, burst: float, now: Callable[[], float] = time.monotonic, most: int = MOST_CLIENTS):
        self._per_s, self._burst, self._now, self._most = per_s, burst, now, most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted
        self._lock = threading.Lock()

    def wait_s(self, client: str) -> float:
        """Seconds until the client may do it once more; 0: now."""
        with self._lock:
            return self._wait(self._tokens(client))

    def take(self, client: str, times: int = 1) -> float:
        """Do it so many times: 0 when the client may, else the seconds to wait, and nothing is taken.

        More than `burst` at a time needs a full bucket, and what it lacks is filled up before anything else.
        """
        with self._lock:
            tokens = self._tokens(client)
            if wait := self._wait(tokens, min(times, self._burst)):
                return wait
            self._buckets[client] = (tokens - times, self._now())
            self._buckets.move_to_end(client)
            while len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
            return 0.0

    def _tokens(self, client: str) -> float:
        tokens, counted = self._buckets.get(client, (self._burst, 0.0))
        return min(self._burst, tokens + (self._now() - counted) * self._per_s)

    def _wait(self, tokens: float, wanted: float = 1) -> float:
        return 0.0 if tokens >= wanted else (wanted - tokens) / self._per_s


class Crowd:
    """How much of each client is under way: at most `most` of one. It remembers those only of whom something is."""

    def __init__(self, most: int):
        self._most = most
        self._there: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, client: str) -> bool:
        with self._lock:
            if self._there[client] >= self._most:
                return False
            self._there[client] += 1
            return True

    def leave(self, client: str) -> None:
        with self._lock:
            self._there[client] -= 1
            if self._there[client] <= 0:
                del self._there[client]


class Known:
    """The last few thousand things that were seen."""

    def __init__(self, most: int = MOST_CLIENTS):
        self._most = most
        self._seen: OrderedDict[object, None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, what: object) -> None:
        with self._lock:
            self._seen[what] = None
            self._seen.move_to_end(what)
            while len(self._seen) > self._most:
                self._seen.popitem(last=False)

    def __contains__(self, what: object) -> bool:
        with self._lock:
            return what in self._seen


@lru_cache(MOST_CLIENTS)
def client_of(address: str | None) -> str:
    """Who is behind an address, for counting: of IPv6 the first 64 bits, for a single machine has all the others."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "?"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False).network_address)
    return str(found)
