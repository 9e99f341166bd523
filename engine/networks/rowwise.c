/* What a Llama computes row by row between its matrix products, in one pass over the row each.
   The build defines FORMAT. Sums and products are in float32. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define PARALLEL_ELEMENTS 16384 /* less is faster on one core */

#if FORMAT == 32
typedef float element;
static inline float widen(element x) { return x; }
static inline element narrow(float x) { return x; }
#else /* bfloat16: the upper half of a float, rounded to nearest, ties to even */
typedef uint16_t element;
static inline float widen(element x) {
  const uint32_t bits = (uint32_t)x << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}
static inline element narrow(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}
#endif

/* e^x for |x| <= 87, beyond which it stays; written so that the compiler makes vectors of it.
   With x = k ln 2 + r and |r| <= ln 2 / 2, e^r is a polynomial (Taylor, degree 7) and 2^k is added to
   its exponent. */
static inline float exponential(float x) {
  x = x > 87.0f ? 87.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const int32_t k = (int32_t)(x * 1.44269504f + (x < 0 ? -0.5f : 0.5f));
  const float r = x - (float)k * 0.693147181f;
  float value = 1.0f / 5040;
  value = value * r + 1.0f / 720;
  value = value * r + 1.0f / 120;
  value = value * r + 1.0f / 24;
  value = value * r + 1.0f / 6;
  value = value * r + 0.5f;
  value = value * r + 1.0f;
  value = value * r + 1.0f;
  int32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits += k << 23;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Rows (rows, width) divided by their root mean square, times the weights. */
void rms_norm(const element *restrict rows, const element *restrict weights, int64_t count,
              int64_t width, float epsilon, element *restrict out) {
#pragma omp parallel for if (count * width > PARALLEL_ELEMENTS)
  for (int64_t i = 0; i < count; i++) {
    const element *row = rows + i * width;
    float squares = 0;
    for (int64_t d = 0; d < width; d++) squares += widen(row[d]) * widen(row[d]);
    const float scale = 1.0f / sqrtf(squares / width + epsilon);
    for (int64_t d = 0; d < width; d++)
      out[i * width + d] = narrow(widen(row[d]) * scale * widen(weights[d]));
  }
}

/* silu(first half) times the second half of each row: (rows, 2 * width) gives (rows, width). */
void gate(const element *restrict rows, int64_t count, int64_t width, element *restrict out) {
#pragma omp parallel for if (count * width > PARALLEL_ELEMENTS)
  for (int64_t i = 0; i < count; i++) {
    const element *gates = rows + 2 * i * width, *values = gates + width;
    for (int64_t d = 0; d < width; d++) {
      const float x = widen(gates[d]);
      out[i * width + d] = narrow(x / (1.0f + exponential(-x)) * widen(values[d]));
    }
  }
}

/* Rotary embedding in place of the first `heads` heads of each row of `stride` elements; cosines and
   sines are (rows, half), and pairs are half a head apart. */
void rotate(element *restrict rows, int64_t stride, int64_t count, int64_t heads, int64_t half,
            const float *restrict cosines, const float *restrict sines) {
#pragma omp parallel for if (count * heads * half > PARALLEL_ELEMENTS)
  for (int64_t i = 0; i < count; i++)
    for (int64_t h = 0; h < heads; h++) {
      element *first = rows + i * stride + 2 * h * half, *second = first + half;
      for (int64_t d = 0; d < half; d++) {
        const float a = widen(first[d]), b = widen(second[d]);
        const float cosine = cosines[i * half + d], sine = sines[i * half + d];
        first[d] = narrow(a * cosine - b * sine);
        second[d] = narrow(b * cosine + a * sine);
      }
    }
}
