#!/usr/bin/env bash
# What the official Python client makes of the sandbox's answers. Installs the client from PyPI into target/, starts the
# sandbox, asks it.
# Usage: tests/sandbox_client.sh [path of waldur-sandbox]
set -euo pipefail
# shellcheck source=tests/need.sh
. "$(dirname "${BASH_SOURCE[0]}")/need.sh"
need python3 "The client is written in Python."

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
sandbox=${1:-$target/debug/waldur-sandbox}
venv=$target/waldur-client-venv

if [ ! -x "$sandbox" ]; then
    cargo build --locked --manifest-path "$root/Cargo.toml" --bin waldur-sandbox
fi
if ! "$venv/bin/python" -c 'import waldur_api_client' 2>/dev/null; then
    if ! python3 -m venv "$venv" ||
        ! "$venv/bin/pip" install --quiet --disable-pip-version-check 'waldur-api-client==8.1.3'; then
        left_out "waldur-api-client 8.1.3" "It is installed from PyPI, with python3-venv and pip."
    fi
fi
PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" "$root/tests/sandbox_client.py" "$sandbox"
