"""The backup procedure of docs/operations.md, run while the database is in use."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from inference_server.database import Database
from inference_server.jobs import JobRepository
from inference_server.settings import Settings
from tests.jobs.submitting import submit

ROOT = Path(__file__).parents[2]


def test_a_backup_has_the_jobs(tmp_path: Path) -> None:
    text = (ROOT / "docs/operations.md").read_text()
    mark = f"<!-- tested by: {Path(__file__).relative_to(ROOT)} -->"
    fence = rf'{mark}\n```bash(?: title="[^"\n]+")?\n(.*?)^```$'
    block = re.search(fence, text, re.MULTILINE | re.DOTALL)
    assert block
    data, restored = tmp_path / "data", tmp_path / "restored"
    database = Database(data)
    store = JobRepository(database, Settings())
    job = submit(store, "alice", "double", b'{"number": 1}')
    environment = {**os.environ, "INFERENCE_DATA_DIR": str(data)}
    subprocess.run(["bash", "-euc", block[1]], cwd=tmp_path, env=environment, check=True)
    submit(store, "alice", "double", b'{"number": 2}')  # after the backup
    database.close()

    restored.mkdir()
    (tmp_path / "backup.sqlite").rename(restored / "jobs.sqlite")
    database = Database(restored)
    store = JobRepository(database, Settings())
    claim = store.claim("worker", ["double"])
    assert claim is not None
    assert (claim.lease.job_id, claim.payload) == (job, b'{"number": 1}')
    assert store.claim("worker", ["double"]) is None
    database.close()
