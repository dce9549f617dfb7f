CREATE TABLE sweeps (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    identity      TEXT NOT NULL UNIQUE, -- digest of the manifest's content and of what is searched
    manifest      TEXT NOT NULL,
    manifest_file TEXT NOT NULL,        -- absolute
    manifest_path TEXT NOT NULL,        -- as shown
    manifest_text TEXT NOT NULL,
    spec          TEXT NOT NULL,        -- JSON, the `[sweep]` table with defaults
    seed          TEXT NOT NULL,        -- of the sampler
    seeds         TEXT NOT NULL,        -- JSON array, of the trials
    asked         INTEGER NOT NULL,
    state         TEXT NOT NULL,
    pid           INTEGER NOT NULL,
    started_at    TEXT NOT NULL,        -- RFC 3339, UTC
    duration_s    REAL NOT NULL         -- of all its sessions
) STRICT;
CREATE INDEX sweeps_of_manifest ON sweeps (manifest_file, id);

CREATE TABLE trials (
    sweep_id   INTEGER NOT NULL REFERENCES sweeps (id) ON DELETE CASCADE,
    number     INTEGER NOT NULL,
    identity   TEXT NOT NULL,           -- digest of the parameters
    params     TEXT NOT NULL,           -- JSON object by path in the manifest
    sampler    TEXT NOT NULL,           -- JSON, what the parameters were drawn from
    state      TEXT NOT NULL,
    rung       INTEGER,                 -- rung it is at work for or held at; NULL for its full time
    objectives TEXT,                    -- JSON array, means over the seeds, in their own directions
    violation  REAL,
    error      TEXT,
    PRIMARY KEY (sweep_id, number),
    UNIQUE (sweep_id, identity)
) STRICT, WITHOUT ROWID;

CREATE TABLE trial_runs (
    sweep_id    INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    seed        TEXT NOT NULL,
    run_id      INTEGER NOT NULL,
    done        INTEGER NOT NULL,
    objectives  TEXT NOT NULL,          -- JSON array, in their own directions
    constraints TEXT NOT NULL,          -- JSON array of measured values
    PRIMARY KEY (sweep_id, number, seed),
    FOREIGN KEY (sweep_id, number) REFERENCES trials (sweep_id, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE rungs (
    sweep_id INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    rung     INTEGER NOT NULL,
    seed     TEXT NOT NULL,
    epochs   INTEGER NOT NULL,
    reached  TEXT NOT NULL,             -- JSON array, watched series, in their own directions
    PRIMARY KEY (sweep_id, number, rung, seed),
    FOREIGN KEY (sweep_id, number) REFERENCES trials (sweep_id, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
