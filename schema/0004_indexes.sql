-- Indexes for what runs often: mending and tidying up every minute, and looking up by name.

CREATE INDEX projects_unfinished ON projects (id) WHERE status <> 'active';
CREATE INDEX projects_name ON projects (name);
CREATE INDEX auth_attempts_at ON auth_attempts (at);
CREATE INDEX auth_tokens_expires ON auth_tokens (expires_at);
