// What the CPU and the CUDA kernels of dmf::aligned_score share: the operators up to their kernels.
//
// Letters as in dmf/ops/aligned_score.py: B episodes, N classes and Q queries each, T taps, H x W positions, G groups of R
// channels. Class maps and query maps are rows of tables of J and I rows:
//
//   taps [J, T, H, W, G], class_offsets [J, 2T, H, W], weights [J, R, G];  query [I, H, W, R, G],
//   query_offsets [I, 2T, H, W];  out [B, Q, N, H, W].
//
// taps and query are of one type, which may be a 16-bit one; everything else, and every sum, is float for the 16-bit
// types and float32, double for float64.
#pragma once

#include "sampling.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <optional>

namespace dmf {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kDegree = 4;

// phi(f) - 1 as c1 f + c2 f^2 + c3 f^3 + c4 f^4, or as exp(f) - 1; rectified where it acts on x > 0 only.
struct Growth {
  bool rectified, exponential;
  double c[kDegree];
};

struct ScoreSizes : Grid {
  int64_t episodes, ways, queries, rest, groups;

  DMF_HOST_DEVICE int64_t channels() const { return rest * groups; }
};

// Channel c is number (c % R) * G + c // R of a row. Where G fills no whole vectors (or warps), k consecutive sets of G
// numbers are taken for one of kG groups, the k copies of a group having the same filter, while `filters` stays G: so
// vectors are full for every G that divides 64 or 640.
struct FullSizes : ScoreSizes {
  int64_t filters;
};

inline FullSizes in_full_vectors(const ScoreSizes& n, int64_t lanes) {
  FullSizes full{n, n.groups};
  for (int64_t k = 1; k <= n.rest; ++k) {
    if (n.rest % k == 0 && n.groups * k % lanes == 0) {
      full.groups = n.groups * k;
      full.rest = n.rest / k;
      break;
    }
  }
  return full;
}

// What a kernel reads; class_rows [B, N] and query_rows [B, Q] may be null: then row n of episode b is b * N + n.
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

// Gradients by taps, class_offsets, query, query_offsets and weights, in the type of the sums and zero at first.
template <typename A>
struct ScoreGradients {
  A *taps, *class_offsets, *query, *query_offsets, *weights;
};

// The kernels: aligned_score.cpp defines them for CPU tensors, aligned_score.cu for CUDA tensors. All tensors are
// contiguous; `out` comes as zeros.
namespace {

template <typename T, typename A>
void score_forward(const ScoreSizes& n, const Growth& growth, const ScoreInputs<T, A>& in, A* out, int device);

template <typename T, typename A>
void score_backward(const ScoreSizes& n, const Growth& growth, const ScoreInputs<T, A>& in, const A* grad,
                   const ScoreGradients<A>& to, int device);

struct ScoreTensors {
  Tensor taps, class_offsets, query, query_offsets, weights;

  // The guard before raw memory: a method builds these tables, so a misfit is its mistake and no user's.
  ScoreSizes checked(int64_t episodes, int64_t ways, int64_t queries, const std::vector<int64_t>& kernel_size) const {
    check_kernel_size(kernel_size);
    STD_TORCH_CHECK(taps.dim() == 5 && query.dim() == 5 && weights.dim() == 3 && class_offsets.dim() == 4 &&
                        query_offsets.dim() == 4,
                    "dmf::aligned_score: taps and query have 5 axes, offsets 4, weights 3");
    const Grid grid(kernel_size, taps.size(2), taps.size(3));
    const int64_t groups = taps.size(4), rest = query.size(3);
    STD_TORCH_CHECK(taps.size(1) == grid.taps && fits(class_offsets, taps.size(0), grid) &&
                        fits(query_offsets, query.size(0), grid) && query.size(1) == grid.height &&
                        query.size(2) == grid.width && query.size(4) == groups &&
                        weights.size(0) == taps.size(0) && weights.size(1) == rest && weights.size(2) == groups,
                    "dmf::aligned_score: shapes do not fit together");
    const ScalarType sum = taps.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    STD_TORCH_CHECK(query.scalar_type() == taps.scalar_type() && class_offsets.scalar_type() == sum &&
                        query_offsets.scalar_type() == sum && weights.scalar_type() == sum,
                    "dmf::aligned_score: taps and query are of one type, offsets and weights of the sums' type");
    for (const Tensor& other : {class_offsets, query, query_offsets, weights}) {
      STD_TORCH_CHECK(together(taps, other), "dmf::aligned_score: all tensors are on one device");
    }
    return {grid, episodes, ways, queries, rest, groups};
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
  static bool fits(const Tensor& offsets, int64_t rows, const Grid& grid) {
    return offsets.size(0) == rows && offsets.size(1) == 2 * grid.taps && offsets.size(2) == grid.height &&
           offsets.size(3) == grid.width;
  }
};

// Calls run<T, A>() for a tensor of type T with sums of type A.
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
                    "dmf::aligned_score: taps and query are float32, float64, bfloat16 or, on a GPU, float16");
  }
}

Growth growth_of(const std::vector<double>& coefficients, bool rectified) {
  STD_TORCH_CHECK(coefficients.size() <= kDegree, "dmf::aligned_score: growth has at most 4 coefficients");
  Growth growth{rectified, coefficients.empty(), {}};
  for (size_t i = 0; i < coefficients.size(); ++i) growth.c[i] = coefficients[i];
  return growth;
}

Tensor score(ScoreTensors& given, const ScoreSizes& n, const Growth& growth, const int64_t* class_rows,
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

// Classes and queries of B episodes lie one episode after the other: J = B * N, I = B * Q.
ScoreSizes in_order(const ScoreTensors& given, int64_t episodes, const std::vector<int64_t>& kernel_size) {
  const int64_t classes = given.taps.size(0), queries = given.query.size(0);
  STD_TORCH_CHECK(episodes > 0 && classes % episodes == 0 && queries % episodes == 0,
                  "dmf::aligned_score: rows are those of whole episodes");
  return given.checked(episodes, classes / episodes, queries / episodes, kernel_size);
}

Tensor aligned_score(Tensor taps, Tensor class_offsets, Tensor query, Tensor query_offsets, Tensor weights,
                      int64_t episodes, std::vector<int64_t> kernel_size, std::vector<double> growth, bool rectified) {
  ScoreTensors given{taps, class_offsets, query, query_offsets, weights};
  return score(given, in_order(given, episodes, kernel_size), growth_of(growth, rectified), nullptr, nullptr);
}

// Whether all `rows`, of a contiguous tensor on the CPU, are rows of a table of `count`.
bool within(const Tensor& rows, int64_t count) {
  const int64_t* row = rows.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < rows.numel(); ++i) {
    if (row[i] < 0 || row[i] >= count) return false;
  }
  return true;
}

Tensor aligned_score_of_rows(Tensor taps, Tensor class_offsets, Tensor query, Tensor query_offsets, Tensor weights,
                              Tensor class_rows, Tensor query_rows, std::vector<int64_t> kernel_size,
                              std::vector<double> growth, bool rectified) {
  ScoreTensors given{taps, class_offsets, query, query_offsets, weights};
  STD_TORCH_CHECK(class_rows.dim() == 2 && query_rows.dim() == 2 && class_rows.size(0) == query_rows.size(0) &&
                      class_rows.scalar_type() == ScalarType::Long && query_rows.scalar_type() == ScalarType::Long &&
                      together(class_rows, taps) && together(query_rows, taps),
                  "dmf::aligned_score_of_rows: class_rows [B, N] and query_rows [B, Q] are int64, on the same device");
  const ScoreSizes n = given.checked(class_rows.size(0), class_rows.size(1), query_rows.size(1), kernel_size);
  class_rows = torch::stable::contiguous(class_rows);
  query_rows = torch::stable::contiguous(query_rows);
  // On a GPU looking would wait for the device.
  STD_TORCH_CHECK(taps.is_cuda() || (within(class_rows, taps.size(0)) && within(query_rows, query.size(0))),
                  "dmf::aligned_score_of_rows: a row lies outside of its table");
  return score(given, n, growth_of(growth, rectified), class_rows.const_data_ptr<int64_t>(),
               query_rows.const_data_ptr<int64_t>());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> aligned_score_backward(
    Tensor grad, Tensor taps, Tensor class_offsets, Tensor query, Tensor query_offsets, Tensor weights,
    int64_t episodes, std::vector<int64_t> kernel_size, std::vector<double> growth, bool rectified) {
  ScoreTensors given{taps, class_offsets, query, query_offsets, weights};
  const ScoreSizes n = in_order(given, episodes, kernel_size);
  STD_TORCH_CHECK(grad.dim() == 5 && grad.size(0) == n.episodes && grad.size(1) == n.queries &&
                      grad.size(2) == n.ways && grad.size(3) == n.height && grad.size(4) == n.width &&
                      grad.scalar_type() == weights.scalar_type() && together(grad, taps),
                  "dmf::aligned_score_backward: grad is [B, Q, N, H, W], of the sums' type and on the same device");
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
    score_backward<T, A>(n, growth_of(growth, rectified), given.inputs<T, A>(nullptr, nullptr),
                         grad.const_data_ptr<A>(), to, taps.get_device_index());
  });
  return {to_taps, to_class_offsets, to_query, to_query_offsets, to_weights};
}

}  // namespace
}  // namespace dmf
