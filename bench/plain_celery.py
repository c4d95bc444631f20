"""No benchmark: Celery as its manual has it, with a task that sleeps; what bench/cluster.py holds the product against."""

from __future__ import annotations

import sys
import time

from celery import Celery


def app_of(url: str) -> Celery:
    app = Celery("plain", broker=url, backend=url)
    app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, task_reject_on_worker_lost=True)
    return app


def main() -> int:
    app = app_of(sys.argv[1])

    @app.task(name="bench.sleep")  # type: ignore[untyped-decorator]
    def sleep(seconds: float) -> float:
        time.sleep(seconds)
        return time.time()

    app.Worker(pool="threads", concurrency=1, without_mingle=True, without_gossip=True, quiet=True).start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
