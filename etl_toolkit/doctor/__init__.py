"""`etl-toolkit doctor`: the production checklist, each item a check with evidence and, where it fails, advice."""

from etl_toolkit.doctor.checklist import run_checks
from etl_toolkit.doctor.report import DoctorReport, Finding, Status

__all__ = ["DoctorReport", "Finding", "Status", "run_checks"]
