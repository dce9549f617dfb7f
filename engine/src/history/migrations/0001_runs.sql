CREATE TABLE runs (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    manifest      TEXT NOT NULL,
    manifest_file TEXT NOT NULL,   -- absolute
    manifest_path TEXT NOT NULL,   -- as shown
    manifest_text TEXT NOT NULL,
    overrides     TEXT NOT NULL,   -- JSON array of strings
    seed          TEXT NOT NULL,   -- unsigned 64 bits do not fit INTEGER
    device        TEXT NOT NULL,
    state         TEXT NOT NULL,
    pid           INTEGER NOT NULL,
    started_at    TEXT NOT NULL,   -- RFC 3339, UTC
    duration_s    REAL
) STRICT;
CREATE INDEX runs_of_manifest ON runs (manifest_file, id);

CREATE TABLE environment (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,          -- JSON
    PRIMARY KEY (run_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE sources (
    run_id     INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    origin     TEXT NOT NULL,
    digest     TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (run_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE stage_runs (
    id           INTEGER PRIMARY KEY,
    run_id       INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    position     INTEGER NOT NULL,
    name         TEXT NOT NULL,
    kind         TEXT NOT NULL,
    state        TEXT NOT NULL,
    reason       TEXT NOT NULL,
    key          TEXT,
    key_document TEXT,             -- JSON
    started_at   TEXT,
    duration_s   REAL,
    work_s       REAL,
    origin_run   INTEGER,
    threads      INTEGER,
    log_path     TEXT,
    error        TEXT,
    UNIQUE (run_id, name)
) STRICT;
CREATE INDEX stage_runs_of_key ON stage_runs (key, id);

CREATE TABLE attempts (
    stage_run_id INTEGER NOT NULL REFERENCES stage_runs (id) ON DELETE CASCADE,
    number       INTEGER NOT NULL,
    started_at   TEXT NOT NULL,
    duration_s   REAL,
    outcome      TEXT NOT NULL,
    error        TEXT,
    PRIMARY KEY (stage_run_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE params (
    stage_run_id INTEGER NOT NULL REFERENCES stage_runs (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    value        TEXT NOT NULL,    -- JSON
    PRIMARY KEY (stage_run_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE metrics (
    stage_run_id INTEGER NOT NULL REFERENCES stage_runs (id) ON DELETE CASCADE,
    position     INTEGER NOT NULL,
    name         TEXT NOT NULL,
    value        REAL NOT NULL,
    unit         TEXT NOT NULL,
    split        TEXT,
    samples      INTEGER,
    low          REAL,
    high         REAL,
    PRIMARY KEY (stage_run_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX metrics_of_name ON metrics (name);

CREATE TABLE unavailable (
    stage_run_id INTEGER NOT NULL REFERENCES stage_runs (id) ON DELETE CASCADE,
    position     INTEGER NOT NULL,
    name         TEXT NOT NULL,
    reason       TEXT NOT NULL,
    PRIMARY KEY (stage_run_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE series (
    stage_run_id INTEGER NOT NULL REFERENCES stage_runs (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    step         INTEGER NOT NULL,
    value        REAL,             -- NULL where it was not finite
    PRIMARY KEY (stage_run_id, name, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    stage_run_id INTEGER NOT NULL REFERENCES stage_runs (id) ON DELETE CASCADE,
    port         TEXT NOT NULL,
    kind         TEXT NOT NULL,
    form         TEXT NOT NULL,    -- blob or tree
    digest       TEXT NOT NULL,
    size_bytes   INTEGER NOT NULL,
    PRIMARY KEY (stage_run_id, port)
) STRICT, WITHOUT ROWID;

CREATE TABLE lineage (
    stage_run_id INTEGER NOT NULL REFERENCES stage_runs (id) ON DELETE CASCADE,
    port         TEXT NOT NULL,
    source       TEXT NOT NULL,    -- STAGE.PORT, data.NAME or models.NAME
    digest       TEXT,
    PRIMARY KEY (stage_run_id, port)
) STRICT, WITHOUT ROWID;

CREATE TABLE gates (
    stage_run_id INTEGER NOT NULL REFERENCES stage_runs (id) ON DELETE CASCADE,
    position     INTEGER NOT NULL,
    gate         TEXT NOT NULL,
    metric       TEXT,
    bound        REAL NOT NULL,
    value        REAL,
    passed       INTEGER NOT NULL,
    PRIMARY KEY (stage_run_id, position)
) STRICT, WITHOUT ROWID;
