"""The rule that a sweep gives evidence for: (overlap × rows × table state) → strategy, workers, rows per batch.

The fastest of our strategies wins a setting. Where no difference to `auto` is shown, `auto` wins: it decides again when
the files change. Neighbouring overlaps with the same outcome become one rule. Nothing is said beyond what was measured,
and nothing is recommended where another right way was faster, or looked faster in too few runs to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etl_toolkit.bench.metrics import compared
from etl_toolkit.bench.records import Manifest, Sample
from etl_toolkit.bench.statistics import SMALLEST_DIFFERENCE
from etl_toolkit.config import ParallelConfig

Metrics = Mapping[str, Any]


def recommendations(
    cases: Sequence[Metrics], by_case: Mapping[str, list[Sample]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rules, ordered by table state, rows and overlap; those that the evidence speaks against apart."""
    ours = [case for case in cases if case["kind"] == "ours" and not case["is_twin"] and usable(case)]
    rules: list[dict[str, Any]] = []
    for state, rows, overlap in sorted({(case["table_state"], case["rows"], case["overlap"]) for case in ours}):
        here = [case for case in ours if (case["table_state"], case["rows"], case["overlap"]) == (state, rows, overlap)]
        rule = _rule(here, cases, by_case)
        before = rules[-1] if rules else None
        if before and _follows(before, rule):
            before["when"]["overlap"][1] = overlap
            before["evidence"] += rule["evidence"]
        else:
            rules.append(rule)
    for rule in rules:
        rule["because"] = _because(rule)
    supported = [rule for rule in rules if _is_supported(rule)]
    return supported, [rule for rule in rules if rule not in supported]


def _is_supported(rule: Mapping[str, Any]) -> bool:
    ratios = [item["ratio"]["median"] for item in rule["evidence"] if item["ratio"]]
    return all(ratio <= 1 + SMALLEST_DIFFERENCE for ratio in ratios)


def usable(case: Metrics) -> bool:
    """A case with a median, and not one wrong or failed run."""
    return case["wall_seconds"] is not None and not case["failures"]


def write_config(path: Path, manifest: Manifest, report: Mapping[str, Any]) -> None:
    """Write the recommendation as a file that `etl-toolkit ingest --config` takes: strategy, workers, sizes, costs.

    A file holds one set of values: `auto` where the rules name several strategies, and the workers of the rule with the
    most rows.
    """
    lines = [f"# Recommended by the sweep {manifest.run_id} on {manifest.machine.get('processor', 'this machine')}."]
    lines += [f"# {report.get('finding', '')}"]
    rules = report.get("recommendations", [])
    if not rules:
        lines += ["# The runs do not support a recommendation.", "", "[load]"]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return
    workers = max(rules, key=lambda rule: rule["when"]["rows"][1])["then"]["workers"]
    batch_rows = next((rule["then"]["batch_rows"] for rule in rules if rule["then"]["batch_rows"]), None)
    strategies = {rule["then"]["strategy"] for rule in rules}
    strategy = strategies.pop() if len(strategies) == 1 else "auto"
    lines += ["#", *(f"# {rule['because']}" for rule in rules)]
    lines += ["", "[load]", f'strategy = "{strategy}"', f"concurrency = {workers}"]
    if batch_rows:
        lines.append(f"chunk_size = {batch_rows}")
    if cost := report.get("cost"):
        before, after = f"{cost['error_before']:.0%}", f"{cost['error_after']:.0%}"
        lines += [
            "",
            f"# What a load costs here, fitted to {cost['runs']} runs; off by {before} (median) before, {after} fitted.",
        ]
        lines += ["[load.cost]", *(f"{name} = {value}" for name, value in cost["coefficients"].items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rule(here: Sequence[Metrics], cases: Sequence[Metrics], by_case: Mapping[str, list[Sample]]) -> dict[str, Any]:
    """Return the rule for one point: the format, key and workers that most strategies were measured with."""
    settings = [case["setting"] for case in here]
    setting = max(dict.fromkeys(settings), key=settings.count)
    rivals = sorted((case for case in here if case["setting"] == setting), key=_seconds)
    best = rivals[0]
    auto = next((case for case in rivals if case["strategy"] == "auto"), None)
    if auto is not None and auto is not best:
        against_auto = compared(by_case[best["case"]], by_case[auto["case"]])
        best = auto if against_auto["verdict"] == "no difference shown" else best
    measured = best["chosen_strategy"] or best["strategy"]
    ruled_out = {best["strategy"], "auto", measured}
    others = [case for case in cases if case["setting"] == setting and case["strategy"] not in ruled_out
              and case["kind"] in ("ours", "baseline") and usable(case) and not case["is_twin"]]  # fmt: skip
    evidence = []
    for other in sorted(others, key=_seconds)[:2]:
        found = compared(by_case[best["case"]], by_case[other["case"]])
        evidence.append({"case": best["case"], "seconds": best["wall_seconds"], "against": other["case"]} | found)
    alike = ("format", "key", "files", "executor")
    same = [case for case in here if case["strategy"] in (best["strategy"], measured)
            and all(case[name] == best[name] for name in alike)]  # fmt: skip
    return {
        "when": {
            "overlap": [best["overlap"], best["overlap"]],
            "rows": [best["rows"], best["rows"]],
            "table_state": best["table_state"],
        },
        "then": {
            "strategy": best["strategy"],
            "workers": _fewest(same, lambda case: int(case["workers"])),
            "batch_rows": _batch_rows([case for case in here if case["workers"] == best["workers"]]),
        },
        "because": "",
        "evidence": evidence,
    }


def _fewest(cases: Sequence[Metrics], amount: Callable[[Metrics], int]) -> int:
    """Return the smallest amount with which the median is within `SMALLEST_DIFFERENCE` of the fastest."""
    fastest = min(map(_seconds, cases))
    return min(amount(case) for case in cases if _seconds(case) <= fastest * (1 + SMALLEST_DIFFERENCE))


def _batch_rows(cases: Sequence[Metrics]) -> int | None:
    """Return the rows per batch for `streaming`, the one that has batches; None for the default, or not measured."""
    measured = [case for case in cases if case["strategy"] == "streaming"]
    default = ParallelConfig().chunk_size
    if all(case["batch_rows"] is None for case in measured):
        return None
    best = _fewest(measured, lambda case: int(case["batch_rows"] or default))
    return None if best == default else best


def _seconds(case: Metrics) -> float:
    return float(case["wall_seconds"]["median"])


def _follows(before: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """Tell whether `rule` says the same as the one before it, for the next overlap."""
    same_place = all(before["when"][name] == rule["when"][name] for name in ("rows", "table_state"))
    return bool(same_place and before["then"] == rule["then"])


def _because(rule: Mapping[str, Any]) -> str:
    when, then = rule["when"], rule["then"]
    low, high = when["overlap"]
    overlap = f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"
    text = f"overlap {overlap}, {when['rows'][0]:,} rows, table {when['table_state']}: {then['strategy']}"
    text += f" with {then['workers']} workers" if then["workers"] != 1 else " with 1 worker"
    shown = [item for item in rule["evidence"] if item["ratio"]]
    for item in shown[:2]:
        other = item["against"].rsplit("/", 1)[1]
        if item["verdict"] == "faster":
            text += f"; {1 / item['ratio']['median']:.1f} × as fast as {other}"
        else:
            text += f"; against {other}: {item['verdict']}"
    return text
