// As the header of the same name for CPU builds; GPU code in Horovod 0.28.1 also uses
// xla::StatusOr, which XLA has since replaced by Abseil's.
#pragma once

#include "absl/status/statusor.h"
#include "xla/hlo/builder/xla_builder.h"

namespace xla {
template <typename T>
using StatusOr = absl::StatusOr<T>;
}  // namespace xla
