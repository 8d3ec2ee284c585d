"""The steps before the first write: sources, target, scan, overlap, plan. Their result is a `Ready`."""

from etl_toolkit.prepare.forecast import forecast_plan
from etl_toolkit.prepare.looking import localize_instants
from etl_toolkit.prepare.reading import as_list, read_files, resolve_files
from etl_toolkit.prepare.ready import Ready, Resumed, prepare_load, resource_failures_mapped
from etl_toolkit.prepare.words import with_words_on_values

__all__ = [
    "Ready",
    "Resumed",
    "as_list",
    "forecast_plan",
    "localize_instants",
    "prepare_load",
    "read_files",
    "resolve_files",
    "resource_failures_mapped",
    "with_words_on_values",
]
