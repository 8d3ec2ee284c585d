"""How long a load would take: the planner's cost model, fitted to this run, as a table that the page calculates with."""

from __future__ import annotations

from collections.abc import Sequence

from etl_toolkit.bench.fit import known_overlap
from etl_toolkit.config import CostModel
from etl_toolkit.cost import predict
from etl_toolkit.model import Strategy
from etl_toolkit.reporting.content import Choices, Part, Section, Text
from etl_toolkit.reporting.findings import spell_range
from etl_toolkit.reporting.run_data import RunData
from etl_toolkit.tables import Cell, Table

HEAD = ("strategy", "keys", "table", "fixed s", "s per million rows", "s per million distinct keys")
MILLION = 1_000_000


def what_if(data: RunData) -> Section:
    """Seconds by rows, overlap and state of the table, with the error that the model has on settings it did not see."""
    cost = data.record.report.get("cost")
    if not cost or not cost.get("left_out"):
        reason = "the cost model was not fitted: it takes more settings and runs than this sweep has"
        return Section("What if", [Text(f"No prediction: {reason}.")])
    left_out, middle = cost["left_out"], data.middle
    rows = data.values("rows")
    parts: list[Part] = [
        Text(
            f"The planner's cost model, fitted to {cost['runs']} loads of this run. On settings that it was not fitted to, it is "
            f"off by {left_out['error']:.0%} (median); 95% of those loads took {left_out['low']:.2f} to "
            f"{left_out['high']:.2f} × the predicted time. It was measured with {spell_range(rows)} rows in "
            f"{middle['files']} files and {middle['workers']} workers; beyond that, the prediction is a guess."
        ),
        _model(data, CostModel(**cost["coefficients"])),
    ]
    return Section("What if", parts)


def _model(data: RunData, model: CostModel) -> Choices:
    """The model is linear in rows and distinct keys, so three predictions give its coefficients for each case."""
    middle, cost = data.middle, data.record.report["cost"]
    files, workers = int(middle["files"]), int(middle["workers"])
    cores = int(data.record.manifest.machine.get("cores") or 1)
    names = [str(number) for number in range(files)]
    cells: list[list[Cell]] = []
    values: list[list[float | Sequence[float] | None]] = []
    for shares in (False, True) if files > 1 else (False,):
        for is_empty in (True, False):
            overlaps = (
                known_overlap({"file_names": names, "rows": rows, "distinct_keys": keys, "shared_keys": int(shares)})
                for rows, keys in ((0, 0), (MILLION // files, 0), (0, MILLION))
            )
            nothing, of_rows, of_keys = (
                predict(overlap, workers=workers, cores=cores, target_is_empty=is_empty, model=model)
                for overlap in overlaps
            )
            for strategy in nothing:
                if strategy is Strategy.FULL_PARALLEL and shares:
                    continue  # refused
                fixed = nothing[strategy]
                numbers = [fixed, of_rows[strategy] - fixed, of_keys[strategy] - fixed]
                keys, table = "shared" if shares else "not shared", "empty" if is_empty else "has rows"
                cells.append([str(strategy), keys, table, *numbers])
                values.append([None, None, None, *(round(number, 5) for number in numbers)])
    rows = data.values("rows")
    facts = {name: str(cost["left_out"][name]) for name in ("low", "high")}
    facts |= {"files": str(files), "least": str(rows[0]), "most": str(rows[-1])}
    caption = "Predicted seconds = fixed + rows × … + distinct keys × …"
    return Choices(Table(caption, HEAD, cells), ("of", "of", "of", "less", "less", "less"), values, "model", facts)
