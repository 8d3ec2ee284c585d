"""The order in which the files of an overlap are drawn: those that share many keys lie side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etl_toolkit.model import KeyOverlap

MOST_CLUSTERED = 1_500  # of one group: distances between more files would not fit into memory


def order_files(overlap: KeyOverlap) -> list[int]:
    """Return the positions of all files, groups with many files first; within a group, similar files together."""
    ordered: list[int] = []
    for group in sorted(overlap.groups, key=lambda files: (-len(files), files)):
        ordered += _order_group(group, overlap.pairs, {file: overlap.file_at[file].distinct_keys for file in group})
    return ordered


def _order_group(group: Sequence[int], pairs: Mapping[tuple[int, int], int], keys: Mapping[int, int]) -> list[int]:
    """Order the leaves of a tree that joins the files with the largest shares of common keys first."""
    if not 2 < len(group) <= MOST_CLUSTERED:
        return list(group)
    import numpy as np
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    place = {file: n for n, file in enumerate(group)}
    distance = np.ones((len(group), len(group)))
    np.fill_diagonal(distance, 0)
    for (left, right), shared in pairs.items():
        if left in place and right in place:
            share = shared / max(1, min(keys[left], keys[right]))
            distance[place[left], place[right]] = distance[place[right], place[left]] = 1 - min(1.0, share)
    condensed = squareform(distance)
    tree = linkage(condensed, "average")
    tree = optimal_leaf_ordering(tree, condensed) if len(group) <= MOST_CLUSTERED // 3 else tree
    leaves = [group[n] for n in leaves_list(tree)]
    return leaves if leaves[0] <= leaves[-1] else leaves[::-1]  # the direction is free: earlier files first
