"""Some of the keys that two files share, and the file whose rows win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etl_toolkit.config import ParallelConfig
from etl_toolkit.model import KeyOverlap, ReadOptions, SourceFile
from etl_toolkit.overlap import MAX_PAIRS
from etl_toolkit.sources import resolve, text_relation
from etl_toolkit.workspace import Workspace, open_workspace

SAMPLE_KEYS = 5
MOST_REJECTS = 10_000


@dataclass(frozen=True)
class SharedKey:
    """The texts of a key, and the names of the files that carry it, in loading order: the last one wins."""

    key: tuple[str, ...]
    files: tuple[str, ...]


def lists_some_pairs(overlap: KeyOverlap) -> bool:
    """Whether files may share keys although their pair is not listed: there were too many pairs."""
    return len(overlap.pairs) >= MAX_PAIRS or (overlap.shared_keys > 0 and not overlap.pairs)


def sample_shared_keys(
    overlap: KeyOverlap, left: int, right: int, read: ReadOptions, config: ParallelConfig
) -> list[SharedKey]:
    """Return some keys that the files at two positions share; keys are compared as text."""
    pairs, group = overlap.pairs, next(group for group in overlap.groups if right in group)
    is_cut = lists_some_pairs(overlap)  # then any later file of the group may have the keys
    later = [n for n in group if n > right and (is_cut or (pairs.get((left, n)) and pairs.get((right, n))))]
    names = [overlap.file_at[position].name for position in (left, right, *later)]
    with open_workspace(config, threads=2) as workspace:
        files = resolve(names, read, workspace, max_rejects=MOST_REJECTS).files
        shared = _shared_by(files[0], files[1], overlap.key, workspace)
        having = {key: [names[0], names[1]] for key in shared}
        for file, name in zip(files[2:], names[2:], strict=True):
            for key in _contained(file, list(having), overlap.key, workspace):
                having[key].append(name)
    return [SharedKey(key, tuple(carriers)) for key, carriers in having.items()]


def _keys_query(file: SourceFile, key: Sequence[str]) -> str:
    folded = {name.casefold(): name for name in file.carried}
    relation, texts = text_relation([file], [folded[name.casefold()] for name in key])
    return f"SELECT {', '.join(f'{text} AS k{n}' for n, text in enumerate(texts))} FROM {relation}"


def _shared_by(left: SourceFile, right: SourceFile, key: Sequence[str], workspace: Workspace) -> list[tuple[str, ...]]:
    rows = workspace.query(
        f"SELECT * FROM (({_keys_query(left, key)}) INTERSECT ({_keys_query(right, key)})) ORDER BY ALL LIMIT {SAMPLE_KEYS}"
    )
    return [tuple(row) for row in rows]


def _contained(
    file: SourceFile, keys: Sequence[tuple[str, ...]], key: Sequence[str], workspace: Workspace
) -> list[tuple[str, ...]]:
    if not keys:
        return []
    width = len(key)
    places = ", ".join(["(" + ", ".join(["?"] * width) + ")"] * len(keys))
    columns = ", ".join(f"k{n}" for n in range(width))
    rows = workspace.query(
        f"SELECT DISTINCT * FROM ({_keys_query(file, key)}) WHERE ({columns}) IN ({places})",
        [text for item in keys for text in item],
    )
    return [tuple(row) for row in rows]
