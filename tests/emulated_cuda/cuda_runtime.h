// CUDA's language on a CPU, as far as the sources in csrc use it: without atomics, so what needs one does not compile. Each
// thread of a block is a fiber; the fibers of a block run in turn, each up to its next barrier. tests/emulation.py
// compiles with this folder before CUDA's.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define __global__ static
#define __device__ inline
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __align__(bytes) alignas(bytes)
#define __restrict__

struct Index {
  unsigned int x;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;
typedef void* cudaStream_t;

using std::exp;
using std::min;

namespace emulated {

constexpr int kLanes = 32;
constexpr size_t kStack = 64 << 10;

struct Fiber {
  ucontext_t start;
  jmp_buf here;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool started = false;
  int barrier = 0;        // 0: runs, 1: waits for its warp, 2: waits for its block, 3: has ended
  unsigned shuffles = 0;  // so far
};

// A context starts a fiber; later changes jump, which saves the system calls for signals that contexts make.
inline ucontext_t unused;
inline jmp_buf scheduler;
inline std::vector<Fiber> fibers(1024);
inline std::function<void()> body;
inline bool other_order = false;  // of blocks and threads
inline double lanes[2][1024];  // what each thread gives to a shuffle, and to the next one

inline void wait(int barrier) {
  Fiber& fiber = fibers[threadIdx.x];
  fiber.barrier = barrier;
  if (!_setjmp(fiber.here)) _longjmp(scheduler, 1);
}

inline void resume(Fiber& fiber) {
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  swapcontext(&unused, &fiber.start);
}

inline void enter() {
  body();
  wait(3);
}

// Opens the barrier of fibers [first, last) if all of them have reached it.
inline bool open(size_t first, size_t last, int barrier) {
  for (size_t i = first; i < last; ++i) {
    if (fibers[i].barrier != barrier) return false;
  }
  for (size_t i = first; i < last; ++i) fibers[i].barrier = 0;
  return true;
}

inline void run_block(unsigned int threads) {
  const auto end = fibers.begin() + threads;
  for (auto fiber = fibers.begin(); fiber != end; ++fiber) {
    fiber->started = false;
    fiber->barrier = 0;
    getcontext(&fiber->start);
    fiber->start.uc_stack.ss_sp = fiber->stack.get();
    fiber->start.uc_stack.ss_size = kStack;
    fiber->start.uc_link = nullptr;
    makecontext(&fiber->start, enter, 0);
  }
  while (!std::all_of(fibers.begin(), end, [](const Fiber& fiber) { return fiber.barrier == 3; })) {
    bool ran = false;
    // Backwards, so that a result that depends on the order of threads has another one than on a GPU's first lane.
    for (size_t k = 0; k < threads; ++k) {
      const size_t i = other_order ? k : threads - 1 - k;
      if (fibers[i].barrier != 0) continue;
      threadIdx.x = static_cast<unsigned int>(i);
      resume(fibers[i]);
      ran = true;
    }
    for (size_t first = 0; first < threads; first += kLanes) ran |= open(first, first + kLanes, 1);
    ran |= open(0, threads, 2);
    if (!ran) throw std::runtime_error("threads of a block wait at different barriers");
  }
}

template <typename Kernel>
void launch(unsigned int blocks, unsigned int threads, unsigned char* shared, size_t bytes, const Kernel& kernel) {
  body = kernel;
  gridDim.x = blocks;
  blockDim.x = threads;
  for (unsigned int block = 0; block < blocks; ++block) {
    blockIdx.x = other_order ? blocks - 1 - block : block;
    std::memset(shared, 0xff, bytes);  // NaN: shared memory has no values at first
    run_block(threads);
  }
}

}  // namespace emulated

inline void __syncwarp() { emulated::wait(1); }
inline void __syncthreads() { emulated::wait(2); }

template <typename T>
T __shfl_down_sync(unsigned int, T value, int step) {
  double* lanes = emulated::lanes[emulated::fibers[threadIdx.x].shuffles++ % 2];
  lanes[threadIdx.x] = value;
  __syncwarp();
  const bool within = threadIdx.x % emulated::kLanes + step < emulated::kLanes;
  return within ? static_cast<T>(lanes[threadIdx.x + step]) : value;
}

extern "C" inline __attribute__((used)) void emulated_order(int other) { emulated::other_order = other != 0; }
