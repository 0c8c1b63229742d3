"""docs/GUARANTEES.md and docs/SECURITY.md name tests: each is there. docs/ADMIN.md has every setting, and no other."""
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

settings = set()
for name, pattern in (("settings.c", r'^    \{"(\w+)",'), ("hosts.c", r'^static const char \*const members\[\] = \{(.*?)\};')):
    with open(os.path.join(root, "daemon", name)) as f:
        for found in re.findall(pattern, f.read(), flags=re.M):
            settings |= set(re.findall(r"\w+", found))
with open(os.path.join(root, "docs", "ADMIN.md")) as f:
    table = f.read().split("## Settings")[1].split("## ")[0]
told = {n for row in re.findall(r"^\| (`.*?) \|", table, flags=re.M) for n in re.findall(r"`(\w+)`", row)}
if told != settings or len(settings) < 20:
    sys.exit(f"docs/ADMIN.md and the daemon's settings differ: {sorted(told ^ settings)}")
print(f"{len(settings)} settings are on their page")
