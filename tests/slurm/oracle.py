#!/usr/bin/env python3
"""What jobs used, from the raw text of sacct: an independent reckoning to hold the agent's against.

oracle.py readings NOW [requested]     every reading of every job on stdin, as
                                       name|id|start|end|value|account|user|partition|qos|cluster|state|reservation
oracle.py sums NOW FROM TO [requested] for each account, user and reading: what fell between the two instants,
                                       by the share of each job's time (exact fractions, printed as they are)
oracle.py suspended                    the same of the time for which jobs were suspended

Instants are seconds since 1970. It shares no code with the agent, and is written the plainest way.
"""
import sys
from fractions import Fraction

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


def used(tres):
    """TRES text to {reading: units a second}."""
    had = dict(part.split("=") for part in tres.split(",") if part)
    found = {}
    for key, count in had.items():
        if key == "mem":
            found["memory_byte_seconds"] = Fraction(count[:-1]) * UNITS[count[-1]] if count != "0" else Fraction(0)
        elif key in ("cpu", "node", "billing") or key.startswith("license/"):
            found[key + "_seconds"] = Fraction(count)
        elif key == "gres/gpu" or key.startswith("gres/gpu:"):
            found[key[len("gres/"):] + "_seconds"] = Fraction(count)
        elif key.startswith("gres/"):
            found[key + "_seconds"] = Fraction(count)
    typed = [key for key in had if key.startswith("gres/gpu:")]
    if typed and "gres/gpu" not in had:
        found["gpu_seconds"] = sum(Fraction(had[key]) for key in typed)
    return found


def jobs(lines, now, column):
    names = next(lines).rstrip("\n").split("|")
    for line in lines:
        job = dict(zip(names, line.rstrip("\n").split("|")))
        if not job["Start"].isdigit() or not job[column]:
            continue
        start = int(job["Start"])
        end = int(job["End"]) if job["End"].isdigit() else max(now, start)
        elapsed = int(job["ElapsedRaw"])
        job["State"] = job["State"].split(" ")[0]
        readings = {"elapsed_seconds": Fraction(elapsed)}
        for name, count in used(job[column]).items():
            readings[name] = count * elapsed
        yield job, start, end, readings


def text(number):
    return str(number)


def main():
    what, now = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    column = "ReqTRES" if sys.argv[-1] == "requested" else "AllocTRES"
    if what == "readings":
        rows = []
        for job, start, end, readings in jobs(sys.stdin, now, column):
            ident = "/".join([job["Cluster"], job["JobIDRaw"], job["Submit"]])
            labels = [job[key] for key in ("Account", "User", "Partition", "QOS", "Cluster", "State", "Reservation")]
            for name, value in readings.items():
                rows.append("|".join([name, ident, str(start), str(end), text(value), *labels]))
        print("\n".join(sorted(rows)))
        return
    sums = {}
    if what == "suspended":
        for job, start, end, readings in jobs(sys.stdin, now, column):
            elapsed = int(job["ElapsedRaw"])
            for name, value in readings.items():
                lost = value / elapsed * (end - start - elapsed) if elapsed else 0
                if lost:
                    key = (job["Account"], job["User"], name)
                    sums[key] = sums.get(key, 0) + lost
        for key, value in sorted(sums.items()):
            print("|".join([*key, text(value)]))
        return
    first, last = int(sys.argv[3]), int(sys.argv[4])
    for job, start, end, readings in jobs(sys.stdin, now, column):
        inside = max(0, min(end, last) - max(start, first))
        share = Fraction(inside, end - start) if end > start else Fraction(int(first <= start < last))
        for name, value in readings.items():
            key = (job["Account"], job["User"], name)
            sums[key] = sums.get(key, 0) + value * share
    for key, value in sorted(sums.items()):
        print("|".join([*key, text(value)]))


if __name__ == "__main__":
    main()
