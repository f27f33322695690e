// CPU kernels of dmf::aligned_score. Python registers autograd and shape inference (dmf/ops/aligned_score.py).
//
// Groups are processed in blocks of a few vectors, as wide as this processor's registers (`with_vectors`). A block of a
// class map's taps (the "slab") is packed in the type of the sums, with a row of zeros for corners outside the map, and
// stays in the second-level cache while all queries sample it. A position's sums of samples stay in registers.
//
// No sum is split between threads, so results do not depend on the number of threads. In forward, a thread owns class
// maps; in backward, it owns (episode, block) pairs, except that gradients of the offsets are summed over the blocks
// afterwards, in order.
#include "aligned_score.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace dmf {
namespace {

// How numbers of type A fill a vector of kBytes, and how exp(x) is computed with it.
template <typename A, int kBytes>
struct Lanes;
template <int kBytes>
struct Lanes<float, kBytes> {
  using Number = float;
  typedef float V __attribute__((vector_size(kBytes)));
  typedef int32_t I __attribute__((vector_size(kBytes)));
  typedef uint32_t Wide __attribute__((vector_size(kBytes)));
  typedef uint16_t Narrow __attribute__((vector_size(kBytes / 2)));
  static constexpr int count = kBytes / sizeof(float), mantissa = 23, bias = 127, taylor = 7;
  // ln 2 in two parts; the first has few enough digits for exact products with integers.
  static constexpr double ln2_high = 0.693359375, ln2_low = -2.121944400546905827679e-4, most = 87;
};
template <int kBytes>
struct Lanes<double, kBytes> {
  using Number = double;
  typedef double V __attribute__((vector_size(kBytes)));
  typedef int64_t I __attribute__((vector_size(kBytes)));
  static constexpr int count = kBytes / sizeof(double), mantissa = 52, bias = 1023, taylor = 13;
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10, most = 700;
};
template <typename L>
using Vector = typename L::V;

// Sums of a whole block's samples stay in registers. Blocks are as wide with AVX2 as with AVX-512.
constexpr int vectors_per_block(int bytes) { return bytes == 64 ? 4 : 8; }

template <typename V, typename A>
DMF_HOST_DEVICE V load(const A* from) {
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

template <typename V, typename A>
DMF_HOST_DEVICE void store(A* to, V v) {
  std::memcpy(to, &v, sizeof(V));
}

template <typename L>
DMF_HOST_DEVICE typename L::Number lane_sum(Vector<L> v) {
  typename L::Number lanes[L::count];
  store(lanes, v);
  for (int step = L::count / 2; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  }
  return lanes[0];
}

// exp(x) = 2^k exp(x - k ln 2), with a Taylor series for the second factor; x is clamped to where 2^k is normal.
template <typename L>
DMF_HOST_DEVICE Vector<L> exponential(Vector<L> x) {
  using A = typename L::Number;
  using V = Vector<L>;
  using I = typename L::I;
  const V most = V{} + A(L::most);
  x = x > most ? most : x;
  x = x < -most ? -most : x;
  // Adding 1.5 * 2^mantissa leaves an integer in the lowest bits.
  const A shift = A(1.5) * A(int64_t(1) << L::mantissa);
  const V shifted = x * A(1.4426950408889634074) + shift;
  const V k = shifted - shift;
  const V r = x - k * A(L::ln2_high) - k * A(L::ln2_low);
  V sum = V{} + A(1);
#pragma GCC unroll 16
  for (int i = L::taylor; i > 0; --i) sum = sum * r * A(1.0 / i) + A(1);
  I bits, zero;
  const V at_zero = V{} + shift;
  std::memcpy(&bits, &shifted, sizeof(bits));
  std::memcpy(&zero, &at_zero, sizeof(zero));
  const I scale_bits = (bits - zero + L::bias) << L::mantissa;
  V scale;
  std::memcpy(&scale, &scale_bits, sizeof(scale));
  return sum * scale;
}

template <typename L>
DMF_HOST_DEVICE Vector<L> sigmoid(Vector<L> x) {
  using A = typename L::Number;
  return A(1) / (A(1) + exponential<L>(-x));
}

// phi(f) - 1 and its derivative.
template <typename L>
DMF_HOST_DEVICE Vector<L> grown(const Growth& growth, Vector<L> f, Vector<L>& slope) {
  using A = typename L::Number;
  if (growth.exponential) {
    slope = exponential<L>(f);
    return slope - A(1);
  }
  const A c1 = A(growth.c[0]), c2 = A(growth.c[1]), c3 = A(growth.c[2]), c4 = A(growth.c[3]);
  slope = c1 + f * (2 * c2 + f * (3 * c3 + f * (4 * c4)));
  return f * (c1 + f * (c2 + f * (c3 + f * c4)));
}

// Loads one vector of numbers of any type.
template <typename L, typename T>
DMF_HOST_DEVICE Vector<L> load_as(const T* from) {
  using V = Vector<L>;
  if constexpr (std::is_same_v<T, typename L::Number>) {
    return load<V>(from);
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    typename L::Narrow narrow;
    std::memcpy(&narrow, from, sizeof(narrow));
    const auto bits = __builtin_convertvector(narrow, typename L::Wide) << 16;  // a bfloat16 is the upper half of a float
    V v;
    std::memcpy(&v, &bits, sizeof(v));
    return v;
  }
}

// Loads NV vectors from a row of `count` numbers, padded with zeros.
template <int NV, typename L, typename T>
DMF_HOST_DEVICE void load_row(const T* from, int64_t count, Vector<L> (&row)[NV]) {
  using A = typename L::Number;
  if (count >= NV * L::count) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) row[v] = load_as<L>(from + v * L::count);
    return;
  }
  A numbers[NV * L::count] = {};
  for (int64_t i = 0; i < count; ++i) numbers[i] = static_cast<A>(from[i]);
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) row[v] = load<Vector<L>>(numbers + v * L::count);
}

template <int NV, typename L, typename T>
DMF_HOST_DEVICE void pack_row(const T* from, int64_t count, typename L::Number* to) {
  Vector<L> row[NV];
  load_row<NV, L>(from, count, row);
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) store(to + v * L::count, row[v]);
}

template <typename A>
class Aligned {
 public:
  explicit Aligned(int64_t count) : room_(count + kLine / sizeof(A), A(0)) {}
  A* get() {
    const uintptr_t at = reinterpret_cast<uintptr_t>(room_.data());
    return reinterpret_cast<A*>((at + kLine - 1) / kLine * kLine);
  }

 private:
  static constexpr uintptr_t kLine = 64;  // of the caches, and the widest vector
  std::vector<A> room_;
};

// A thread's working memory, for a block of at most `width` groups.
template <typename A>
struct Scratch {
  Aligned<A> slab_room, grad_slab_room, weights_room, grad_weights_room;
  std::vector<A> weight, down, right, row, column;
  std::vector<int32_t> corner;

  A* slab;          // [T, H * W + 1, width]: taps; the last row of each tap is zero
  A* grad_slab;     // the same shape; the last row collects gradients of corners outside the map
  A* weights;       // [R, width]
  A* grad_weights;  // [R, width]

  Scratch(const ScoreSizes& n, int64_t width, bool gradients)
      : slab_room(n.taps * (n.positions() + 1) * width),
        grad_slab_room(gradients ? n.taps * (n.positions() + 1) * width : 0),
        weights_room(n.group_size * width),
        grad_weights_room(gradients ? n.group_size * width : 0),
        weight(4 * n.taps * n.positions()),
        down(n.taps * n.positions()),
        right(n.taps * n.positions()),
        row(n.positions()),
        column(n.positions()),
        corner(4 * n.taps * n.positions()) {
    slab = slab_room.get();
    grad_slab = grad_slab_room.get();
    weights = weights_room.get();
    grad_weights = grad_weights_room.get();
    for (int64_t p = 0; p < n.positions(); ++p) {
      row[p] = A(p / n.width);
      column[p] = A(p % n.width);
    }
  }
};

// The groups [first, first + count), in a block of NV vectors.
struct Block {
  int64_t first, count;
};

template <int NV, typename L, typename T, typename A>
DMF_HOST_DEVICE void pack(const Regrouped& n, const ScoreInputs<T, A>& in, int64_t j, Block block, Scratch<A>& s) {
  constexpr int width = NV * L::count;
  const int64_t positions = n.positions();
  for (int64_t t = 0; t < n.taps; ++t) {
    for (int64_t p = 0; p < positions; ++p) {
      const T* from = in.taps + ((j * n.taps + t) * positions + p) * n.filters;
      A* to = s.slab + (t * (positions + 1) + p) * width;
      if (n.filters == n.groups) {
        pack_row<NV, L>(from + block.first, block.count, to);
      } else {
        for (int64_t g = 0; g < width; ++g) to[g] = static_cast<A>(from[(block.first + g) % n.filters]);
      }
    }
    A* zeros = s.slab + (t * (positions + 1) + positions) * width;
    std::fill(zeros, zeros + width, A(0));
  }
  for (int64_t r = 0; r < n.group_size; ++r) {
    pack_row<NV, L>(in.weights + (j * n.group_size + r) * n.groups + block.first, block.count, s.weights + r * width);
  }
}

// Finds where a pair's taps read. For tap t, corner c and position p, `corner` [4t + c, p] is the slab's row, as an
// offset from its start in numbers, and `weight` its weight; `down` and `right` are a and b of `Sample`.
template <typename T, typename A>
DMF_HOST_DEVICE void locate_all(const Regrouped& n, const ScoreInputs<T, A>& in, int64_t j, int64_t i, int32_t width,
                                Scratch<A>& s) {
  const int64_t positions = n.positions();
  const A most_row = A(n.height), most_column = A(n.width);
  const int32_t height = int32_t(n.height), columns = int32_t(n.width), outside = int32_t(positions);
  for (int64_t t = 0; t < n.taps; ++t) {
    const A* class_y = in.class_offsets + (j * n.taps + t) * 2 * positions;
    const A* query_y = in.query_offsets + (i * n.taps + t) * 2 * positions;
    const A *class_x = class_y + positions, *query_x = query_y + positions;
    const A row = A(t / n.kernel_width - n.top), column = A(t % n.kernel_width - n.left);
    int32_t* corner = s.corner.data() + 4 * t * positions;
    A* weight = s.weight.data() + 4 * t * positions;
    A *down = s.down.data() + t * positions, *right = s.right.data() + t * positions;
    const A *from_row = s.row.data(), *from_column = s.column.data();
    const int32_t start = int32_t(t) * (outside + 1);
#pragma omp simd
    for (int64_t p = 0; p < positions; ++p) {
      // As in `locate`, the range is tested before the conversion, and a NaN propagates through the weights.
      const A v = from_row[p] + row + (class_y[p] + query_y[p]);
      const A h = from_column[p] + column + (class_x[p] + query_x[p]);
      const bool inside = (v >= A(-1)) & (v < most_row) & (h >= A(-1)) & (h < most_column);
      const A elsewhere = (v == v) & (h == h) ? A(0) : v + h;
      const A from_v = inside ? v : A(0), from_h = inside ? h : A(0);
      const A above = std::floor(from_v), before = std::floor(from_h);
      const A a = inside ? from_v - above : elsewhere, b = inside ? from_h - before : elsewhere;
      const int32_t y = int32_t(above), x = int32_t(before);
      const A present = inside ? A(1) : elsewhere;
      const bool top = inside & (y >= 0), bottom = inside & (y + 1 < height), first = x >= 0, last = x + 1 < columns;
      corner[p] = (start + (top & first ? y * columns + x : outside)) * width;
      corner[positions + p] = (start + (top & last ? y * columns + x + 1 : outside)) * width;
      corner[2 * positions + p] = (start + (bottom & first ? (y + 1) * columns + x : outside)) * width;
      corner[3 * positions + p] = (start + (bottom & last ? (y + 1) * columns + x + 1 : outside)) * width;
      weight[p] = (A(1) - a) * (A(1) - b) * present;
      weight[positions + p] = (A(1) - a) * b * present;
      weight[2 * positions + p] = a * (A(1) - b) * present;
      weight[3 * positions + p] = a * b * present;
      down[p] = a;
      right[p] = b;
    }
  }
}

// The meta-filter's convolution at position p, before its sigmoid.
template <int NV, typename L, typename A>
DMF_HOST_DEVICE void sample_all(const Regrouped& n, const Scratch<A>& s, int64_t p, Vector<L> (&sum)[NV]) {
  const int64_t positions = n.positions();
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) sum[v] = Vector<L>{};
  for (int64_t k = 0; k < 4 * n.taps; ++k) {
    const A* row = s.slab + s.corner[k * positions + p];
    const A weight = s.weight[k * positions + p];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[v] += weight * load<Vector<L>>(row + v * L::count);
  }
}

// `value` where a query's number x grows (with a rectified growth, where x > 0), and 0 elsewhere.
template <typename L>
DMF_HOST_DEVICE Vector<L> where_growing(const Growth& growth, Vector<L> x, Vector<L> value) {
  return growth.rectified ? (x > typename L::Number(0) ? value : Vector<L>{}) : value;
}

// Weights the query's numbers x at a position, `query` [R, G], with the class weights w. `product` gets, for each
// group, the sum over its channels of w times what grows; `all` gets partial sums of w x over all channels.
template <int NV, typename L, typename T, typename A>
DMF_HOST_DEVICE void weigh(const Regrouped& n, const Growth& growth, const T* query, Block block,
                           const Scratch<A>& s, Vector<L> (&product)[NV], Vector<L>& all) {
  using V = Vector<L>;
  constexpr int few = NV < 4 ? NV : 4;  // sums of so many vectors stay in registers
  all = V{};
#pragma GCC unroll 2
  for (int first = 0; first < NV; first += few) {
    V grows[few] = {}, sum[few] = {}, row[few];
    for (int64_t r = 0; r < n.group_size; ++r) {
      load_row<few, L>(query + r * n.groups + first * L::count, block.count - first * L::count, row);
#pragma GCC unroll 4
      for (int v = 0; v < few; ++v) {
        const V weight = load<V>(s.weights + (r * NV + first + v) * L::count);
        grows[v] += weight * where_growing<L>(growth, row[v], row[v]);
        sum[v] += weight * row[v];
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < few; ++v) {
      product[first + v] = grows[v];
      all += sum[v];
    }
  }
}

template <int NV, typename L, typename T, typename A>
DMF_HOST_DEVICE void forward_block(const Regrouped& n, const Growth& growth, const ScoreInputs<T, A>& in, int64_t bn,
                                   Block block, Scratch<A>& s, A* out) {
  constexpr int width = NV * L::count;
  using V = Vector<L>;
  const int64_t positions = n.positions(), b = bn / n.ways, way = bn % n.ways, j = in.class_row(bn);
  pack<NV, L>(n, in, j, block, s);
  for (int64_t q = 0; q < n.queries; ++q) {
    const int64_t i = in.query_row(b * n.queries + q);
    locate_all(n, in, j, i, width, s);
    const T* query = in.query + i * positions * n.channels() + block.first;
    A* to = out + ((b * n.queries + q) * n.ways + way) * positions;
    for (int64_t p = 0; p < positions; ++p) {
      V sum[NV], product[NV], slope, score;
      sample_all<NV, L>(n, s, p, sum);
      weigh<NV, L>(n, growth, query + p * n.channels(), block, s, product, score);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) score += grown<L>(growth, sigmoid<L>(sum[v]), slope) * product[v];
      to[p] += lane_sum<L>(score);
    }
  }
}

// Adds the gradients of one pair (class map j, query map i) in a block to those that are there.
template <int NV, typename L, typename T, typename A>
DMF_HOST_DEVICE void backward_pair(const Regrouped& n, const Growth& growth, const T* query, const A* grad,
                                   Block block, Scratch<A>& s, A* to_query, A* to_class_offsets,
                                   A* to_query_offsets) {
  constexpr int width = NV * L::count, lanes = L::count;
  using V = Vector<L>;
  const int64_t positions = n.positions();
  for (int64_t p = 0; p < positions; ++p) {
    V sum[NV], product[NV], row[NV], by_product[NV], all;
    const T* from = query + p * n.channels();
    sample_all<NV, L>(n, s, p, sum);
    weigh<NV, L>(n, growth, from, block, s, product, all);
    // `sum` becomes the gradient with respect to the sampled sum.
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const V f = sigmoid<L>(sum[v]);
      V slope;
      by_product[v] = grad[p] * grown<L>(growth, f, slope);
      sum[v] = grad[p] * product[v] * slope * f * (A(1) - f);
    }
    A* to_row = to_query + p * n.channels();
    for (int64_t r = 0; r < n.group_size; ++r) {
      load_row<NV, L>(from + r * n.groups, block.count, row);
      A part[width];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        const int64_t at = r * width + v * lanes;
        const V by_weighed = grad[p] + where_growing<L>(growth, row[v], by_product[v]);
        store(s.grad_weights + at, load<V>(s.grad_weights + at) + by_weighed * row[v]);
        store(part + v * lanes, by_weighed * load<V>(s.weights + at));
      }
      A* to = to_row + r * n.groups;
      if (block.count == width) {
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) store(to + v * lanes, load<V>(to + v * lanes) + load<V>(part + v * lanes));
      } else {
        for (int64_t g = 0; g < block.count; ++g) to[g] += part[g];
      }
    }
    for (int64_t t = 0; t < n.taps; ++t) {
      const int64_t k = 4 * t * positions + p;
      const int32_t c0 = s.corner[k], c1 = s.corner[k + positions], c2 = s.corner[k + 2 * positions],
                    c3 = s.corner[k + 3 * positions];
      const A w0 = s.weight[k], w1 = s.weight[k + positions], w2 = s.weight[k + 2 * positions],
              w3 = s.weight[k + 3 * positions];
      const A a = s.down[t * positions + p], b = s.right[t * positions + p];
      V by_0 = {}, by_1 = {}, by_2 = {}, by_3 = {};  // of the corners' weights
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        const A* slab = s.slab + v * lanes;
        by_0 += sum[v] * load<V>(slab + c0);
        by_1 += sum[v] * load<V>(slab + c1);
        by_2 += sum[v] * load<V>(slab + c2);
        by_3 += sum[v] * load<V>(slab + c3);
        // One after the other, because corners outside the map share a row.
        A* to = s.grad_slab + v * lanes;
        store(to + c0, load<V>(to + c0) + w0 * sum[v]);
        store(to + c1, load<V>(to + c1) + w1 * sum[v]);
        store(to + c2, load<V>(to + c2) + w2 * sum[v]);
        store(to + c3, load<V>(to + c3) + w3 * sum[v]);
      }
      const A y = lane_sum<L>((A(1) - b) * (by_2 - by_0) + b * (by_3 - by_1));
      const A x = lane_sum<L>((A(1) - a) * (by_1 - by_0) + a * (by_3 - by_2));
      const int64_t at = 2 * t * positions + p;
      to_class_offsets[at] += y;
      to_class_offsets[at + positions] += x;
      to_query_offsets[at] += y;
      to_query_offsets[at + positions] += x;
    }
  }
}

template <int NV, typename L, typename T, typename A>
DMF_HOST_DEVICE void backward_block(const Regrouped& n, const Growth& growth, const ScoreInputs<T, A>& in,
                                    const A* grad, int64_t b, Block block, Scratch<A>& s,
                                    const ScoreGradients<A>& to) {
  constexpr int width = NV * L::count;
  const int64_t positions = n.positions(), offsets = 2 * n.taps * positions;
  for (int64_t way = 0; way < n.ways; ++way) {
    const int64_t j = b * n.ways + way;
    pack<NV, L>(n, in, j, block, s);
    std::fill(s.grad_slab, s.grad_slab + n.taps * (positions + 1) * width, A(0));
    std::fill(s.grad_weights, s.grad_weights + n.group_size * width, A(0));
    for (int64_t q = 0; q < n.queries; ++q) {
      const int64_t i = b * n.queries + q, query = i * positions * n.channels() + block.first;
      locate_all(n, in, j, i, width, s);
      backward_pair<NV, L>(n, growth, in.query + query, grad + (i * n.ways + way) * positions, block, s,
                           to.query + query, to.class_offsets + j * offsets, to.query_offsets + i * offsets);
    }
    for (int64_t t = 0; t < n.taps; ++t) {
      for (int64_t p = 0; p < positions; ++p) {
        const A* row = s.grad_slab + (t * (positions + 1) + p) * width;
        A* sum = to.taps + ((j * n.taps + t) * positions + p) * n.filters;
        if (n.filters == n.groups) {
          std::copy(row, row + block.count, sum + block.first);
        } else {
          for (int64_t g = 0; g < block.count; ++g) sum[(block.first + g) % n.filters] += row[g];
        }
      }
    }
    for (int64_t r = 0; r < n.group_size; ++r) {
      const A* row = s.grad_weights + r * width;
      std::copy(row, row + block.count, to.weights + (j * n.group_size + r) * n.groups + block.first);
    }
  }
}

// Calls `run` with the number of vectors, a power of two and at most NV, that hold `count` groups.
template <int NV, typename L, typename Run>
DMF_HOST_DEVICE void by_vectors(int64_t count, const Run& run) {
  if constexpr (NV > 1) {
    if (count <= NV / 2 * L::count) return by_vectors<NV / 2, L>(count, run);
  }
  run(std::integral_constant<int, NV>());
}

template <typename L>
constexpr int kMost = vectors_per_block(sizeof(Vector<L>));
template <typename L>
constexpr int64_t kWidest = kMost<L> * L::count;

template <typename L, typename T, typename A>
DMF_HOST_DEVICE void forward_classes(const Regrouped& n, const Growth& growth, const ScoreInputs<T, A>& in, A* out,
                                     Scratch<A>& s, int64_t begin, int64_t end) {
  for (int64_t bn = begin; bn < end; ++bn) {
    for (int64_t first = 0; first < n.groups; first += kWidest<L>) {
      const Block block{first, std::min(kWidest<L>, n.groups - first)};
      by_vectors<kMost<L>, L>(block.count, [&](auto vectors) DMF_ALWAYS_INLINE {
        forward_block<vectors(), L>(n, growth, in, bn, block, s, out);
      });
    }
  }
}

// Computes pairs [begin, end) of B * parts, where a part is one block, or all blocks if blocks share filters. The
// gradients of offsets from part k go to their k-th copy.
template <typename L, typename T, typename A>
DMF_HOST_DEVICE void backward_parts(const Regrouped& n, const Growth& growth, const ScoreInputs<T, A>& in,
                                    const A* grad, const ScoreGradients<A>& to, int64_t parts, Scratch<A>& s,
                                    int64_t begin, int64_t end) {
  const int64_t offsets = 2 * n.taps * n.positions();
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t b = pair / parts, k = pair % parts;
    ScoreGradients<A> mine = to;
    mine.class_offsets += k * n.episodes * n.ways * offsets;
    mine.query_offsets += k * n.episodes * n.queries * offsets;
    for (int64_t first = k * kWidest<L>; first < (parts == 1 ? n.groups : (k + 1) * kWidest<L>); first += kWidest<L>) {
      const Block block{first, std::min(kWidest<L>, n.groups - first)};
      by_vectors<kMost<L>, L>(block.count, [&](auto vectors) DMF_ALWAYS_INLINE {
        backward_block<vectors(), L>(n, growth, in, grad, b, block, s, mine);
      });
    }
  }
}

// How this process's vectors divide the groups into blocks.
template <typename A>
struct Blocking {
  int64_t lanes, widest;  // numbers of a vector and of a whole block

  Blocking() : lanes(vector_bytes() / sizeof(A)), widest(vectors_per_block(vector_bytes()) * lanes) {}

  // The width of a block that holds `groups` groups, or of all of several blocks.
  int64_t width(int64_t groups) const {
    int64_t width = lanes;
    while (width < groups && width < widest) width *= 2;
    return width;
  }
};

int64_t work_per_class(const Regrouped& n) {
  return n.queries * n.positions() * (4 * n.taps * (n.groups + 8) + n.channels());
}

template <typename T, typename A>
void score_forward(const ScoreSizes& sizes, const Growth& growth, const ScoreInputs<T, A>& in, A* out, int) {
  const Blocking<A> blocking;
  const Regrouped n = regrouped(sizes, blocking.lanes);
  torch::stable::parallel_for(0, n.episodes * n.ways, grain(work_per_class(n)), [&](int64_t begin, int64_t end) {
    Scratch<A> scratch(n, blocking.width(n.groups), false);
    with_vectors([&](auto bytes) DMF_ALWAYS_INLINE {
      forward_classes<Lanes<A, bytes()>>(n, growth, in, out, scratch, begin, end);
    });
  });
}

template <typename T, typename A>
void score_backward(const ScoreSizes& sizes, const Growth& growth, const ScoreInputs<T, A>& in, const A* grad,
                    const ScoreGradients<A>& to, const Tensor&) {
  const Blocking<A> blocking;
  const Regrouped n = regrouped(sizes, blocking.lanes);
  const int64_t parts = n.filters == n.groups ? (n.groups + blocking.widest - 1) / blocking.widest : 1;
  const int64_t per_map = 2 * n.taps * n.positions();
  const int64_t class_numbers = n.episodes * n.ways * per_map, query_numbers = n.episodes * n.queries * per_map;
  // With one part, the gradients of offsets go to their place; with more, each part has a copy, which are then summed.
  const int64_t copies = parts > 1 ? parts : 0;
  std::vector<A> class_offsets(copies * class_numbers), query_offsets(copies * query_numbers);
  ScoreGradients<A> apart = to;
  if (copies) {
    apart.class_offsets = class_offsets.data();
    apart.query_offsets = query_offsets.data();
  }
  const int64_t work = 3 * n.ways * work_per_class(n) / parts;
  torch::stable::parallel_for(0, n.episodes * parts, grain(work), [&](int64_t begin, int64_t end) {
    Scratch<A> scratch(n, blocking.width(n.groups), true);
    with_vectors([&](auto bytes) DMF_ALWAYS_INLINE {
      backward_parts<Lanes<A, bytes()>>(n, growth, in, grad, apart, parts, scratch, begin, end);
    });
  });
  for (int64_t k = 0; k < copies; ++k) {
    for (int64_t i = 0; i < class_numbers; ++i) to.class_offsets[i] += class_offsets[k * class_numbers + i];
    for (int64_t i = 0; i < query_numbers; ++i) to.query_offsets[i] += query_offsets[k * query_numbers + i];
  }
}

}  // namespace
}  // namespace dmf

STABLE_TORCH_LIBRARY_FRAGMENT(dmf, library) {
  library.def(
      "aligned_score(Tensor taps, Tensor class_offsets, Tensor query, Tensor query_offsets, Tensor weights, "
      "SymInt episodes, int[2] kernel_size, float[] coefficients, bool rectified) -> Tensor");
  library.def(
      "aligned_score_backward(Tensor grad, Tensor taps, Tensor class_offsets, Tensor query, Tensor query_offsets, "
      "Tensor weights, SymInt episodes, int[2] kernel_size, float[] coefficients, bool rectified) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "aligned_score_of_rows(Tensor taps, Tensor class_offsets, Tensor query, Tensor query_offsets, Tensor weights, "
      "Tensor class_rows, Tensor query_rows, int[2] kernel_size, float[] coefficients, bool rectified) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(dmf, CPU, library) {
  library.impl("aligned_score", TORCH_BOX(&dmf::aligned_score));
  library.impl("aligned_score_backward", TORCH_BOX(&dmf::aligned_score_backward));
  library.impl("aligned_score_of_rows", TORCH_BOX(&dmf::aligned_score_of_rows));
}
