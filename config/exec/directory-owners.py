#!/usr/bin/env python3
"""How many files lie in a directory, and how many bytes they have: a gauge each, labelled with its owner.

    collectors:
      shared:
        plugin: exec
        schedule: "@hourly"
        command: [/usr/local/lib/waldur-usage/directory-owners.py]
        env: [EXAMPLE_DIRECTORY=/srv/shared]
        resource: { offering: 91ab0000-0000-4000-8000-000000000001, backend_id: "{owner}" }
        meters:
          gb_hours: { reading: file_bytes, aggregate: integral, factor: 1/1000000000 }

An exception ends the program with exit code 1, and then nothing of what it printed counts.
"""

import json
import os
import pwd
from collections import Counter

directory = os.environ.get("EXAMPLE_DIRECTORY", "/srv/shared")

files, size = Counter(), Counter()
for entry in os.scandir(directory):
    if entry.is_file(follow_symlinks=False):
        status = entry.stat(follow_symlinks=False)
        files[status.st_uid] += 1
        size[status.st_uid] += status.st_size


def name(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


for uid in files:
    labels = {"owner": name(uid)}
    # A whole number may be printed as it is. A fraction: str(decimal.Decimal(...)), never a float.
    print(json.dumps({"name": "files", "kind": "gauge", "value": files[uid], "labels": labels}))
    print(json.dumps({"name": "file_bytes", "kind": "gauge", "unit": "B", "value": size[uid], "labels": labels}))
