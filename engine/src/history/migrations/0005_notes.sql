CREATE TABLE notes (
    id      INTEGER PRIMARY KEY,
    run_id  INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    at      TEXT NOT NULL,         -- RFC 3339, UTC
    author  TEXT NOT NULL,
    verdict TEXT CHECK (verdict IN ('approved', 'rejected')),
    text    TEXT NOT NULL
) STRICT;
CREATE INDEX notes_of_run ON notes (run_id, id);

-- Lists of runs look for these without reading the manifests' texts.
CREATE INDEX runs_running ON runs (id) WHERE state = 'running';
CREATE INDEX runs_of_name ON runs (manifest, id);
