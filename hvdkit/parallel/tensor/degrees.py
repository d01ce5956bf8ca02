"""What divides over the ranks of a tensor group, and what is said where it does not."""

from __future__ import annotations

import tensorflow as tf

from hvdkit.mesh.mesh import Mesh, current_mesh

_MOST_NAMED = 64


def sharding_mesh(mesh: Mesh | None) -> Mesh | None:
    """The mesh that a layer is sharded over: the given or the current one; None where none is."""
    mesh = current_mesh() if mesh is None else mesh
    return mesh if mesh is not None and mesh.tensor > 1 else None


def require_divisible(what: str, number: int | None, mesh: Mesh) -> None:
    """Refuse a number that does not divide over the ranks of a tensor group.

    Args:
        what: the number and the layer, as in "num_heads of the layer 'attention'".
        number: None if it is not known yet.
        mesh: the mesh.

    Raises:
        ValueError: it does not divide. The ranks run the same code, so on every rank.
    """
    if number is None or number % mesh.tensor == 0:
        return
    most = min(number, _MOST_NAMED)
    fitting = ", ".join(str(n) for n in range(1, most + 1) if number % n == 0)
    multiple = -(-number // mesh.tensor) * mesh.tensor
    raise ValueError(
        f"{what} is {number}, which does not divide over the {mesh.tensor} ranks of a tensor "
        f"group. Tensor degrees that fit: {fitting}. Or take a multiple of {mesh.tensor}, such as "
        f"{multiple}."
    )


def shard_size(number: int | tf.Tensor, mesh: Mesh) -> int | tf.Tensor:
    """The size of a rank's shard along an axis.

    Args:
        number: the size of the axis; a scalar where it is known only when the graph runs.
        mesh: the mesh.

    Raises:
        ValueError: it does not divide.
        tf.errors.InvalidArgumentError: when the graph runs: it does not divide.
    """
    if isinstance(number, int):
        require_divisible("the size of an axis (length of the sequence?)", number, mesh)
        return number // mesh.tensor
    divides = tf.debugging.assert_equal(
        number % mesh.tensor,
        0,
        f"the size of an axis (length of the sequence?) does not divide over the {mesh.tensor} "
        "ranks of a tensor group.",
    )
    with tf.control_dependencies([divides] if divides is not None else []):
        return number // mesh.tensor


def sequence_shard_size(length: int | None, label: str, mesh: Mesh) -> int | None:
    """The length of a rank's shard of a sequence; None while that of the sequence is not known.

    Raises:
        ValueError: it does not divide.
    """
    require_divisible(f"the length of the sequence in {label}", length, mesh)
    return None if length is None else length // mesh.tensor
