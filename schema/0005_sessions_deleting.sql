-- A session that is being deleted is gone for everybody at once; its messages go in batches.

ALTER TABLE sessions ADD COLUMN deleting BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX sessions_deleting ON sessions (id) WHERE deleting;
