"""Who shares what."""

from __future__ import annotations

import re

import numpy as np
import pytest
from checks.marks import long

import hvdkit as hvd
from hvdkit.engine import topology

from . import made


def _members(process_set: hvd.ProcessSet) -> list[int]:
    return topology.process_set_ranks(process_set)


def check_tensor_is_innermost() -> None:
    for mesh in made.each():
        shape = (mesh.data, mesh.pipeline, mesh.tensor)
        ranks = np.arange(hvd.size()).reshape(shape)
        d, p, t = np.argwhere(ranks == hvd.rank())[0]
        assert (mesh.data_index, mesh.pipeline_index, mesh.tensor_index) == (d, p, t)
        assert _members(mesh.data_set) == ranks[:, p, t].tolist()
        assert _members(mesh.pipeline_set) == ranks[d, :, t].tolist()
        assert _members(mesh.tensor_set) == ranks[d, p, :].tolist()
        for rank in range(hvd.size()):
            assert mesh.rank_at(*mesh.indices_of(rank)) == rank


def check_groups_reduce_by_themselves() -> None:
    for mesh in made.each():
        for process_set in (mesh.data_set, mesh.pipeline_set, mesh.tensor_set):
            members = _members(process_set)
            if len(members) > 1:
                total = hvd.allreduce(np.float32(hvd.rank()), op=hvd.Sum, process_set=process_set)
                assert float(total) == sum(members)


def check_as_many_replicas_as_fit() -> None:
    assert hvd.Mesh(tensor=2).data == hvd.size() // 2
    assert hvd.Mesh().data == hvd.size()


def check_sizes_that_do_not_fit_are_refused() -> None:
    for sizes, said in (
        ({"tensor": 3}, "tensor=3) does not fit"),
        ({"data": hvd.size(), "tensor": 2}, "These fit (data x pipeline x tensor): "),
        ({"pipeline": 0}, "pipeline=0 of hvd.Mesh: a size is an integer above 0"),
        ({"tensor": "2"}, "tensor='2' of hvd.Mesh"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            hvd.Mesh(**sizes)


def check_ranks_with_other_sizes_are_an_error_on_all() -> None:
    with pytest.raises(hvd.RankMismatchError, match="the sizes of the mesh"):
        hvd.Mesh(tensor=1 if hvd.rank() else 2)


@long
def check_replicas_read_other_rows_and_draw_other_numbers() -> None:
    rows = np.arange(24)
    for mesh in made.each():
        own = [int(i) for x, *_ in hvd.shard((rows, rows), 3, shuffle=False) for i in x]
        seed = hvd.set_random_seed(5)
        for rank, (others, theirs) in enumerate(hvd.allgather_object((own, seed))):
            same = mesh.indices_of(rank)[0] == mesh.data_index
            assert (others == own) == same
            assert (theirs == seed) == same
