-- One row once a service with APP_ENV=production has started on this database: development keeps
-- away from it then.
CREATE TABLE environment (
    name TEXT PRIMARY KEY CHECK (name = 'production'),
    marked_at TIMESTAMPTZ NOT NULL
);
