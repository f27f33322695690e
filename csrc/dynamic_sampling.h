// What the CPU and the CUDA kernels share: the two operators up to their kernels, and where a bilinear sample lies.
//
// Letters as in dmf/dynamic_sampling.py: M maps, Q queries, T = kernel_height * kernel_width taps, H x W positions,
// G groups; taps [M, T, H, W, G], offsets [M, Q, 2T, H, W], output [M, Q, H, W, G].
//
// Include this file first. Only PyTorch's stable ABI is used, so one build serves every Python and every PyTorch from
// 2.11 on.
#pragma once

#define TORCH_TARGET_VERSION 0x020b000000000000  // 2.11

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#ifdef __CUDACC__
#define DMF_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define DMF_HOST_DEVICE inline __attribute__((always_inline))
#else
#define DMF_HOST_DEVICE inline
#endif

namespace dmf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Sizes {
  int64_t maps, queries, taps, kernel_width, top, left, height, width, groups;

  DMF_HOST_DEVICE int64_t positions() const { return height * width; }
};

// The last guard before raw memory; dmf.dynamic_sampling.sample_taps has already told the user in words.
inline Sizes checked_sizes(const Tensor& taps, const Tensor& offsets, const std::vector<int64_t>& kernel_size) {
  STD_TORCH_CHECK(kernel_size.size() == 2 && kernel_size[0] > 0 && kernel_size[1] > 0,
                  "dmf::sample_taps: kernel_size is two positive numbers");
  STD_TORCH_CHECK(taps.dim() == 5 && offsets.dim() == 5, "dmf::sample_taps: taps and offsets have 5 axes");
  const int64_t count = kernel_size[0] * kernel_size[1];
  STD_TORCH_CHECK(taps.size(1) == count && offsets.size(2) == 2 * count && offsets.size(0) == taps.size(0) &&
                      offsets.size(3) == taps.size(2) && offsets.size(4) == taps.size(3),
                  "dmf::sample_taps: taps are [M, T, H, W, G] and offsets [M, Q, 2T, H, W] with T = ", count);
  STD_TORCH_CHECK(taps.scalar_type() == offsets.scalar_type() &&
                      (taps.scalar_type() == ScalarType::Float || taps.scalar_type() == ScalarType::Double),
                  "dmf::sample_taps: taps and offsets are both float32 or both float64");
  STD_TORCH_CHECK(taps.is_cuda() == offsets.is_cuda() && taps.get_device_index() == offsets.get_device_index(),
                  "dmf::sample_taps: taps and offsets are on one device");
  return {taps.size(0),       offsets.size(1), count,        kernel_size[1], kernel_size[0] / 2,
          kernel_size[1] / 2, taps.size(2),    taps.size(3), taps.size(4)};
}

inline void check_grad(const Tensor& grad, const Tensor& taps, const Sizes& n) {
  STD_TORCH_CHECK(grad.dim() == 5 && grad.size(0) == n.maps && grad.size(1) == n.queries &&
                      grad.size(2) == n.height && grad.size(3) == n.width && grad.size(4) == n.groups &&
                      grad.scalar_type() == taps.scalar_type() && grad.is_cuda() == taps.is_cuda() &&
                      grad.get_device_index() == taps.get_device_index(),
                  "dmf::sample_taps_backward: grad is [M, Q, H, W, G], of the taps' type and on their device");
}

// A sample at (y, x) mixes the corners (row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1) with
// weights (1 - a)(1 - b), (1 - a) b, a (1 - b), a b, where a = y - row and b = x - column.
template <typename T>
struct Sample {
  int row, column;
  T a, b;

  DMF_HOST_DEVICE T weight(int corner) const {
    return (corner & 2 ? a : T(1) - a) * (corner & 1 ? b : T(1) - b);
  }
  // The corner's index in its map, or -1 where it lies outside: there the map reads 0.
  DMF_HOST_DEVICE int64_t index(int corner, const Sizes& n) const {
    const int y = row + (corner >> 1), x = column + (corner & 1);
    return y >= 0 && y < n.height && x >= 0 && x < n.width ? int64_t(y) * n.width + x : -1;
  }
};

// Finds the sample at (row + dy, column + dx), where (row, column) is where an undisplaced tap reads; false where all
// four corners lie outside the map.
//
// The range is tested in floating point, before the conversion to int, which is undefined for 1e30. At -1 exactly the
// value is 0, and the sample is kept for the sake of its derivative (the one from the right, as in torchvision and
// grid_sample). A NaN is in no range: it is placed outside with weights NaN, so that it spreads instead of reading 0.
template <typename T>
DMF_HOST_DEVICE bool locate(const Sizes& n, int64_t row, int64_t column, T dy, T dx, Sample<T>& sample) {
  const T v = T(row) + dy, h = T(column) + dx;
  if (v != v || h != h) {
    sample = {-2, -2, v + h, v + h};
    return true;
  }
  if (!(v >= T(-1) && v < T(n.height) && h >= T(-1) && h < T(n.width))) return false;
  const T above = std::floor(v), before = std::floor(h);
  sample = {int(above), int(before), v - above, h - before};
  return true;
}

// The kernels: dynamic_sampling.cpp defines them for CPU tensors, dynamic_sampling.cu for CUDA tensors. All tensors are
// contiguous, grad_taps comes as zeros, the other results uninitialised.
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
