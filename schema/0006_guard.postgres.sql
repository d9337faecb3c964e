-- The master's tables can't be emptied by one statement, whoever sends it.
--
-- The service deletes a project or a session only after it has marked it so; the rows of others
-- keep the rest. A statement that leaves a table empty and had rows that nobody marked is a mistake
-- or an attack. Only a WHERE that finds a single row may take the last one.

CREATE FUNCTION refuse_to_empty() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    unmarked text := CASE TG_TABLE_NAME
        WHEN 'messages' THEN
            'SELECT FROM gone JOIN %1$I.sessions ON sessions.id = gone.session_id
            JOIN %1$I.projects ON projects.id = sessions.project_id
            WHERE NOT sessions.deleting AND projects.status = ''active'''
        WHEN 'sessions' THEN
            'SELECT FROM gone JOIN %1$I.projects ON projects.id = gone.project_id
            WHERE NOT gone.deleting AND projects.status = ''active'''
        WHEN 'projects' THEN 'SELECT FROM gone WHERE status = ''active'''
        ELSE 'SELECT FROM gone'
    END;
    emptied boolean;
BEGIN
    -- Rows that go with their project or session are judged with it.
    IF pg_trigger_depth() = 1 THEN
        EXECUTE format(
            'SELECT EXISTS (' || unmarked || ') AND NOT EXISTS (SELECT FROM %1$I.%2$I)',
            TG_TABLE_SCHEMA, TG_TABLE_NAME) INTO emptied;
        IF emptied AND (
            (SELECT count(*) FROM gone) > 1 OR current_query() !~* '\mwhere\M'
        ) THEN
            RAISE EXCEPTION 'one statement may not empty the table "%"', TG_TABLE_NAME
                USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION refuse_to_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the table "%" may not be truncated', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER keep_rows AFTER DELETE ON users REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_empty();
CREATE TRIGGER keep_rows AFTER DELETE ON projects REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_empty();
CREATE TRIGGER keep_rows AFTER DELETE ON sessions REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_empty();
CREATE TRIGGER keep_rows AFTER DELETE ON messages REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_empty();

CREATE TRIGGER keep_table BEFORE TRUNCATE ON users
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_truncate();
CREATE TRIGGER keep_table BEFORE TRUNCATE ON projects
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_truncate();
CREATE TRIGGER keep_table BEFORE TRUNCATE ON sessions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_truncate();
CREATE TRIGGER keep_table BEFORE TRUNCATE ON messages
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_truncate();
