// CUDA kernels for the schema in aligned_score.cpp, in the same library as dynamic_sampling.cu.
//
// There is one warp per pair and position, with its lanes along the groups. It first finds where each tap samples, once
// for all groups, and keeps places and weights in shared memory; the loop over the groups then only loads, multiplies
// and adds. Forward shares nothing, so results are reproducible. Backward uses one block per pair, whose warps take
// positions in turn and sum the gradients of the class weights apart. Other gradients are added atomically, so the order
// of these sums can change between runs.
//
// tests/emulated_cuda.py compiles this file for a CPU.
#include "cuda.cuh"

#include "aligned_score.h"

#include <limits>
#include <type_traits>

namespace dmf {
namespace {

constexpr int kWarps = 8;
constexpr int64_t kSharedBytes = 48 << 10;

template <typename A>
__device__ A sigmoid(A x) {
  return A(1) / (A(1) + exp(-x));
}

// phi(f) - 1 and its derivative.
template <typename A>
__device__ A grown(const Growth& growth, A f, A& slope) {
  if (growth.exponential) {
    slope = exp(f);
    return slope - A(1);
  }
  const A c1 = A(growth.c[0]), c2 = A(growth.c[1]), c3 = A(growth.c[2]), c4 = A(growth.c[3]);
  slope = c1 + f * (2 * c2 + f * (3 * c3 + f * (4 * c4)));
  return f * (c1 + f * (c2 + f * (c3 + f * c4)));
}

// Where a tap samples the class's maps: for each corner, the start of its row of numbers in the class's part of `taps`,
// or -1 outside of the map, and its weight.
template <typename A>
struct alignas(16) Tap {
  int row[4];
  A weight[4];
  A a, b;        // as in Sample
  bool reaches;  // whether any corner is in the map
};

// One position of a pair: rows of the tables, and the position.
struct Place {
  int64_t j, i;
  int p, y, x;
};

// Finds the samples of all taps. Called by a whole warp, which may have read `taps` before.
template <typename T, typename A>
__device__ void find_taps(const Regrouped& n, const ScoreInputs<T, A>& in, const Place& place, Tap<A>* taps) {
  const int positions = static_cast<int>(n.positions()), count = static_cast<int>(n.taps),
            width = static_cast<int>(n.kernel_width), filters = static_cast<int>(n.filters);
  const A* by_class = in.class_offsets + place.j * (2 * count * positions) + place.p;
  const A* by_query = in.query_offsets + place.i * (2 * count * positions) + place.p;
  __syncwarp();
  for (int t = threadIdx.x % kWarp; t < count; t += kWarp) {
    const int y = 2 * t * positions, x = y + positions;
    Sample<A> at{};
    Tap<A> tap;
    tap.reaches = locate<A>(n, place.y - n.top + t / width, place.x - n.left + t % width, by_class[y] + by_query[y],
                            by_class[x] + by_query[x], at);
    tap.a = at.a;
    tap.b = at.b;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int corner = tap.reaches ? static_cast<int>(at.index(c, n)) : -1;
      tap.row[c] = corner < 0 ? -1 : (t * positions + corner) * filters;
      tap.weight[c] = tap.reaches ? at.weight(c) : A(0);
    }
    taps[t] = tap;
  }
  __syncwarp();
}

// The meta-filter's convolution, before its sigmoid, for kUnrolled groups: g, g + 32, ...
template <int kUnrolled, typename T, typename A>
__device__ void sample(const Regrouped& n, const Tap<A>* taps, const T* rows, int g, A* sums) {
  const int count = static_cast<int>(n.taps), filters = static_cast<int>(n.filters), last = int(n.groups) - 1;
  int filter[kUnrolled];
#pragma unroll
  for (int u = 0; u < kUnrolled; ++u) {
    filter[u] = min(g + u * kWarp, last) % filters;
    sums[u] = 0;
  }
  for (int t = 0; t < count; ++t) {
    const Tap<A>& tap = taps[t];
    if (!tap.reaches) continue;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int row = tap.row[c];
      const A weight = tap.weight[c];
#pragma unroll
      for (int u = 0; u < kUnrolled; ++u) {
        const A value = row < 0 ? A(0) : static_cast<A>(rows[row + filter[u]]);
        sums[u] += weight * value;  // also outside the map: NaN * 0 propagates a NaN offset
      }
    }
  }
}

template <int kUnrolled, typename T, typename A>
__global__ void __launch_bounds__(kWarp * kWarps)
    forward_kernel(Regrouped n, Growth growth, ScoreInputs<T, A> in, A* __restrict__ out) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  Tap<A>* taps = reinterpret_cast<Tap<A>*>(shared) + warp * n.taps;
  const unsigned int positions = n.positions(), ways = n.ways, queries = n.queries;
  const unsigned int total = n.episodes * queries * ways * positions;
  const int groups = static_cast<int>(n.groups), channels = static_cast<int>(n.channels());
  // Every loop below has the same bounds for all lanes of a warp, so they stay together for warp_sum.
  for (unsigned int at = blockIdx.x * kWarps + warp; at < total; at += gridDim.x * kWarps) {
    const unsigned int pair = at / positions, p = at % positions, bq = pair / ways;
    const Place place{in.class_row(bq / queries * ways + pair % ways), in.query_row(bq), int(p), int(p / n.width),
                      int(p % n.width)};
    find_taps(n, in, place, taps);
    const T* rows = in.taps + place.j * (n.taps * positions * n.filters);
    const T* query = in.query + (place.i * positions + p) * channels;
    const A* weights = in.weights + place.j * channels;
    A score = 0;
    for (int first = lane; first < groups; first += kWarp * kUnrolled) {
      A sums[kUnrolled];
      sample<kUnrolled>(n, taps, rows, first, sums);
#pragma unroll
      for (int u = 0; u < kUnrolled; ++u) {
        const int g = first + u * kWarp;
        if (g >= groups) break;
        A slope, product = 0;
        const A gain = grown(growth, sigmoid(sums[u]), slope);
        for (int c = g; c < channels; c += groups) {
          const A number = static_cast<A>(query[c]), weighed = weights[c] * number;
          score += weighed;
          if (!growth.rectified || number > A(0)) product += weighed;
        }
        score += gain * product;
      }
    }
    score = warp_sum(score);
    if (lane == 0) out[at] = score;
  }
}

// Shared memory holds, for each warp, its taps, the gradients of the pair's class weights [C] from its positions, and
// those of the sampled sums [G].
template <int kUnrolled, typename T, typename A>
__global__ void __launch_bounds__(kWarp * kWarps)
    backward_kernel(Regrouped n, Growth growth, ScoreInputs<T, A> in, const A* __restrict__ grad,
                    ScoreGradients<A> to) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int positions = static_cast<int>(n.positions()), groups = static_cast<int>(n.groups),
            channels = static_cast<int>(n.channels()), count = static_cast<int>(n.taps),
            filters = static_cast<int>(n.filters), ways = static_cast<int>(n.ways);
  Tap<A>* taps = reinterpret_cast<Tap<A>*>(shared) + warp * count;
  A* all_weights = reinterpret_cast<A*>(reinterpret_cast<Tap<A>*>(shared) + warps * count);
  A* by_weights = all_weights + warp * channels;
  A* by_sum = all_weights + warps * channels + warp * groups;
  const int64_t pairs = n.episodes * n.queries * n.ways;
  for (int64_t pair = blockIdx.x; pair < pairs; pair += gridDim.x) {
    const int64_t bq = pair / ways, j = bq / n.queries * ways + pair % ways;
    const A* weights = in.weights + j * channels;
    const int64_t of_class = j * (int64_t(count) * positions * filters);
    const T* rows = in.taps + of_class;
    A* to_rows = to.taps + of_class;
    // The lane of group g owns the channels c = g, g + G, ... here and below, so a warp's sums need no atomics.
    for (int c = lane; c < channels; c += kWarp) by_weights[c] = 0;
    for (int p = warp; p < positions; p += warps) {
      const Place place{j, bq, p, p / int(n.width), p % int(n.width)};
      find_taps(n, in, place, taps);
      const A upstream = grad[pair * positions + p];
      const T* query = in.query + (bq * positions + p) * channels;
      A* to_query = to.query + (bq * positions + p) * channels;
      for (int first = lane; first < groups; first += kWarp * kUnrolled) {
        A sums[kUnrolled];
        sample<kUnrolled>(n, taps, rows, first, sums);
#pragma unroll
        for (int u = 0; u < kUnrolled; ++u) {
          const int g = first + u * kWarp;
          if (g >= groups) break;
          A slope, product = 0;
          const A f = sigmoid(sums[u]);
          const A by_product = upstream * grown(growth, f, slope);
          for (int c = g; c < channels; c += groups) {
            const A number = static_cast<A>(query[c]), weight = weights[c];
            const bool grows = !growth.rectified || number > A(0);
            if (grows) product += weight * number;
            const A by_weighed = grows ? upstream + by_product : upstream;
            by_weights[c] += by_weighed * number;
            atomicAdd(to_query + c, by_weighed * weight);
          }
          by_sum[g] = upstream * product * slope * f * (A(1) - f);
        }
      }
      __syncwarp();
      for (int t = 0; t < count; ++t) {
        const Tap<A>& tap = taps[t];  // also where it does not reach the map: NaN * 0 propagates a NaN
        A y = 0, x = 0;
        for (int g = lane; g < groups; g += kWarp) {
          const A sum = by_sum[g];
          const int filter = g % filters;
          A value[4];
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const int row = tap.row[c];
            value[c] = row < 0 ? A(0) : static_cast<A>(rows[row + filter]);
            if (row >= 0) atomicAdd(to_rows + row + filter, tap.weight[c] * sum);
          }
          y += sum * ((A(1) - tap.b) * (value[2] - value[0]) + tap.b * (value[3] - value[1]));
          x += sum * ((A(1) - tap.a) * (value[1] - value[0]) + tap.a * (value[3] - value[2]));
        }
        y = warp_sum(y);
        x = warp_sum(x);
        if (lane == 0) {
          const int64_t by_class = (j * count + t) * 2 * positions + p, by_query = (bq * count + t) * 2 * positions + p;
          atomicAdd(to.class_offsets + by_class, y);
          atomicAdd(to.class_offsets + by_class + positions, x);
          atomicAdd(to.query_offsets + by_query, y);
          atomicAdd(to.query_offsets + by_query + positions, x);
        }
      }
      __syncwarp();
    }
    __syncthreads();
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
      A sum = 0;
      for (int w = 0; w < warps; ++w) sum += all_weights[w * channels + c];
      atomicAdd(to.weights + j * channels + c, sum);
    }
    __syncthreads();
  }
}

unsigned int grid(int64_t blocks) { return static_cast<unsigned int>(std::min(kMostBlocks, blocks)); }

// The kernels compute indices within a row of a table with 32 bits.
void check_indices(const Regrouped& n) {
  constexpr int64_t most = std::numeric_limits<int>::max();
  STD_TORCH_CHECK(2 * n.taps * n.positions() * std::max<int64_t>(n.filters, 1) <= most &&
                      n.positions() * n.channels() <= most && n.episodes * n.queries * n.ways * n.positions() <= most,
                  "dmf::aligned_score: maps or batches too large for a GPU");
}

// Calls run with the number of groups that a lane computes at a time, as a compile-time constant.
template <typename Run>
void unrolled(const Regrouped& n, const Run& run) {
  if (n.groups <= kWarp) {
    run(std::integral_constant<int, 1>());
  } else if (n.groups <= 2 * kWarp) {
    run(std::integral_constant<int, 2>());
  } else {
    run(std::integral_constant<int, 4>());
  }
}

template <typename T, typename A>
void score_forward(const ScoreSizes& sizes, const Growth& growth, const ScoreInputs<T, A>& in, A* out, int device) {
  const Regrouped n = regrouped(sizes, kWarp);
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t places = n.episodes * n.queries * n.ways * n.positions();
  if (places == 0) return;  // an empty grid is a launch error
  check_indices(n);
  const unsigned int blocks = grid((places + kWarps - 1) / kWarps);
  const int64_t bytes = kWarps * n.taps * sizeof(Tap<A>);
  STD_TORCH_CHECK(bytes <= kSharedBytes, "dmf::aligned_score: ", n.taps, " taps do not fit into shared memory");
  unrolled(n, [&](auto count) {
    forward_kernel<count(), T, A><<<blocks, kWarp * kWarps, bytes, current_stream(device)>>>(n, growth, in, out);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, typename A>
void score_backward(const ScoreSizes& sizes, const Growth& growth, const ScoreInputs<T, A>& in, const A* grad,
                    const ScoreGradients<A>& to, int device) {
  const Regrouped n = regrouped(sizes, kWarp);
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t pairs = n.episodes * n.queries * n.ways;
  if (pairs == 0 || n.positions() == 0) return;
  check_indices(n);
  const int64_t per_warp = n.taps * sizeof(Tap<A>) + (n.channels() + n.groups) * sizeof(A);
  STD_TORCH_CHECK(per_warp <= kSharedBytes, "dmf::aligned_score_backward: ", n.channels(),
                  " channels do not fit into a block's shared memory");
  const int64_t warps = std::min<int64_t>(kWarps, kSharedBytes / per_warp);
  const unsigned int threads = static_cast<unsigned int>(warps * kWarp);
  unrolled(n, [&](auto count) {
    backward_kernel<count(), T, A>
        <<<grid(pairs), threads, warps * per_warp, current_stream(device)>>>(n, growth, in, grad, to);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace dmf

STABLE_TORCH_LIBRARY_IMPL(dmf, CUDA, library) {
  library.impl("aligned_score", TORCH_BOX(&dmf::aligned_score));
  library.impl("aligned_score_backward", TORCH_BOX(&dmf::aligned_score_backward));
  library.impl("aligned_score_of_rows", TORCH_BOX(&dmf::aligned_score_of_rows));
}
