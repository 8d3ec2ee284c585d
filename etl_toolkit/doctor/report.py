"""What the doctor found, as objects, text and JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

_MARKS = {"pass": "ok", "warn": "warning", "fail": "FAIL", "unproven": "unproven"}
_WIDTH = 118


class Status(StrEnum):
    """`warn` and `unproven` leave the report ok: the first is a choice to look at, the second could not be tested."""

    PASS = "pass"  # noqa: S105 - not a password
    WARN = "warn"
    FAIL = "fail"
    UNPROVEN = "unproven"


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, the verdict, what it rests on, and what to do about it."""

    check: str
    status: Status
    evidence: str
    advice: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """All findings on one server and, where named, one table."""

    place: str
    findings: tuple[Finding, ...]
    table: str | None = None

    @property
    def ok(self) -> bool:
        """True where no check failed."""
        return all(finding.status is not Status.FAIL for finding in self.findings)

    def of(self, check: str) -> Finding:
        """Return the finding of a check by its name."""
        return next(finding for finding in self.findings if finding.check == check)

    def as_dict(self) -> dict[str, Any]:
        counts = {str(status): self._count()[status] for status in Status}
        findings = [asdict(finding) for finding in self.findings]
        return {"ok": self.ok, "place": self.place, "table": self.table, "counts": counts, "findings": findings}

    def as_text(self) -> str:
        """Return a line per check, with advice below those that did not pass."""
        counts = self._count()
        about = self.place + (f", table {self.table}" if self.table else "")
        totals = ", ".join(f"{counts[status]} {_MARKS[status]}" for status in Status if counts[status])
        lines = [printable(f"doctor: {about}: {totals}"), ""]
        width = max((len(finding.check) for finding in self.findings), default=0)
        for finding in self.findings:
            lead = f"{_MARKS[finding.status]:>9}  {finding.check:<{width}}  "
            lines += _wrapped(printable(finding.evidence), lead)
            if finding.advice:
                lines += _wrapped(printable(finding.advice), " " * (len(lead) - 2) + "→ ")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.as_text()

    def _count(self) -> Counter[Status]:
        return Counter(finding.status for finding in self.findings)


def passed(check: str, evidence: str) -> Finding:
    """A finding that is as it should be."""
    return Finding(check, Status.PASS, evidence)


def verdict(check: str, evidence: str, *, fails: bool = False, warns: bool = False, advice: str = "") -> Finding:
    """A finding that passes unless it `fails` or `warns`; the advice goes with those alone."""
    status = Status.FAIL if fails else Status.WARN if warns else Status.PASS
    return Finding(check, status, evidence, advice if status is not Status.PASS else "")


def unproven(check: str, evidence: str, advice: str = "") -> Finding:
    """A finding that could not be tested, with the reason."""
    return Finding(check, Status.UNPROVEN, evidence, advice)


def printable(text: str) -> str:
    """`text` on one line, without anything a terminal would obey: names of tables and sessions come from outside."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _wrapped(text: str, lead: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead)) or [lead.rstrip()]
