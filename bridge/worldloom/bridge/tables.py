"""The tables of a store's journal."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL, engine TEXT NOT NULL,
  request_hash TEXT NOT NULL, request_json TEXT NOT NULL, parent TEXT NOT NULL,
  state TEXT NOT NULL, cancel_requested INTEGER NOT NULL DEFAULT 0,
  error_code TEXT NOT NULL DEFAULT '', error_text TEXT NOT NULL DEFAULT '',
  error_field TEXT NOT NULL DEFAULT '', created_unix_s REAL NOT NULL,
  engine_key TEXT NOT NULL DEFAULT '', priority INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS events (
  job TEXT NOT NULL, seq INTEGER NOT NULL, at_unix_s REAL NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (job, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
  owner TEXT NOT NULL, request_id TEXT NOT NULL, content TEXT NOT NULL, job TEXT NOT NULL,
  PRIMARY KEY (owner, request_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blob_owners (
  owner TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (owner, sha256)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_by_blob ON events (json_extract(body, '$.sha256'), job)
  WHERE json_extract(body, '$.type') = 'artifact';
CREATE INDEX IF NOT EXISTS jobs_by_request ON jobs (owner, request_hash);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE INDEX IF NOT EXISTS blob_owners_by_blob ON blob_owners (sha256);
"""
LATER_COLUMNS = {
    "jobs": {
        "engine_key": "TEXT NOT NULL DEFAULT ''",
        "priority": "INTEGER NOT NULL DEFAULT 0",
    },
    "blob_owners": {"bytes": "INTEGER NOT NULL DEFAULT 0"},
}
"""Columns by table that older stores lack."""
ARTIFACT = "json_extract(body, '$.type') = 'artifact'"
NAMES_BLOB = f"{ARTIFACT} AND json_extract(body, '$.sha256') = ?"
"""Condition on events that the index `events_by_blob` answers."""
