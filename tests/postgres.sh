#!/usr/bin/env bash
# The suites of the ledger once more, over PostgreSQL: units, the oracle with events, crashes, the model, the month's end and
# submitting. They are the same tests with another engine (tests/agent/engine.rs), and fewer random cases, as each needs
# tables of its own; agents are killed as often as over a file, also two at one ledger. tests/shared.rs has what only a
# database can do. Of the month's end one cell in seven is played. Longer ones:
#     LEDGER_EVENTS=2000 METERING_TIMES=40 tests/with-postgres cargo test --test ledger_oracle
#     CRASHES=5000 tests/with-postgres cargo test --test crashes
#     MODEL_CASES=700 tests/with-postgres cargo test --test model
#     tests/with-postgres cargo test --test month_end
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
[ -n "$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null)" ] ||
    left_out "PostgreSQL" "apt-get install postgresql"

export LEDGER_EVENTS=40 CRASHES=500 MODEL_CASES=10
tests/with-postgres cargo test --locked --lib ledger::
tests/with-postgres cargo test --locked --test ledger_oracle --test submitting --test model --test crashes
MONTH_END_EVERY=7 tests/with-postgres cargo test --locked --test month_end
# Some hosts at once, as a play of many goes: all that they append is counted (docs/many-hosts.md has it with 2,000).
# shellcheck disable=SC2016
timeout 300 tests/with-postgres sh -c 'cargo run --locked --example hosts -- \
    "postgresql:///postgres?host=$WALDUR_TEST_POSTGRES&user=postgres" 40 2 0'
