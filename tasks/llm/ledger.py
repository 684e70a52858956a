"""The ledger: all completed model requests, keyed by content, so that no request is sent twice.

One SQLite file in WAL mode, shared by any number of threads and processes on one machine. Committed entries
survive `kill -9` at any moment; entries put less than half a second before may be lost. The first answer to
a request is kept. The ledger also stores the cost of the answers per model, committed in the same transaction, and the
engines that gave them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tasks.errors import UserError
from tasks.identity import canonical_json
from tasks.storage.disk import make_folder
from tasks.text import counted

Result = TypeVar("Result")

BATCH = 200  # most uncommitted entries; half as many trigger a commit
IDLE_SECONDS = 0.5  # longest time that an entry waits for its commit
BUSY_SECONDS = 60.0  # timeout while another process writes
_LAYOUT = 5  # 1 had entries only, 2 compressed without phrases, 3 had no engines, 4 had _OLD_PHRASES; all are upgraded to 5
_KEYS_PER_QUERY = 500
_OLD_PHRASES = (
    rb" Therefore, Thus, Since Let we have so that Find the smallest positive integer real number of all values such that"
    rb" the sum of is equal to \n\n\\[ \\] \\( \\) \\left( \\right) \\sqrt{ \\cdot \\times \\pi \\le \\ge \\frac{1}{2}"
    rb' The answer is \\boxed{}.","token_count":,"logprob_sum":-0.,"spans":{"after_think_token_count":,'
    rb'"after_think_logprob_sum":-,"answer_token_count":,"answer_logprob_sum":-}}]}'
    rb'{"responses":[{"problem_id":"","index":0,"text":"'
    rb'{"text":"{\"first\": \"\", \"second\": \"\", \"equivalent\": false}'
    rb'{"text":"{\"clear\": true, \"complete\": true, \"consistent\": true, \"single_answer\": true, \"nontrivial\": true}'
    rb'{"text":"{\"clear\":true,\"complete\":true,\"consistent\":true,\"single_answer\":true,\"nontrivial\":true}'
    rb'{"text":"<evolved>\n\n</evolved>","finish_reason":"stop","prompt_tokens":,"completion_tokens":,'
    rb'"logprob_sum":null,"logprob_count":0}'
)
_PHRASES = _OLD_PHRASES + (
    rb'{"text":"{\"well_formed\": true, \"unambiguous\": true, \"multi_step\": true, \"closed_form\": true,'
    rb" \"self_contained\": true}"
    rb'{"text":"{\"well_formed\":true,\"unambiguous\":true,\"multi_step\":true,\"closed_form\":true,'
    rb'\"self_contained\":true}","finish_reason":"stop","prompt_tokens":,"completion_tokens":,'
    rb'"logprob_sum":null,"logprob_count":0}'
)
"""Phrases that answers have in common, the most common last: zlib's preset dictionary (RFC 1950). Part of the file's layout:
any change of these texts would make existing ledgers unreadable."""
_DICTIONARIES = {zlib.adler32(phrases).to_bytes(4): phrases for phrases in (_OLD_PHRASES, _PHRASES)}
"""By the id that a compressed stream has in its header."""
_TABLES = (
    "entries (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
    "spent (model TEXT PRIMARY KEY, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,"
    " completion_tokens INTEGER NOT NULL)",
    "engines (model TEXT, dtype TEXT, machine TEXT, invariant INTEGER NOT NULL, PRIMARY KEY (model, dtype, machine))",
)
_to_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
"""Encodes as ASCII, since replies may contain lone surrogates."""
_ADD_SPENT = """
INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (model) DO UPDATE SET requests = requests + excluded.requests,
prompt_tokens = prompt_tokens + excluded.prompt_tokens,
completion_tokens = completion_tokens + excluded.completion_tokens
"""


def request_key(
    model: str,
    messages: Sequence[Mapping[str, str]],
    sampling: Mapping[str, Any],
    schema: Mapping[str, Any] | None,
    prompt: str,
    seed: int | None,
) -> str:
    """Return the SHA-256 (hex) of everything that determines a reply: model identity, messages, sampling settings, JSON
    schema of the reply, prompt fingerprint and seed. Raises the errors of `canonical_json` for values without a canonical
    form.
    """
    parts = {
        "model": model,
        "messages": list(messages),
        "sampling": sampling,
        "schema": schema,
        "prompt": prompt,
        "seed": seed,
    }
    return hashlib.sha256(canonical_json(parts, "request").encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Cost: answered requests and their tokens. A request that was answered twice counts twice."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """The content of one commit: texts by key, cost by model, and the number of `put`s that it completes."""

    entries: Mapping[str, str]
    spent: Mapping[str, Spent]
    puts: int


class Ledger:
    """Replies by request key. Use as a context manager, from any thread; open one per process (not across a fork).

    A background thread commits after half of `BATCH` entries or `IDLE_SECONDS`; `put` blocks only while `BATCH` entries are
    not on disk yet, so that a kill loses no more than these. If a commit fails (full disk, damaged, deleted or replaced file),
    the next call raises `UserError`. `hits` and `misses` count the keys looked up.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.hits = self.misses = 0
        self._pending: dict[str, str] = {}  # not yet committed: key -> JSON text
        self._unspent: dict[str, Spent] = {}  # not yet in a batch, by model
        self._puts = self._committed = 0  # calls of `put`, and how many of them are in the file
        self._failure: BaseException | None = None
        self._closing = False
        self._hurry = False  # a flush is waiting
        self._changed = threading.Condition()
        self._reading = threading.Lock()
        make_folder(self.path.parent)
        self._reader = self._guarded(self._open)
        self._writer = self._guarded(self._open)
        self._file = os.stat(self.path)
        self._thread = threading.Thread(target=self._commit_loop, name="ledger", daemon=True)
        self._thread.start()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the stored values by key, in the order of `keys`; includes commits of other processes. An entry that is damaged
        is removed and missing."""
        asked = list(dict.fromkeys(keys))
        with self._changed:
            self._raise_failure()
            texts = {key: self._pending[key] for key in asked if key in self._pending}
        values = {key: json.loads(text) for key, text in texts.items()}
        missing, damaged = [key for key in asked if key not in texts], list[str]()
        with self._reading:
            for start in range(0, len(missing), _KEYS_PER_QUERY):
                part = missing[start : start + _KEYS_PER_QUERY]
                for key, packed in self._guarded(lambda part=part: self._select(part)):
                    try:
                        values[key] = json.loads(_unpacked(packed))
                    except (RecursionError, TypeError, ValueError, zlib.error):
                        damaged.append(key)
        self.discard(damaged)
        with self._changed:
            self.hits += len(values)
            self.misses += len(asked) - len(values)
        return {key: values[key] for key in asked if key in values}

    def discard(self, keys: Collection[str]) -> None:
        """Delete the entries of keys that the caller cannot use, so that their requests are sent again; logs how many."""
        if not keys:
            return
        self.flush()  # none of them is waiting for its commit then
        with self._reading:
            self._guarded(
                lambda: self._reader.executemany(
                    "DELETE FROM entries WHERE key = ?", [(key,) for key in keys]
                )
            )
        logging.getLogger(__name__).warning(
            "%s in %s cannot be used and will be requested again", counted(len(keys), "answer"), self.path
        )

    def get(self, key: str) -> Any | None:
        """Return the value of one key, or None."""
        return self.get_many([key]).get(key)

    def put(self, key: str, value: Any, *, model: str = "", spent: Spent | None = None) -> None:
        """Store a JSON value under `key`; an existing value is kept. `spent` is its cost, added to that of `model`.

        Raises `TypeError` or `ValueError` for a value that cannot be encoded as JSON.
        """
        text = _to_json(value)
        with self._changed:
            self._changed.wait_for(lambda: len(self._pending) < BATCH or self._failure is not None)
            self._raise_failure()
            if self._closing:
                raise ValueError(f"the ledger {self.path} is closed")
            self._pending.setdefault(key, text)
            if spent is not None:
                self._unspent[model] = self._unspent.get(model, Spent()) + spent
            self._puts += 1
            if self._puts == self._committed + 1 or len(self._pending) >= BATCH // 2:
                self._changed.notify_all()

    def spent(self) -> dict[str, Spent]:
        """Return the cost per model over all runs that used this file, including uncommitted entries."""
        self.flush()
        query = "SELECT model, requests, prompt_tokens, completion_tokens FROM spent ORDER BY model"
        with self._reading:
            rows = self._guarded(lambda: self._reader.execute(query).fetchall())
        return {
            model: Spent(requests=requests, prompt_tokens=prompt, completion_tokens=completion)
            for model, requests, prompt, completion in rows
        }

    def record_engine(self, model: str, dtype: str, machine: str, *, invariant: bool) -> None:
        """Keep that an engine of the model was started, and whether it was batch-invariant. One that was not stays recorded."""
        statement = (
            "INSERT INTO engines VALUES (?, ?, ?, ?) ON CONFLICT (model, dtype, machine)"
            " DO UPDATE SET invariant = min(invariant, excluded.invariant)"
        )
        with self._reading:
            self._guarded(lambda: self._reader.execute(statement, (model, dtype, machine, int(invariant))))

    def engines(self, model: str, dtype: str) -> dict[str, bool]:
        """Return {machine: whether all engines of the model that were started on it were batch-invariant}."""
        query = "SELECT machine, invariant FROM engines WHERE model = ? AND dtype = ? ORDER BY machine"
        with self._reading:
            rows = self._guarded(lambda: self._reader.execute(query, (model, dtype)).fetchall())
        return {machine: bool(invariant) for machine, invariant in rows}

    def flush(self) -> None:
        """Wait until everything put so far is committed. Raises `UserError` also if the file was deleted or replaced."""
        with self._changed:
            puts = self._puts
            self._hurry = self._hurry or puts > self._committed
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._failure is not None or self._committed >= puts)
            self._raise_failure()
        self._check_file()

    def close(self) -> None:
        """Commit all pending entries and close the file. May be called more than once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._reader.close()
        self._writer.close()
        self._raise_failure()

    def __len__(self) -> int:
        """Return the number of committed entries."""
        with self._reading:
            return self._guarded(lambda: self._reader.execute("SELECT count(*) FROM entries").fetchone()[0])

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[[], Result]) -> Result:
        """Run `work`, turning errors of SQLite into a `UserError`."""
        try:
            return work()
        except sqlite3.DatabaseError as error:
            raise UserError(_sqlite_problem(self.path, error)) from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _select(self, keys: Sequence[str]) -> list[tuple[str, bytes]]:
        marks = ",".join("?" * len(keys))
        return self._reader.execute(f"SELECT key, value FROM entries WHERE key IN ({marks})", keys).fetchall()

    def _commit_loop(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._guarded(lambda batch=batch: self._insert(batch))
                with self._changed:
                    for key in batch.entries:
                        del self._pending[key]
                    self._committed = batch.puts
                    self._changed.notify_all()
        except BaseException as error:  # raised again by the next call from another thread
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next_batch(self) -> _Batch | None:
        """Wait for entries, then up to `IDLE_SECONDS` for more; None when the ledger is closed and everything is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._puts > self._committed or self._closing)
            self._changed.wait_for(
                lambda: len(self._pending) >= BATCH // 2 or self._hurry or self._closing, timeout=IDLE_SECONDS
            )
            if self._puts == self._committed:
                return None
            self._hurry = False
            spent, self._unspent = self._unspent, {}
            return _Batch(dict(self._pending), spent, self._puts)

    def _insert(self, batch: _Batch) -> None:
        entries = [(key, _packed(text)) for key, text in batch.entries.items()]
        spent = [
            (model, one.requests, one.prompt_tokens, one.completion_tokens)
            for model, one in batch.spent.items()
        ]
        self._check_file()
        with self._writer:  # commits, or rolls back
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany("INSERT OR IGNORE INTO entries (key, value) VALUES (?, ?)", entries)
            self._writer.executemany(_ADD_SPENT, spent)

    def _check_file(self) -> None:
        """Raise `UserError` if the open file is no longer at its path: SQLite would go on writing into the deleted one."""
        with suppress(OSError):
            if os.path.samestat(os.stat(self.path), self._file):
                return
        raise UserError(
            f"The ledger {self.path} was deleted or replaced while it was in use: start again (requests whose answers were in it"
            " will be sent again)."
        )


def _packed(text: str) -> bytes:
    """Compress the text with zlib and `_PHRASES`, at the fastest level: higher ones take 50% more time to save another 6 to
    8%."""
    packer = zlib.compressobj(1, zdict=_PHRASES)
    return packer.compress(text.encode("ascii")) + packer.flush()


def _unpacked(value: bytes) -> str:
    """Decompress the output of `_packed`, or a stream without phrases. Raises `zlib.error`, `TypeError` or `ValueError` if it is
    damaged or truncated."""
    unpacker = zlib.decompressobj(zdict=_DICTIONARIES.get(value[2:6], b""))
    text = unpacker.decompress(value)
    if not unpacker.eof:
        raise zlib.error("an answer is truncated")
    return text.decode("ascii")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to WAL and create the tables. Raises `UserError`, without any change, if the database is not a ledger."""
    if _tables(connection) and _layout(connection) not in range(1, _LAYOUT + 1):
        raise UserError(
            f"{path} is a database, but not a ledger of this version (layout {_layout(connection)}, this version reads 1 to"
            f" {_LAYOUT}): use the version that wrote it, or move it away and start again."
        )
    _switch_to_wal(connection)
    connection.execute(
        "PRAGMA synchronous = NORMAL"
    )  # commits survive a kill; a power cut may cost the last ones
    with connection:
        if _layout(connection) != _LAYOUT:
            connection.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            connection.execute(f"PRAGMA user_version = {_LAYOUT}")


def _tables(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _layout(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode, retrying: SQLite itself does not wait when several processes switch a new file at once."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _sqlite_problem(path: Path, error: Exception) -> str:
    """Return one sentence for an SQLite error: what is wrong with the file and what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        remedy = "is damaged: move it away and start again (the requests stored in it will be sent again)"
    elif code == sqlite3.SQLITE_BUSY:
        remedy = f"was locked by another process for {BUSY_SECONDS:.0f} s: end that process and start again"
    elif code == sqlite3.SQLITE_FULL:
        remedy = "cannot grow because its disk is full: free some space and start again"
    else:
        remedy = "cannot be used: put it in a writable folder on a local disk, then start again"
    return f"The ledger {path} {remedy}; SQLite error: {error}."
