"""An OpenLineage event for a load: which files went into which table (https://openlineage.io/docs/spec/object-model)."""

from __future__ import annotations

import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg2.extensions import parse_dsn

from etl_toolkit.feed.document import Feed
from etl_toolkit.model import LoadResult

PRODUCER = "https://pypi.org/project/etl-toolkit"


def write_event(feed: Feed, result: LoadResult | None, failure: str | None, server: Any, at: datetime) -> Path:
    """Write the event of a load that has ended into the feed's directory for lineage, and return its file.

    Raises ImportError where openlineage-python is not installed, OSError.
    """
    try:
        from openlineage.client import event_v2 as event
        from openlineage.client.facet_v2 import error_message_run as message
        from openlineage.client.facet_v2 import input_statistics_input_dataset as read
        from openlineage.client.facet_v2 import output_statistics_output_dataset as written
        from openlineage.client.serde import Serde
    except ImportError:
        raise ImportError("openlineage-python is not installed; install etl-toolkit[lineage]") from None
    namespace, name = _name_table(server, result.table if result else feed.spec.table)
    run_id = result.run_id if result else f"{feed.path} {at}"
    files = result.files if result else {}
    happened = event.RunEvent(
        eventTime=at.isoformat(),
        eventType=event.RunState.COMPLETE if failure is None else event.RunState.FAIL,
        producer=PRODUCER,
        run=event.Run(
            runId=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}/{run_id}")),
            facets={"errorMessage": message.ErrorMessageRunFacet(failure, "python")} if failure else {},
        ),
        job=event.Job(namespace="etl-toolkit", name=feed.name),
        inputs=[
            event.InputDataset(
                namespace="file",
                name=str(Path(file).absolute()),
                inputFacets={"inputStatistics": read.InputStatisticsInputDatasetFacet(rowCount=counts.read)},
            )
            for file, counts in files.items()
        ],
        outputs=[
            event.OutputDataset(
                namespace=namespace,
                name=name,
                outputFacets={
                    "outputStatistics": written.OutputStatisticsOutputDatasetFacet(
                        rowCount=result.counts.written if result else 0
                    )
                },
            )
        ],
    )
    assert feed.after.lineage is not None
    path = Path(feed.after.lineage, f"{at:%Y%m%dT%H%M%S%f}-{feed.name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Serde.to_json(happened) + "\n", encoding="utf-8")
    return path


def _name_table(server: Any, table: str) -> tuple[str, str]:
    """The table by OpenLineage's naming: `postgres://host:port` and `database.schema.table`."""
    known = parse_dsn(server) if isinstance(server, str) else {}
    place = f"postgres://{known.get('host', 'localhost')}:{known.get('port', '5432')}"
    return place, ".".join(part for part in (known.get("dbname", ""), table) if part)
