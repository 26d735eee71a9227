"""The token store among processes: killed at any moment, refreshing at the same time, without space or permission."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from rotating_server import RotatingServer, rotating_server
from store_samples import KEY, number_of, record

from moltis.oauth.store import TokenStore, fingerprint

pytestmark = pytest.mark.e2e

WORKER = Path(__file__).with_name("store_worker.py")


@contextmanager
def worker(*arguments: str | Path, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run a worker for as long as the block lasts."""
    argv = [*prefix, sys.executable, str(WORKER), *map(str, arguments)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def output_of(*arguments: str | Path, prefix: tuple[str, ...] = ()) -> list[Any]:
    """Run a worker to its end and give the JSON of each line it printed."""
    with worker(*arguments, prefix=prefix) as process:
        out, _ = process.communicate()
        assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "oauth")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "oauth"


# --- killed


def test_a_writer_killed_at_any_moment_leaves_a_whole_login_and_knows_what_it_had_begun(
    store: TokenStore, folder: Path
) -> None:
    store.save(record(1))
    chance = random.Random(1)
    last = 1
    seen = {"half a file": 0, "a refresh begun": 0, "a refresh over": 0}
    with worker("forks", folder) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        longest, until = 0.02, time.monotonic() + 3 * PATIENCE
        for number in itertools.count():
            if number >= 100 and last > 1 and all(seen.values()):
                break
            assert time.monotonic() < until, (last, seen)
            process.stdin.write("go\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            time.sleep(chance.uniform(0, longest))
            longest = min(1.0, longest * 1.02)  # on a busy machine it takes its time to get anywhere
            os.kill(pid, signal.SIGKILL)
            assert process.stdout.readline() == "dead\n"

            now = number_of(store.load(KEY))
            assert now >= last
            last = now
            begun = store.interrupted(KEY)
            # Of the token on disk, or of the one before it, which counts for nothing any more.
            assert begun in {None, fingerprint(f"refresh-canary-{now}"), fingerprint(f"refresh-canary-{now - 1}")}
            seen["a refresh begun"] += begun == fingerprint(f"refresh-canary-{now}")
            seen["a refresh over"] += begun != fingerprint(f"refresh-canary-{now}")
            seen["half a file"] += any(name.endswith(".tmp") for name in os.listdir(folder))
            assert len(os.listdir(folder)) <= 4, "what the killed ones leave does not pile up"
    store.save(record(last + 1))
    assert len(os.listdir(folder)) == 2


def test_a_refresh_token_that_a_killed_process_may_have_used_is_known_to_the_next(
    store: TokenStore, folder: Path
) -> None:
    store.save(record(1))
    with rotating_server() as server:
        server.may_answer.clear()
        with worker("refreshes", folder, server.token_endpoint, "1") as process:
            assert server.arrived.wait(PATIENCE)
            process.kill()
        assert server.number == 2
    assert store.load(KEY) == record(1)
    assert store.interrupted(KEY) == fingerprint("refresh-canary-1")


def test_a_killed_process_frees_the_lock(store: TokenStore, folder: Path) -> None:
    store.save(record(1))
    with rotating_server() as server:
        server.may_answer.clear()
        with worker("refreshes", folder, server.token_endpoint, "1") as process:
            assert server.arrived.wait(PATIENCE)
            process.kill()
        # Its request is still being answered; the store's part is over.
        store.save(record(server.number))
        server.may_answer.set()
        assert output_of("refreshes", folder, server.token_endpoint, "3")[0] >= 2
        assert server.reuses == 0


# --- at the same time


def test_eight_processes_never_present_a_refresh_token_twice(store: TokenStore, folder: Path) -> None:
    rounds = 10
    store.save(record(1))
    with rotating_server() as server:
        arguments = ("refreshes", folder, server.token_endpoint, str(rounds))
        argv = [sys.executable, str(WORKER), *map(str, arguments)]
        running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(8)]
        refreshed = []
        for process in running:
            out, _ = process.communicate()
            assert process.returncode == 0
            refreshed.append(int(out))
        assert server.reuses == 0
        assert sum(refreshed) == server.number - 1
        assert number_of(store.load(KEY)) == server.number
        assert rounds <= sum(refreshed) < 8 * rounds, "and they have used each other's"
        assert store.interrupted(KEY) is None


def test_the_server_of_these_tests_would_notice() -> None:
    server = RotatingServer()
    with server:
        assert server.take("refresh-canary-1")[0] == 200
        assert server.take("refresh-canary-1")[0] == 400
        assert server.reuses == 1
        assert server.take("refresh-canary-2")[0] == 400, "the grant is gone"


# --- without space or permission


def test_a_limit_on_the_size_of_files_is_an_error_and_no_damage(store: TokenStore, folder: Path) -> None:
    store.save(record(1))
    [told] = output_of("limited", folder)
    assert "File too large" in told["problem"]
    assert told["kept"] == 1
    assert [name for name in told["files"] if name.endswith(".tmp")] == []


def test_a_read_only_folder_is_an_error_and_no_damage(store: TokenStore, folder: Path) -> None:
    store.save(record(1))
    [told] = output_of("read_only", folder)
    assert "Permission denied" in told["problem"]
    assert told["kept"] == 1


def may_mount() -> bool:
    return shutil.which("unshare") is not None and (
        subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not may_mount(), reason="a small disk of one's own takes Linux's user namespaces")
def test_a_full_disk_is_an_error_and_no_damage(folder: Path) -> None:
    folder.mkdir()
    told, after = output_of("full", folder, prefix=("unshare", "-Urm"))
    assert "No space left" in told["problem"]
    assert told["kept"] == 1
    assert [name for name in told["files"] if name.endswith(".tmp")] == []
    assert after == 2
