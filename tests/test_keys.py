"""The file of keys, the sessions and the paces by themselves; the command `sdspool key`; what the start says."""

from __future__ import annotations

import hmac
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from house import ROOT, wait_for

from spooler.cli import main
from spooler.settings import Settings
from webui.keys import Key, KeyFile, KeysError
from webui.pace import Crowd, Known, Pace, client_of
from webui.sessions import LIFETIME_S, Sessions

SECRET = "a-secret-of-32-characters-or-so."  # noqa: S105 - of the tests


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "keys"


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


# -- the file --------------------------------------------------------------------------------------------------------------


def test_s4_a_made_secret_has_128_random_bits_and_more_and_lies_in_a_file_of_its_owner_alone(path: Path) -> None:
    keys = KeyFile(path)
    secrets = [keys.add(f"p{number}") for number in range(50)]
    assert len(set(secrets)) == 50 and all(re.fullmatch(r"[A-Za-z0-9_-]{32}", each) for each in secrets)  # 6 bits each
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert path.with_name("keys.lock").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_s4_a_file_that_others_may_use_is_refused_with_what_to_do(path: Path, mode: int) -> None:
    write(path, f"ann owner {SECRET}\n", mode)
    with pytest.raises(KeysError, match=f"chmod 600 {path}"):
        KeyFile(path).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ann owner\n", "Line 1 must be three words"),
        (f"# x\n\nann boss {SECRET}\n", "Line 3: the role must be owner or operator"),
        ("ann owner short\n", "16 to 256"),
        (f"a:b owner {SECRET}\n", "without spaces, colons"),
        (f"ann owner {SECRET}\nann owner {SECRET}x\n", "Line 2: there is a key"),
        (b"\xff\xfe", "must be UTF-8"),
        ("x" * 2_000_000, "at most 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line_and_never_its_secret(
    path: Path, text: str | bytes, sentence: str
) -> None:
    with pytest.raises(KeysError, match=sentence) as caught:
        KeyFile(write(path, text)).all()
    assert SECRET not in str(caught.value) and str(path) in str(caught.value)


def test_a_folder_and_a_fifo_are_no_file_of_keys(path: Path) -> None:
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises(KeysError, match="ordinary file"):
        KeyFile(path).all()


def test_a_secret_is_found_among_all_and_with_its_own_name_only(path: Path) -> None:
    keys = KeyFile(write(path, f"# people\nann owner {SECRET}1\nbob operator {SECRET}2  \n"))
    bob = keys.whose(SECRET + "2")
    assert bob and bob.name == "bob" and bob.operator and bob.person.operator
    assert keys.whose(SECRET + "2", "bob") == bob and keys.whose(SECRET + "2", "ann") is None
    assert keys.whose(SECRET) is None and keys.whose("") is None and keys.whose("\udcff ü") is None
    assert SECRET not in repr(keys.all())


def test_s4_every_key_is_compared_to_its_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No early exit: as many comparisons for the first key as for the last and for none."""
    keys = KeyFile(path)
    secrets = [keys.add(f"p{number}") for number in range(9)]
    counted: list[int] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: counted.append(len(a)) or real(a, b))
    for secret in (secrets[0], secrets[-1], "wrong"):
        counted.clear()
        keys.whose(secret)
        assert counted == [32] * 9


def test_the_file_is_read_again_when_it_changes_and_keys_stay_in_force(path: Path) -> None:
    keys = KeyFile(path)
    assert not keys.in_force()
    write(path, f"ann owner {SECRET}\n")
    assert keys.in_force() and keys.whose(SECRET)
    write(path, f"ann owner {SECRET}2\n")
    assert keys.whose(SECRET) is None and keys.whose(SECRET + "2")
    path.unlink()
    assert keys.in_force() and keys.whose(SECRET + "2") is None, "a lost file shuts the door"
    assert KeyFile(path, wanted=True).in_force()


def test_many_at_once_lose_no_key(path: Path) -> None:
    threads = [threading.Thread(target=KeyFile(path).add, args=(f"p{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in KeyFile(path).all()} == {f"p{number}" for number in range(12)}


def test_a_name_has_one_key_and_is_one_word(path: Path) -> None:
    keys = KeyFile(path)
    keys.add("ann")
    with pytest.raises(KeysError, match="already"):
        keys.add("ann")
    for bad in ("", "two words", "a:b", "#x", "x" * 65, "new\nline", "\x1b[31m", "\u202eevil"):
        with pytest.raises(KeysError):
            keys.add(bad)
    assert keys.add("operator", unless=True) == "" and len(keys.all()) == 1


# -- sessions --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sessions(path: Path) -> Sessions:
    write(path, f"ann owner {SECRET}1\nbob operator {SECRET}2\n")
    return Sessions(path.with_name("keys.sessions"), KeyFile(path))


def key(path: Path, name: str) -> Key:
    found = KeyFile(path).named(name)
    assert found
    return found


def test_a_session_is_its_person_s_until_it_is_ended_and_in_every_process(sessions: Sessions, path: Path) -> None:
    one, two = sessions.begin(key(path, "ann")), sessions.begin(key(path, "ann"))
    held = sessions.holder(one)
    assert held and held.name == "ann" and not held.operator
    assert path.with_name("keys.sessions").stat().st_mode & 0o777 == 0o600
    sessions.end(one)
    other = Sessions(path.with_name("keys.sessions"), KeyFile(path))
    assert sessions.holder(one) is None and other.holder(one) is None and other.holder(two), "only this session ended"
    assert SECRET not in one


def test_a_session_ends_with_the_secret_that_began_it(sessions: Sessions, path: Path) -> None:
    cookie = sessions.begin(key(path, "ann"))
    write(path, f"ann operator {SECRET}1\nbob operator {SECRET}2\n")
    held = sessions.holder(cookie)
    assert held and held.operator, "the role is the one that the file says now"
    write(path, f"ann owner {SECRET}3\nbob operator {SECRET}2\n")
    assert sessions.holder(cookie) is None
    write(path, f"bob operator {SECRET}1\n")
    assert sessions.holder(cookie) is None


def test_a_session_expires(sessions: Sessions, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = sessions.begin(key(path, "ann"))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + LIFETIME_S + 2)
    assert sessions.holder(cookie) is None


@pytest.mark.parametrize("forged", ["", "x", "a.b.c", '["ann","x","y"]', "\x00", "é" * 9, "." * 5000])
def test_a_forged_session_is_nobody_s(sessions: Sessions, path: Path, forged: str) -> None:
    real = sessions.begin(key(path, "ann"))
    assert sessions.holder(forged) is None
    assert sessions.holder(real[:-2] + ("AA" if real[-2:] != "AA" else "BB")) is None
    sessions.end(forged)


def test_ended_sessions_are_remembered_within_bounds(sessions: Sessions, path: Path) -> None:
    bob = sessions.begin(key(path, "bob"))
    sessions.end(bob)
    for _ in range(220):
        sessions.end(sessions.begin(key(path, "ann")))
    assert sessions.holder(bob) is None, "nobody's are forgotten for somebody else's"
    assert len(path.with_name("keys.sessions").read_text().splitlines()) == 1 + 200 + 1 + 1, "a line tells of the others"


# -- paces -----------------------------------------------------------------------------------------------------------------


def test_a_pace_lets_a_burst_through_and_then_so_many_a_second() -> None:
    now = [100.0]
    pace = Pace(2, 3, lambda: now[0])
    assert [pace.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert pace.take("b") == 0 and pace.wait_s("a") == 0.5
    now[0] += 0.5
    assert pace.take("a") == 0 and pace.take("a") == 0.5
    now[0] += 1000
    assert [pace.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_what_is_remembered_of_strangers_is_bounded() -> None:
    pace, known = Pace(1, 1, lambda: 1.0, most=10), Known(10)
    for number in range(1000):
        pace.take(str(number))
        known.add(number)
    assert len(pace._buckets) == len(known._seen) == 10 and 999 in known and 1 not in known
    crowd = Crowd(2)
    assert crowd.enter("a") and crowd.enter("a") and not crowd.enter("a") and crowd.enter("b")
    for client in ("a", "a", "b"):
        crowd.leave(client)
    assert not crowd._there


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.168.1.9", "192.168.1.9"),
        ("::ffff:192.168.1.9", "192.168.1.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", "?"),
        (None, "?"),
    ],
)
def test_a_machine_is_one_client(address: str | None, client: str) -> None:
    assert client_of(address) == client


# -- the command, and the start --------------------------------------------------------------------------------------------


def test_the_command_makes_lists_and_takes_away(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ["--keys", str(path)]
    assert main(["key", "add", "ann", *file]) == 0
    secret = capsys.readouterr().out.strip()
    assert KeyFile(path).whose(secret, "ann")
    assert main(["key", "add", "ops", "--operator", *file]) == 0 and main(["key", "add", "ann", *file]) == 2
    capsys.readouterr()
    assert main(["key", "ls", "--json", *file]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == [{"name": "ann", "role": "owner"}, {"name": "ops", "role": "operator"}]
    assert secret not in told.out + told.err
    assert main(["key", "rm", "ann", *file]) == 0 and main(["key", "rm", "ann", *file]) == 3
    assert KeyFile(path).whose(secret) is None and main(["key", "rm", "\x1b[31m", *file]) == 3
    told = capsys.readouterr()
    assert "\x1b" not in told.err and "the last one" not in told.err
    path.chmod(0o644)
    assert main(["key", "ls", *file]) == 2 and "chmod 600" in capsys.readouterr().err
    path.chmod(0o600)
    assert main(["key", "rm", "ops", *file]) == 0 and "It was the last one" in capsys.readouterr().err


class Started:
    """A real `python -m webui`, and what it says until it serves."""

    def __init__(self, tmp_path: Path, *options: str, env: dict[str, str] | None = None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "webui", "--spool", str(tmp_path / "spool"), "--cache", str(tmp_path / "cache")]
        command += ["--keys", str(tmp_path / "keys"), "--port", str(port), *options]
        self._path = tmp_path / "said"
        with self._path.open("wb") as said:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=said, env={**os.environ, **(env or {})})

    def said(self, words: str) -> str:
        def heard() -> str | None:
            text = self._path.read_text()
            return text if words in text or self.process.poll() is not None else None

        return wait_for(heard, words)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)


def start(tmp_path: Path, words: str, *options: str, env: dict[str, str] | None = None) -> str:
    started = Started(tmp_path, *options, env=env)
    try:
        return started.said(words)
    finally:
        started.stop()


def test_s1_the_start_says_who_gets_in(tmp_path: Path) -> None:
    """On the LAN without a key one is made, kept and told once; with --open none is; on loopback nobody needs one."""
    alone = start(tmp_path, "without a key")
    assert "Everybody on this machine gets in without a key" in alone and not (tmp_path / "keys").exists()
    command = re.search(r"with `(.*) add NAME(.*)` people need one", alone)
    assert command
    made = subprocess.run(
        shlex.split(f"{command[1]} add ann{command[2]}"), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert KeyFile(tmp_path / "keys").whose(made.stdout.strip(), "ann"), "the command works as it is told"
    (tmp_path / "keys").unlink()
    opened = start(tmp_path, "OPEN", "--host", "0.0.0.0", "--open")
    assert "http://0.0.0.0" not in opened, "nobody can type that"
    assert "OPEN: everybody who can reach this machine" in opened and not (tmp_path / "keys").exists()
    kept = start(tmp_path, "1 key", "--host", "0.0.0.0", env={"JOURNAL_STREAM": "8:1"})
    assert "made the key" not in kept, "what goes to the journal is for many to read"
    (tmp_path / "keys").unlink()
    lan = start(tmp_path, "made the key", "--host", "0.0.0.0")
    found = re.search(r"made the key of `operator`: (\S+)", lan)
    assert found and f"1 key is in {tmp_path / 'keys'}" in lan
    held = KeyFile(tmp_path / "keys").whose(found[1], "operator")
    assert held and held.operator and (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    again = start(tmp_path, "1 key", "--host", "0.0.0.0", "--open")
    assert "Everybody needs a key" in again and "--open is without effect" in again and found[1] not in again
    (tmp_path / "keys").chmod(0o644)
    refused = start(tmp_path, "chmod 600", "--host", "0.0.0.0")
    assert f"chmod 600 {tmp_path / 'keys'}" in refused and "Traceback" not in refused


def test_s1_whoever_cannot_listen_makes_no_key_that_nobody_has_seen(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        said = start(tmp_path, "cannot listen", "--host", "0.0.0.0", "--port", str(taken.getsockname()[1]))
    assert said.count("\n") == 1 and "cannot listen" in said and not (tmp_path / "keys").exists()


def test_the_option_open_stands_alone_or_has_a_value(tmp_path: Path) -> None:
    def parse(*argv: Any, env: dict[str, str] | None = None) -> str:
        return Settings.parse(argv, "x", env or {}).open

    assert (parse(), parse("--open"), parse("--open", "off"), parse("--open=on")) == ("off", "on", "off", "on")
    assert parse(env={"SDSPOOL_OPEN": "on"}) == "on"
    with pytest.raises(SystemExit):
        parse("--open", "maybe")
