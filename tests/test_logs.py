"""S9: what a stranger wrote begins no line of a log and moves no cursor of a terminal, whatever he wrote."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from test_api import finish

from spooler.cli import main
from spooler.logs import Lines
from spooler.settings import Settings
from spooler.spool import Spool
from webui.app import create_app

#: A line of its own, colours, the cursor moved, C1's CSI, a title, text turned round, other ends of lines, a bell.
HOSTILE = "x\nsdspool web: fake\r\x1b[31mred\x1b[2J\x9b31m\x1b]0;title\x07\u202eturned\u2028\x85\x00\x08\x7f"


@contextmanager
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines("sdspool web: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield stream
    finally:
        logging.getLogger().removeHandler(handler)


def test_s9_asvs_16_4_1_a_message_is_one_line_of_plain_text() -> None:
    with logged() as stream:
        logging.getLogger("x").error("job %s", HOSTILE)
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logging.getLogger("x").exception("it went wrong")
    lines = stream.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("sdspool web: fake")] == []
    assert sum(line.startswith("sdspool web: ") for line in lines) == 2
    assert "ValueError" in stream.getvalue(), "what is to be told is told"


def test_s9_a_request_s_path_begins_no_line_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(spool=tmp_path / "spool", cache=tmp_path / "cache"))

    def broken(self: Spool, job_id: str) -> None:
        raise OSError(5, "Input/output error", job_id)

    monkeypatch.setattr(Spool, "find", broken)
    with logged() as stream:
        answer = app.test_client().delete("/api/v1/jobs/x%0Asdspool%20web:%20fake%1B%5B31m")
    assert answer.status_code == 503 and stream.getvalue().count("\n") >= 1
    assert all(line.isprintable() and not line.startswith("sdspool web: fake") for line in stream.getvalue().split("\n"))


def test_s9_no_verb_of_the_command_line_lets_a_job_write_to_the_terminal(
    spool: Spool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = json.dumps({"prompt": HOSTILE, "negative_prompt": HOSTILE, "owner": HOSTILE, "model": HOSTILE}).encode()
    for name in ("waits", "failed", "done"):
        spool.submit(job, name)
    finish(spool, "failed", "failed")
    finish(spool, "done")
    (spool.pending / f"{HOSTILE.translate({0: None, 47: None})}.json").write_bytes(b"nonsense")
    where, typed = ["--spool", str(spool.root)], HOSTILE.replace("\x00", "")
    for terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)  # noqa: B023
        for words in (
            ["ls"],
            ["ls", "--state", "done"],
            ["ls", "--owner", typed],
            ["ls", "--json"],
            ["show", "waits"],
            ["show", "done", "--json"],
            ["show", typed],
            ["wait", "failed"],
            ["hold", typed],
            ["edit", "--find", "x", "--replace", typed, "--dry-run"],
            ["edit", "--set", f"{typed}=1"],
            ["submit", "x", "--id", typed],
            ["submit", "x", "--sampler", typed],
            ["fsck"],
        ):
            with suppress(SystemExit):
                main([*words, *where])
            told = capsys.readouterr()
            for text in (told.out, told.err):
                bad = [c for c in text if not c.isprintable() and c not in "\n\t"]
                # rich's own colours of the table's head and of JSON are the program's, and end as they began.
                assert "\x1b[31mred" not in text and "\x9b" not in text and "\u202e" not in text, words
                assert not bad or terminal, (words, bad)
                assert "\nsdspool web: fake" not in text, words
