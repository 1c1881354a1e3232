#!/usr/bin/env bash
# How many processes each user runs now: one gauge a user, from ps.
#
#   collectors:
#     processes:
#       plugin: exec
#       schedule: "*/5 * * * *"
#       command: [/usr/local/lib/waldur-usage/processes.sh]
#       resource: 5e2f1c7a-0000-4000-8000-000000000001
#       user: "{user}"
#       meters:
#         process_hours: { reading: processes, aggregate: integral }

# A command that fails anywhere must fail the whole: half an answer is not an answer.
set -euo pipefail

ps -eo user:64= | sort | uniq -c | while read -r count user; do
    # User names need no escaping in JSON. Anything else: use jq -n --arg name "$value".
    printf '{"name":"processes","kind":"gauge","value":%d,"labels":{"user":"%s"}}\n' "$count" "$user"
done
