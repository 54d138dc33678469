// One step of LaProp over a list of tensors, each element read and written once.
//
// The same text is compiled for the CPU, by the machine's C++ compiler, and for CUDA, by the
// compiler that torch brings along. Options decide the variant, -D each:
//   SCALAR    number type of the tensors: 0 float, 1 double, 2 bfloat16, 3 float16
//   AMSGRAD, CENTERED    0 or 1, as in laprop.py
//   CAPACITY  tensors in one call
//
// The elements of all tensors are numbered through; every worker, a thread of the CPU or a block
// of the GPU, takes one stretch of these numbers, wherever in the tensors it begins and ends.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define RESTRICT __restrict__
#else
#include <cmath>
#include <cstring>
#define DEVICE static inline
#define RESTRICT __restrict
#endif

typedef long long Integer;

struct Arguments {
  double lr, beta1, beta2, rest1, rest2;  // rest: 1 - beta
  double eps, scale_before, scale_after, sign;
  const double* lr_address;  // where it is not null, the lr is there
  unsigned int* done;        // CUDA: workers that have finished; 0 between two steps
  Integer count;             // of tensors
  Integer workers;
  Integer first[CAPACITY + 1];  // number of each tensor's first element, then of all elements
  void* param[CAPACITY];
  void* grad[CAPACITY];
  void* exp_avg[CAPACITY];
  void* exp_avg_sq[CAPACITY];
  void* max_exp_avg_sq[CAPACITY];
  void* exp_mean_avg_beta2[CAPACITY];
  float* step[CAPACITY];
  double* exp_avg_lr_1[CAPACITY];
  double* exp_avg_lr_2[CAPACITY];
};

// ---- numbers: stored as Stored, computed with as Real

#if SCALAR == 0
typedef float Stored;
typedef float Real;
DEVICE Real load(Stored x) { return x; }
DEVICE Stored store(Real x) { return x; }
#elif SCALAR == 1
typedef double Stored;
typedef double Real;
DEVICE Real load(Stored x) { return x; }
DEVICE Stored store(Real x) { return x; }
#else
typedef unsigned short Stored;
typedef float Real;
#if SCALAR == 2
#ifdef __CUDACC__
DEVICE float from_bits(unsigned int bits) { return __uint_as_float(bits); }
DEVICE unsigned int to_bits(float x) { return __float_as_uint(x); }
#else
DEVICE float from_bits(unsigned int bits) { float x; std::memcpy(&x, &bits, 4); return x; }
DEVICE unsigned int to_bits(float x) { unsigned int bits; std::memcpy(&bits, &x, 4); return bits; }
#endif
DEVICE Real load(Stored x) { return from_bits((unsigned int)x << 16); }
DEVICE Stored store(Real x) {  // to nearest, ties to even
  unsigned int bits = to_bits(x);
  Stored rounded = (Stored)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  return x != x ? (Stored)0x7fc0 : rounded;
}
#elif defined(__CUDACC__)
DEVICE Real load(Stored x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y; }
DEVICE Stored store(Real x) {
  unsigned short y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
#else
DEVICE Real load(Stored x) { _Float16 y; std::memcpy(&y, &x, 2); return (float)y; }
DEVICE Stored store(Real x) {
  _Float16 y = (_Float16)x;
  Stored bits;
  std::memcpy(&bits, &y, 2);
  return bits;
}
#endif
#endif

#ifndef __CUDACC__
using std::sqrt;
#endif

// ---- the update of laprop.py

// What all elements of a tensor have in common, in the step that follows what is stored.
struct Common {
  double step, exp_avg_lr_1, exp_avg_lr_2;
  double lr;
  double gain;   // of g / denominator in the momentum
  double floor;  // added to sqrt(n)
  double rate;   // of the momentum in the parameter
  bool centered_now;
};

DEVICE Common common_to(const Arguments& a, Integer t) {
  Common s;
  s.lr = a.lr_address ? *a.lr_address : a.lr;
  s.step = (double)(*a.step[t] + 1);
  s.exp_avg_lr_1 = a.beta1 * *a.exp_avg_lr_1[t] + a.rest1 * s.lr;
  s.exp_avg_lr_2 = a.beta2 * *a.exp_avg_lr_2[t] + a.rest2;
  const double root = sqrt(s.exp_avg_lr_2);
  s.gain = a.rest1 * s.lr * root;
  s.floor = a.eps * root;
  s.rate = s.lr == 0 ? 0 : s.lr / s.exp_avg_lr_1;
  s.centered_now = CENTERED && s.step > 10;
  return s;
}

// Count the step of tensor t, once nobody needs any more what was stored before it.
DEVICE void advance(const Arguments& a, Integer t) {
  const Common s = common_to(a, t);
  *a.step[t] = (float)s.step;
  *a.exp_avg_lr_1[t] = s.exp_avg_lr_1;
  *a.exp_avg_lr_2[t] = s.exp_avg_lr_2;
}

// The elements first, first + LANES, ... before last of tensor t.
DEVICE void update(const Arguments& a, Integer t, Integer first, Integer last, int lane, int lanes) {
  Stored* RESTRICT param = (Stored*)a.param[t];
  const Stored* RESTRICT grad = (const Stored*)a.grad[t];
  Stored* RESTRICT exp_avg = (Stored*)a.exp_avg[t];
  Stored* RESTRICT exp_avg_sq = (Stored*)a.exp_avg_sq[t];
  Stored* RESTRICT largest = (Stored*)a.max_exp_avg_sq[t];
  Stored* RESTRICT mean = (Stored*)a.exp_mean_avg_beta2[t];
  const Common common = common_to(a, t);
  const Real gain = (Real)common.gain, floor = (Real)common.floor, rate = (Real)common.rate;
  const bool centered_now = common.centered_now, moves = common.rate != 0;
  const bool keeps_largest = centered_now == (CENTERED != 0);
  const Real beta1 = (Real)a.beta1, beta2 = (Real)a.beta2, rest2 = (Real)a.rest2;
  const Real before = (Real)(1 - common.lr * a.scale_before);
  const Real after = moves ? (Real)a.scale_after : (Real)1;
  const Real sign = (Real)a.sign;

  // Several elements in flight hide the latency of a GPU's memory; a CPU's vectors are enough.
#ifdef __CUDACC__
  const int AT_ONCE = 4;
#else
  const int AT_ONCE = 1;
#endif
  for (Integer start = first + lane; start < last; start += (Integer)lanes * AT_ONCE) {
    Real p[AT_ONCE], g[AT_ONCE], m[AT_ONCE], n[AT_ONCE];
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int k = 0; k < AT_ONCE; ++k) {
      const Integer i = start + (Integer)k * lanes;
      if (AT_ONCE == 1 || i < last) {
        p[k] = load(param[i]);
        g[k] = sign * load(grad[i]);
        m[k] = load(exp_avg[i]);
        n[k] = load(exp_avg_sq[i]);
      }
    }
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int k = 0; k < AT_ONCE; ++k) {
      const Integer i = start + (Integer)k * lanes;
      if (AT_ONCE == 1 || i < last) {
        const Real second = beta2 * n[k] + rest2 * g[k] * g[k];
        exp_avg_sq[i] = store(second);
        Real normaliser = second;
#if CENTERED
        const Real old_mean = load(mean[i]);
        const Real new_mean = old_mean + rest2 * (g[k] - old_mean);
        mean[i] = store(new_mean);
        const Real variance = second - new_mean * new_mean;
        normaliser = centered_now ? (variance < 0 ? 0 : variance) : second;
#endif
#if AMSGRAD
        const Real old_largest = load(largest[i]);
        const Real maximum =
            old_largest != old_largest || old_largest > normaliser ? old_largest : normaliser;
        normaliser = keeps_largest ? maximum : normaliser;
        largest[i] = keeps_largest ? store(maximum) : largest[i];
#endif
        const Real momentum = beta1 * m[k] + gain * (g[k] / (sqrt(normaliser) + floor));
        exp_avg[i] = store(momentum);
        const Real decayed = p[k] * before;
        param[i] = store((moves ? decayed - rate * momentum : decayed) * after);
      }
    }
  }
}

// The elements numbered begin to end, in whichever tensors they lie.
DEVICE void stretch(const Arguments& a, Integer begin, Integer end, int lane, int lanes) {
  Integer low = 0, high = a.count;  // the last tensor whose first element is not after begin
  while (high - low > 1) {
    const Integer middle = (low + high) / 2;
    if (a.first[middle] <= begin) low = middle; else high = middle;
  }
  for (Integer t = low; t < a.count && a.first[t] < end; ++t) {
    const Integer first = begin > a.first[t] ? begin - a.first[t] : 0;
    const Integer last = (end < a.first[t + 1] ? end : a.first[t + 1]) - a.first[t];
    update(a, t, first, last, lane, lanes);
  }
}

// Of `number` workers, the one at `place` begins here. Multiples of 64 keep two threads off one
// cache line.
DEVICE Integer begin_of(const Arguments& a, Integer place, Integer number) {
  const Integer total = a.first[a.count];
  const Integer share = ((total + number - 1) / number + 63) / 64 * 64;
  const Integer begin = place * share;
  return begin < total ? begin : total;
}

#ifdef __CUDACC__

extern "C" __global__ void step_all(const __grid_constant__ Arguments a) {
  stretch(a, begin_of(a, blockIdx.x, a.workers), begin_of(a, blockIdx.x + 1, a.workers),
          threadIdx.x, blockDim.x);
  // A second kernel that counts the steps would take longer to launch than to run: the block that
  // is the last to finish does it.
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(a.done, 1u) == gridDim.x - 1;
    if (last) *a.done = 0;
  }
  __syncthreads();
  if (last)
    for (Integer t = threadIdx.x; t < a.count; t += blockDim.x) advance(a, t);
}

#else

extern "C" void step_all(const Arguments* arguments) {
  const Arguments& a = *arguments;
#pragma omp parallel for num_threads((int)a.workers) schedule(static, 1)
  for (Integer worker = 0; worker < a.workers; ++worker)
    stretch(a, begin_of(a, worker, a.workers), begin_of(a, worker + 1, a.workers), 0, 1);
  for (Integer t = 0; t < a.count; ++t) advance(a, t);
}

#endif
