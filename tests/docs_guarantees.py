"""docs/GUARANTEES.md and docs/SECURITY.md name tests: each is there."""
import os
import re
import sys

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
page = ""
for name in ("GUARANTEES.md", "SECURITY.md"):
    with open(os.path.join(root, "docs", name)) as f:
        page += f.read()
missing, seen = [], 0
for path, name in re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", page):
    seen += 1
    try:
        with open(os.path.join(root, path)) as f:
            text = f.read()
    except OSError:
        missing.append(path)
        continue
    if name and not re.search(rf"\b{name}\b", text):
        missing.append(f"{path}::{name}")
if missing or seen < 40:
    sys.exit(f"the pages name {seen} tests; not there: " + ", ".join(missing))
print(f"{seen} tests are named and there")
