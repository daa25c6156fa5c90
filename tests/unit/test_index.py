"""The version index on real RocksDB directories: contract, rotation, identity, damage, kill -9."""

from __future__ import annotations

import resource
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict

from state import (
    IndexDamaged,
    IndexFailure,
    IndexHeld,
    IndexLimits,
    IndexMismatch,
    IndexUnavailable,
    IndexWriteFailed,
    VersionIndex,
)
from state import store as store_module
from state.index import SHARED_LOOK_UP_KEYS
from state.store import Store

IDENTITY = "persistent://public/default/events-partition-3"
WINDOW_MS = 1000
SMALL = IndexLimits(id_window_ms=WINDOW_MS, max_ids=10)
KILLS = 12


def event_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def fill(directory: Path, aggregates: int = 3000) -> None:
    """Half of the rows in table files, half in the write-ahead log only, as after a kill -9."""
    index = VersionIndex.open(directory, identity=IDENTITY)
    apply_range(index, 0, aggregates // 2)
    index.close()
    index = VersionIndex.open(directory, identity=IDENTITY)
    apply_range(index, aggregates // 2, aggregates)
    index._store.db.cancel_all_background(True)  # or files would vanish from under the copying
    live = directory.with_name(directory.name + "-live")
    directory.rename(live)
    shutil.copytree(live, directory)
    index.close()
    shutil.rmtree(live)


def at(version: int) -> tuple[int, int]:
    """The version and a sequence that cannot be taken for it."""
    return version, version + 1_000_000


def apply_range(index: VersionIndex, begin: int, end: int) -> None:
    for number in range(begin, end, 100):
        numbers = range(number, min(number + 100, end))
        index.apply(
            {f"account-{n}": n for n in numbers},
            [(event_id(n), f"account-{n}", *at(n)) for n in numbers],
            accepted_at_ms=number,
            checkpoint=str(numbers[-1]).encode(),
        )


def raw(directory: Path, change: Callable[[Rdict], None]) -> None:
    """Open the database behind the index and change it."""
    options = Options(raw_mode=True)
    names = [name for name in Rdict.list_cf(str(directory)) if name != "default"]
    db = Rdict(str(directory), options, dict.fromkeys(names, options))
    change(db)
    db.close()


# -- contract ------------------------------------------------------------------------------------------------------


def test_an_empty_index_knows_nothing(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path / "deep" / "index", identity=IDENTITY) as index:
        assert index.checkpoint is None
        assert index.tails(["a", "b"]) == [-1, -1]
        assert index.tails([]) == []
        assert index.accepted([(event_id(1), "a")])[0] is None
        assert list(index.entries()) == []
        assert index.aggregates() == 0
        assert index.size_bytes > 0


def test_what_is_applied_is_found_in_order_before_and_after_a_reopen(tmp_path: Path) -> None:
    keys = ["b", "no", "a", "", "ключ-🔑", "a", "k" * 5000]
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        index.apply({"a": 0, "b": 5, "": 1}, [(event_id(7), "a", *at(0))], accepted_at_ms=1, checkpoint=b"one")
        index.apply({"a": 2**62, "ключ-🔑": 3, "k" * 5000: 9}, [], accepted_at_ms=2, checkpoint=b"two")
        assert index.tails(keys) == [5, -1, 2**62, 1, 3, 2**62, 9]
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        assert index.tails(keys) == [5, -1, 2**62, 1, 3, 2**62, 9]
        assert index.checkpoint == b"two"
        assert index.accepted([(event_id(7), "a")])[0] == at(0)
        assert dict(index.entries()) == {"": 1, "a": 2**62, "b": 5, "ключ-🔑": 3, "k" * 5000: 9}


def test_the_checkpoint_stays_when_a_batch_brings_none(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        seen = []
        for version, checkpoint in enumerate([None, b"", None]):
            index.apply({"a": version}, [], accepted_at_ms=1, checkpoint=checkpoint)
            seen.append(index.checkpoint)
        assert seen == [None, b"", b""]
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        assert index.checkpoint == b""
        assert index.tails(["a"]) == [2]


def test_an_id_belongs_to_its_aggregate(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        index.apply(
            {"a": 4, "b": 0},
            [(event_id(1), "a", *at(4)), (event_id(1), "b", *at(0))],
            accepted_at_ms=1,
            checkpoint=b"x",
        )
        asked = [(event_id(1), "c"), (event_id(1), "a"), (event_id(2), "a"), (event_id(1), "b"), (event_id(1), "a")]
        assert index.accepted(asked) == [None, at(4), None, at(0), at(4)]
        assert index.accepted([]) == []


def test_entries_go_on_over_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SCAN_CHUNK_ROWS", 7)
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        apply_range(index, 0, 700)
        assert dict(index.entries()) == {f"account-{n}": n for n in range(700)}
        assert index.aggregates() == 700


def test_a_closed_index_says_so_and_may_be_closed_again(tmp_path: Path) -> None:
    index = VersionIndex.open(tmp_path, identity=IDENTITY)
    index.apply({"a": 0}, [], accepted_at_ms=1, checkpoint=b"x")
    unfinished = index.entries()
    next(unfinished)
    index.close()
    index.close()
    uses: list[Callable[[], object]] = [
        lambda: index.tails(["a"]),
        lambda: index.tails(["a"] * SHARED_LOOK_UP_KEYS),
        lambda: index.accepted([(event_id(1), "a")])[0],
        lambda: index.apply({"a": 1}, [], accepted_at_ms=1, checkpoint=b"y"),
        lambda: list(index.entries()),
        lambda: list(unfinished),
        lambda: index.aggregates(),
    ]
    for use in uses:
        with pytest.raises(IndexUnavailable, match="already closed"):
            use()
    VersionIndex.open(tmp_path, identity=IDENTITY).close()


# -- the id window -------------------------------------------------------------------------------------------------


def remembered(index: VersionIndex, numbers: range) -> list[int]:
    return [n for n in numbers if index.accepted([(event_id(n), "a")])[0] is not None]


def accept(index: VersionIndex, number: int, at_ms: int) -> None:
    index.apply(
        {"a": number}, [(event_id(number), "a", *at(number))], accepted_at_ms=at_ms, checkpoint=str(number).encode()
    )


def families(index: VersionIndex) -> list[str]:
    return sorted(index._store.names)


def test_ids_are_remembered_for_one_window_and_forgotten_after_two(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY, limits=IndexLimits(id_window_ms=WINDOW_MS)) as index:
        for number in range(30):
            now_ms = 5_000_000 + number * 100
            accept(index, number, now_ms)
            kept = remembered(index, range(30))
            assert set(range(max(0, number - 10), number + 1)) <= set(kept)
            assert min(kept) >= number - 20
        assert families(index) == ["ids-2", "ids-3", "tails"]


def test_the_number_of_ids_is_bounded(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY, limits=SMALL) as index:
        for number in range(40):
            accept(index, number, 7)
            assert 5 <= len(remembered(index, range(40))) <= 10 or number < 5
            assert number in remembered(index, range(40))


def test_the_clock_of_the_log_never_runs_back(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY, limits=SMALL) as index:
        accept(index, 1, 10_000)
        accept(index, 2, 3)
        accept(index, 3, 10_000 + WINDOW_MS - 1)
        assert families(index) == ["ids-1", "tails"]
        accept(index, 4, 10_000 + WINDOW_MS)
        assert families(index) == ["ids-1", "ids-2", "tails"]


def test_the_window_goes_on_after_a_reopen(tmp_path: Path) -> None:
    for number in range(23):
        with VersionIndex.open(tmp_path, identity=IDENTITY, limits=SMALL) as index:
            accept(index, number, 1)
    with VersionIndex.open(tmp_path, identity=IDENTITY, limits=SMALL) as index:
        assert remembered(index, range(23)) == list(range(15, 23))
        assert families(index) == ["ids-4", "ids-5", "tails"]


class Killed(BaseException):
    """Stands for the end of the process; the directory is looked at as it is then."""


@pytest.mark.parametrize("step", ["create", "write", "drop"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_at_any_step_of_a_rotation_is_cleaned_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    index = VersionIndex.open(tmp_path / "index", identity=IDENTITY, limits=SMALL)
    for number in range(10):
        accept(index, number, 1)
    owner: Any = VersionIndex if step == "write" else Store
    name = "_write" if step == "write" else step
    original = getattr(owner, name)

    def killed(*args: Any, **kwargs: Any) -> None:
        if moment == "after":
            original(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, killed)
    with pytest.raises(Killed):
        accept(index, 10, 1)
    monkeypatch.undo()
    shutil.copytree(tmp_path / "index", tmp_path / "copy")
    written = step == "drop" or (step, moment) == ("write", "after")
    with VersionIndex.open(tmp_path / "copy", identity=IDENTITY, limits=SMALL) as copy:
        last = 10 if written else 9
        assert copy.checkpoint == str(last).encode()
        assert copy.tails(["a"]) == [last]
        assert remembered(copy, range(11)) == list(range(5 if written else 0, last + 1))
        assert families(copy) == (["ids-2", "ids-3", "tails"] if written else ["ids-1", "ids-2", "tails"])
        for number in range(last + 1, 30):
            accept(copy, number, 1)
        assert remembered(copy, range(30)) == list(range(20, 30))
    index.close()


# -- whose index, and who has it -----------------------------------------------------------------------------------


def test_another_identity_is_named(tmp_path: Path) -> None:
    VersionIndex.open(tmp_path, identity="persistent://public/default/events-partition-4").close()
    with pytest.raises(IndexMismatch) as raised:
        VersionIndex.open(tmp_path, identity=IDENTITY)
    for part in (str(tmp_path), "events-partition-4", "events-partition-3"):
        assert part in str(raised.value)
    VersionIndex.open(tmp_path, identity="persistent://public/default/events-partition-4").close()


def test_another_format_is_named(tmp_path: Path) -> None:
    VersionIndex.open(tmp_path, identity=IDENTITY).close()
    raw(tmp_path, lambda db: db.put(b"format", b"pulsar-sequencer version index, format 3\nof another partition"))
    with pytest.raises(IndexMismatch, match=r"found a database of another format.*format 3.*expected .*format 2"):
        VersionIndex.open(tmp_path, identity=IDENTITY)


def test_a_lost_format_record_is_damage(tmp_path: Path) -> None:
    """RocksDB opens without complaint where its MANIFEST was cut between two records: families and files are gone."""
    VersionIndex.open(tmp_path, identity=IDENTITY).close()
    raw(tmp_path, lambda db: db.delete(b"format"))
    with pytest.raises(IndexDamaged, match="format record is lost"):
        VersionIndex.open(tmp_path, identity=IDENTITY)


def test_the_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    options = Options(raw_mode=True)
    db = Rdict(str(tmp_path), options)
    db[b"a"] = b"b"
    db.close()
    with pytest.raises(IndexMismatch, match="without a format record"):
        VersionIndex.open(tmp_path, identity=IDENTITY)
    db = Rdict(str(tmp_path), options)
    db.create_column_family("theirs", options).close()
    db.close()
    with pytest.raises(IndexMismatch, match="column families 'theirs'"):
        VersionIndex.open(tmp_path, identity=IDENTITY)


def test_files_of_somebody_else_are_neither_used_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(IndexMismatch, match=r"thesis\.txt"):
        VersionIndex.open(tmp_path, identity=IDENTITY)
    VersionIndex.destroy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_handle_in_this_process_is_refused(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        for _ in range(2):
            with pytest.raises(IndexHeld, match=str(tmp_path)):
                VersionIndex.open(tmp_path, identity=IDENTITY)
            with pytest.raises(IndexHeld):
                VersionIndex.destroy(tmp_path)
        index.apply({"a": 0}, [], accepted_at_ms=1, checkpoint=b"x")
    VersionIndex.open(tmp_path, identity=IDENTITY).close()


HOLDER = """
    import sys
    from pathlib import Path
    from state import VersionIndex
    index = VersionIndex.open(Path(sys.argv[1]), identity=sys.argv[2])
    print("held", flush=True)
    sys.stdin.read()
"""


def python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def test_an_index_of_another_process_is_refused_until_that_one_dies(tmp_path: Path) -> None:
    with python(HOLDER, str(tmp_path), IDENTITY) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(IndexHeld, match=str(tmp_path)):
            VersionIndex.open(tmp_path, identity=IDENTITY)
        with pytest.raises(IndexHeld):
            VersionIndex.destroy(tmp_path)
        holder.kill()
    VersionIndex.open(tmp_path, identity=IDENTITY).close()


def test_destroy(tmp_path: Path) -> None:
    VersionIndex.destroy(tmp_path / "absent")
    fill(tmp_path / "index")
    (tmp_path / "index" / "CURRENT").unlink()
    VersionIndex.destroy(tmp_path / "index")
    assert not (tmp_path / "index").exists()
    with VersionIndex.open(tmp_path / "index", identity="another") as index:
        assert index.tails(["account-1"]) == [-1]
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexUnavailable):
        VersionIndex.destroy(tmp_path / "file")


# -- places that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/index", "n" * 300, "nul\0"])
def test_a_place_that_cannot_be_a_directory_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexUnavailable, match="cannot use the directory"):
        VersionIndex.open(tmp_path / where, identity=IDENTITY)


STARVED = """
    import resource, sys
    from pathlib import Path
    from state import IndexFailure, VersionIndex
    which, soft = getattr(resource, sys.argv[3]), int(sys.argv[4])
    index = VersionIndex.open(Path(sys.argv[1]), identity=sys.argv[2])
    try:
        if sys.argv[5] == "opening":
            index.close()
            resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))
            VersionIndex.open(Path(sys.argv[1]), identity=sys.argv[2])
        resource.setrlimit(which, (soft, resource.RLIM_INFINITY))
        for n in range(1000):
            index.apply({f"{n}-{i}": n for i in range(100)}, [], accepted_at_ms=n, checkpoint=str(n).encode())
    except IndexFailure as failure:
        print(type(failure).__name__, failure, flush=True)
    index.close()
"""


@pytest.mark.parametrize(
    ("limit", "soft", "while_", "expected"),
    [
        ("RLIMIT_FSIZE", 100_000, "writing", IndexWriteFailed),
        ("RLIMIT_FSIZE", 100, "opening", IndexUnavailable),
        ("RLIMIT_NOFILE", 8, "opening", IndexUnavailable),
    ],
)
def test_a_machine_that_is_full_is_told_from_damage(
    tmp_path: Path, limit: str, soft: int, while_: str, expected: type[IndexFailure]
) -> None:
    assert hasattr(resource, limit)
    with python(STARVED, str(tmp_path), IDENTITY, limit, str(soft), while_) as starved:
        said, _ = starved.communicate(timeout=60)
    assert said.startswith(f"{expected.__name__} index {tmp_path}: ")
    assert starved.returncode == 0
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        whole = -1 if index.checkpoint is None else int(index.checkpoint)
        assert dict(index.entries()) == {f"{n}-{i}": n for n in range(whole + 1) for i in range(100)}


# -- damage --------------------------------------------------------------------------------------------------------


def failure_in(call: Callable[[], object]) -> IndexFailure | None:
    try:
        call()
    except IndexFailure as failure:
        return failure
    return None


def damaged_states(path: Path) -> dict[str, bytes | None]:
    whole = path.read_bytes()
    states: dict[str, bytes | None] = {"missing": None, "empty": b"", "half": whole[: len(whole) // 2]}
    for position in range(0, len(whole), max(1, len(whole) // 5)):
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        states[f"bit {position}"] = bytes(flipped)
    return states


def exercise(directory: Path) -> None:
    """Read and write everything; whatever is found must be a prefix of what ``fill`` applied."""
    with VersionIndex.open(directory, identity=IDENTITY) as index:
        end = 0 if index.checkpoint is None else int(index.checkpoint) + 1
        keys = [f"account-{n}" for n in range(3000)]
        assert index.tails(keys) == [n if n < end else -1 for n in range(3000)]
        for n in range(0, 3000, 50):
            assert index.accepted([(event_id(n), keys[n])])[0] == (at(n) if n < end else None)
        assert dict(index.entries()) == {f"account-{n}": n for n in range(end)}
        apply_range(index, end, end + 100)
    with VersionIndex.open(directory, identity=IDENTITY) as index:
        assert index.checkpoint == str(end + 99).encode()


def test_damage_to_any_file_is_an_index_failure_or_costs_the_newest_batches_only(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    fill(original)
    damaged: set[str] = set()
    for path in sorted(original.iterdir()):
        for kind, content in damaged_states(path).items():
            shutil.copytree(original, copy)
            target = copy / path.name
            target.unlink() if content is None else target.write_bytes(content)
            failure = failure_in(lambda: exercise(copy))
            if failure is not None:
                assert isinstance(failure, IndexDamaged), (path.name, kind, failure)
                assert str(copy) in str(failure)
                damaged.add(f"{kind.split()[0]} {path.name.rstrip('0123456789') or path.name}")
            VersionIndex.destroy(copy)
            assert not copy.exists()
    for name in ("CURRENT", "MANIFEST-"):
        assert {f"missing {name}", f"empty {name}", f"half {name}", f"bit {name}"} <= damaged
    tables = sorted(path.name for path in original.glob("*.sst"))
    assert len(tables) >= 3
    assert {f"{kind} {name}" for name in tables for kind in ("missing", "empty", "half", "bit")} <= damaged


def test_a_bit_that_flips_while_the_index_is_open_is_found_when_it_is_read(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        apply_range(index, 0, 3000)
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        for path in tmp_path.glob("*.sst"):
            content = bytearray(path.read_bytes())
            for position in range(20, len(content) // 2, 512):
                content[position] ^= 1
            with path.open("r+b") as file:
                file.write(content)
        with pytest.raises(IndexDamaged, match=str(tmp_path)):
            index.tails([f"account-{n}" for n in range(3000)])
        with pytest.raises(IndexDamaged, match=str(tmp_path)):
            list(index.entries())
        with pytest.raises(IndexDamaged, match=str(tmp_path)):
            [index.accepted([(event_id(n), f"account-{n}")])[0] for n in range(3000)]


def test_a_damaged_index_can_be_rebuilt_while_its_failure_is_handled(tmp_path: Path) -> None:
    """A failure holds its traceback, and that the frames of the reading: none may hold the database."""
    with VersionIndex.open(tmp_path / "index", identity=IDENTITY) as index:
        apply_range(index, 0, 3000)
    index = VersionIndex.open(tmp_path / "index", identity=IDENTITY)
    for path in (tmp_path / "index").glob("*.sst"):
        with path.open("r+b") as file:
            file.write(b"damage")
    failures = [failure_in(lambda: list(index.entries())), failure_in(lambda: index.tails(["account-1"]))]
    assert [type(failure) for failure in failures] == [IndexDamaged, IndexDamaged]
    index.close()
    VersionIndex.destroy(tmp_path / "index")
    with VersionIndex.open(tmp_path / "index", identity=IDENTITY) as index:
        assert index.checkpoint is None


def test_a_crash_while_an_index_begins_leaves_one_that_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("create", "flush"):
        with monkeypatch.context() as patch:
            patch.setattr(Store, step, lambda *_: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                VersionIndex.open(tmp_path / step, identity=IDENTITY)
        with VersionIndex.open(tmp_path / step, identity=IDENTITY) as index:
            assert index.checkpoint is None
            assert families(index) == ["ids-1", "tails"]


@pytest.mark.parametrize("value", [b"", b"1234567", b"123456789", struct.pack("<q", -1), struct.pack("<q", -9)])
def test_a_value_that_is_no_version_names_its_key(tmp_path: Path, value: bytes) -> None:
    fill(tmp_path / "index", 100)

    def plant(db: Rdict) -> None:
        for name, key in (("tails", b"account-7"), ("ids-1", event_id(7) + b"account-7")):
            family = db.get_column_family(name)
            family[key] = value
            family.close()

    raw(tmp_path / "index", plant)
    with VersionIndex.open(tmp_path / "index", identity=IDENTITY) as index:
        assert index.tails(["account-6", "account-70", "no"]) == [6, 70, -1]
        with pytest.raises(IndexDamaged, match="account-7' is"):
            index.tails(["account-6", "account-7", "no"])
        with pytest.raises(IndexDamaged, match="account-7' is"):
            list(index.entries())
        with pytest.raises(IndexDamaged, match="account-7' is"):
            index.accepted([(event_id(7), "account-7")])[0]


def test_two_wrong_lengths_do_not_make_a_right_one(tmp_path: Path) -> None:
    fill(tmp_path / "index", 100)

    def plant(db: Rdict) -> None:
        family = db.get_column_family("tails")
        family[b"account-7"], family[b"account-8"] = b"1234567", b"123456789"
        family.close()

    raw(tmp_path / "index", plant)
    with VersionIndex.open(tmp_path / "index", identity=IDENTITY) as index, pytest.raises(IndexDamaged):
        index.tails(["account-7", "account-8"])


@pytest.mark.parametrize("family", ["tails", "ids-1", "ids-2"])
def test_a_missing_family_is_damage(tmp_path: Path, family: str) -> None:
    with VersionIndex.open(tmp_path / "index", identity=IDENTITY, limits=SMALL) as index:
        apply_range(index, 0, 200)
        assert families(index) == ["ids-1", "ids-2", "tails"]
    raw(tmp_path / "index", lambda db: db.drop_column_family(family))
    with pytest.raises(IndexDamaged, match=f"without the column family {family}"):
        VersionIndex.open(tmp_path / "index", identity=IDENTITY)


@pytest.mark.parametrize("release", [1, 3, 12])
def test_the_format_of_another_release_is_damage_and_so_rebuilt(tmp_path: Path, release: int) -> None:
    fill(tmp_path / "index", 100)
    row = f"pulsar-sequencer version index, format {release}\n{IDENTITY}".encode()
    raw(tmp_path / "index", lambda db: db.put(b"format", row))
    with pytest.raises(IndexDamaged, match=f"format {release}, this release writes 2"):
        VersionIndex.open(tmp_path / "index", identity=IDENTITY)
    with pytest.raises(IndexMismatch):
        VersionIndex.open(tmp_path / "index", identity="somebody else's")


def test_a_missing_state_is_damage(tmp_path: Path) -> None:
    fill(tmp_path / "index", 100)
    raw(tmp_path / "index", lambda db: db.delete(b"state"))
    with pytest.raises(IndexDamaged, match="state record is missing"):
        VersionIndex.open(tmp_path / "index", identity=IDENTITY)


# -- kill -9 -------------------------------------------------------------------------------------------------------

WRITER = """
    import sys
    from pathlib import Path
    from state import IndexLimits, VersionIndex
    limits = IndexLimits(write_buffer_bytes=512 * 1024, id_window_ms=1000, max_ids=4000)
    index = VersionIndex.open(Path(sys.argv[1]), identity=sys.argv[2], limits=limits)
    n = 0 if index.checkpoint is None else int(index.checkpoint) + 1
    print("writing", n, flush=True)
    while True:
        keys = [f"k{(n * 37 + i * i) % 997}" for i in range(100)]
        ids = [(n.to_bytes(8, "big") + i.to_bytes(8, "big"), key, n, n + 1) for i, key in enumerate(keys)]
        index.apply(dict.fromkeys(keys, n), ids, accepted_at_ms=n * 10, checkpoint=str(n).encode())
        n += 1
        print(n, flush=True)
"""


def test_a_process_killed_in_mid_write_leaves_whole_batches(tmp_path: Path) -> None:
    """Small buffers, so that flushes, merges and rotations are under way at the kills as well."""
    limits = IndexLimits(id_window_ms=1000, max_ids=4000)
    model: dict[str, int] = {}
    done = 0
    for kill in range(KILLS):
        with python(WRITER, str(tmp_path), IDENTITY) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == f"writing {done}\n"
            said = ""
            for _ in range(20 + kill * 13):
                said = writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            said = writer.stdout.read().rpartition("\n")[0].rpartition("\n")[2] or said
        with VersionIndex.open(tmp_path, identity=IDENTITY, limits=limits) as index:
            assert index.checkpoint is not None
            end = int(index.checkpoint) + 1
            assert end >= int(said)  # nothing that was applied is lost when only the process dies
            for n in range(done, end):
                model.update({f"k{(n * 37 + i * i) % 997}": n for i in range(100)})
            assert dict(index.entries()) == model
            for n in range(max(0, end - 20), end + 2):
                for i in (0, 50, 99):
                    row = n.to_bytes(8, "big") + i.to_bytes(8, "big")
                    found = index.accepted([(row, f"k{(n * 37 + i * i) % 997}")])[0]
                    assert found == ((n, n + 1) if n < end else None)
            done = end
    assert done > 500
