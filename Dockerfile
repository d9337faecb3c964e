# The service in an image; docker-compose.yml runs it, docs/deployment.md says how. Newer patch
# levels of Python come when its tag is changed, here alone.
ARG PYTHON=python:3.13.9-slim-trixie

FROM ${PYTHON} AS packages
WORKDIR /app
ENV PIP_NO_CACHE_DIR=1
COPY requirements.lock ./
COPY scripts/venv scripts/venv
# Every file checked by its hash.
RUN scripts/venv requirements.lock

FROM ${PYTHON}
WORKDIR /app
# pg_dump and pg_restore, for ./clawd backup: not older than the server of docker-compose.yml.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /app/venv venv
COPY requirements.lock .env.postgres.example clawd start-backend.sh ./
COPY scripts/venv scripts/monitor.sh scripts/
COPY app.py database.py database_adapter.py database_postgres.py migrate_to_postgres.py ./
COPY schema schema
COPY server server
# What runs may read all of it and write nothing; its data are in a volume.
RUN venv/bin/python -m compileall -q server ./*.py \
    && install -d -o 10001 -g 10001 -m 750 /var/lib/clawd-backend
USER 10001:10001
VOLUME /var/lib/clawd-backend
ENV APP_ENV=production \
    HOST=0.0.0.0 \
    PORT=8002 \
    DB_PATH=/var/lib/clawd-backend/clawdbot_adapter.db \
    BACKUP_DIR=/var/lib/clawd-backend/backups \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
EXPOSE 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8002/health/ready', timeout=4)"]
# No shell between, so that SIGTERM arrives: running answers get SHUTDOWN_GRACE.
STOPSIGNAL SIGTERM
CMD ["venv/bin/python", "-m", "server"]
