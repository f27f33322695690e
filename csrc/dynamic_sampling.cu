// CUDA kernels for the schema in dynamic_sampling.cpp, in a separate library (dmf.ops._C_cuda).
//
// Forward uses one thread per output number, with G fastest, so that neighbouring threads read neighbouring numbers. A
// block covers a run of positions, and all threads of a position use the same samples. Nothing is shared, so results
// are reproducible. Backward uses one warp per output position, with its lanes along G. Gradients of corners are added
// atomically, so only the order of these sums can change between runs; gradients of offsets are sums over the warp.
#include "cuda.cuh"

#include "dynamic_sampling.h"

namespace dmf {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Sizes n, const T* __restrict__ taps,
                                                           const T* __restrict__ offsets, T* __restrict__ out) {
  const int64_t positions = n.positions();
  const int64_t total = n.maps * n.queries * positions * n.groups;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < total; i += int64_t(gridDim.x) * kThreads) {
    const int64_t g = i % n.groups, p = i / n.groups % positions, mq = i / n.groups / positions;
    const int64_t y = p / n.width - n.top, x = p % n.width - n.left;
    const T* map = taps + mq / n.queries * n.taps * positions * n.groups + g;
    const T* offset = offsets + mq * 2 * n.taps * positions + p;
    T sum = 0;
    int64_t t = 0;
    for (int64_t row = y; t < n.taps; ++row) {
      for (int64_t column = x; column < x + n.kernel_width; ++column, ++t) {
        const T dy = offset[2 * t * positions], dx = offset[(2 * t + 1) * positions];
        Sample<T> sample;
        if (!locate(n, row, column, dy, dx, sample)) continue;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int64_t index = sample.index(c, n);
          const T value = index < 0 ? T(0) : map[(t * positions + index) * n.groups];
          sum += sample.weight(c) * value;  // also outside the map: NaN * 0 propagates a NaN offset
        }
      }
    }
    out[i] = sum;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Sizes n, const T* __restrict__ grad, const T* __restrict__ taps, const T* __restrict__ offsets,
                    T* __restrict__ grad_taps, T* __restrict__ grad_offsets) {
  const int64_t positions = n.positions();
  const int64_t total = n.maps * n.queries * positions;
  const int lane = threadIdx.x % kWarp;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / kWarp);
  // Every branch below depends only on the position, so the lanes of a warp stay together for warp_sum.
  for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp; i < total; i += warps) {
    const int64_t p = i % positions, mq = i / positions, m = mq / n.queries;
    const int64_t y = p / n.width - n.top, x = p % n.width - n.left;
    const T* upstream = grad + i * n.groups;
    int64_t t = 0;
    for (int64_t row = y; t < n.taps; ++row) {
      for (int64_t column = x; column < x + n.kernel_width; ++column, ++t) {
        const int64_t at = (mq * n.taps + t) * 2 * positions + p;
        const int64_t map = (m * n.taps + t) * positions * n.groups;
        Sample<T> sample;
        if (!locate(n, row, column, offsets[at], offsets[at + positions], sample)) {
          if (lane == 0) grad_offsets[at] = grad_offsets[at + positions] = T(0);
          continue;
        }
        T products[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int64_t index = sample.index(c, n);
          const T weight = sample.weight(c);
          T product = 0;
          if (index >= 0) {
            const int64_t corner = map + index * n.groups;
            for (int64_t g = lane; g < n.groups; g += kWarp) {
              const T u = upstream[g];
              product += u * taps[corner + g];
              atomicAdd(grad_taps + corner + g, weight * u);
            }
          }
          products[c] = warp_sum(product);
        }
        if (lane == 0) {
          const T a = sample.a, b = sample.b;
          grad_offsets[at] = (T(1) - b) * (products[2] - products[0]) + b * (products[3] - products[1]);
          grad_offsets[at + positions] = (T(1) - a) * (products[1] - products[0]) + a * (products[3] - products[2]);
        }
      }
    }
  }
}

unsigned int blocks(int64_t threads) {
  return static_cast<unsigned int>(std::min(kMostBlocks, (threads + kThreads - 1) / kThreads));
}

template <typename T>
void forward_all(const Sizes& n, const Tensor& taps, const Tensor& offsets, Tensor& out) {
  const torch::stable::accelerator::DeviceGuard guard(taps.get_device_index());
  const int64_t threads = n.maps * n.queries * n.positions() * n.groups;
  if (threads == 0) return;  // an empty grid is a launch error
  forward_kernel<T><<<blocks(threads), kThreads, 0, current_stream(taps.get_device_index())>>>(
      n, taps.const_data_ptr<T>(), offsets.const_data_ptr<T>(), out.mutable_data_ptr<T>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void backward_all(const Sizes& n, const Tensor& grad, const Tensor& taps, const Tensor& offsets, Tensor& grad_taps,
                  Tensor& grad_offsets) {
  const torch::stable::accelerator::DeviceGuard guard(taps.get_device_index());
  const int64_t threads = n.maps * n.queries * n.positions() * kWarp;
  if (threads == 0) return;
  backward_kernel<T><<<blocks(threads), kThreads, 0, current_stream(taps.get_device_index())>>>(
      n, grad.const_data_ptr<T>(), taps.const_data_ptr<T>(), offsets.const_data_ptr<T>(),
      grad_taps.mutable_data_ptr<T>(), grad_offsets.mutable_data_ptr<T>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace dmf

STABLE_TORCH_LIBRARY_IMPL(dmf, CUDA, library) {
  library.impl("sample_taps", TORCH_BOX(&dmf::sample_taps));
  library.impl("sample_taps_backward", TORCH_BOX(&dmf::sample_taps_backward));
}
