"""Hold what `make demo` printed (stdin) and made (`demo/`) against what the README says: `check_demo.py < demo.log`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path("demo") / "parallel_upsert_analysis.html"
COUNTS = re.compile(r"([\d,]+) read = (.+)")


def count(text: str) -> int:
    """Read `1,234`."""
    return int(text.replace(",", ""))


def faults(printed: str, page: Path = PAGE) -> list[str]:
    """Return what is wrong: counts, the second load, the sweep, the page."""
    found = []
    loads = [
        (count(read), {name: count(number) for number, name in (part.split(" ", 1) for part in parts.split(" + "))})
        for read, parts in COUNTS.findall(printed)
    ]
    if len(loads) != 2:
        found.append(f"{len(loads)} loads printed their counts, not 2")
    for read, parts in loads:
        if read == 0 or read != sum(parts.values()):
            found.append(f"counts do not add up: {read} read, {parts}")
    for _, parts in loads[:1]:
        if parts.get("inserted", 0) == 0:
            found.append(f"the first load inserted nothing: {parts}")
    for _, parts in loads[1:]:
        if parts.get("inserted") != 0 or parts.get("updated") != 0 or parts.get("unchanged", 0) == 0:
            found.append(f"the second load wrote rows: {parts}")
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if "</html>" not in text or "<svg" not in text:
        found.append(f"{page} is no page with a picture")
    return found


if __name__ == "__main__":
    wrong = faults(sys.stdin.read())
    sys.exit("\n".join(f"make demo: {each}" for each in wrong) or 0)
