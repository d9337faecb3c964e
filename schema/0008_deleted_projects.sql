-- What a deletion keeps until it can't be undone any more. Each table has the columns of the one
-- that it is named after, in their order: a step that adds one there adds it here as well. The ids
-- are those that the other table gave; no foreign key binds what is no longer there.

-- `status`: deleting (its database is still under its own name), emptying (its rows are on their
-- way here), deleted (all of it is here), restoring, purging. `kept_name`: its database's name
-- meanwhile, NULL where there is none.
CREATE TABLE deleted_projects (
    id BIGINT NOT NULL PRIMARY KEY,
    user_id BIGINT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    project_type_id BIGINT,
    db_name TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('deleting', 'emptying', 'deleted', 'restoring', 'purging')),
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    deleted_at TIMESTAMPTZ NOT NULL,
    due_at TIMESTAMPTZ NOT NULL,
    kept_name TEXT UNIQUE
);
CREATE INDEX deleted_projects_user ON deleted_projects (user_id, deleted_at, id);
CREATE INDEX deleted_projects_due ON deleted_projects (due_at);

CREATE TABLE deleted_sessions (
    id BIGINT NOT NULL PRIMARY KEY,
    user_id BIGINT NOT NULL,
    project_id BIGINT NOT NULL,
    session_key TEXT NOT NULL,
    title TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    forked BOOLEAN NOT NULL,
    deleting BOOLEAN NOT NULL
);
CREATE INDEX deleted_sessions_project ON deleted_sessions (project_id);

CREATE TABLE deleted_messages (
    id BIGINT NOT NULL PRIMARY KEY,
    user_id BIGINT NOT NULL,
    session_id BIGINT NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    status TEXT NOT NULL,
    error TEXT,
    model TEXT,
    prompt_tokens BIGINT,
    completion_tokens BIGINT,
    created_at TIMESTAMPTZ NOT NULL,
    worker_id TEXT,
    stop_requested BOOLEAN NOT NULL,
    error_code TEXT,
    forked BOOLEAN NOT NULL,
    parent_id BIGINT
);
CREATE INDEX deleted_messages_session ON deleted_messages (session_id);

CREATE TABLE deleted_images (
    id BIGINT NOT NULL PRIMARY KEY,
    user_id BIGINT NOT NULL,
    message_id BIGINT NOT NULL,
    media_type TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    data BYTEA NOT NULL
);
CREATE INDEX deleted_images_message ON deleted_images (message_id);

CREATE TABLE deleted_imported_sessions (
    session_id BIGINT NOT NULL PRIMARY KEY,
    user_id BIGINT NOT NULL,
    source TEXT NOT NULL,
    source_id TEXT NOT NULL,
    title TEXT,
    starred BOOLEAN NOT NULL,
    metadata TEXT NOT NULL,
    imported_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE deleted_imported_messages (
    session_id BIGINT NOT NULL,
    source_id TEXT NOT NULL,
    user_id BIGINT NOT NULL,
    message_id BIGINT,
    digest TEXT NOT NULL,
    metadata TEXT,
    PRIMARY KEY (session_id, source_id)
);
CREATE INDEX deleted_imported_messages_message ON deleted_imported_messages (message_id);
