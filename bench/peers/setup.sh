#!/usr/bin/env bash
# Makes the environment of the peers in the user's cache directory, once per requirements.txt, and
# prints its interpreter: bench/peers/setup.sh [PYTHON]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="${1:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "the peers need Python 3.11 or newer; name one: $0 PYTHON" >&2
  exit 78
}
key="$({ cat "$here/requirements.txt"; "$python" -V; } | sha256sum | cut -c1-16)"
venv="${XDG_CACHE_HOME:-$HOME/.cache}/snakehouse/bench-peers-$key"
if [ ! -e "$venv/complete" ]; then
  echo "making $venv (about 350 MB)" >&2
  "$python" -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
  touch "$venv/complete"
fi
command -v redis-server >/dev/null || {
  echo "redis-server is not installed: Celery will not be measured (Debian: apt-get install redis-server)" >&2
}
echo "$venv/bin/python"
