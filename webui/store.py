"""The index's database: one SQLite file with full-text search. A copy that can be thrown away, and is, whenever it is odd.

One connection writes; every reader opens one of its own, and in SQLite's WAL mode never waits for the writer. The file is told
from one of another version by PRAGMA user_version.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from webui.finished import Finished
from webui.search import ENDED, MAX_COUNTED, MAX_NUMBER, Cursor, Ended, Search, first_number, match_expression, number

#: Of the tables below. One more whenever they, or what is put into them, change.
VERSION = 2
#: Memory for pages, in KiB: of the file for the writer and for each reader, and of the writer's temporary tables.
WRITER_CACHE_KIB = 32_768
TEMPORARY_CACHE_KIB = 16_384
READER_CACHE_KIB = 2_048
#: Names that are compared in one question, which takes some 20 ms.
COMPARED = 50_000
#: Greater than every id.
_LAST = "\x7f"
#: A log that a checkpoint has emptied is cut to this many bytes.
MAX_LOG_BYTES = 64 << 20
#: Answers that say that the file cannot be used just now (locked, full, no permission, ...); any other means that it is bad.
NOT_NOW = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_INTERRUPT,
    }
)

# An index on a table has the row's number as its last column: each of these gives its jobs by time without sorting.
_TABLES = f"""
CREATE TABLE job (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, state TEXT NOT NULL, completed_ms INTEGER NOT NULL, owner TEXT NOT NULL,
    model TEXT NOT NULL, prompt TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, seed INTEGER,
    pictures INTEGER NOT NULL, bytes INTEGER NOT NULL, batch TEXT NOT NULL, starred INTEGER NOT NULL, seconds REAL,
    waited REAL, failure TEXT NOT NULL, has_record INTEGER NOT NULL
);
CREATE UNIQUE INDEX job_by_id ON job (state, id);
CREATE INDEX job_by_time ON job (state);
CREATE INDEX job_by_owner ON job (state, owner);
CREATE INDEX job_by_model ON job (state, model);
CREATE INDEX job_by_batch ON job (batch, state) WHERE batch != '';
CREATE INDEX job_by_star ON job (state) WHERE starred;
-- The state is a word too, so that a search in failed/ need not go through what it finds in done/.
CREATE VIRTUAL TABLE words USING fts5 (
    prompt, id, owner, model, state, content = 'job', content_rowid = 'number', tokenize = 'unicode61 remove_diacritics 2'
);
-- What is known of each folder as a whole. `unread`: names that were listed and not read yet; null: it was never listed.
CREATE TABLE folder (
    state TEXT PRIMARY KEY, jobs INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    unread INTEGER
);
-- What lies among the jobs and cannot be read as one.
CREATE TABLE odd (state TEXT, id TEXT, why TEXT NOT NULL, PRIMARY KEY (state, id)) WITHOUT ROWID;
CREATE TRIGGER job_comes AFTER INSERT ON job BEGIN
    INSERT INTO words (rowid, prompt, id, owner, model, state)
        VALUES (new.number, new.prompt, new.id, new.owner, new.model, new.state);
    UPDATE folder SET jobs = jobs + 1, bytes = bytes + new.bytes WHERE state = new.state;
END;
CREATE TRIGGER job_goes AFTER DELETE ON job BEGIN
    INSERT INTO words (words, rowid, prompt, id, owner, model, state)
        VALUES ('delete', old.number, old.prompt, old.id, old.owner, old.model, old.state);
    UPDATE folder SET jobs = jobs - 1, bytes = bytes - old.bytes WHERE state = old.state;
END;
INSERT INTO folder (state) VALUES {", ".join(f"('{state}')" for state in ENDED)};
PRAGMA user_version = {VERSION};
"""
# What the writer works with and nobody else sees. It lies in a file in the system's folder for temporary files, not in memory.
_TEMPORARY = f"""
PRAGMA temp_store = FILE;
PRAGMA temp.cache_size = -{TEMPORARY_CACHE_KIB};
CREATE TEMP TABLE listed (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE todo (state TEXT, id TEXT, modified_ns INTEGER, PRIMARY KEY (state, id)) WITHOUT ROWID;
CREATE INDEX temp.todo_by_time ON todo (modified_ns);
"""
_COLUMNS = ("number", *(field.name for field in fields(Finished)))
_INSERT = f"INSERT INTO job ({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)})"


@dataclass(frozen=True)
class Folder:
    """What the index has of one state's folder."""

    jobs: int
    bytes: int
    unread: int  # jobs that were listed and are still to be read
    was_listed: bool


@dataclass(frozen=True)
class Outcome:
    """How one job ended: what the page of the status counts."""

    completed_ms: int
    state: Ended
    pictures: int
    waited: float | None  # seconds
    seconds: float | None
    failure: str


class NotYetError(sqlite3.OperationalError):
    """A database whose tables are not made yet, or not made anew: met by a reader in the moment of a start or an update."""


class Store:
    """The database in a folder. The writer's methods are for one thread at a time; `read` is for any number."""

    def __init__(self, folder: Path):
        self.path = folder / "index.db"
        self._writer: sqlite3.Connection | None = None
        self._inode: int | None = None

    # -- the file ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open for writing; a file of another version is thrown away. Raises sqlite3.Error or OSError."""
        if self._writer and self._inode == self._inode_now():
            return
        self.close()
        connection = self._connect("rwc", WRITER_CACHE_KIB)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            empty = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
            if version != VERSION and not empty:
                connection.close()
                self.discard()
                connection, empty = self._connect("rwc", WRITER_CACHE_KIB), True
            # A power cut may take back the last of what was written, which is written again.
            connection.executescript(
                f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = {MAX_LOG_BYTES};"
            )
            if empty:
                connection.executescript(f"BEGIN; {_TABLES} COMMIT;")
            connection.executescript(_TEMPORARY)
        except BaseException:
            connection.close()
            raise
        self._writer, self._inode = connection, self._inode_now()

    def _inode_now(self) -> int | None:
        """Which file has the name: another one when somebody removed ours, which would still be written to in vain."""
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return None

    def close(self) -> None:
        if self._writer:
            with contextlib.suppress(sqlite3.Error):
                self._writer.close()
            self._writer = None

    def __del__(self) -> None:
        self.close()

    def discard(self) -> None:
        """Throw the database away. Raises OSError."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _connect(self, mode: str, cache_kib: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=1, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        return connection

    @property
    def _db(self) -> sqlite3.Connection:
        if not self._writer:
            raise sqlite3.ProgrammingError("the database is not open for writing")
        return self._writer

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        db = self._db
        db.execute(f"BEGIN {kind}")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    # -- what the writer does ------------------------------------------------------------------------------------------

    def put(
        self, rows: Iterable[Finished], odd: Iterable[tuple[Ended, str, str]] = (), unread: Mapping[Ended, int] | None = None
    ) -> None:
        """Add jobs, or tell anew of them, and of folders that cannot be read (state, id, why): one transaction.

        `unread` is what there is still to be read of each folder, for the readers to know.
        """
        with self._transaction() as db:
            for state, job_id, why in odd:
                self._remove(db, state, job_id)
                db.execute("INSERT OR REPLACE INTO odd VALUES (?, ?, ?)", (state, job_id, why))
            # Ascending: FTS5 gathers many rows into one write only while their numbers rise.
            for row in sorted(rows, key=lambda row: number(row.completed_ms, row.id)):
                self._remove(db, row.state, row.id)
                db.execute(_INSERT, {"number": self._free_number(db, row), **vars(row)})
            for state, many in (unread or {}).items():
                db.execute("UPDATE folder SET unread = ? WHERE state = ?", (many, state))

    def remove(self, state: Ended, ids: Iterable[str]) -> None:
        with self._transaction() as db:
            for job_id in ids:
                self._remove(db, state, job_id)

    def _remove(self, db: sqlite3.Connection, state: Ended, job_id: str) -> None:
        for table in ("job", "odd", "todo"):
            db.execute(f"DELETE FROM {table} WHERE state = ? AND id = ?", (state, job_id))

    @staticmethod
    def _free_number(db: sqlite3.Connection, row: Finished) -> int:
        attempt = 0
        while db.execute("SELECT 1 FROM job WHERE number = ?", (made := number(row.completed_ms, row.id, attempt),)).fetchone():
            attempt += 1
        return made

    def begin_listing(self) -> None:
        self._db.execute("DELETE FROM listed")

    def list_names(self, names: Iterable[str]) -> None:
        """Take in a piece of the listing of one folder."""
        with self._transaction("DEFERRED") as db:  # which locks nothing, for it writes to temporary tables only
            db.executemany("INSERT OR IGNORE INTO listed VALUES (?)", ((name,) for name in names))

    def compare(self, state: Ended, after: str) -> tuple[list[str], list[str], str | None]:
        """Of the next names after that one: those listed and not known, those known and not listed, and where to go on.

        The last is None when there are no more. A name is known when its job is in the index, is odd or is planned to be read.
        """
        edge = self._db.execute("SELECT id FROM listed WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?", (after, COMPARED)).fetchone()
        values = {"state": state, "after": after, "upto": edge[0] if edge else _LAST}
        tables = ("job", "odd", "todo")
        known = (f"EXISTS (SELECT 1 FROM {table} AS it WHERE it.state = :state AND it.id = listed.id)" for table in tables)
        unknown = f"SELECT id FROM listed WHERE id > :after AND id <= :upto AND NOT {' AND NOT '.join(known)}"
        unlisted = " UNION ".join(
            f"SELECT id FROM {table} AS it WHERE state = :state AND id > :after AND id <= :upto "
            "AND NOT EXISTS (SELECT 1 FROM listed WHERE listed.id = it.id)"
            for table in tables
        )
        new, gone = ([job_id for (job_id,) in self._db.execute(asked, values)] for asked in (unknown, unlisted))
        return new, gone, edge[0] if edge else None

    def plan(self, state: Ended, found: Iterable[tuple[str, int]]) -> None:
        """Names that are to be read, with the mtimes of their folders in ns: the newest are read first."""
        with self._transaction("DEFERRED") as db:
            db.executemany("INSERT OR REPLACE INTO todo VALUES (?, ?, ?)", ((state, *each) for each in found))

    def planned(self, limit: int) -> list[tuple[Ended, str]]:
        """The newest names that are to be read; `put` and `remove` take them off."""
        return list(self._db.execute("SELECT state, id FROM todo ORDER BY modified_ns DESC LIMIT ?", (limit,)))

    def unread(self, state: Ended) -> int:
        """How many are to be read."""
        return int(self._db.execute("SELECT count(*) FROM todo WHERE state = ?", (state,)).fetchone()[0])

    def odd(self) -> list[tuple[Ended, str]]:
        return list(self._db.execute("SELECT state, id FROM odd"))

    def below(self, walked: int, limit: int) -> list[tuple[int, Ended, str, bool]]:
        """The next jobs of a walk through all of them, newest first: number, state, id, starred."""
        asked = "SELECT number, state, id, starred FROM job WHERE number < ? ORDER BY number DESC LIMIT ?"
        return [(n, state, job_id, bool(starred)) for n, state, job_id, starred in self._db.execute(asked, (walked, limit))]

    def knows(self, state: Ended, job_id: str) -> bool:
        return bool(self._db.execute("SELECT 1 FROM job WHERE state = ? AND id = ?", (state, job_id)).fetchone())

    # -- what readers ask ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def read(self, limit_s: float) -> Iterator[Reader]:
        """A reader for one question. Raises sqlite3.Error, with SQLITE_INTERRUPT when the answer takes too long."""
        connection = self._connect("rw", READER_CACHE_KIB)  # not "ro", which cannot open a log that nobody has open
        try:
            connection.execute("PRAGMA query_only = ON")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != VERSION:
                raise NotYetError(f"the index is of version {version}, not {VERSION}")
            yield Reader(connection, limit_s)
        finally:
            connection.close()


class Reader:
    """Answers questions about finished jobs from one connection."""

    def __init__(self, connection: sqlite3.Connection, limit_s: float):
        self._db = connection
        self._limit_s = limit_s

    def jobs(self, state: Ended, search: Search, cursor: Cursor | None, offset: int, limit: int) -> list[tuple[int, str]]:
        """Numbers and ids in the order of the cursor."""
        source, key, where, values = _conditions(state, search)
        if cursor:
            where.append(f"{key} {'>' if cursor.newer else '<'} :edge")
            values["edge"] = cursor.number
        order = "ASC" if cursor and cursor.newer else "DESC"
        asked = f"SELECT number, job.id FROM {source} WHERE {' AND '.join(where)} ORDER BY {key} {order} LIMIT :n OFFSET :skip"
        return list(self._ask(self._limit_s, asked, values | {"n": limit, "skip": offset}))

    def count(self, state: Ended, search: Search) -> int | None:
        """How many there are; None when there are more than MAX_COUNTED, or counting takes too long."""
        source, _, where, values = _conditions(state, search)
        asked = f"SELECT count(*) FROM (SELECT 1 FROM {source} WHERE {' AND '.join(where)} LIMIT {MAX_COUNTED + 1})"
        try:
            found = self._ask(self._limit_s / 10, asked, values)[0][0]
        except sqlite3.OperationalError as error:
            if not interrupted(error):
                raise
            return None
        return found if found <= MAX_COUNTED else None

    def values(self, state: Ended, field: Literal["owner", "model"], most: int) -> list[str]:
        """The owners, or the models, of the jobs of that state, by name; it leaps from one to the next."""
        asked = (
            f"WITH RECURSIVE leap (it) AS (SELECT min({field}) FROM job WHERE state = :state UNION ALL "
            f"SELECT (SELECT min({field}) FROM job WHERE state = :state AND {field} > leap.it) FROM leap WHERE it IS NOT NULL) "
            "SELECT it FROM leap WHERE it IS NOT NULL LIMIT :n"
        )
        return [value for (value,) in self._ask(self._limit_s / 10, asked, {"state": state, "n": most})]

    def beside(self, state: Ended, job_id: str) -> tuple[str | None, str | None]:
        """The ids of the next newer and the next older job of that state; None where there is none, or this one is unknown."""
        asked = "SELECT number FROM job WHERE state = :state AND id = :id"
        rows = self._ask(self._limit_s, asked, {"state": state, "id": job_id})
        if not rows:
            return None, None
        found: list[str | None] = []
        for sign, order in ((">", "ASC"), ("<", "DESC")):
            asked = f"SELECT id FROM job WHERE state = :state AND number {sign} :number ORDER BY number {order} LIMIT 1"
            other = self._ask(self._limit_s, asked, {"state": state, "number": rows[0][0]})
            found.append(other[0][0] if other else None)
        return found[0], found[1]

    def since(self, moment_ms: int, most: int) -> list[Outcome]:
        """The jobs that ended since then, the newest first."""
        asked = (
            "SELECT completed_ms, state, pictures, waited, seconds, failure FROM job WHERE number >= :edge "
            "ORDER BY number DESC LIMIT :n"
        )
        return [Outcome(*row) for row in self._ask(self._limit_s, asked, {"edge": first_number(moment_ms), "n": most})]

    def folders(self) -> dict[Ended, Folder]:
        rows = self._ask(self._limit_s, "SELECT state, jobs, bytes, unread FROM folder", {})
        return {state: Folder(jobs, size, unread or 0, unread is not None) for state, jobs, size, unread in rows}

    def batch(self, batch: str) -> list[tuple[Ended, str]]:
        """States and ids of the batch's jobs, by id."""
        asked = "SELECT state, id FROM job WHERE batch != '' AND batch = :batch ORDER BY id"
        return [(state, job_id) for state, job_id in self._ask(self._limit_s, asked, {"batch": batch})]

    def odd(self, limit: int) -> list[tuple[Ended, str, str]]:
        asked = "SELECT state, id, why FROM odd ORDER BY state, id LIMIT :n"
        return [(state, job_id, why) for state, job_id, why in self._ask(self._limit_s, asked, {"n": limit})]

    def _ask(self, limit_s: float, asked: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        end = time.monotonic() + limit_s
        self._db.set_progress_handler(lambda: time.monotonic() > end, 20_000)
        return self._db.execute(asked, values).fetchall()


def interrupted(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT


def bad(error: sqlite3.Error) -> bool:
    """Whether the error says that the file is no good, rather than that it cannot be used just now."""
    if isinstance(error, NotYetError):  # the writer looks at the version itself
        return False
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in NOT_NOW


def _conditions(state: Ended, search: Search) -> tuple[str, str, list[str], dict[str, Any]]:
    """Tables, the column to sort by, conditions and values of a question. Nothing that a person typed is in its text."""
    source, key, where = "job", "number", ["job.state = :state"]
    found: dict[str, Any] = {"state": state}
    if words := match_expression(search.query):
        # By the words first: FTS5 gives them in the order of their row numbers, which is the order of time.
        source, key, where = "words CROSS JOIN job ON number = words.rowid", "words.rowid", ["words MATCH :words"]
        found = {"words": f'{{prompt id owner model}} : ({words}) AND state : "{state}"'}
    for name in ("owner", "model", "batch"):
        if (value := getattr(search, name)) is not None:
            where.append(f"job.{name} = :{name}")
            found[name] = value.encode(errors="replace").decode()
    if search.batch:
        where.append("job.batch != ''")  # for the partial index
    if search.starred is not None:
        where.append("job.starred" if search.starred else "NOT job.starred")
    for name, sign, moment in (("since", ">=", search.since), ("until", "<", search.until)):
        if moment:
            where.append(f"{key} {sign} :{name}")
            found[name] = first_number(int(moment.timestamp() * 1000))
    if search.min_pixels:
        where.append("job.width * job.height >= :pixels")
        found["pixels"] = min(search.min_pixels, MAX_NUMBER)
    return source, key, where, found
