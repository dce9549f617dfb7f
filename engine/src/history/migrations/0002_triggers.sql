ALTER TABLE runs ADD COLUMN "trigger" TEXT NOT NULL DEFAULT '"manual"';  -- JSON, what started it
