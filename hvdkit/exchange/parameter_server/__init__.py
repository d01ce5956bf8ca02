"""Some ranks hold the variables and update them; the others compute gradients."""

from hvdkit.exchange.parameter_server.exchange import ParameterServer

__all__ = ["ParameterServer"]
