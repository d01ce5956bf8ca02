"""A parameter server where there can be none: over Gloo, or on one rank."""

import hvdkit as hvd

hvd.init()
hvd.exchange.ParameterServer()
