#!/usr/bin/env bash
# Runs the official SDK against the given binary: run.sh BINARY [options of run.py]
set -euo pipefail
exec python3 "$(dirname "$0")/run.py" --binary "$@"
