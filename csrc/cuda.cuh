// Shared by the CUDA kernels. Include this file first.
#pragma once

#define USE_CUDA  // makes PyTorch declare aoti_torch_get_current_cuda_stream
#include "sampling.h"

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace dmf {

constexpr int kWarp = 32;
constexpr int64_t kMostBlocks = 1 << 20;

// The sum over a warp's lanes; only its first lane has the result.
template <typename T>
__device__ T warp_sum(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  return value;
}

inline cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace dmf
