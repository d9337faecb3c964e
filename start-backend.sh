#!/usr/bin/env bash
# Starts the service, from a fresh clone on: ./start-backend.sh
#
# Settings come from the environment, .env.postgres and .env; docs/configuration.md names them all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scripts/venv requirements.lock
exec venv/bin/python -m server "$@"
