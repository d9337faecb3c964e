#!/usr/bin/env bash
# For cron: prints a line for each thing that is down and ends with 1; nothing, and 0, when all is
# well.
#   scripts/monitor.sh [--backup-hours 26] [--disk-percent 10] [http://127.0.0.1:8002]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ! -x venv/bin/python ]]; then
    echo "venv: there is none; scripts/venv requirements.lock makes it"
    exit 1
fi
exec venv/bin/python -m server.monitoring.watch "$@"
