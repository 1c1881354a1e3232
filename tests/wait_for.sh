# Sourced by the test scripts that wait for something; `work` is the folder with their logs.
# shellcheck shell=bash

fail() {
    echo "$(basename "$0"): $1" >&2
    tail -n 20 "${work:?}"/*.log >&2
    exit 1
}

wait_for() { # what, and a command that succeeds then
    for _ in {1..600}; do
        if "${@:2}" >/dev/null 2>&1; then
            echo "ok: $1"
            return
        fi
        sleep 0.1
    done
    fail "waited in vain: $1"
}
