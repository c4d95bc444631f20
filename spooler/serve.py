"""A spooler's process: from settings to a service that runs, and once more when another spooler took it for dead."""

from __future__ import annotations

import gc
import logging
import os
import signal
from pathlib import Path

from filelock import Timeout

from spooler import heap, library, mounts
from spooler.child import Child
from spooler.denylist import DenyList, DenyListError
from spooler.life import Life
from spooler.service import Service
from spooler.settings import Settings
from spooler.spool import Spool, SpoolError
from spooler.targets import TargetError

log = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Run a spooler until SIGTERM or SIGINT. Returns the exit status: 0, or 2 when it cannot work as configured."""
    # A lease that we ask for to see whether a file has a writer may be broken by one: that is no reason to die.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    if why := _cannot_dispatch(settings):
        log.error("%s", why)
        return 2
    spool = Spool(settings.spool)
    while True:
        try:
            spool.create()
            found = library.scan(settings.models, settings.model)
            deny_list = DenyList.read(Path(settings.deny_list)) if settings.deny_list else DenyList()
            life = Life.begin(spool, settings.spooler)
        except Timeout:
            log.error(
                "a spooler named %s is running on this spool: give this one another name with --spooler", settings.spooler
            )
            return 2
        except (SpoolError, library.ModelError, DenyListError, OSError) as error:
            log.error("%s", error)
            return 2
        for reason in found.refused:
            log.warning("not taken: %s", reason)
        for advice in mounts.advice(mounts.of(spool.root)):
            log.warning("%s", advice)
        try:
            service = Service(settings, spool, found.catalogue(), deny_list, life, start_engine)
        except TargetError as error:
            life.end()
            log.error("%s", error)
            return 2
        if not run(service, life):
            return 2 if service.refused else 0


def run(service: Service, life: Life) -> bool:
    """One life of a spooler. Returns whether there is to be another, since it was taken for dead and lives."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    heap.return_large()
    gc.freeze()  # what the imports made stays: to look among it for garbage takes ten milliseconds, in the middle of a claim
    log.info("spooler %s on %s, process %d", service.settings.spooler, service.settings.spool, os.getpid())
    try:
        service.run()
    finally:
        life.end()
    if service.refused:
        log.error("%s", service.refused)
    return service.fenced


def _cannot_dispatch(settings: Settings) -> str | None:
    """Why jobs cannot be sent to workers with these settings; None where they can be, or are not to be."""
    if not settings.dispatch:
        idle = "`store` is where jobs that --dispatch sends have their pictures, but none are sent, and it is"
        return f"{idle} {settings.store!a}" if settings.store else None
    try:
        from spooler.remote.broker import Broker, BrokerError
        from spooler.remote.store import Store, StoreAddressError
    except ImportError as error:
        return f"`dispatch` needs more packages ({error}): pip install 'sdspool[celery]'"
    try:
        Broker.of(settings), Store(settings.store)
    except (BrokerError, StoreAddressError) as error:
        return str(error)
    return None


def start_engine(service: Service, settings: Settings) -> Child:
    """The engine of one lane. `settings`: with that lane's device."""
    if settings.dispatch:  # only then: an installation without Celery is whole
        from spooler.remote.dispatch import Dispatch

        return Dispatch(settings, lambda child, message: service.inbox.put((child, message)))
    # Engines that compute on one CPU share its cores: more threads than cores make each step many times as long.
    on_cpu = sum(lane.settings.device == "cpu" for lane in service.lanes)
    shared = max(1, (os.cpu_count() or 1) // on_cpu) if on_cpu > 1 and settings.device == "cpu" else None
    return Child(settings, lambda child, message: service.inbox.put((child, message)), shared)
