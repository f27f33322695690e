// The part of the operators of dmf::aligned_score that CPU and CUDA share: everything but the kernels.
//
// Letters as in dmf/ops/aligned_score.py: B episodes with N classes and Q queries each, T taps, H x W positions,
// C channels in G groups of R. Class maps and query maps are rows of tables with J and I rows:
//
//   taps [J, T, H, W, G], class_offsets [J, 2T, H, W], weights [J, R, G];  query [I, H, W, R, G],
//   query_offsets [I, 2T, H, W];  out [B, Q, N, H, W].
//
// taps and query have the type T, which can be a 16-bit one. Everything else, and every sum, has the type A: double for
// float64, and float for all other types.
//
// Forward. At each position of a pair of class j and query i, with X a row of `query` and w a row of `weights`:
//
//   a_g       = sum_t bilinear(taps[j, t, ..., g], position + tap t + class_offsets[j, t] + query_offsets[i, t])
//   f_g       = sigmoid(a_g)                         the pair's meta-filter
//   gain_g    = phi(f_g) - 1                         the growth by the alignment
//   moving_c  = max(X_c, 0) if rectified else X_c    what grows
//   product_g = sum_{c in g} w_c moving_c
//   score     = sum_c w_c X_c + sum_g gain_g product_g
//
// Backward. With d the score's gradient, and grows_c = 1 where phi acts (X_c > 0, or not rectified) and 0 elsewhere,
// the gradients are:
//
//   of w_c     d (1 + gain_g grows_c) X_c            summed over positions and queries
//   of X_c     d (1 + gain_g grows_c) w_c            summed over classes
//   of a_g     d product_g phi'(f_g) f_g (1 - f_g)   called A_g below
//   of taps    A_g times the corner's weight, at each of the four corners of a tap's sample
//   of offsets sum_g A_g times the slope of bilinear(...), the same for the class's offset and the query's
//
// Names in the kernels: `sampled` and `sum` are a_g; `by_product` is d gain_g; `by_weighed` is d (1 + gain_g grows_c),
// the gradient of w_c X_c; `by_sum` is A_g.
#pragma once

#include "sampling.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace dmf {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kDegree = 4;

// phi(f) - 1 = c[0] f + c[1] f^2 + c[2] f^3 + c[3] f^4, or exp(f) - 1 if exponential.
struct Growth {
  bool rectified, exponential;
  double c[kDegree];
};

struct ScoreSizes : Grid {
  int64_t episodes, ways, queries;
  int64_t group_size;  // R
  int64_t groups;      // G

  DMF_HOST_DEVICE int64_t channels() const { return group_size * groups; }
};

// Sizes with which a row of channels fills whole vectors (or warps), if that is possible.
//
// A row [R, G] of `query` or `weights` is read in runs of G numbers, one per group, and a run that leaves part of a
// vector empty wastes lanes. The same memory is also a row [R / k, kG], in which k consecutive runs are read as one,
// over k copies of each group. `groups` is then kG and `group_size` is R / k, while taps still have G numbers, called
// `filters`, and group g uses filter g % filters. For every G that divides 64 or 640, some k fills whole vectors.
struct Regrouped : ScoreSizes {
  int64_t filters;
};

inline Regrouped regrouped(const ScoreSizes& n, int64_t lanes) {
  Regrouped result{n, n.groups};
  for (int64_t k = 1; k <= n.group_size; ++k) {
    if (n.group_size % k == 0 && n.groups * k % lanes == 0) {
      result.groups = n.groups * k;
      result.group_size = n.group_size / k;
      break;
    }
  }
  return result;
}

// A kernel's inputs. Class n of episode b is row class_rows[b, n] of its tables, and query q is row query_rows[b, q].
// Null pointers stand for consecutive episodes, with rows b * N + n and b * Q + q.
template <typename T, typename A>
struct ScoreInputs {
  const T* taps;
  const A* class_offsets;
  const T* query;
  const A* query_offsets;
  const A* weights;
  const int64_t* class_rows;
  const int64_t* query_rows;

  DMF_HOST_DEVICE int64_t class_row(int64_t bn) const { return class_rows ? class_rows[bn] : bn; }
  DMF_HOST_DEVICE int64_t query_row(int64_t bq) const { return query_rows ? query_rows[bq] : bq; }
};

// The gradients of a kernel's inputs, zero at first; the kernel adds to them.
template <typename A>
struct ScoreGradients {
  A *taps, *class_offsets, *query, *query_offsets, *weights;
};

// The kernels: aligned_score.cpp defines them for CPU tensors, aligned_score.cu for CUDA tensors. All memory is
// contiguous, `out` is filled with zeros beforehand, `device` is the index of the CUDA device, and `like` is a tensor on
// the device of the type A, for memory.
namespace {

template <typename T, typename A>
void score_forward(const ScoreSizes& n, const Growth& growth, const ScoreInputs<T, A>& in, A* out, int device);

template <typename T, typename A>
void score_backward(const ScoreSizes& n, const Growth& growth, const ScoreInputs<T, A>& in, const A* grad,
                   const ScoreGradients<A>& to, const Tensor& like);

struct ScoreTables {
  Tensor taps, class_offsets, query, query_offsets, weights;

  // The last check before raw memory is accessed. dmf builds the tables itself, so the messages are for its developers.
  ScoreSizes checked(int64_t episodes, int64_t ways, int64_t queries, const std::vector<int64_t>& kernel_size) const {
    check_kernel_size(kernel_size);
    STD_TORCH_CHECK(taps.dim() == 5 && query.dim() == 5, "dmf::aligned_score: expected taps and query with 5 axes");
    const Grid grid(kernel_size, taps.size(2), taps.size(3));
    const ScoreSizes n{grid, episodes, ways, queries, query.size(3), taps.size(4)};
    check_shapes(n);
    check_types();
    for (const Tensor& other : {class_offsets, query, query_offsets, weights}) {
      STD_TORCH_CHECK(together(taps, other), "dmf::aligned_score: expected all tensors on one device");
    }
    return n;
  }

  void make_contiguous() {
    for (Tensor* tensor : {&taps, &class_offsets, &query, &query_offsets, &weights}) {
      *tensor = torch::stable::contiguous(*tensor);
    }
  }

  template <typename T, typename A>
  ScoreInputs<T, A> inputs(const int64_t* class_rows, const int64_t* query_rows) const {
    return {taps.const_data_ptr<T>(),          class_offsets.const_data_ptr<A>(), query.const_data_ptr<T>(),
            query_offsets.const_data_ptr<A>(), weights.const_data_ptr<A>(),       class_rows,
            query_rows};
  }

 private:
  void check_shapes(const ScoreSizes& n) const {
    const int64_t classes = taps.size(0), images = query.size(0);
    STD_TORCH_CHECK(has_shape(taps, {classes, n.taps, n.height, n.width, n.groups}) &&
                        has_shape(class_offsets, {classes, 2 * n.taps, n.height, n.width}) &&
                        has_shape(weights, {classes, n.group_size, n.groups}),
                    "dmf::aligned_score: expected tables of classes taps [J, T, H, W, G], class_offsets [J, 2T, H, W] "
                    "and weights [J, R, G]");
    STD_TORCH_CHECK(has_shape(query, {images, n.height, n.width, n.group_size, n.groups}) &&
                        has_shape(query_offsets, {images, 2 * n.taps, n.height, n.width}),
                    "dmf::aligned_score: expected tables of images query [I, H, W, R, G] and query_offsets "
                    "[I, 2T, H, W], with the sizes of the tables of classes");
  }

  void check_types() const {
    const ScalarType sum = taps.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    STD_TORCH_CHECK(query.scalar_type() == taps.scalar_type() && class_offsets.scalar_type() == sum &&
                        query_offsets.scalar_type() == sum && weights.scalar_type() == sum,
                    "dmf::aligned_score: expected taps and query of one type, offsets and weights of the sums' type");
  }
};

// Calls run(T(), A()) with T, the C++ type of taps and query, and A, the type of the sums.
template <typename Run>
void by_type(ScalarType type, const Run& run) {
  if (type == ScalarType::Float) {
    run(float(), float());
  } else if (type == ScalarType::Double) {
    run(double(), double());
  } else if (type == ScalarType::BFloat16) {
    run(BFloat16(), float());
#ifdef __CUDACC__
  } else if (type == ScalarType::Half) {
    run(Half(), float());
#endif
  } else {
    STD_TORCH_CHECK(false,
                    "dmf::aligned_score: expected taps and query in float32, float64, bfloat16 or, on a GPU, float16");
  }
}

Growth growth_of(const std::vector<double>& coefficients, bool rectified) {
  STD_TORCH_CHECK(coefficients.size() <= kDegree, "dmf::aligned_score: expected at most 4 coefficients of the growth");
  Growth growth{rectified, coefficients.empty(), {}};
  for (size_t i = 0; i < coefficients.size(); ++i) growth.c[i] = coefficients[i];
  return growth;
}

// Computes the score map of episodes from checked tables.
Tensor score(ScoreTables given, const ScoreSizes& n, const Growth& growth, const int64_t* class_rows,
             const int64_t* query_rows) {
  given.make_contiguous();
  Tensor out = torch::stable::new_zeros(given.weights, {n.episodes, n.queries, n.ways, n.height, n.width});
  by_type(given.taps.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    using A = decltype(a);
    score_forward<T, A>(n, growth, given.inputs<T, A>(class_rows, query_rows), out.mutable_data_ptr<A>(),
                       given.taps.get_device_index());
  });
  return out;
}

// Sizes for B consecutive episodes: J = B * N, I = B * Q.
ScoreSizes checked_in_order(const ScoreTables& given, int64_t episodes, const std::vector<int64_t>& kernel_size) {
  const int64_t classes = given.taps.size(0), queries = given.query.size(0);
  STD_TORCH_CHECK(episodes > 0 && classes % episodes == 0 && queries % episodes == 0,
                  "dmf::aligned_score: expected rows that divide into whole episodes");
  return given.checked(episodes, classes / episodes, queries / episodes, kernel_size);
}

Tensor aligned_score(Tensor taps, Tensor class_offsets, Tensor query, Tensor query_offsets, Tensor weights,
                     int64_t episodes, std::vector<int64_t> kernel_size, std::vector<double> coefficients,
                     bool rectified) {
  ScoreTables given{taps, class_offsets, query, query_offsets, weights};
  const ScoreSizes n = checked_in_order(given, episodes, kernel_size);
  return score(given, n, growth_of(coefficients, rectified), nullptr, nullptr);
}

// Whether all `rows`, a contiguous tensor on the CPU, are in a table of `count` rows.
bool within(const Tensor& rows, int64_t count) {
  const int64_t* row = rows.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < rows.numel(); ++i) {
    if (row[i] < 0 || row[i] >= count) return false;
  }
  return true;
}

Tensor aligned_score_of_rows(Tensor taps, Tensor class_offsets, Tensor query, Tensor query_offsets, Tensor weights,
                             Tensor class_rows, Tensor query_rows, std::vector<int64_t> kernel_size,
                             std::vector<double> coefficients, bool rectified) {
  ScoreTables given{taps, class_offsets, query, query_offsets, weights};
  STD_TORCH_CHECK(class_rows.dim() == 2 && query_rows.dim() == 2 && class_rows.size(0) == query_rows.size(0) &&
                      class_rows.scalar_type() == ScalarType::Long && query_rows.scalar_type() == ScalarType::Long &&
                      together(class_rows, taps) && together(query_rows, taps),
                  "dmf::aligned_score_of_rows: expected int64 class_rows [B, N] and query_rows [B, Q] on that device");
  const ScoreSizes n = given.checked(class_rows.size(0), class_rows.size(1), query_rows.size(1), kernel_size);
  class_rows = torch::stable::contiguous(class_rows);
  query_rows = torch::stable::contiguous(query_rows);
  // Not on a GPU, where this check would have to wait for the device.
  STD_TORCH_CHECK(taps.is_cuda() || (within(class_rows, taps.size(0)) && within(query_rows, query.size(0))),
                  "dmf::aligned_score_of_rows: a row lies outside of its table");
  return score(given, n, growth_of(coefficients, rectified), class_rows.const_data_ptr<int64_t>(),
               query_rows.const_data_ptr<int64_t>());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> aligned_score_backward(
    Tensor grad, Tensor taps, Tensor class_offsets, Tensor query, Tensor query_offsets, Tensor weights,
    int64_t episodes, std::vector<int64_t> kernel_size, std::vector<double> coefficients, bool rectified) {
  ScoreTables given{taps, class_offsets, query, query_offsets, weights};
  const ScoreSizes n = checked_in_order(given, episodes, kernel_size);
  STD_TORCH_CHECK(has_shape(grad, {n.episodes, n.queries, n.ways, n.height, n.width}) &&
                      grad.scalar_type() == weights.scalar_type() && together(grad, taps),
                  "dmf::aligned_score_backward: expected grad [B, Q, N, H, W] of the sums' type, on the same device");
  given.make_contiguous();
  grad = torch::stable::contiguous(grad);
  const auto zeros = [&](const Tensor& like) {
    return torch::stable::new_zeros(like, like.sizes(), weights.scalar_type());
  };
  Tensor to_taps = zeros(taps), to_class_offsets = zeros(class_offsets), to_query = zeros(query),
         to_query_offsets = zeros(query_offsets), to_weights = zeros(weights);
  by_type(taps.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    using A = decltype(a);
    const ScoreGradients<A> to{to_taps.mutable_data_ptr<A>(), to_class_offsets.mutable_data_ptr<A>(),
                              to_query.mutable_data_ptr<A>(), to_query_offsets.mutable_data_ptr<A>(),
                              to_weights.mutable_data_ptr<A>()};
    score_backward<T, A>(n, growth_of(coefficients, rectified), given.inputs<T, A>(nullptr, nullptr),
                         grad.const_data_ptr<A>(), to, weights);
  });
  return {to_taps, to_class_offsets, to_query, to_query_offsets, to_weights};
}

}  // namespace
}  // namespace dmf
