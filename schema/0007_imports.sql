-- Where imported conversations came from, and what of them has no place in the other tables.

CREATE TABLE imported_sessions (
    session_id BIGINT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    user_id BIGINT NOT NULL REFERENCES users (id),
    source TEXT NOT NULL,
    source_id TEXT NOT NULL,
    title TEXT,
    starred BOOLEAN NOT NULL,
    metadata TEXT NOT NULL,
    imported_at TIMESTAMPTZ NOT NULL,
    UNIQUE (user_id, source, source_id)
);

-- One row for each message of the source; `message_id` is NULL for those that are kept but not
-- shown, such as calls of tools. `digest` tells whether the source has changed it since.
CREATE TABLE imported_messages (
    session_id BIGINT NOT NULL REFERENCES imported_sessions (session_id) ON DELETE CASCADE,
    source_id TEXT NOT NULL,
    user_id BIGINT NOT NULL REFERENCES users (id),
    message_id BIGINT REFERENCES messages (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    metadata TEXT,
    PRIMARY KEY (session_id, source_id)
);
CREATE INDEX imported_messages_message ON imported_messages (message_id);

-- What belongs to the user and to no conversation, such as a profile.
CREATE TABLE imported_records (
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    source TEXT NOT NULL,
    kind TEXT NOT NULL,
    source_id TEXT NOT NULL,
    content TEXT NOT NULL,
    imported_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, source, kind, source_id)
);
