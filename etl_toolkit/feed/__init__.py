"""A feed: one file that says what is loaded, from where, and how. It can be reviewed, and editors complete it."""

from etl_toolkit.feed.document import Feed
from etl_toolkit.feed.schema import SCHEMA_FILE, feed_schema

__all__ = ["SCHEMA_FILE", "Feed", "feed_schema"]
