"""The tables of the database, and the steps from older formats."""

import sqlite3
from pathlib import Path

from metanas_server.errors import StartError

FORMAT = 5

# Columns are searched; all other fields are JSON in `body`. `loose` lists the files that may exist
# without a record: those that are being written, and those that are being deleted.
SCHEMA = """
CREATE TABLE adaptations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL,
    request_id TEXT NOT NULL,
    support TEXT NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL,
    last_progress TEXT NOT NULL DEFAULT 'null',
    progress TEXT NOT NULL DEFAULT '[]'
);
CREATE UNIQUE INDEX adaptation_request ON adaptations (owner, request_id)
    WHERE request_id <> '' AND state <> 'cancelled';
CREATE INDEX adaptation_owner ON adaptations (owner);
CREATE INDEX adaptation_ended ON adaptations (ended);
CREATE TABLE models (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL DEFAULT '',
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL DEFAULT 0,
    used INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL
);
CREATE INDEX model_owner ON models (owner);
CREATE INDEX model_used ON models (used);
CREATE TABLE loose (digest TEXT PRIMARY KEY) WITHOUT ROWID;
"""
STEPS = {
    2: """
ALTER TABLE adaptations ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE models ADD COLUMN owner TEXT NOT NULL DEFAULT '';
DROP INDEX adaptation_request;
CREATE UNIQUE INDEX adaptation_request ON adaptations (owner, request_id)
    WHERE request_id <> '' AND state <> 'cancelled';
CREATE INDEX adaptation_owner ON adaptations (owner);
CREATE INDEX model_owner ON models (owner);
""",
    3: """
ALTER TABLE adaptations ADD COLUMN last_progress TEXT NOT NULL DEFAULT 'null';
UPDATE adaptations SET last_progress = json_extract(progress, '$[#-1]') WHERE progress <> '[]';
CREATE TABLE loose (digest TEXT PRIMARY KEY) WITHOUT ROWID;
""",
    4: """
ALTER TABLE adaptations ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;
UPDATE adaptations SET ended = json_extract(body, '$.end_time');
CREATE INDEX adaptation_ended ON adaptations (ended);
ALTER TABLE models ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
UPDATE models SET size = json_extract(body, '$.size_bytes'),
    used = json_extract(body, '$.create_time');
CREATE INDEX model_used ON models (used);
""",
}
"""For each older format, the step to the next one. A step keeps the rows."""


def prepare(database: sqlite3.Connection, path: Path) -> None:
    """Create the tables, or bring those of an older format up to date; then check the file.

    Raises:
        StartError: DATA_NOT_WRITABLE, the database has another format.
        sqlite3.Error: it is damaged, or of another program.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        _run(database, SCHEMA, FORMAT)
    elif version in STEPS:
        for step in range(version, FORMAT):
            _run(database, STEPS[step], step + 1)
    elif version != FORMAT:
        message = (
            f"the database {path} has format {version}, and this server reads {FORMAT};"
            " use the release that wrote it or another --data"
        )
        raise StartError("DATA_NOT_WRITABLE", message)
    (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise sqlite3.DatabaseError("the file is damaged")
    database.execute("SELECT support, sha256, digest FROM adaptations, models, loose LIMIT 1")


def _run(database: sqlite3.Connection, script: str, version: int) -> None:
    """Run a script and set the version of the database, both or neither."""
    script = f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {version}; COMMIT;"
    database.executescript(script)
