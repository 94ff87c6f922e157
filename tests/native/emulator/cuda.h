// As much of CUDA as our kernels use, on the CPU, for tests: one fibre for each thread, one block after another.
//
// Shared memory is poisoned and of exact size, so that reading what nobody wrote gives NaN and running over its end is
// seen by a sanitizer. Threads take turns in one order, then in the other, so that a missing barrier changes results.
// Not shown: races within a warp, what the device's own functions round to, and how fast anything is.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define AVCL_SHARED(type, name) \
  using name##_type = type;     \
  name##_type& name = *static_cast<name##_type*>(emulation::shared(sizeof(name##_type)))

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

struct Fibre {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(64 * 1024);
  size_t shared_used = 0;
  bool running = true;
};

inline ucontext_t scheduler;
inline Fibre* current = nullptr;
inline const std::function<void()>* body = nullptr;
inline std::vector<std::unique_ptr<void, Free>> shared_memory;

// The block's memory behind the next declaration of shared memory that this thread comes to.
inline void* shared(size_t bytes) {
  const size_t number = current->shared_used++;
  if (number == shared_memory.size()) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, bytes)) throw std::bad_alloc();
    shared_memory.emplace_back(memory);
    std::memset(shared_memory.back().get(), 0xFF, bytes);  // NaN
  }
  return shared_memory[number].get();
}

inline void pause() { swapcontext(&current->context, &scheduler); }

inline void start() {
  (*body)();
  current->running = false;
  pause();
}

inline void block(int threads, const std::function<void()>& kernel) {
  body = &kernel;
  shared_memory.clear();
  std::vector<Fibre> fibres(threads);
  for (Fibre& fibre : fibres) {
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.data();
    fibre.context.uc_stack.ss_size = fibre.stack.size();
    makecontext(&fibre.context, start, 0);
  }
  for (int round = 0, running = threads; running; ++round) {
    for (int turn = 0; turn < threads; ++turn) {
      const int thread = round % 2 ? threads - 1 - turn : turn;
      threadIdx = dim3(thread, 0, 0);
      current = &fibres[thread];
      if (current->running) swapcontext(&scheduler, &current->context);
    }
    const int before = running;
    running = 0;
    for (const Fibre& fibre : fibres) running += fibre.running;
    if (running && running != before) throw std::runtime_error("emulation: a barrier that not all threads reach");
  }
}

struct Launch {
  template <typename Tensor>
  explicit Launch(const Tensor&) {}

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, int threads, Arguments... arguments) const {
    gridDim = grid;
    blockDim = dim3(threads);
    for (unsigned z = 0; z < grid.z; ++z)
      for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) {
          blockIdx = dim3(x, y, z);
          block(threads, [&] { kernel(arguments...); });
        }
  }
};

}  // namespace emulation

inline void __syncthreads() { emulation::pause(); }

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  _Float16 value;
};
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline float __half2float(__half x) { return static_cast<float>(x.value); }

// Matrices of a warp: its first thread does everything; others see the results after the next barrier.
namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout { mem_row_major };

template <typename Use, int kM, int kN, int kK, typename In, typename Layout = void>
struct fragment {
  float x[16][16];
};

inline bool first_of_warp() { return threadIdx.x % 32 == 0; }
inline float number(float x) { return x; }
inline float number(__half x) { return __half2float(x); }
inline float number(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename Fragment>
void fill_fragment(Fragment& to, float value) {
  for (auto& row : to.x)
    for (float& x : row) x = value;
}

template <typename Use, typename In, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, In, Layout>& to, const In* from, unsigned pitch) {
  if (!first_of_warp()) return;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j)
      to.x[i][j] = number(std::is_same_v<Layout, row_major> ? from[i * pitch + j] : from[j * pitch + i]);
}

template <typename A, typename B, typename C>
void mma_sync(C& to, const A& a, const B& b, const C& c) {
  if (!first_of_warp()) return;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) {
      float sum = c.x[i][j];
      for (int k = 0; k < 16; ++k) sum += a.x[i][k] * b.x[k][j];
      to.x[i][j] = sum;
    }
}

template <typename Fragment>
void store_matrix_sync(float* to, const Fragment& from, unsigned pitch, layout) {
  if (!first_of_warp()) return;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) to[i * pitch + j] = from.x[i][j];
}

}  // namespace nvcuda::wmma
