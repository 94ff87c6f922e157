// From rows of scores to column sums of their softmax, for one instruction set. Included by kernel.h.

namespace avcl::AVCL_ISA {

// Of one row of scores, exp2(scale * (score - largest)); returns 1 / their sum.
template <typename T>
inline T soften(T* scores, int64_t pitch, T scale) {
  constexpr int kW = kWidth<T>;
  V<T> top0 = at(scores), top1 = at(scores + kW);
  for (int64_t j = 2 * kW; j < pitch; j += 2 * kW) {
    const V<T> a = at(scores + j), b = at(scores + j + kW);
    top0 = a > top0 ? a : top0;
    top1 = b > top1 ? b : top1;
  }
  const V<T> times = splat(scale), top = splat(-scale * largest<T>(top0 > top1 ? top0 : top1));
  V<T> total0 = {}, total1 = {};
  for (int64_t j = 0; j < pitch; j += 2 * kW) {
    const V<T> a = exp2<T>(mul_add(at(scores + j), times, top));
    const V<T> b = exp2<T>(mul_add(at(scores + j + kW), times, top));
    at(scores + j) = a;
    at(scores + j + kW) = b;
    total0 += a;
    total1 += b;
  }
  return T{1} / sum<T>(total0 + total1);
}

// Adds the softmax of up to AVCL_ROWS rows of scores to the sums of the columns; keys are padded to `pitch`.
template <typename T>
inline void add_rows(T* scores, int rows, int64_t stride, int64_t keys, int64_t pitch, T scale, T* sums) {
  constexpr int kW = kWidth<T>;
  T share[AVCL_ROWS];
  for (int r = 0; r < rows; ++r) {
    for (int64_t j = keys; j < pitch; ++j) scores[r * stride + j] = -__builtin_inf();
    share[r] = soften<T>(scores + r * stride, pitch, scale);
  }
  for (int64_t j = 0; j < pitch; j += 2 * kW) {
    V<T> left = at(sums + j), right = at(sums + j + kW);
    for (int r = 0; r < rows; ++r) {
      const V<T> times = splat(share[r]);
      left = mul_add(at(scores + r * stride + j), times, left);
      right = mul_add(at(scores + r * stride + j + kW), times, right);
    }
    at(sums + j) = left;
    at(sums + j + kW) = right;
  }
}

}  // namespace avcl::AVCL_ISA
