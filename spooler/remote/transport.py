"""kombu's transport for Redis, but for what it says over a connection that is gone for good.

A worker whose task ends just after Redis went away acknowledges a message on a channel whose connection was given up: kombu
5.7 then meets an AttributeError, which Celery takes for the end of the worker. Nothing is lost by leaving it unsaid. Redis
delivers the message anew some day, and the key of its try tells that it is nobody's any more (broker.py).
"""

from __future__ import annotations

import logging

from kombu.transport import redis

log = logging.getLogger(__name__)


class Channel(redis.Channel):
    @property
    def _is_dead(self) -> bool:
        """Whether its connection was given up, so that it could not even be made anew."""
        return self.connection is None or self.connection.client is None

    @property
    def do_restore(self) -> bool:  # type: ignore[override]
        """Whether to give back, when it closes, what was not acknowledged."""
        return not self._is_dead

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
