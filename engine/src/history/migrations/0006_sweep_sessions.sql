CREATE TABLE sweep_sessions (
    id            INTEGER PRIMARY KEY,
    sweep_id      INTEGER NOT NULL REFERENCES sweeps (id) ON DELETE CASCADE,
    manifest_file TEXT NOT NULL,        -- absolute
    "trigger"     TEXT NOT NULL,        -- JSON, what started it
    state         TEXT NOT NULL,
    pid           INTEGER NOT NULL,
    started_at    TEXT NOT NULL,        -- RFC 3339, UTC
    duration_s    REAL
) STRICT;
CREATE INDEX sweep_sessions_of_sweep ON sweep_sessions (sweep_id, id);

-- As for runs: at most one session a slot, whoever starts it.
CREATE UNIQUE INDEX sweep_sessions_of_slot ON sweep_sessions (manifest_file, "trigger") WHERE "trigger" LIKE '{"schedule":%';
