-- The master's tables can't be emptied by one statement, as 0006_guard.postgres.sql says.
--
-- SQLite's triggers see one row after the other: the last one of a table stays, and with it all
-- that the statement has deleted.

CREATE TRIGGER users_keep_rows BEFORE DELETE ON users
WHEN NOT EXISTS (SELECT 1 FROM users WHERE id <> OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'one statement may not empty the table "users"');
END;

CREATE TRIGGER projects_keep_rows BEFORE DELETE ON projects
WHEN OLD.status = 'active' AND NOT EXISTS (SELECT 1 FROM projects WHERE id <> OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'one statement may not empty the table "projects"');
END;

CREATE TRIGGER sessions_keep_rows BEFORE DELETE ON sessions
WHEN NOT OLD.deleting AND NOT EXISTS (SELECT 1 FROM sessions WHERE id <> OLD.id)
    AND EXISTS (SELECT 1 FROM projects WHERE id = OLD.project_id AND status = 'active')
BEGIN
    SELECT RAISE(ABORT, 'one statement may not empty the table "sessions"');
END;

CREATE TRIGGER messages_keep_rows BEFORE DELETE ON messages
WHEN NOT EXISTS (SELECT 1 FROM messages WHERE id <> OLD.id)
    AND EXISTS (
        SELECT 1 FROM sessions JOIN projects ON projects.id = sessions.project_id
        WHERE sessions.id = OLD.session_id AND NOT sessions.deleting
            AND projects.status = 'active')
BEGIN
    SELECT RAISE(ABORT, 'one statement may not empty the table "messages"');
END;
