"""Engines on other hosts, through Celery, Redis and an object store (`pip install 'sdspool[celery]'`, docs/scale.md).

    dispatch.py   on the spooler's side: stands where an engine's process would, and sends what it is given to Celery
    sent.py       ... what was sent, and what is to be made of what Redis has of it
    crew.py       ... the workers that live
    freight.py    ... files there and pictures home
    worker.py     on a GPU host: `sdspool worker`, an ordinary Celery worker
    bench.py      ... around one local engine, with the deadlines that the spooler has for its own
    wire.py       what the two say to each other, all of it JSON
    broker.py     Redis: where it is, how Celery is to use it, and the names of what is kept there
    transport.py  ... and what Celery does when a connection to it is gone
    store.py      the object store (fsspec): pictures in and out, each with its SHA-256
    gs.py         ... Google's

The spool stays the record: what Redis and the store hold may all be lost, and costs no more than another try (P2). One key a
job tells which try is wanted; every other one is stopped, and not heard (`broker.key`).
Nothing else of sdspool imports this package before it is asked for.
"""
