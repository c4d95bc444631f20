"""What waitress itself refuses, before the app sees it: told in JSON where a client knows nothing else."""

from __future__ import annotations

import json

from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from webui.sdapi.errors import speaks


class Refusal(ErrorTask):  # type: ignore[misc] # waitress has no types
    """waitress's own answer to a request that is too large, or no HTTP; in A1111's shape under its paths."""

    def execute(self) -> None:
        if not speaks(getattr(self.request, "path", "")):  # a request without a whole first line has none
            super().execute()
            return
        refused = self.request.error
        told = {"error": "HTTPException", "detail": refused.reason, "body": "", "errors": str(refused.body)}
        body = json.dumps(told).encode()
        self.status = f"{refused.code} {refused.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


def install() -> None:
    HTTPChannel.error_task_class = Refusal
