// Horovod 0.28.1 includes XLA's builder by the path that it had in TensorFlow 2.11.
// This header, found before TensorFlow's own, leads from that path to today's.
#pragma once

#include "xla/hlo/builder/xla_builder.h"
