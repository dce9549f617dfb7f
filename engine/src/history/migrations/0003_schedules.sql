CREATE TABLE schedules (
    id            INTEGER PRIMARY KEY,
    manifest_file TEXT NOT NULL UNIQUE, -- absolute
    manifest_path TEXT NOT NULL,        -- as shown
    slots         TEXT NOT NULL,        -- time zone and cron; a change of them is a new start
    since         TEXT NOT NULL         -- slots up to here are decided; RFC 3339, UTC
) STRICT;

CREATE TABLE ticks (
    schedule_id INTEGER NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    slot        TEXT NOT NULL,          -- RFC 3339, UTC, whole seconds
    state       TEXT NOT NULL,
    reason      TEXT,
    decided_at  TEXT NOT NULL,
    owner       TEXT,                   -- JSON, the scheduler that claimed it
    process     TEXT,                   -- JSON, the process that runs it
    stopped_at  TEXT,                   -- when its run was told to stop
    regression  TEXT,                   -- JSON, how its metrics compare with the last good run
    PRIMARY KEY (schedule_id, slot)
) STRICT, WITHOUT ROWID;
CREATE INDEX ticks_of_state ON ticks (schedule_id, state);

-- The last word on "at most one run a slot", whoever starts it.
CREATE UNIQUE INDEX runs_of_slot ON runs (manifest_file, "trigger") WHERE "trigger" LIKE '{"schedule":%';

-- What lists of runs and forecasts count, without a look at the rows themselves.
CREATE INDEX stage_runs_of_state ON stage_runs (run_id, state);
CREATE INDEX stage_runs_of_kind ON stage_runs (kind, id, work_s) WHERE state = 'ran';
