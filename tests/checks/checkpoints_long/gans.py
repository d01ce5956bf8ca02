"""GANs whose models are built by their first step."""

from __future__ import annotations

from checks.checkpoints.several_optimizers import require_that_a_gan_goes_on_to_the_bit


def check_a_gan_that_is_not_built_goes_on_to_the_bit() -> None:
    require_that_a_gan_goes_on_to_the_bit(built=False)
