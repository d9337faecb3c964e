-- What generations need to outlive connections and processes.

-- A process that generates answers; `beat` grows while it lives, `process` says which it is.
CREATE TABLE workers (
    id TEXT PRIMARY KEY,
    beat BIGINT NOT NULL,
    process TEXT
);

ALTER TABLE messages ADD COLUMN worker_id TEXT;
ALTER TABLE messages ADD COLUMN stop_requested BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE messages ADD COLUMN error_code TEXT;

-- A message follows the one before it in its session, unless it is `forked`: then it follows
-- `parent_id`, or begins the conversation anew where that is NULL.
ALTER TABLE messages ADD COLUMN forked BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE messages ADD COLUMN parent_id BIGINT;
ALTER TABLE sessions ADD COLUMN forked BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX messages_forked ON messages (session_id, id) WHERE forked;

-- One generation per session at a time.
UPDATE messages SET status = 'interrupted', error = 'The answer was broken off.'
WHERE status = 'streaming';
CREATE UNIQUE INDEX messages_streaming ON messages (session_id) WHERE status = 'streaming';

-- The same key sent again within a day gets the same messages.
CREATE TABLE idempotency_keys (
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    user_message_id BIGINT REFERENCES messages (id) ON DELETE CASCADE,
    message_id BIGINT REFERENCES messages (id) ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
CREATE INDEX idempotency_keys_user_message ON idempotency_keys (user_message_id);
CREATE INDEX idempotency_keys_message ON idempotency_keys (message_id);
