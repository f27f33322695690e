// CUDA kernels for the schema in dynamic_sampling.cpp, in a separate library (dmf.ops._C_cuda).
//
// Forward uses one thread per output number, with G fastest, so that neighbouring threads read neighbouring numbers. A
// block covers a run of positions, and all threads of a position use the same samples. Nothing is shared, so results
// are reproducible. Backward has one warp per output position for the gradients of its offsets, with the lanes along G,
// and one per map, tap and 32 groups for those of the tap maps, which goes through all queries and positions in order.
// No sum uses atomics, so these results are reproducible, too.
//
// tests/emulation.py compiles this file for a CPU.
#include "cuda.cuh"

#include "dynamic_sampling.h"

#include <limits>

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
    offsets_kernel(Sizes n, const T* __restrict__ grad, const T* __restrict__ taps, const T* __restrict__ offsets,
                   T* __restrict__ grad_offsets) {
  const int64_t positions = n.positions();
  const int64_t total = n.maps * n.queries * positions;
  const int lane = threadIdx.x % kWarp;
  const int64_t warps = int64_t(gridDim.x) * (kThreads / kWarp);
  // Every branch below depends only on the position, so the lanes of a warp stay together for warp_sum.
  for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp; i < total; i += warps) {
    const int64_t p = i % positions, mq = i / positions, m = mq / n.queries;
    const int y = static_cast<int>(p / n.width), x = static_cast<int>(p % n.width);
    const T* upstream = grad + i * n.groups;
    for (int t = 0; t < n.taps; ++t) {
      const int64_t at = (mq * n.taps + t) * 2 * positions + p;
      const T* map = taps + (m * n.taps + t) * positions * n.groups;
      const Tap<T> tap = find_tap<T>(n, t, y, x, offsets[at], offsets[at + positions], 0, static_cast<int>(n.groups));
      if (!tap.reaches) {
        if (lane == 0) grad_offsets[at] = grad_offsets[at + positions] = T(0);
        continue;
      }
      T by[4] = {};  // of the corners' weights
      for (int g = lane; g < n.groups; g += kWarp) {
        const T u = upstream[g];
#pragma unroll
        for (int c = 0; c < 4; ++c) by[c] += u * (tap.row[c] < 0 ? T(0) : map[tap.row[c] + g]);
      }
      const T by_row = warp_sum((T(1) - tap.b) * (by[2] - by[0]) + tap.b * (by[3] - by[1]));
      const T by_column = warp_sum((T(1) - tap.a) * (by[1] - by[0]) + tap.a * (by[3] - by[2]));
      if (lane == 0) {
        grad_offsets[at] = by_row;
        grad_offsets[at + positions] = by_column;
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kWarp)
    taps_kernel(Sizes n, const T* __restrict__ grad, const T* __restrict__ offsets, T* __restrict__ grad_taps,
                bool sums_fit) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int positions = static_cast<int>(n.positions()), count = static_cast<int>(n.taps),
            groups = static_cast<int>(n.groups), width = static_cast<int>(n.width);
  const unsigned int chunks = (groups + kWarp - 1) / kWarp, total = n.maps * count * chunks;
  for (unsigned int block = blockIdx.x; block < total; block += gridDim.x) {
    const int g = block % chunks * kWarp + threadIdx.x, t = block / chunks % count;
    const int64_t m = block / chunks / count;
    const auto find = [&](int q, int p, int stride) {
      const T* offset = offsets + ((m * n.queries + q) * count + t) * 2 * positions + p;
      return find_tap<T>(n, t, p / width, p % width, offset[0], offset[positions], 0, stride);
    };
    const auto upstream = [&](int q, int p) { return grad[((m * n.queries + q) * positions + p) * groups + g]; };
    add_gradients<T>(n, static_cast<int>(n.queries), g < groups, sums_fit, shared,
                     grad_taps + (m * count + t) * positions * groups + g, groups, find, upstream);
  }
}

unsigned int blocks(int64_t threads) { return grid((threads + kThreads - 1) / kThreads); }

template <typename T>
void forward_all(const Sizes& n, const Tensor& taps, const Tensor& offsets, Tensor& out) {
  const int device = taps.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const unsigned int numbers = blocks(n.maps * n.queries * n.positions() * n.groups);
  forward_kernel<T><<<numbers, kThreads, 0, current_stream(device)>>>(
      n, taps.const_data_ptr<T>(), offsets.const_data_ptr<T>(), out.mutable_data_ptr<T>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void backward_all(const Sizes& n, const Tensor& grad, const Tensor& taps, const Tensor& offsets, Tensor& grad_taps,
                  Tensor& grad_offsets) {
  const int device = taps.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  constexpr int64_t most = std::numeric_limits<int>::max();
  STD_TORCH_CHECK(2 * n.taps * n.positions() <= most && n.positions() * n.groups <= most,
                  "dmf::sample_taps_backward: maps too large for a GPU");
  const T *from = grad.const_data_ptr<T>(), *at = offsets.const_data_ptr<T>();
  const unsigned int warps = blocks(n.maps * n.queries * n.positions() * kWarp);
  offsets_kernel<T><<<warps, kThreads, 0, current_stream(device)>>>(
      n, from, taps.const_data_ptr<T>(), at, grad_offsets.mutable_data_ptr<T>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const MapSums<T> room(n);
  const unsigned int maps = grid(n.maps * n.taps * ((n.groups + kWarp - 1) / kWarp));
  taps_kernel<T><<<maps, kWarp, room.bytes, current_stream(device)>>>(
      n, from, at, grad_taps.mutable_data_ptr<T>(), room.fit);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace dmf

STABLE_TORCH_LIBRARY_IMPL(dmf, CUDA, library) {
  library.impl("sample_taps", TORCH_BOX(&dmf::sample_taps));
  library.impl("sample_taps_backward", TORCH_BOX(&dmf::sample_taps_backward));
}
