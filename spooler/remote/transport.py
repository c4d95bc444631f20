"""kombu's transport for Redis, with three differences.

A worker fetches a message only when it has room for one, which it knows itself: it has the more tasks in hand the more of them
are only on their way home. kombu's own bound, the prefetch count, is one number for both.

And nothing is said over a connection that is gone for good. A worker whose task ends just after Redis went away acknowledges a
message on a channel whose connection was given up: kombu 5.7 then meets an AttributeError, which Celery takes for the worker's
end. Nothing is lost by leaving it unsaid. Redis delivers the message anew some day, and the key of its try tells that it is
nobody's any more (broker.py).

Whoever holds Redis' password may put anything into a queue. kombu takes it out and stumbles, and Celery takes that, too, for
the worker's end, with all that the worker has at work: here it is logged and left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kombu.transport import redis

log = logging.getLogger(__name__)

#: What is met in reading a message of the wrong form. What a connection raises is none of these.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class Room:
    """Whether a worker may fetch one more message."""

    def __init__(self, ask: Callable[[], bool] = lambda: True):
        self._ask = ask

    def __call__(self) -> bool:
        return self._ask()

    def __json__(self) -> bool:
        # A worker that is asked for its `stats` tells of all that its connection was made with, this among it.
        return self()


class QoS(redis.QoS):
    def can_consume(self) -> bool:
        # Without a prefetch count it is the channel by which workers are asked about themselves, busy or not.
        is_for_tasks = bool(self.prefetch_count)
        return bool(super().can_consume()) and (not is_for_tasks or self.channel.has_room())  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    QoS = QoS
    from_transport_options = (*redis.Channel.from_transport_options, "has_room")  # type: ignore[assignment]
    has_room = Room()

    @property
    def _is_dead(self) -> bool:
        """Whether its connection was given up, so that it could not even be made anew."""
        return self.connection is None or self.connection.client is None

    @property
    def do_restore(self) -> bool:  # type: ignore[override]
        """Whether to give back, when it closes, what was not acknowledged."""
        return not self._is_dead

    def _brpop_read(self, **options: Any) -> bool | None:
        try:
            return bool(super()._brpop_read(**options))  # type: ignore[no-untyped-call]
        except MALFORMED as error:
            if self._is_dead:
                raise
            log.error("a message that no spooler wrote: %s", ascii(error)[:300])
            return None

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        if self._is_dead:
            log.info("Redis will not hear that message %s was dealt with: the connection that it came by is gone", delivery_tag)
            return
        super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not self._is_dead:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    Channel = Channel
