#!/usr/bin/env python3
"""Whether what the sandbox holds is what somebody else reckoned, to the last digit.

agree.py STATE MONTH oracle < REFERENCE
agree.py STATE MONTH sreport SUSPENDED < REFERENCE

STATE is the sandbox's /sandbox/state; the reference is what sreport prints (cluster AccountUtilizationByUser, -P -n) or
what tests/slurm/oracle.py sums prints. Every share of every user must be in both, and each total be its shares' sum.

sreport takes the time for which a job was suspended off its processors alone; the agent bills none of it. SUSPENDED is
what tests/slurm/oracle.py suspended prints, and goes off sreport's other numbers.
"""
import json
import sys
from fractions import Fraction

# The meters of tests/slurm.sh: component, sreport's name of it, reading, and what one of sreport's is in the reading's.
METERS = [
    ("cpu", "cpu", "cpu_seconds", 1),
    ("mem", "mem", "memory_byte_seconds", 2**20),
    ("node", "node", "node_seconds", 1),
    ("billing", "billing", "billing_seconds", 1),
    ("gpu", "gres/gpu", "gpu_seconds", 1),
    ("a100", "gres/gpu:a100", "gpu:a100_seconds", 1),
]


def reference(kind, lines):
    found = {}
    for line in lines:
        fields = line.rstrip("\n").split("|")
        for component, tres, reading, size in METERS:
            if kind == "sreport" and fields[4] == tres and fields[2]:
                found[fields[1], fields[2], component] = Fraction(fields[5])
            elif kind == "oracle" and fields[2] == reading:
                found[fields[0], fields[1], component] = Fraction(fields[3]) / size
    return {key: value for key, value in found.items() if value}


def held(state, month):
    found = {}
    for resource in state["resources"]:
        for row in resource["rows"]:
            if not row["billing_period"].startswith(month):
                continue
            shares = {user: Fraction(share["usage"]) for user, share in row["users"].items()}
            total = Fraction(row["usage"])
            if sum(shares.values()) != total:
                sys.exit(f"{resource['backend_id']} {row['type']}: {shares} are not {total}")
            for user, share in shares.items():
                if share:
                    found[resource["backend_id"], user, row["type"]] = share
    return found


def main():
    state, month, kind = sys.argv[1:4]
    with open(state, encoding="utf-8") as file:
        ours = held(json.load(file), month)
    theirs = reference(kind, sys.stdin)
    if kind == "sreport":
        with open(sys.argv[4], encoding="utf-8") as file:
            suspended = {key: value for key, value in reference("oracle", file).items() if key[2] != "cpu"}
        if not suspended:
            sys.exit("no job was suspended: nothing is shown about those")
        theirs = {key: value - suspended.get(key, 0) for key, value in theirs.items()}
    wrong = 0
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            wrong += 1
            print(f"{'/'.join(key)}: Waldur holds {ours.get(key)}, {kind} says {theirs.get(key)}")
    components = {component for _, _, component in theirs}
    if wrong or len(components) < len(METERS):
        sys.exit(f"{wrong} differences; {kind} spoke of {sorted(components)}")
    print(f"{kind}: {len(theirs)} shares of {len({account for account, _, _ in theirs})} accounts agree to the second")


if __name__ == "__main__":
    main()
