#!/usr/bin/env bash
# Starts a second instance beside production: on port 8001, with databases of its own, and again
# whenever a file changes. Settings that are in the environment already are kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

export APP_ENV=${APP_ENV:-development}
export PORT=${PORT:-8001}
export DB_PATH=${DB_PATH:-clawdbot_adapter_dev.db}
export PROJECT_DB_DIR=${PROJECT_DB_DIR:-$(dirname "$DB_PATH")/project_databases_dev}
export DB_NAME=${DB_NAME:-dreampilot_dev}
# An .env.postgres in this folder may be production's: only the environment asks for PostgreSQL.
if [[ -z ${DB_HOST-}${DATABASE_URL-}${DATABASE_URL_FILE-} ]]; then
    export USE_POSTGRES=${USE_POSTGRES:-false}
fi

exec ./start-backend.sh --reload "$@"
