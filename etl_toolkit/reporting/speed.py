"""Charts of speed: rows per second against overlap, and what more workers bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etl_toolkit.bench.metrics import times_by_round
from etl_toolkit.bench.statistics import Interval, paired_ratio
from etl_toolkit.reporting import draw
from etl_toolkit.reporting.palette import look
from etl_toolkit.reporting.pictures import BarGroup, Bars, Figure, Panel, speed_bar
from etl_toolkit.reporting.run_data import Case, RunData, fate, is_clean, setting_words, thousands
from etl_toolkit.tables import spell_count

NOTHING = (float("nan"),) * 3

SpeedUps = Mapping[str, Mapping[int, Interval]]


def throughput(data: RunData) -> Figure | Bars | None:
    """Rows per second against overlap: a band for the interval, a dot for every run; for one overlap, bars."""
    clean = [case for case in data.at(table_state="empty") or data.at() if is_clean(case)]
    if not clean:
        return None
    overlaps = data.values("overlap", clean)
    finding = _throughput_finding(clean, overlaps)
    if len(overlaps) == 1:
        return speed_bars(clean, finding, f"{setting_words(clean[0])}. Thousand rows per second.{_left_out(data)}")
    ours = [case for case in clean if case["kind"] == "ours"]
    best = min(ours or clean, key=lambda case: float(case["wall_seconds"]["median"]))["strategy"]
    others = [case for case in clean if case["kind"] != "ours" or case["strategy"] in ("auto", best)]
    groups = [("our strategies", ours), ("and other ways", others)]
    # A floor loads what others had to find out first, and is so fast that the others would lie flat beneath it.
    measured = [case for case in clean if case["kind"] != "floor"] or clean
    top = max(sample.rows_per_second or 0 for case in measured for sample in data.samples(case)) / 1000 * 1.05
    panels = [
        _throughput_panel(data, title, cases, top, name=f"throughput-{number + 1}")
        for number, (title, cases) in enumerate(groups)
        if cases and (number == 0 or any(case["kind"] != "ours" for case in cases))
    ]
    note = (
        f"{setting_words(clean[0], overlap=False)}. Lines join medians, bands are 95% bootstrap intervals, dots are "
        f"single runs; a line that leaves the chart is labelled with its end.{_left_out(data)}"
    )
    return Figure(finding, panels, note)


def speed_bars(cases: Sequence[Case], finding: str, note: str, *, chosen: str = "") -> Bars:
    """Thousand rows per second of several strategies at one point, the fastest first; `chosen` stands out."""
    ranked = sorted(cases, key=lambda case: -float(case["rows_per_second"]["median"]))
    bars = [
        speed_bar(
            case["strategy"], case["rows_per_second"],
            "ours" if case["strategy"] == chosen or (not chosen and case["kind"] == "ours") else "",
        )
        for case in ranked
    ]  # fmt: skip
    return Bars(finding, [BarGroup("Thousand rows per second, the fastest first", bars)], note)


def _throughput_finding(clean: Sequence[Case], overlaps: Sequence[float]) -> str:
    sentences = []
    for overlap in dict.fromkeys((overlaps[0], overlaps[-1])):
        rivals = [case for case in clean if case["overlap"] == overlap and case["kind"] != "floor"]
        rivals.sort(key=lambda case: -case["rows_per_second"]["median"])
        ours = next((case for case in rivals if case["kind"] == "ours"), None)
        other = next((case for case in rivals if case["kind"] != "ours"), None)
        if fastest := ours or other:
            speed = thousands(fastest["rows_per_second"]["median"])
            words = f"at {overlap:.0%} overlap {fastest['strategy']} is our fastest, {speed} rows a second"
            if ours and other:
                speed = thousands(other["rows_per_second"]["median"])
                words += f" (the fastest other way, {other['strategy']}: {speed})"
            sentences.append(words)
    text = "; ".join(sentences)
    return text[:1].upper() + text[1:] + "."


def _left_out(data: RunData) -> str:
    """Name what is not drawn because it went wrong."""
    gone: dict[tuple[str, str], list[str]] = {}
    for case in data.at(table_state="empty") or data.at():
        if fate(case) not in ("right", "not run"):
            gone.setdefault((case["strategy"], fate(case)), []).append(f"{case['overlap']:.0%}")
    words = [f"{name} at {', '.join(at)} ({what})" for (name, what), at in gone.items()]
    return f" Not drawn: {'; '.join(words)}." if words else ""


def _throughput_panel(data: RunData, title: str, cases: Sequence[Case], top: float, *, name: str) -> Panel:
    overlaps = data.values("overlap", data.at())
    series, words = [], []
    for strategy in dict.fromkeys(case["strategy"] for case in cases):
        own = {case["overlap"]: case for case in cases if case["strategy"] == strategy}
        medians = [own[overlap]["rows_per_second"]["median"] / 1000 for overlap in sorted(own)]
        dots = [
            (100 * overlap, (sample.rows_per_second or 0) / 1000)
            for overlap, case in own.items()
            for sample in data.samples(case)
        ]
        label = strategy + (f" {medians[-1]:,.0f}" if medians[-1] > top else "")
        series.append(draw.Line(strategy, look(strategy), points_with_gaps(own, overlaps), dots, label=label))
        span = (
            f"{medians[0]:,.0f} at {min(own):.0%} only" if len(own) == 1 else f"{medians[0]:,.0f} to {medians[-1]:,.0f}"
        )
        words.append(f"{strategy} {span}")
    return draw.lines(
        name, series, title=f"Thousand rows / s, {title}", x_label="overlap: keys shared with the file before, %",
        alt=f"Thousand rows per second from {overlaps[0]:.0%} to {overlaps[-1]:.0%} overlap: {', '.join(words)}.",
        ticks=[100 * overlap for overlap in overlaps], top=top, unit="k rows/s",
    )  # fmt: skip


def points_with_gaps(own: Mapping[float, Case], overlaps: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """Return a point per overlap; NaN, where a line breaks off, at those that were not right."""
    points = []
    for overlap in overlaps:
        speed = own[overlap]["rows_per_second"] if overlap in own else None
        ends = tuple(speed[part] / 1000 for part in ("median", "low", "high")) if speed else NOTHING
        points.append((100 * overlap, *ends))
    return points


# --- workers ----------------------------------------------------------------------------------------------------------


def scaling(data: RunData) -> Figure | None:
    """Speed-up and efficiency against workers, relative to the fewest that were measured."""
    found, cases = speed_ups(data)
    if not found:
        return None
    counts = sorted({count for own in found.values() for count in own})
    fewest, most = counts[0], counts[-1]
    best = max(found, key=lambda name: max(ratio.median for ratio in found[name].values()))
    at, gain = max(found[best].items(), key=lambda item: item[1].median)
    cores = data.record.manifest.machine.get("cores")
    finding = (
        f"{best} gains the most from additional workers: {gain.median:.2f} × with {at} compared with "
        f"{fewest}{f', on {cores} cores shared with the server' if cores else ''}."
    )
    note = (
        f"{setting_words({**cases[0], 'workers': fewest})} and up. Speed-up is the time with {fewest} over the time "
        "with n, paired by round, with its 95% interval; efficiency is speed-up over the growth in workers. "
        "Dotted: perfect scaling."
    )
    panels = [_scaling_panel(found, counts, number + 1, what) for number, what in enumerate(("speed-up", "efficiency"))]
    return Figure(finding, panels, note) if most > fewest else None


def speed_ups(data: RunData) -> tuple[SpeedUps, Sequence[Case]]:
    """Speed-up by strategy and workers, and the cases it comes from, for the overlap with most worker counts."""
    counts = data.values("workers")
    options: dict[float, list[Case]] = {}
    for case in data.cases:
        alike = all(case[name] == value for name, value in data.middle.items() if name != "workers")
        if alike and case["table_state"] == "empty" and is_clean(case) and case["kind"] != "floor":
            options.setdefault(case["overlap"], []).append(case)
    if len(counts) < 2 or not options:
        return {}, []
    cases = max(options.values(), key=lambda own: (len({case["workers"] for case in own}), len(own)))
    times = {(case["strategy"], case["workers"]): times_by_round(data.samples(case)) for case in cases}
    fewest = min(case["workers"] for case in cases)
    found: dict[str, dict[int, Interval]] = {}
    for (strategy, workers), own in times.items():
        base = times.get((strategy, fewest))
        ratio = paired_ratio(base, own) if base else None
        if ratio:
            found.setdefault(strategy, {})[workers] = ratio
    return {name: dict(sorted(ratios.items())) for name, ratios in found.items() if len(ratios) > 1}, cases


def _scaling_panel(found: SpeedUps, counts: Sequence[int], number: int, what: str) -> Panel:
    fewest = counts[0]
    series, words = [], []
    for strategy, ratios in found.items():
        points = []
        for count in counts:
            scale = fewest / count if what == "efficiency" else 1.0
            ratio = ratios.get(count)
            ends = (ratio.median * scale, ratio.low * scale, ratio.high * scale) if ratio else NOTHING
            points.append((count, *ends))
        series.append(draw.Line(strategy, look(strategy), points))
        most = max(ratios)
        words.append(f"{strategy} {points[counts.index(most)][1]:.2f} with {most} workers")
    return draw.lines(
        f"scaling-{number}", series, title=f"{what.capitalize()} against {spell_count(fewest, 'worker')}",
        x_label="workers", ticks=counts,
        diagonal={count: 1.0 if what == "efficiency" else count / fewest for count in counts}, size=(4.3, 3.0),
        unit="×", alt=f"{what.capitalize()}: {', '.join(words)}.",
    )  # fmt: skip
