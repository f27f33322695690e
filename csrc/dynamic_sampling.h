// The part of the operator dmf::sample_taps that CPU and CUDA share: everything but the kernels.
//
// Letters as in dmf/ops/dynamic_sampling.py: M maps, Q queries, T taps, H x W positions, G groups. Shapes: taps
// [M, T, H, W, G], offsets [M, Q, 2T, H, W], output [M, Q, H, W, G].
#pragma once

#include "sampling.h"

namespace dmf {

struct Sizes : Grid {
  int64_t maps, queries, groups;
};

// The last check before raw memory is accessed; dmf.ops.dynamic_sampling.sample_taps has the messages for users.
inline Sizes checked_sizes(const Tensor& taps, const Tensor& offsets, const std::vector<int64_t>& kernel_size) {
  check_kernel_size(kernel_size);
  STD_TORCH_CHECK(taps.dim() == 5 && offsets.dim() == 5, "dmf::sample_taps: expected taps and offsets with 5 axes");
  const int64_t count = kernel_size[0] * kernel_size[1];
  STD_TORCH_CHECK(taps.size(1) == count && offsets.size(2) == 2 * count && offsets.size(0) == taps.size(0) &&
                      offsets.size(3) == taps.size(2) && offsets.size(4) == taps.size(3),
                  "dmf::sample_taps: expected taps [M, T, H, W, G] and offsets [M, Q, 2T, H, W] with T = ", count);
  STD_TORCH_CHECK(taps.scalar_type() == offsets.scalar_type() &&
                      (taps.scalar_type() == ScalarType::Float || taps.scalar_type() == ScalarType::Double),
                  "dmf::sample_taps: expected taps and offsets both in float32 or both in float64");
  STD_TORCH_CHECK(together(taps, offsets), "dmf::sample_taps: expected taps and offsets on one device");
  return {Grid(kernel_size, taps.size(2), taps.size(3)), taps.size(0), offsets.size(1), taps.size(4)};
}

inline void check_grad(const Tensor& grad, const Tensor& taps, const Sizes& n) {
  STD_TORCH_CHECK(has_shape(grad, {n.maps, n.queries, n.height, n.width, n.groups}) &&
                      grad.scalar_type() == taps.scalar_type() && together(grad, taps),
                  "dmf::sample_taps_backward: expected grad [M, Q, H, W, G] with the type and device of the taps");
}

// The kernels: dynamic_sampling.cpp defines them for CPU tensors, dynamic_sampling.cu for CUDA tensors. All tensors are
// contiguous; grad_taps is filled with zeros beforehand, and the other results are uninitialised.
namespace {

template <typename T>
void forward_all(const Sizes& n, const Tensor& taps, const Tensor& offsets, Tensor& out);

template <typename T>
void backward_all(const Sizes& n, const Tensor& grad, const Tensor& taps, const Tensor& offsets, Tensor& grad_taps,
                  Tensor& grad_offsets);

Tensor sample_taps(Tensor taps, Tensor offsets, std::vector<int64_t> kernel_size) {
  const Sizes n = checked_sizes(taps, offsets, kernel_size);
  taps = torch::stable::contiguous(taps);
  offsets = torch::stable::contiguous(offsets);
  Tensor out = torch::stable::new_empty(taps, {n.maps, n.queries, n.height, n.width, n.groups});
  if (taps.scalar_type() == ScalarType::Float) {
    forward_all<float>(n, taps, offsets, out);
  } else {
    forward_all<double>(n, taps, offsets, out);
  }
  return out;
}

std::tuple<Tensor, Tensor> sample_taps_backward(Tensor grad, Tensor taps, Tensor offsets,
                                                std::vector<int64_t> kernel_size) {
  const Sizes n = checked_sizes(taps, offsets, kernel_size);
  check_grad(grad, taps, n);
  grad = torch::stable::contiguous(grad);
  taps = torch::stable::contiguous(taps);
  offsets = torch::stable::contiguous(offsets);
  Tensor grad_taps = torch::stable::new_zeros(taps, taps.sizes());
  Tensor grad_offsets = torch::stable::new_empty(offsets, offsets.sizes());
  if (taps.scalar_type() == ScalarType::Float) {
    backward_all<float>(n, grad, taps, offsets, grad_taps, grad_offsets);
  } else {
    backward_all<double>(n, grad, taps, offsets, grad_taps, grad_offsets);
  }
  return {grad_taps, grad_offsets};
}

}  // namespace
}  // namespace dmf
