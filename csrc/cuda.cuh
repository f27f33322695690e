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

// Where a tap samples a map: for each corner, the start of its row of numbers, or -1 outside of the map, and its weight.
template <typename A>
struct alignas(16) Tap {
  int row[4];
  A weight[4];
  A a, b;        // as in Sample
  bool reaches;  // whether any corner is in the map
};

// Finds where tap t samples for position (y, x), displaced by (dy, dx). Rows of the map start at `start`, and follow each
// other by `stride` numbers.
template <typename A>
__device__ Tap<A> find_tap(const Grid& n, int t, int y, int x, A dy, A dx, int start, int stride) {
  const int width = static_cast<int>(n.kernel_width);
  Sample<A> at{};
  Tap<A> tap;
  tap.reaches = locate<A>(n, y - n.top + t / width, x - n.left + t % width, dy, dx, at);
  tap.a = at.a;
  tap.b = at.b;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int corner = tap.reaches ? static_cast<int>(at.index(c, n)) : -1;
    tap.row[c] = corner < 0 ? -1 : start + corner * stride;
    tap.weight[c] = tap.reaches ? at.weight(c) : A(0);
  }
  return tap;
}

// The shared memory of a warp that adds up the gradients of a tap's map: kWarp taps, and, if it fits, the sums.
template <typename A>
struct MapSums {
  static constexpr int64_t kMost = 48 << 10;
  int64_t bytes;
  bool fit;

  explicit MapSums(const Grid& n) : bytes(kWarp * sizeof(Tap<A>) + n.positions() * kWarp * sizeof(A)) {
    fit = bytes <= kMost;
    if (!fit) bytes = kWarp * sizeof(Tap<A>);
  }
};

// Adds the gradients of one tap's map in kWarp groups, one for each lane of the warp that calls it, which is alone in
// its block. The warp owns these sums and goes through all samples in order, so they need no atomics and are the same
// in every run. `find(q, p, stride)` is the tap of a query's position, `upstream(q, p)` the gradient of the lane's group.
// A lane whose group does not exist is not `active`. `to` is the group's number in the map's first row of `groups`.
template <typename A, typename Find, typename Upstream>
__device__ void add_gradients(const Grid& n, int queries, bool active, bool sums_fit, unsigned char* shared, A* to,
                              int groups, const Find& find, const Upstream& upstream) {
  Tap<A>* taps = reinterpret_cast<Tap<A>*>(shared);
  const int lane = threadIdx.x, positions = static_cast<int>(n.positions()), stride = sums_fit ? kWarp : groups;
  A* sums = sums_fit ? reinterpret_cast<A*>(taps + kWarp) + lane : to;
  if (sums_fit) {
    for (int p = 0; p < positions; ++p) sums[p * kWarp] = A(0);
  }
  for (int q = 0; q < queries; ++q) {
    for (int first = 0; first < positions; first += kWarp) {
      __syncwarp();
      if (first + lane < positions) taps[lane] = find(q, first + lane, stride);
      __syncwarp();
      const int count = min(kWarp, positions - first);
      for (int k = 0; active && k < count; ++k) {
        const Tap<A>& tap = taps[k];
        if (!tap.reaches) continue;
        const A gradient = upstream(q, first + k);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if (tap.row[c] >= 0) sums[tap.row[c]] += tap.weight[c] * gradient;
        }
      }
    }
  }
  if (sums_fit && active) {
    for (int p = 0; p < positions; ++p) to[int64_t(p) * groups] = sums[p * kWarp];
  }
}

// At least one block, since an empty grid is a launch error.
inline unsigned int grid(int64_t blocks) {
  return static_cast<unsigned int>(std::clamp<int64_t>(blocks, 1, kMostBlocks));
}

inline cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace dmf
