-- What a purge that was broken off has left, looked for each minute among all that is kept.

CREATE INDEX deleted_projects_purging ON deleted_projects (id) WHERE status = 'purging';
