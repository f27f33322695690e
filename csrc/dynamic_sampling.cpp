// Schema and CPU kernels. Python registers autograd and shape inference (dmf/ops/dynamic_sampling.py).
//
// No sum is split between threads, so results do not depend on the number of threads. In forward, a thread owns output
// rows; in backward, it owns (map, tap) pairs, and with them the gradients of the tap map and of its offsets.
#include "dynamic_sampling.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace dmf {
namespace {

// Computes output rows [begin, end) of M * Q * H. `zeros` is a row of G zeros, read for corners outside the map.
template <typename T>
DMF_HOST_DEVICE void forward_rows(const Sizes& n, const T* taps, const T* offsets, const T* zeros, T* out,
                                  int64_t begin, int64_t end) {
  const int64_t positions = n.positions();
  for (int64_t line = begin; line < end; ++line) {
    const int64_t mq = line / n.height, y = line % n.height;
    const T* map = taps + mq / n.queries * n.taps * positions * n.groups;
    const T* offset = offsets + mq * 2 * n.taps * positions + y * n.width;
    for (int64_t x = 0; x < n.width; ++x) {
      T* sum = out + (line * n.width + x) * n.groups;
      std::fill(sum, sum + n.groups, T(0));
      int64_t t = 0;
      for (int64_t row = y - n.top; t < n.taps; ++row) {
        for (int64_t column = x - n.left; column < x - n.left + n.kernel_width; ++column, ++t) {
          const T dy = offset[2 * t * positions + x], dx = offset[(2 * t + 1) * positions + x];
          Sample<T> sample;
          if (!locate(n, row, column, dy, dx, sample)) continue;
          const T* corners[4];
          for (int c = 0; c < 4; ++c) {
            const int64_t index = sample.index(c, n);
            corners[c] = index < 0 ? zeros : map + (t * positions + index) * n.groups;
          }
          const T *c0 = corners[0], *c1 = corners[1], *c2 = corners[2], *c3 = corners[3];
          const T w0 = sample.weight(0), w1 = sample.weight(1), w2 = sample.weight(2), w3 = sample.weight(3);
#pragma omp simd
          for (int64_t g = 0; g < n.groups; ++g) sum[g] += w0 * c0[g] + w1 * c1[g] + w2 * c2[g] + w3 * c3[g];
        }
      }
    }
  }
}

// Computes gradients of pairs [begin, end) of M * T. Those of corners outside the map go to `discard`, a row of G.
template <typename T>
DMF_HOST_DEVICE void backward_pairs(const Sizes& n, const T* grad, const T* taps, const T* offsets, const T* zeros,
                                    T* discard, T* grad_taps, T* grad_offsets, int64_t begin, int64_t end) {
  const int64_t positions = n.positions();
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t m = pair / n.taps, t = pair % n.taps;
    const int64_t row = t / n.kernel_width - n.top, column = t % n.kernel_width - n.left;
    const T* map = taps + pair * positions * n.groups;
    T* grad_map = grad_taps + pair * positions * n.groups;
    for (int64_t line = 0; line < n.queries * n.height; ++line) {
      const int64_t q = line / n.height, y = line % n.height;
      const T* upstream = grad + (m * n.queries * n.height + line) * n.width * n.groups;
      int64_t at = ((m * n.queries + q) * n.taps + t) * 2 * positions + y * n.width;
      for (int64_t x = 0; x < n.width; ++x, ++at, upstream += n.groups) {
        Sample<T> sample;
        if (!locate(n, row + y, column + x, offsets[at], offsets[at + positions], sample)) {
          grad_offsets[at] = grad_offsets[at + positions] = T(0);
          continue;
        }
        const T* corners[4];
        T* grad_corners[4];
        for (int c = 0; c < 4; ++c) {
          const int64_t index = sample.index(c, n);
          corners[c] = index < 0 ? zeros : map + index * n.groups;
          grad_corners[c] = index < 0 ? discard : grad_map + index * n.groups;
        }
        const T *c0 = corners[0], *c1 = corners[1], *c2 = corners[2], *c3 = corners[3];
        T *g0 = grad_corners[0], *g1 = grad_corners[1], *g2 = grad_corners[2], *g3 = grad_corners[3];
        const T w0 = sample.weight(0), w1 = sample.weight(1), w2 = sample.weight(2), w3 = sample.weight(3);
        T s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
        for (int64_t g = 0; g < n.groups; ++g) {
          const T u = upstream[g];
          s0 += u * c0[g];
          s1 += u * c1[g];
          s2 += u * c2[g];
          s3 += u * c3[g];
          g0[g] += w0 * u;
          g1[g] += w1 * u;
          g2[g] += w2 * u;
          g3[g] += w3 * u;
        }
        grad_offsets[at] = (T(1) - sample.b) * (s2 - s0) + sample.b * (s3 - s1);
        grad_offsets[at + positions] = (T(1) - sample.a) * (s1 - s0) + sample.a * (s3 - s2);
      }
    }
  }
}

template <typename T>
void forward_all(const Sizes& n, const Tensor& taps, const Tensor& offsets, Tensor& out) {
  const T *in = taps.const_data_ptr<T>(), *at = offsets.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  const int64_t work = n.width * n.taps * 4 * (n.groups + 8);
  torch::stable::parallel_for(0, n.maps * n.queries * n.height, grain(work), [&](int64_t begin, int64_t end) {
    const std::vector<T> zeros(n.groups, T(0));
    with_vectors([&](auto) DMF_ALWAYS_INLINE { forward_rows(n, in, at, zeros.data(), to, begin, end); });
  });
}

template <typename T>
void backward_all(const Sizes& n, const Tensor& grad, const Tensor& taps, const Tensor& offsets, Tensor& grad_taps,
                  Tensor& grad_offsets) {
  const T *from = grad.const_data_ptr<T>(), *in = taps.const_data_ptr<T>(), *at = offsets.const_data_ptr<T>();
  T *to_taps = grad_taps.mutable_data_ptr<T>(), *to_offsets = grad_offsets.mutable_data_ptr<T>();
  const int64_t work = n.queries * n.positions() * 8 * (n.groups + 8);
  torch::stable::parallel_for(0, n.maps * n.taps, grain(work), [&](int64_t begin, int64_t end) {
    const std::vector<T> zeros(n.groups, T(0));
    std::vector<T> discard(n.groups, T(0));
    with_vectors([&](auto) DMF_ALWAYS_INLINE {
      backward_pairs(n, from, in, at, zeros.data(), discard.data(), to_taps, to_offsets, begin, end);
    });
  });
}

// For tests and benchmarks, which say what ran.
int64_t bytes_of_vectors() { return vector_bytes(); }

}  // namespace
}  // namespace dmf

STABLE_TORCH_LIBRARY(dmf, library) {
  library.def("vector_bytes() -> int");
  library.def("sample_taps(Tensor taps, Tensor offsets, int[2] kernel_size) -> Tensor");
  library.def("sample_taps_backward(Tensor grad, Tensor taps, Tensor offsets, int[2] kernel_size) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(dmf, CompositeExplicitAutograd, library) {
  library.impl("vector_bytes", TORCH_BOX(&dmf::bytes_of_vectors));
}

STABLE_TORCH_LIBRARY_IMPL(dmf, CPU, library) {
  library.impl("sample_taps", TORCH_BOX(&dmf::sample_taps));
  library.impl("sample_taps_backward", TORCH_BOX(&dmf::sample_taps_backward));
}
