"""What a sweep found, in sentences, and what it does not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from etl_toolkit.bench.statistics import LARGEST_STEADY_SPREAD, interval_words
from etl_toolkit.reporting.content import Bullets, Part, Section, Text
from etl_toolkit.reporting.headline import checked_words, headline, shapes_words
from etl_toolkit.reporting.run_data import RunData, fate
from etl_toolkit.tables import spell_count

# It is what shows this: how it went the time before is not worth telling, and how it goes now the page says itself.
PAGE_NOTEBOOK = "04_parallel_upsert_analysis"


def finding(data: RunData) -> Section:
    """What to do and how sure that is; how the run went, where it did not go to its end."""
    shown = {answer(data)[0], f"{checked_words(data)[0]}."}
    more = [sentence for sentence in answer(data) if sentence not in shown]
    return Section("Finding", [*_status(data), *headline(data), *_early_end(data), *_bullets(more)])


def answer(data: RunData) -> list[str]:
    """Say in a few sentences what the sweep found, the most important first."""
    report = data.record.report
    sentences = [str(report.get("finding", "Nothing was measured."))]
    checked, _ = checked_words(data)
    sentences += [f"{checked}."] if checked else []
    sentences += [shapes_words(data.by_shape)] if data.by_shape else []
    advised = Counter(rule["then"]["strategy"] for rule in report.get("recommendations", []))
    if advised:
        named = ", ".join(f"`{name}` for {times}" for name, times in advised.most_common())
        sentences.append(f"Recommended: {named} of {advised.total()} kinds of load.")
    if undecided := report.get("undecided", []):
        sentences.append(f"For {spell_count(len(undecided), 'kind')} of load, nothing is recommended.")
    wrong = [case for case in data.cases if fate(case) in ("wrong rows", "failed")]
    for strategy in dict.fromkeys(case["strategy"] for case in wrong):
        own = [case for case in wrong if case["strategy"] == strategy]
        runs = sum(case["failures"] for case in own)
        sentences.append(f"`{strategy}` left wrong rows, or failed, in {spell_count(runs, 'run')}.")
    noise = report.get("noise")
    if noise and noise["ratio"]:
        sentences.append(
            f"The same strategy measured twice (A/A): ratio {interval_words(noise['ratio'])}, "
            f"{noise['verdict']}. Differences smaller than that are not significant."
        )
    return sentences


def _bullets(sentences: Sequence[str]) -> list[Part]:
    return [Bullets(sentences)] if sentences else []


def _status(data: RunData) -> list[Part]:
    manifest = data.record.manifest
    parts: list[Part] = []
    if manifest.status != "finished":
        reason = f": {manifest.reason}" if manifest.reason else ""
        parts.append(
            Text(
                f"This sweep is **{manifest.status}**{reason}. The results below are those measured until then.",
                "alert",
            )
        )
    for name, run in manifest.notebooks.items():
        if run.get("status") == "failed" and name != PAGE_NOTEBOOK:
            parts.append(Text(f"The notebook `{name}` failed: {run.get('error')}.", "alert"))
    return parts


def _early_end(data: RunData) -> list[Part]:
    manifest = data.record.manifest
    ended = manifest.status == "finished" and manifest.reason
    return [Text(f"The sweep ended early: {manifest.reason}.", "alert")] if ended else []


def limits(data: RunData) -> Section:
    """What the numbers do not say."""
    manifest = data.record.manifest
    machine = manifest.machine
    runs = [count for count in data.values("runs") if count]
    unstable = [case for case in data.cases if case["is_unstable"]]
    rows = data.values("rows")
    generated = not manifest.config.get("own_files")
    computer = f"{machine.get('processor', 'unknown')}, {machine.get('cores', '?')} cores"
    items = [
        f"One machine: {computer}, shared by loader and server"
        if manifest.server.get("is_on_this_machine")
        else f"The server is another machine; the client: {computer}",
        f"{'Generated' if generated else 'Your own'} files, {spell_range(rows)} rows in total; the results say nothing "
        "beyond that",
        f"Measured runs per case: {spell_range(runs)}; an interval from only a few runs is not much narrower than their range",
        f"{len(unstable)} of {len(data.cases)} cases are unstable (standard deviation above "
        f"{LARGEST_STEADY_SPREAD:.0%} of the mean), marked with ~ in the table of all results",
        "Compare ratios within this run, not seconds between machines",
    ]
    share = manifest.monitor.get("cpu_share_of_one_core")
    if share is not None:
        items.append(
            f"The monitor takes {share:.1%} of one core, a reading every {manifest.monitor['interval_seconds']:.2f} "
            "s: peaks shorter than that may be missed"
        )
    if manifest.skipped:
        items.append(
            f"{spell_count(len(manifest.skipped), 'case was', 'cases were')} left out: "
            f"{'; '.join(sorted(set(manifest.skipped.values())))}"
        )
    return Section("Limits", [Bullets(items)])


def spell_range(values: Sequence[int]) -> str:
    """Return the first and the last of sorted numbers, as words."""
    if not values:
        return "no"
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"


def in_words(data: RunData) -> Section:
    """The answer again, as the last cell of the notebook."""
    return Section("The answer", [Bullets(answer(data))])
