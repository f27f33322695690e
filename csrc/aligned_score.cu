// CUDA kernels for the schema in aligned_score.cpp, in the same library as dynamic_sampling.cu.
//
// There is one warp per pair and position, with its lanes along the groups. It first finds where each tap samples, once
// for all groups, and keeps places and weights in shared memory; the loop over the groups then only loads, multiplies
// and adds.
//
// No sum uses atomics, so results are the same in every run. In backward, a first kernel has one warp per query and
// position, which goes through the classes: it owns what belongs to the query. It leaves each pair's gradients of sampled
// sums, products and offsets, from which kernels that own what belongs to a class add up the rest.
//
// tests/emulation.py compiles this file for a CPU.
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

// One position of a pair: rows of the tables, and the position.
struct Place {
  int64_t j, i;
  int p, y, x;
};

// Finds the samples of all taps. Called by a whole warp, which may have read `taps` before.
template <typename T, typename A>
__device__ void find_taps(const Regrouped& n, const ScoreInputs<T, A>& in, const Place& place, Tap<A>* taps) {
  const int positions = static_cast<int>(n.positions()), count = static_cast<int>(n.taps),
            filters = static_cast<int>(n.filters);
  const A* by_class = in.class_offsets + place.j * (2 * count * positions) + place.p;
  const A* by_query = in.query_offsets + place.i * (2 * count * positions) + place.p;
  __syncwarp();
  for (int t = threadIdx.x % kWarp; t < count; t += kWarp) {
    const int y = 2 * t * positions, x = y + positions;
    taps[t] = find_tap<A>(n, t, place.y, place.x, by_class[y] + by_query[y], by_class[x] + by_query[x],
                          t * positions * filters, filters);
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

// What backward keeps of each pair: gradients of the growth's products and of the sampled sums [B, Q, N, H, W, G], and of
// the offsets [B, Q, N, 2T, H, W].
template <typename A>
struct OfPairs {
  A *products, *sums, *offsets;
};

template <int kUnrolled, typename T, typename A>
__global__ void __launch_bounds__(kWarp * kWarps)
    query_kernel(Regrouped n, Growth growth, ScoreInputs<T, A> in, const A* __restrict__ grad, ScoreGradients<A> to,
                 OfPairs<A> of_pairs) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  Tap<A>* taps = reinterpret_cast<Tap<A>*>(shared) + warp * n.taps;
  const unsigned int positions = n.positions(), queries = n.queries, total = n.episodes * queries * positions;
  const int groups = static_cast<int>(n.groups), channels = static_cast<int>(n.channels()),
            count = static_cast<int>(n.taps), filters = static_cast<int>(n.filters), ways = static_cast<int>(n.ways);
  // Every loop below has the same bounds for all lanes of a warp, so they stay together for warp_sum.
  for (unsigned int at = blockIdx.x * kWarps + warp; at < total; at += gridDim.x * kWarps) {
    const unsigned int bq = at / positions, p = at % positions;
    const T* query = in.query + int64_t(at) * channels;
    A* to_query = to.query + int64_t(at) * channels;
    A* to_offsets = to.query_offsets + int64_t(bq) * (2 * count * positions) + p;
    for (int way = 0; way < ways; ++way) {
      const int64_t j = bq / queries * ways + way, pair = int64_t(bq) * ways + way;
      find_taps(n, in, Place{j, bq, int(p), int(p / n.width), int(p % n.width)}, taps);
      const T* rows = in.taps + j * (n.taps * positions * n.filters);
      const A* weights = in.weights + j * channels;
      const A upstream = grad[pair * positions + p];
      A* by_products = of_pairs.products + (pair * positions + p) * groups;
      A* by_sums = of_pairs.sums + (pair * positions + p) * groups;
      A* by_offsets = of_pairs.offsets + pair * (2 * count * positions) + p;
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
          // The lane of group g owns the channels c = g, g + G, ...
          for (int c = g; c < channels; c += groups) {
            const A number = static_cast<A>(query[c]), weight = weights[c];
            const bool grows = !growth.rectified || number > A(0);
            if (grows) product += weight * number;
            to_query[c] += (grows ? upstream + by_product : upstream) * weight;
          }
          by_products[g] = by_product;
          by_sums[g] = upstream * product * slope * f * (A(1) - f);
        }
      }
      for (int t = 0; t < count; ++t) {
        const Tap<A>& tap = taps[t];  // also where it does not reach the map: NaN * 0 propagates a NaN
        A by[4] = {};                 // of the corners' weights
        for (int g = lane; g < groups; g += kWarp) {
          const A sum = by_sums[g];
          const int filter = g % filters;
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const int row = tap.row[c];
            by[c] += sum * (row < 0 ? A(0) : static_cast<A>(rows[row + filter]));
          }
        }
        const A y = warp_sum((A(1) - tap.b) * (by[2] - by[0]) + tap.b * (by[3] - by[1]));
        const A x = warp_sum((A(1) - tap.a) * (by[1] - by[0]) + tap.a * (by[3] - by[2]));
        if (lane == 0) {
          const int row = 2 * t * positions, column = row + positions;
          by_offsets[row] = y;
          by_offsets[column] = x;
          to_offsets[row] += y;
          to_offsets[column] += x;
        }
      }
    }
  }
}

// One warp per class, tap and kWarp filters.
template <typename T, typename A>
__global__ void __launch_bounds__(kWarp)
    taps_kernel(Regrouped n, ScoreInputs<T, A> in, const A* __restrict__ by_sums, A* __restrict__ to, bool sums_fit) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int positions = static_cast<int>(n.positions()), count = static_cast<int>(n.taps),
            filters = static_cast<int>(n.filters), groups = static_cast<int>(n.groups),
            width = static_cast<int>(n.width);
  const unsigned int chunks = (filters + kWarp - 1) / kWarp, total = n.episodes * n.ways * count * chunks;
  for (unsigned int block = blockIdx.x; block < total; block += gridDim.x) {
    const int filter = block % chunks * kWarp + threadIdx.x, t = block / chunks % count;
    const int64_t j = block / chunks / count, episode = j / n.ways, way = j % n.ways;
    const A* by_class = in.class_offsets + (j * count + t) * 2 * positions;
    const auto find = [&](int q, int p, int stride) {
      const A* by_query = in.query_offsets + ((episode * n.queries + q) * count + t) * 2 * positions;
      return find_tap<A>(n, t, p / width, p % width, by_class[p] + by_query[p],
                         by_class[positions + p] + by_query[positions + p], 0, stride);
    };
    const auto upstream = [&](int q, int p) {
      const A* numbers = by_sums + (((episode * n.queries + q) * n.ways + way) * positions + p) * groups;
      A sum = 0;
      for (int g = filter; g < groups; g += filters) sum += numbers[g];
      return sum;
    };
    add_gradients<A>(n, static_cast<int>(n.queries), filter < filters, sums_fit, shared,
                     to + (j * count + t) * positions * filters + filter, filters, find, upstream);
  }
}

// One thread per class and channel.
template <typename T, typename A>
__global__ void __launch_bounds__(kWarp * kWarps)
    weights_kernel(Regrouped n, bool rectified, ScoreInputs<T, A> in, const A* __restrict__ grad,
                   const A* __restrict__ by_products, A* __restrict__ to) {
  const int positions = static_cast<int>(n.positions()), groups = static_cast<int>(n.groups),
            channels = static_cast<int>(n.channels());
  const int64_t total = n.episodes * n.ways * channels;
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < total; at += gridDim.x * blockDim.x) {
    const int64_t j = at / channels, episode = j / n.ways, way = j % n.ways;
    const int c = at % channels;
    A sum = 0;
    for (int64_t bq = episode * n.queries; bq < (episode + 1) * n.queries; ++bq) {
      const int64_t pair = bq * n.ways + way;
      for (int p = 0; p < positions; ++p) {
        const A number = static_cast<A>(in.query[(bq * positions + p) * channels + c]);
        const A upstream = grad[pair * positions + p];
        const A by_product = by_products[(pair * positions + p) * groups + c % groups];
        sum += (!rectified || number > A(0) ? upstream + by_product : upstream) * number;
      }
    }
    to[at] = sum;
  }
}

// One thread per number of the classes' offsets.
template <typename A>
__global__ void __launch_bounds__(kWarp * kWarps)
    offsets_kernel(Regrouped n, const A* __restrict__ by_offsets, A* __restrict__ to) {
  const int64_t numbers = 2 * n.taps * n.positions(), total = n.episodes * n.ways * numbers;
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < total; at += gridDim.x * blockDim.x) {
    const int64_t j = at / numbers, episode = j / n.ways, way = j % n.ways;
    A sum = 0;
    for (int64_t bq = episode * n.queries; bq < (episode + 1) * n.queries; ++bq) {
      sum += by_offsets[(bq * n.ways + way) * numbers + at % numbers];
    }
    to[at] = sum;
  }
}

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
  if (places == 0) return;
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
                    const ScoreGradients<A>& to, const Tensor& like) {
  const Regrouped n = regrouped(sizes, kWarp);
  const int device = like.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t pairs = n.episodes * n.queries * n.ways, positions = n.positions(), classes = n.episodes * n.ways;
  if (pairs == 0 || positions == 0) return;
  check_indices(n);
  Tensor products = torch::stable::new_empty(like, {pairs, positions, n.groups}),
         sums = torch::stable::new_empty(like, {pairs, positions, n.groups}),
         offsets = torch::stable::new_empty(like, {pairs, 2 * n.taps, positions});
  const OfPairs<A> of_pairs{products.mutable_data_ptr<A>(), sums.mutable_data_ptr<A>(), offsets.mutable_data_ptr<A>()};
  const int64_t bytes = kWarps * n.taps * sizeof(Tap<A>);
  STD_TORCH_CHECK(bytes <= kSharedBytes, "dmf::aligned_score_backward: ", n.taps,
                  " taps do not fit into shared memory");
  constexpr int threads = kWarp * kWarps;
  const unsigned int queries = grid((n.episodes * n.queries * positions + kWarps - 1) / kWarps);
  unrolled(n, [&](auto count) {
    query_kernel<count(), T, A>
        <<<queries, threads, bytes, current_stream(device)>>>(n, growth, in, grad, to, of_pairs);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const MapSums<A> room(n);
  const unsigned int maps = grid(classes * n.taps * ((n.filters + kWarp - 1) / kWarp));
  taps_kernel<T, A><<<maps, kWarp, room.bytes, current_stream(device)>>>(n, in, of_pairs.sums, to.taps, room.fit);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const unsigned int weights = grid((classes * n.channels() + threads - 1) / threads);
  weights_kernel<T, A>
      <<<weights, threads, 0, current_stream(device)>>>(n, growth.rectified, in, grad, of_pairs.products, to.weights);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const unsigned int numbers = grid((classes * 2 * n.taps * positions + threads - 1) / threads);
  offsets_kernel<A><<<numbers, threads, 0, current_stream(device)>>>(n, of_pairs.offsets, to.class_offsets);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace dmf

STABLE_TORCH_LIBRARY_IMPL(dmf, CUDA, library) {
  library.impl("aligned_score", TORCH_BOX(&dmf::aligned_score));
  library.impl("aligned_score_backward", TORCH_BOX(&dmf::aligned_score_backward));
  library.impl("aligned_score_of_rows", TORCH_BOX(&dmf::aligned_score_of_rows));
}
