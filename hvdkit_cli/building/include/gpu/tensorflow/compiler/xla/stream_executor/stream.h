// Horovod 0.28.1 includes stream.h by the path that it had in TensorFlow 2.11, and calls
// stream_executor::gpu::AsGpuStreamValue, which TensorFlow no longer exports. The stream's
// platform-specific handle is the same CUDA stream.
//
// Horovod declares the function (and its type, GpuStreamHandle) just before it includes this
// header; the definition below completes that declaration.
#pragma once

#include "xla/stream_executor/stream.h"

namespace stream_executor {
namespace gpu {

inline GpuStreamHandle AsGpuStreamValue(Stream* stream) {
  return static_cast<GpuStreamHandle>(
      stream->platform_specific_handle().stream);
}

}  // namespace gpu
}  // namespace stream_executor
