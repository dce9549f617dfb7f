-- Numbers of processes are used again, in containers at once; what else is known of one tells whose it is.
ALTER TABLE runs DROP COLUMN pid;
ALTER TABLE runs ADD COLUMN process TEXT;           -- JSON, the process that runs it
ALTER TABLE sweeps DROP COLUMN pid;
ALTER TABLE sweeps ADD COLUMN process TEXT;         -- as for runs
ALTER TABLE sweep_sessions DROP COLUMN pid;
ALTER TABLE sweep_sessions ADD COLUMN process TEXT; -- as for runs
