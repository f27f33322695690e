// Shared by all operators: checks of arguments, the grid of taps, and bilinear samples.
//
// Include this file first. The operators use only PyTorch's stable ABI, so one build works with every Python version
// and with PyTorch 2.11 and later.
#pragma once

#define TORCH_TARGET_VERSION 0x020b000000000000  // 2.11

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#ifdef __CUDACC__
#define DMF_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define DMF_HOST_DEVICE inline __attribute__((always_inline))
#else
#define DMF_HOST_DEVICE inline
#endif

#ifdef __GNUC__
#define DMF_ALWAYS_INLINE __attribute__((always_inline))  // of a lambda
#else
#define DMF_ALWAYS_INLINE
#endif

namespace dmf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// T = kernel_height * kernel_width taps over a map of H x W positions.
struct Grid {
  int64_t taps, kernel_width, top, left, height, width;

  Grid(const std::vector<int64_t>& kernel_size, int64_t map_height, int64_t map_width)
      : taps(kernel_size[0] * kernel_size[1]),
        kernel_width(kernel_size[1]),
        top(kernel_size[0] / 2),
        left(kernel_size[1] / 2),
        height(map_height),
        width(map_width) {}

  DMF_HOST_DEVICE int64_t positions() const { return height * width; }
};

inline void check_kernel_size(const std::vector<int64_t>& kernel_size) {
  STD_TORCH_CHECK(kernel_size.size() == 2 && kernel_size[0] > 0 && kernel_size[1] > 0,
                  "dmf: expected kernel_size of two positive numbers");
}

inline bool together(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

inline bool has_shape(const Tensor& tensor, std::initializer_list<int64_t> shape) {
  if (tensor.dim() != static_cast<int64_t>(shape.size())) return false;
  int64_t axis = 0;
  for (const int64_t size : shape) {
    if (tensor.size(axis++) != size) return false;
  }
  return true;
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
  // The corner's index in its map, or -1 if it lies outside the map, where values are 0.
  DMF_HOST_DEVICE int64_t index(int corner, const Grid& n) const {
    const int y = row + (corner >> 1), x = column + (corner & 1);
    return y >= 0 && y < n.height && x >= 0 && x < n.width ? int64_t(y) * n.width + x : -1;
  }
};

// Finds the sample at (row + dy, column + dx), where (row, column) is the tap's position without offset. Returns false
// if all four corners lie outside the map.
//
// The range is tested in floating point, before the conversion to int, which is undefined for values such as 1e30. At
// exactly -1 the value is 0, but the derivative (from the right, as in torchvision and grid_sample) is not, so the
// sample is kept. A NaN lies in no range; it is placed outside the map with weights NaN, so that it propagates instead
// of giving 0.
template <typename T>
DMF_HOST_DEVICE bool locate(const Grid& n, int64_t row, int64_t column, T dy, T dx, Sample<T>& sample) {
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

// The smallest number of work items per thread, worth about 2^17 multiply-adds.
inline int64_t grain(int64_t work_per_item) {
  return work_per_item >= (1 << 17) ? 1 : (1 << 17) / (work_per_item > 0 ? work_per_item : 1);
}

#ifndef __CUDACC__

// Hot loops are compiled for three instruction sets, with vectors that fill their registers: of 64 bytes for AVX-512
// (x86-64-v4), 32 for AVX2 (x86-64-v3) and 16. Wider ones would be kept in memory, which takes up to nine times as long.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12

// The bytes of this process's vectors. As in PyTorch, ATEN_CPU_CAPABILITY=avx2 or =default holds a process to less than
// its processor has.
inline int vector_bytes() {
  static const int bytes = [] {
    const char* given = std::getenv("ATEN_CPU_CAPABILITY");
    const std::string most = given ? given : "";
    if (most == "default" || !__builtin_cpu_supports("x86-64-v3")) return 16;
    return most == "avx2" || !__builtin_cpu_supports("x86-64-v4") ? 32 : 64;
  }();
  return bytes;
}

template <typename Run>
__attribute__((target("arch=x86-64-v4"))) void with_avx512(const Run& run) {
  run(std::integral_constant<int, 64>());
}

template <typename Run>
__attribute__((target("arch=x86-64-v3"))) void with_avx2(const Run& run) {
  run(std::integral_constant<int, 32>());
}

// Calls `run`, a lambda that is always inlined, with the bytes of this process's vectors as a compile-time constant.
template <typename Run>
void with_vectors(const Run& run) {
  switch (vector_bytes()) {
    case 64: return with_avx512(run);
    case 32: return with_avx2(run);
    default: run(std::integral_constant<int, 16>());
  }
}

#else

// The compiler's options name the instruction set.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

inline int vector_bytes() { return kVectorBytes; }

template <typename Run>
void with_vectors(const Run& run) {
  run(std::integral_constant<int, kVectorBytes>());
}

#endif
#endif

}  // namespace dmf
