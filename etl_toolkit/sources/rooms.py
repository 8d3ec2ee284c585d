"""What room the records of files take, and which files share a stream of the record store."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from etl_toolkit.model import SourceFile
from etl_toolkit.sources.linking import is_linked
from etl_toolkit.sources.values import converts_values

SLACK_BYTES = 1 << 16  # what a file may take beyond the guess
STREAMS = 16  # DuckDB reads this many in parallel; files beyond, and small ones, share streams
STREAM_BYTES = 2 << 20  # at least, before a file gets a stream of its own
# More text than Parquet files and frames have as a rule; where one has more, its rows are spelled again, for more room.
SPELLED_RATIO, FIELD_BYTES = 6, 16


def records_bytes(files: Sequence[SourceFile]) -> int:
    """What the records of the files take; of those that have to be spelled anew, a guess."""
    return sum(room_for(file) for file in files)


def room_for(file: SourceFile) -> int:
    """What the records of a file take at most; of some only as a rule."""
    if file.format != "csv":
        fields = (file.records or 0) * len(file.columns)
        return max(SPELLED_RATIO * file.size_bytes, FIELD_BYTES * fields) + SLACK_BYTES
    assert file.readable is not None
    if converts_values(file.read):  # `true` is longer than `j`
        return 2 * file.readable.stat().st_size + SLACK_BYTES
    is_theirs = is_linked(file)  # and may be gone by now; else it is a copy of ours
    return (file.size_bytes if is_theirs else file.readable.stat().st_size) + 1  # the last line may lack its end


def split_streams(files: Sequence[SourceFile]) -> list[list[SourceFile]]:
    """The files in order, each in a stream of its own or, where they are many or small, in streams of about the same size.

    Neighbouring files then share a batch of lines, and DuckDB has fewer relations to plan: cost grows with rows.
    """
    ends = list(accumulate(map(room_for, files)))
    count = min(STREAMS, ends[-1] // STREAM_BYTES + 1)
    if len(files) <= count:
        return [[file] for file in files]
    cuts = [bisect_right(ends, ends[-1] * number // count) for number in range(count)]
    return [list(files[first:end]) for first, end in pairwise([*cuts, len(files)]) if first < end]
