"""The ledger keeps the first answer to every request, through threads, processes and kills."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.llm.ledger import BATCH, Ledger, Spent, _packed, _unpacked, request_key
from tasks.rows import QUALITY_CRITERIA

REQUEST: dict[str, Any] = {
    "model": "teacher:0123456789abcdef",
    "messages": [{"role": "system", "content": "Solve."}, {"role": "user", "content": "1 + 1?"}],
    "sampling": {"temperature": 0.7, "top_p": 0.95, "max_tokens": 64},
    "schema": None,
    "prompt": "teacher/solve@1:0123456789ab",
    "seed": 7,
}


def stored(path: Path) -> dict[str, Any]:
    """Return the entries that another reader sees on disk now."""
    with Ledger(path) as ledger:
        connection = sqlite3.connect(path)
        keys = [key for (key,) in connection.execute("SELECT key FROM entries")]
        connection.close()
        return ledger.get_many(keys)


def test_values_are_returned_in_this_run_and_the_next_and_hits_and_misses_are_counted(tmp_path: Path) -> None:
    values = {"a": {"text": "½ \ud800 \\frac{1}{2}", "tokens": 3, "logprob": -0.1}, "b": [], "c": None}
    with Ledger(tmp_path / "deep" / "ledger.db") as ledger:
        for key, value in values.items():
            ledger.put(key, value)
        assert ledger.get_many(["a", "b", "c", "a", "missing"]) == values
        assert (ledger.hits, ledger.misses) == (3, 1)
    with Ledger(tmp_path / "deep" / "ledger.db") as ledger:
        assert ledger.get_many(["c", "missing", "a"]) == {"c": None, "a": values["a"]}
        assert ledger.get("b") == [] and ledger.get("other") is None
        assert (ledger.hits, ledger.misses) == (3, 2)
        assert len(ledger) == 3


def test_the_first_answer_is_kept_within_a_batch_and_across_batches(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.put("k", "first")
        ledger.put("k", "second")
        ledger.flush()
        ledger.put("k", "third")
        ledger.flush()
        assert ledger.get("k") == "first"


def test_changing_a_value_after_put_does_not_change_the_ledger(tmp_path: Path) -> None:
    value = {"text": "before"}
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.put("k", value)
        value["text"] = "after"
        ledger.get_many(["k"])["k"]["text"] = "elsewhere"
        assert ledger.get("k") == {"text": "before"}


def test_an_idle_entry_and_a_full_batch_are_committed_automatically(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger, Ledger(tmp_path / "l.db") as other:
        ledger.put("alone", 1)
        deadline = time.monotonic() + 10
        while other.get("alone") is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = time.monotonic()
        for number in range(BATCH):
            ledger.put(f"k{number}", number)
        while other.get("k0") is None:
            assert time.monotonic() < started + 10
            time.sleep(0.005)


def test_no_more_than_a_batch_is_ever_uncommitted(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        busy = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
        busy.execute("BEGIN IMMEDIATE")  # another process writes: nothing can be committed
        put: list[int] = []

        def put_all() -> None:
            for number in range(3 * BATCH):
                ledger.put(f"k{number}", number)
                put.append(number)

        thread = threading.Thread(target=put_all)
        thread.start()
        time.sleep(1.0)
        assert len(put) == BATCH and len(ledger) == 0
        busy.execute("COMMIT")
        thread.join(30)
        busy.close()
        assert len(put) == 3 * BATCH
    assert len(stored(tmp_path / "l.db")) == 3 * BATCH


def test_the_cost_per_model_is_restored_after_a_restart_and_summed_over_processes(tmp_path: Path) -> None:
    path, one = tmp_path / "l.db", Spent(requests=1, prompt_tokens=400, completion_tokens=60)
    with Ledger(path) as first, Ledger(path) as second:
        for number in range(BATCH + 50):
            first.put(f"k{number}", number, model="evolver@1", spent=one)
            second.put(f"k{number}", number, model="judge@1", spent=one)
        first.put("free", 0)
        second.flush()
        assert first.spent()["judge@1"].requests == BATCH + 50
    with Ledger(path) as ledger:
        ledger.put("k0", "the same again", model="judge@1", spent=one)  # it was paid for, too
        total = BATCH + 50
        assert ledger.spent() == {
            "evolver@1": Spent(requests=total, prompt_tokens=400 * total, completion_tokens=60 * total),
            "judge@1": Spent(requests=total + 1, prompt_tokens=400 * (total + 1), completion_tokens=60 * (total + 1)),
        }  # fmt: skip
        assert ledger.get("k0") == 0


def test_the_cost_of_a_killed_process_is_that_of_its_committed_answers(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.llm.ledger import Ledger, Spent\n"
        "ledger = Ledger(Path(sys.argv[1])); print(flush=True)\n"
        "for n in range(10**9):\n"
        "    ledger.put(f'k{n}', n, model='m', spent=Spent(requests=1, prompt_tokens=n))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "l.db")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    with Ledger(tmp_path / "l.db") as ledger:
        while not len(ledger):
            time.sleep(0.01)
        process.kill()
        process.wait()
        process.stdout.close()
        entries = len(ledger)
        tokens = sum(range(entries))
        assert ledger.spent() == {"m": Spent(requests=entries, prompt_tokens=tokens)}


def test_a_ledger_without_a_cost_table_is_read_and_upgraded(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.put("paid long ago", 1)
    connection = sqlite3.connect(tmp_path / "l.db")
    connection.executescript("DROP TABLE spent; PRAGMA user_version = 1;")
    connection.close()
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.get("paid long ago") == 1 and ledger.spent() == {}
        ledger.put("k", 2, model="m", spent=Spent(requests=1))
        assert ledger.spent() == {"m": Spent(requests=1)}


def test_a_ledger_compressed_without_phrases_can_be_read_and_extended(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db"):
        pass
    connection = sqlite3.connect(tmp_path / "l.db")
    with connection:
        connection.execute(
            "INSERT INTO entries VALUES ('old', ?)", (zlib.compress(b'{"text":"paid long ago"}'),)
        )
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.put("old", "another")
        ledger.put("new", {"text": "paid now"})
    assert stored(tmp_path / "l.db") == {"old": {"text": "paid long ago"}, "new": {"text": "paid now"}}


@pytest.mark.parametrize(
    ("layout", "kept", "text"),
    [
        (4, "783f10e4318983bb01cdb7b5b82caf0500b9a01191", '{"clear":true}'),
        (5, "783fa43bad2bc3ef319c4ea805003a12141a", '{"well_formed":true}'),
    ],
)
def test_a_value_stored_in_a_layout_can_be_read_by_every_later_version(
    tmp_path: Path, layout: int, kept: str, text: str
) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.put("now", text)
    connection = sqlite3.connect(tmp_path / "l.db")
    with connection:
        connection.execute("INSERT INTO entries VALUES ('k', ?)", (bytes.fromhex(kept),))
        connection.execute(f"PRAGMA user_version = {layout}")
    connection.close()
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.get_many(["k", "now"]) == {"k": {"text": text, "finish_reason": "stop"}, "now": text}
    connection = sqlite3.connect(tmp_path / "l.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (5,)
    connection.close()


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_verdict_of_the_quality_judge_takes_less_than_fifty_bytes(separators: tuple[str, str]) -> None:
    text = json.dumps(dict.fromkeys(QUALITY_CRITERIA, True), separators=separators)
    counts = {"prompt_tokens": 527, "completion_tokens": 34, "logprob_sum": None, "logprob_count": 0}
    stored = json.dumps({"text": text, "finish_reason": "stop", **counts}, separators=(",", ":"))
    assert len(_packed(stored)) < 50 and _unpacked(_packed(stored)) == stored


def test_engines_are_kept_by_machine_and_one_that_was_not_invariant_stays_recorded(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.engines("m@1", "float32") == {}
        ledger.record_engine("m@1", "float32", "cpu b", invariant=True)
        ledger.record_engine("m@1", "float32", "cpu a", invariant=False)
        ledger.record_engine("m@1", "float32", "cpu a", invariant=True)
        ledger.record_engine("m@1", "bfloat16", "cpu b", invariant=False)
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.engines("m@1", "float32") == {"cpu a": False, "cpu b": True}
        assert ledger.engines("m@1", "bfloat16") == {"cpu b": False}
        assert ledger.engines("m@2", "float32") == {}


def test_a_ledger_of_a_later_layout_is_refused_and_unchanged(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db"):
        pass
    connection = sqlite3.connect(tmp_path / "l.db")
    connection.execute("PRAGMA user_version = 6")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = (tmp_path / "l.db").read_bytes()
    with pytest.raises(
        UserError,
        match=r"not a ledger of this version \(layout \d+, this version reads 1 to 5\): use the version",
    ):
        Ledger(tmp_path / "l.db")
    assert (tmp_path / "l.db").read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    ["substr(value, 1, length(value) - 6)", "x'00ff'", "'text'", "5", "x'789c030000000001'"],
    ids=["truncated", "no zlib", "text", "number", "no JSON"],
)
def test_a_damaged_answer_is_missing_and_makes_room_for_the_next_one(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.put("k", {"text": "x" * 50})
        ledger.put("other", 1)
    connection = sqlite3.connect(tmp_path / "l.db")
    with connection:
        connection.execute(f"UPDATE entries SET value = {damage} WHERE key = 'k'")
    connection.close()
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.get_many(["k", "other"]) == {"other": 1} and (ledger.hits, ledger.misses) == (1, 1)
        assert "1 answer in " in caplog.text and "cannot be used and will be requested again" in caplog.text
        ledger.put("k", 2)
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.get_many(["k", "other"]) == {"k": 2, "other": 1}


def test_a_discarded_answer_is_gone_also_if_it_was_not_committed_yet(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.put("k", 1)
        ledger.discard(["k", "unknown"])
        ledger.discard([])
        assert ledger.get("k") is None
        ledger.put("k", 2)
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.get("k") == 2


def test_many_keys_are_looked_up_at_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        for number in range(0, 3000, 2):
            ledger.put(str(number), number)
        ledger.flush()
        found = ledger.get_many(str(number) for number in range(3000))
        assert found == {str(number): number for number in range(0, 3000, 2)}
        assert (ledger.hits, ledger.misses) == (1500, 1500)


def test_threads_share_one_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:

        def work(name: int) -> None:
            for number in range(300):
                ledger.put(f"{name}-{number}", [name, number])
                assert ledger.get(f"{name}-{number}") == [name, number]

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ledger.flush()
        assert len(ledger) == ledger.hits == 1200


def test_processes_share_one_file_from_its_creation_and_the_first_write_wins(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.llm.ledger import Ledger\n"
        "with Ledger(Path(sys.argv[1])) as ledger:\n"
        "    for n in range(1000):\n"
        "        ledger.put(f'k{n}', sys.argv[2])\n"
        "        if n % 100 == 0: ledger.flush(); print(ledger.get(f'k{n}'))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "l.db")]
    writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "abc"]
    seen = [writer.communicate(timeout=60)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    final = stored(tmp_path / "l.db")
    assert len(final) == 1000 and set(final.values()) <= set("abc")
    assert seen == [[final[f"k{n}"] for n in range(0, 1000, 100)]] * 3


def test_a_killed_process_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.llm.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "for n in range(10**9):\n"
        "    ledger.put(f'k{n}', {'n': n, 'text': 'x' * 500})\n"
        "    if n % 50 == 49: ledger.flush(); print(n, flush=True)\n"
    )
    path = tmp_path / "l.db"
    promised = -1
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) > promised + 500:
                process.send_signal(signal.SIGKILL)
                break
        promised = max(promised, int(line), *(int(line) for line in process.stdout))
        process.wait()
        process.stdout.close()
        final = stored(path)
        assert all(final[f"k{n}"] == {"n": n, "text": "x" * 500} for n in range(promised + 1))
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_thousands_of_writes_per_second_are_possible(tmp_path: Path) -> None:
    value = {"text": "Let x be a number. " * 60, "finish_reason": "stop", "tokens": 300}
    with Ledger(tmp_path / "l.db") as ledger:
        started = time.process_time()
        for number in range(5000):
            ledger.put(f"k{number}", value)
        ledger.flush()
        assert time.process_time() - started < 10  # CPU time; 0.3 s on an idle machine
        assert len(ledger) == 5000


@pytest.mark.parametrize("content", [b"this is not a database, but it is long enough to be read" * 40, None])
def test_a_file_that_is_not_a_ledger_is_a_user_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "l.db"
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE theirs (x)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"l\.db is .*move it away and start again"):
        Ledger(path)
    assert path.read_bytes() == before


def test_damage_in_the_middle_of_a_ledger_is_reported_on_reading(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        for number in range(2000):
            ledger.put(f"k{number}", os.urandom(200).hex())
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with Ledger(path) as ledger, pytest.raises(UserError, match=r"ledger .*l\.db is damaged: move it away"):
        ledger.get_many(f"k{number}" for number in range(2000))


def test_a_failure_of_the_writing_thread_is_raised_by_the_next_call(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    connection = sqlite3.connect(tmp_path / "l.db")
    connection.execute("DROP TABLE entries")
    connection.close()
    ledger.put("k", 1)
    with pytest.raises(UserError, match=r"l\.db cannot be used: .* no such table"):
        ledger.flush()
    with pytest.raises(UserError):
        ledger.put("l", 2)
    with pytest.raises(UserError):
        ledger.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_ledger_that_is_deleted_or_replaced_is_noticed_at_the_next_flush(
    tmp_path: Path, replaced: bool
) -> None:
    path = tmp_path / "l.db"
    ledger = Ledger(path)
    ledger.put("k", 1)
    ledger.flush()
    path.unlink()
    if replaced:
        with Ledger(path):
            pass
    sentence = r"ledger .*l\.db was deleted or replaced while it was in use: start again"
    with pytest.raises(UserError, match=sentence):
        ledger.flush()
    ledger.put("l", 2)
    with pytest.raises(UserError, match=sentence):
        ledger.close()


def test_a_full_disk_is_reported_as_such(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.db")
    ledger._writer.execute("PRAGMA max_page_count = 5")  # SQLite then reports a full database
    ledger.put("k", os.urandom(100_000).hex())
    with pytest.raises(UserError, match="disk is full: free some space"):
        ledger.close()


def test_a_value_that_is_not_json_is_refused_at_once_and_a_closed_ledger_accepts_no_more(
    tmp_path: Path,
) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        with pytest.raises(TypeError):
            ledger.put("k", {1, 2})
        with pytest.raises(ValueError):
            ledger.put("k", float("nan"))
    ledger.close()
    with pytest.raises(ValueError, match="closed"):
        ledger.put("k", 1)
    assert stored(tmp_path / "l.db") == {}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "teacher:fedcba9876543210"},
        {"messages": [{"role": "user", "content": "Solve."}, {"role": "user", "content": "1 + 1?"}]},
        {"messages": list(reversed(REQUEST["messages"]))},
        {"sampling": {**REQUEST["sampling"], "top_p": 0.9}},
        {"schema": {"type": "object"}},
        {"prompt": "teacher/solve@2:0123456789ab"},
        {"seed": 8},
        {"seed": None},
    ],
)
def test_every_part_of_a_request_changes_its_key_and_the_order_of_names_does_not(
    change: dict[str, Any],
) -> None:
    key = request_key(**REQUEST)
    shuffled = {**REQUEST, "sampling": dict(reversed(REQUEST["sampling"].items()))}
    assert request_key(**shuffled) == key and len(key) == 64
    assert request_key(**{**REQUEST, **change}) != key
