"""The Python client: over HTTP, or straight on a spool's folder.   python examples/client.py [where [folder]]"""

from __future__ import annotations

import os
import sys

from spooler.client import Client, RefusedError

where = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7860"
folder = sys.argv[2] if len(sys.argv) > 2 else "."

client = Client(where, key=os.environ.get("SDSPOOL_KEY"))

job_id = client.submit({"prompt": "a large red circle on a blue background", "seed": 5, "count": 2})
for view in client.events(job_id):
    print(view.status, f"{view.progress.fraction_done:.0%}" if view.progress else "")
for path in client.save(job_id, folder):
    print(path)

# Many at once: all of them are accepted, or none.
batch = client.submit_batch([f"a {colour} star on a black background" for colour in ("yellow", "red")])
for job_id in batch.jobs:
    print(job_id, client.wait(job_id).status)

# Every mistake is told, with its field.
try:
    client.submit({"prompt": "x", "steps": 1000, "sampler": "Eulr"})
except RefusedError as error:
    for mistake in error.mistakes:
        print(mistake.field, "-", mistake.message)
