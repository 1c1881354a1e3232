#!/bin/sh
# Checks the sandbox with the official Python client: installs it into target/, starts the sandbox, asks it.
# Usage: tests/sandbox_client.sh [path of waldur-sandbox]
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
sandbox=${1:-$target/debug/waldur-sandbox}
venv=$target/waldur-client-venv

if [ ! -x "$sandbox" ]; then
    cargo build --manifest-path "$root/Cargo.toml" --bin waldur-sandbox
fi
if ! "$venv/bin/python" -c 'import waldur_api_client' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'waldur-api-client==8.1.3'
fi
PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" "$root/tests/sandbox_client.py" "$sandbox"
