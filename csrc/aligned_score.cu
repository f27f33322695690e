// CUDA kernels for the schema in aligned_score.cpp, in the same library as dynamic_sampling.cu.
//
// There is one warp per pair and position, with its lanes along the groups. Forward shares nothing, so results are
// reproducible. Backward uses one block per pair, whose warps take positions in turn. Gradients are added atomically,
// those of the class weights within the block first, so only the order of these sums can change between runs.
#include "cuda.cuh"

#include "aligned_score.h"

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

// One position of a pair, and where its numbers are in the tables.
template <typename T, typename A>
struct Place {
  int64_t j, i, p, y, x;

  // Finds the sample of tap t; returns false if it lies outside the map.
  __device__ bool sample(const Regrouped& n, const ScoreInputs<T, A>& in, int64_t t, Sample<A>& sample) const {
    const int64_t positions = n.positions(), by_class = (j * n.taps + t) * 2 * positions + p,
                  by_query = (i * n.taps + t) * 2 * positions + p;
    return locate<A>(n, y - n.top + t / n.kernel_width, x - n.left + t % n.kernel_width,
                     in.class_offsets[by_class] + in.query_offsets[by_query],
                     in.class_offsets[by_class + positions] + in.query_offsets[by_query + positions], sample);
  }

  // The start of the row of numbers of tap t at a corner.
  __device__ int64_t tap_row(const Regrouped& n, int64_t t, int64_t corner) const {
    return ((j * n.taps + t) * n.positions() + corner) * n.filters;
  }

  // The meta-filter's convolution for group g, before its sigmoid.
  __device__ A sampled(const Regrouped& n, const ScoreInputs<T, A>& in, int64_t g) const {
    A sum = 0;
    for (int64_t t = 0; t < n.taps; ++t) {
      Sample<A> at;
      if (!sample(n, in, t, at)) continue;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int64_t corner = at.index(c, n);
        const A value = corner < 0 ? A(0) : static_cast<A>(in.taps[tap_row(n, t, corner) + g % n.filters]);
        sum += at.weight(c) * value;  // also outside the map: NaN * 0 propagates a NaN offset
      }
    }
    return sum;
  }
};

template <typename T, typename A>
__global__ void __launch_bounds__(kWarp * kWarps)
    forward_kernel(Regrouped n, Growth growth, ScoreInputs<T, A> in, A* __restrict__ out) {
  const int64_t positions = n.positions(), total = n.episodes * n.queries * n.ways * positions;
  const int lane = threadIdx.x % kWarp;
  // Every loop below has the same bounds for all lanes of a warp, so they stay together for warp_sum.
  for (int64_t at = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp; at < total; at += int64_t(gridDim.x) * kWarps) {
    const int64_t p = at % positions, pair = at / positions, bq = pair / n.ways, b = bq / n.queries;
    const Place<T, A> place{in.class_row(b * n.ways + pair % n.ways), in.query_row(bq), p, p / n.width, p % n.width};
    const T* query = in.query + (place.i * positions + p) * n.channels();
    const A* weights = in.weights + place.j * n.channels();
    A score = 0;
    for (int64_t g = lane; g < n.groups; g += kWarp) {
      A slope, product = 0;
      const A gain = grown(growth, sigmoid(place.sampled(n, in, g)), slope);
      for (int64_t c = g; c < n.channels(); c += n.groups) {
        const A number = static_cast<A>(query[c]), weighed = weights[c] * number;
        score += weighed;
        if (!growth.rectified || number > A(0)) product += weighed;
      }
      score += gain * product;
    }
    score = warp_sum(score);
    if (lane == 0) out[at] = score;
  }
}

// Shared memory holds the gradients of the pair's class weights [C], and, for each warp, those of the sampled sums [G].
template <typename T, typename A>
__global__ void backward_kernel(Regrouped n, Growth growth, ScoreInputs<T, A> in, const A* __restrict__ grad,
                                ScoreGradients<A> to) {
  extern __shared__ __align__(sizeof(double)) unsigned char shared[];
  A* by_weights = reinterpret_cast<A*>(shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  A* by_sum = by_weights + n.channels() + warp * n.groups;
  const int64_t positions = n.positions(), pairs = n.episodes * n.queries * n.ways;
  for (int64_t pair = blockIdx.x; pair < pairs; pair += gridDim.x) {
    const int64_t bq = pair / n.ways, j = bq / n.queries * n.ways + pair % n.ways;
    const A* weights = in.weights + j * n.channels();
    for (int64_t c = threadIdx.x; c < n.channels(); c += blockDim.x) by_weights[c] = 0;
    __syncthreads();
    for (int64_t p = warp; p < positions; p += warps) {
      const Place<T, A> place{j, bq, p, p / n.width, p % n.width};
      const A upstream = grad[pair * positions + p];
      const int64_t row = (bq * positions + p) * n.channels();
      for (int64_t g = lane; g < n.groups; g += kWarp) {
        A slope, product = 0;
        const A f = sigmoid(place.sampled(n, in, g));
        const A by_product = upstream * grown(growth, f, slope);
        for (int64_t c = g; c < n.channels(); c += n.groups) {
          const A number = static_cast<A>(in.query[row + c]);
          const bool grows = !growth.rectified || number > A(0);
          if (grows) product += weights[c] * number;
          const A by_weighed = grows ? upstream + by_product : upstream;
          atomicAdd(by_weights + c, by_weighed * number);
          atomicAdd(to.query + row + c, by_weighed * weights[c]);
        }
        by_sum[g] = upstream * product * slope * f * (A(1) - f);
      }
      __syncwarp();
      for (int64_t t = 0; t < n.taps; ++t) {
        Sample<A> at;
        if (!place.sample(n, in, t, at)) continue;
        A products[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int64_t corner = at.index(c, n);
          A product = 0;
          if (corner >= 0) {
            const int64_t tap_row = place.tap_row(n, t, corner);
            for (int64_t g = lane; g < n.groups; g += kWarp) {
              product += by_sum[g] * static_cast<A>(in.taps[tap_row + g % n.filters]);
              atomicAdd(to.taps + tap_row + g % n.filters, at.weight(c) * by_sum[g]);
            }
          }
          products[c] = warp_sum(product);
        }
        if (lane == 0) {
          const A y = (A(1) - at.b) * (products[2] - products[0]) + at.b * (products[3] - products[1]);
          const A x = (A(1) - at.a) * (products[1] - products[0]) + at.a * (products[3] - products[2]);
          const int64_t by_class = (j * n.taps + t) * 2 * positions + p;
          const int64_t by_query = (bq * n.taps + t) * 2 * positions + p;
          atomicAdd(to.class_offsets + by_class, y);
          atomicAdd(to.class_offsets + by_class + positions, x);
          atomicAdd(to.query_offsets + by_query, y);
          atomicAdd(to.query_offsets + by_query + positions, x);
        }
      }
      __syncwarp();
    }
    __syncthreads();
    for (int64_t c = threadIdx.x; c < n.channels(); c += blockDim.x) {
      atomicAdd(to.weights + j * n.channels() + c, by_weights[c]);
    }
    __syncthreads();
  }
}

unsigned int grid(int64_t blocks) { return static_cast<unsigned int>(std::min(kMostBlocks, blocks)); }

template <typename T, typename A>
void score_forward(const ScoreSizes& sizes, const Growth& growth, const ScoreInputs<T, A>& in, A* out, int device) {
  const Regrouped n = regrouped(sizes, kWarp);
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t places = n.episodes * n.queries * n.ways * n.positions();
  if (places == 0) return;  // an empty grid is a launch error
  const unsigned int blocks = grid((places + kWarps - 1) / kWarps);
  forward_kernel<T, A><<<blocks, kWarp * kWarps, 0, current_stream(device)>>>(n, growth, in, out);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, typename A>
void score_backward(const ScoreSizes& sizes, const Growth& growth, const ScoreInputs<T, A>& in, const A* grad,
                    const ScoreGradients<A>& to, int device) {
  const Regrouped n = regrouped(sizes, kWarp);
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t pairs = n.episodes * n.queries * n.ways;
  if (pairs == 0 || n.positions() == 0) return;
  const int64_t weights = n.channels() * sizeof(A), per_warp = n.groups * sizeof(A);
  STD_TORCH_CHECK(weights + per_warp <= kSharedBytes, "dmf::aligned_score_backward: ", n.channels(),
                  " channels do not fit into a block's shared memory");
  const int64_t warps = std::min<int64_t>(kWarps, (kSharedBytes - weights) / per_warp);
  backward_kernel<T, A><<<grid(pairs), static_cast<unsigned int>(warps * kWarp), weights + warps * per_warp,
                          current_stream(device)>>>(n, growth, in, grad, to);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace dmf

STABLE_TORCH_LIBRARY_IMPL(dmf, CUDA, library) {
  library.impl("aligned_score", TORCH_BOX(&dmf::aligned_score));
  library.impl("aligned_score_backward", TORCH_BOX(&dmf::aligned_score_backward));
  library.impl("aligned_score_of_rows", TORCH_BOX(&dmf::aligned_score_of_rows));
}
