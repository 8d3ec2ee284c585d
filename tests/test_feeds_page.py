"""Every feed in the user's guide is a feed, agrees with the schema, and loads what its recipe says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from psycopg2.extensions import connection as Connection

from etl_toolkit import Feed, ingest
from etl_toolkit.feed import feed_schema
from tests import test_docs

orders = test_docs.orders  # a fixture
FEEDS = [block for block in test_docs.blocks("toml") if block.title == "feed"]
# What a recipe reads, by the name of its file.
FILES = {
    "titles.csv": "Orders\nof January\n\norder_id,customer,amount\n1,ann,1.00\n2,bob,2.00\nTotal,,3.00\n",
    "german.csv": "order_id;customer;amount;updated_at\n1;ann;1.234,50;31.12.2024\n2;bob;-;01.02.2024\n",
    "changes.csv": "order_id,customer,op\n1,,D\n2,bob,U\n99,,D\n",
    "partial.csv": "order_id,customer,amount\n1,ann,\n2,bob,5.00\n",
    "snapshot.csv": "order_id,customer\n2,bob\n",
    "by_customer/customer=ann/1.csv": "order_id,amount\n1,1.00\n",
    "by_customer/customer=bob/1.csv": "order_id,amount\n2,2.00\n",
    "renamed.csv": "Order ID,Kunde\n1,ann\n2,bob\n",
    "prices.csv": "order_id,customer,amount\n1,ann,5.00\n3,cora,6.00\n",
    "channels.jsonl": '{"order_id": 1, "customer": "ann", "channel": "web"}\n{"order_id": 2, "customer": "bob"}\n',
}
# The rows of the table afterwards; it holds (1, 'old', 9.99) and (2, 'old', 9.99) before.
EXPECTED: dict[str, Any] = {
    "titles.csv": [("1", "ann", "1.00", None), ("2", "bob", "2.00", None)],
    "german.csv": [("1", "ann", "1234.50", "2024-12-31"), ("2", "bob", None, "2024-02-01")],
    "changes.csv": [("2", "bob", "9.99", None)],
    "partial.csv": [("1", "ann", "9.99", None), ("2", "bob", "5.00", None)],
    "snapshot.csv": [("2", "bob", "9.99", None)],
    "by_customer/*/*.csv": [("1", "ann", "1.00", None), ("2", "bob", "2.00", None)],
    "renamed.csv": [("1", "ann", "9.99", None), ("2", "bob", "9.99", None)],
    "prices.csv": [("1", "old", "5.00", None), ("2", "old", "9.99", None)],
    "channels.jsonl": [("1", "ann", "9.99", None), ("2", "bob", "9.99", None)],
}


def test_there_are_feeds() -> None:
    assert len(FEEDS) >= 8
    assert all(any(f'"{name}"' in block.text for block in FEEDS) for name in EXPECTED)


@pytest.mark.parametrize("block", FEEDS, ids=range(len(FEEDS)))
def test_a_feed_of_the_guide_loads(orders: str, connection: Connection, tmp_path: Path, block: Any) -> None:
    jsonschema.validate(tomllib.loads(block.text), feed_schema())
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    path = tmp_path / "feed.toml"
    path.write_text(block.text)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO sales.orders VALUES (1, 'old', 9.99), (2, 'old', 9.99)")

    result = ingest(feed=Feed.from_toml(path), dsn=orders)

    assert result
    name = next((name for name in EXPECTED if f'"{name}"' in block.text), "drops")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT order_id::text, customer, amount::text, updated_at::date::text FROM sales.orders o ORDER BY o.order_id"
        )
        rows = cursor.fetchall()
    if name in EXPECTED:
        assert rows == EXPECTED[name]
    else:
        assert (len(rows), rows[-1][1]) == (59, "orders-10.csv")
