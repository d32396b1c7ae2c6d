#!/usr/bin/env python3
"""A stand-in orchestrator with a task_history of its own, as it is after bookend has adopted its database.

  dispatcher.py FILE init              make the database, with two tasks that ended long ago
  dispatcher.py FILE add ISSUE PROMPT  queue a prompt
  dispatcher.py FILE work              settle what was lost, then dispatch what is queued
"""

import sqlite3
import subprocess
import sys
import uuid

REPO, PERSONA = "charles/claude-hooks", "dev"

SCHEMA = """
CREATE TABLE task_history (
    id TEXT PRIMARY KEY,
    repo TEXT NOT NULL,
    issue_number INTEGER NOT NULL,
    agent TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('success', 'failure', 'cancelled', 'interrupted')),
    started_at TEXT NOT NULL,
    finished_at TEXT NOT NULL,
    cost_usd REAL NOT NULL DEFAULT 0,
    turns INTEGER NOT NULL,
    artifacts TEXT NOT NULL DEFAULT '[]');
CREATE TABLE claude_sdk_sessions (
    key TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    last_used_at TEXT NOT NULL);
CREATE TABLE queue (
    n INTEGER PRIMARY KEY,
    issue_number INTEGER NOT NULL,
    prompt TEXT NOT NULL,
    task_id TEXT,
    state TEXT NOT NULL DEFAULT 'queued');
"""


class Dispatcher:
    def __init__(self, file):
        self.file = file
        # Commit each statement at once. Another writer is a reason to wait, not to fail.
        self.db = sqlite3.connect(file, timeout=30, isolation_level=None)

    def init(self):
        self.db.executescript(SCHEMA)
        self.record_own_work("old-1", "success", "2026-01-01T00:00:00+00:00")
        self.record_own_work("old-2", "failure", "2026-01-02T00:00:00+00:00")

    def record_own_work(self, task, status, at):
        """A task that ran without bookend: the dispatcher's own INSERT at its end, as it always was."""
        self.db.execute(
            "INSERT INTO task_history (id, repo, issue_number, agent, status, started_at, finished_at, turns)"
            " VALUES (?, ?, 1, ?, ?, ?, ?, 0)",
            (task, REPO, PERSONA, status, at, at),
        )

    def add(self, issue, prompt):
        self.db.execute("INSERT INTO queue (issue_number, prompt) VALUES (?, ?)", (issue, prompt))

    def bookend(self, *words):
        return subprocess.run(["bookend", "--ledger", self.file, *words], stdin=subprocess.DEVNULL).returncode

    def work(self):
        self.bookend("recover")
        self.queue_again_what_was_interrupted()
        while item := self.db.execute(
            "SELECT n, issue_number, prompt FROM queue WHERE state = 'queued' ORDER BY n"
        ).fetchone():
            self.dispatch(*item)

    def queue_again_what_was_interrupted(self):
        self.db.execute(
            "UPDATE queue SET state = 'queued' WHERE state = 'dispatched'"
            " AND task_id IN (SELECT id FROM task_history WHERE status = 'interrupted')"
        )

    def dispatch(self, n, issue, prompt):
        # The id is chosen and committed first: whatever happens next, the row is found by it.
        task = str(uuid.uuid4())
        self.db.execute("UPDATE queue SET state = 'dispatched', task_id = ? WHERE n = ?", (task, n))
        agent = ["claude", "-p", prompt, "--output-format", "stream-json", "--verbose"]
        about = ["--id", task, "--repo", REPO, "--issue", str(issue), "--agent", PERSONA]
        code = self.bookend("run", *about, "--", *agent)
        row = self.db.execute("SELECT status FROM task_history WHERE id = ?", (task,)).fetchone()
        # Without a row nothing was executed: 75 says that the key is held, so the prompt waits.
        state = row[0] if row else "busy" if code == 75 else "refused"
        self.db.execute("UPDATE queue SET state = ? WHERE n = ?", (state, n))


if __name__ == "__main__":
    _, file, action, *words = sys.argv
    getattr(Dispatcher(file), action)(*words)
