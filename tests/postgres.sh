#!/usr/bin/env bash
# The suites of the ledger once more, over PostgreSQL: units, the oracle with events, crashes, the model, the month's end and
# submitting. They are the same tests with another engine (tests/agent/engine.rs), and fewer random cases, as each needs
# tables of its own; agents are killed as often as over a file, also two at one ledger. tests/shared.rs has what only a
# database can do. Longer ones:
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
tests/with-postgres cargo test --locked --test month_end -- --skip every_cell
