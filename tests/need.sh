# Sourced by the test scripts: what a test needs, and what happens if it is not there.
# shellcheck shell=bash

# Where the names of the tests that were left out are collected, if whoever calls wants to know.
need_left_out=${NEED_LEFT_OUT:-/dev/null}

# Ends the script that calls it: with an error where CI says that everything must be there, else kindly.
left_out() { # what is missing, and how to get it
    local name
    name=$(basename "$0")
    if [ "${CI_REQUIRE_REAL:-}" = 1 ]; then
        echo "$name: $1 is missing, and CI_REQUIRE_REAL=1 wants it. $2" >&2
        exit 1
    fi
    echo "$name: LEFT OUT, because $1 is missing. $2"
    echo "$name ($1)" >>"$need_left_out"
    exit 0
}

need() { # a command, and where it is from
    command -v "$1" >/dev/null || left_out "$1" "$2"
}
