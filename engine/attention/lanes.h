/* Registers of floats, as wide as the machine has them, and the number formats that are loaded into
   them. The build defines DIM and FORMAT. Each operation is rounded as written here, whatever is
   around it: see EXACT in native.py. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* LANES: floats in a register. SIDE: registers are enough for the sums of SIDE × 4 products. */
#if defined(__AVX512F__)
#define LANES 16
#define SIDE 4
#elif defined(__AVX__)
#define LANES 8
#define SIDE 2
#else
#define LANES 4
#define SIDE 4
#endif

#define BLOCKS ((DIM + LANES - 1) / LANES) /* registers that hold a row of DIM elements */
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t integers __attribute__((vector_size(LANES * sizeof(int32_t))));

#if FORMAT == 32
typedef float element;
typedef lanes packed;
INLINE lanes widen(packed x) { return x; }
INLINE element narrow(float x) { return x; }
#elif FORMAT == 16
typedef _Float16 element;
typedef element packed __attribute__((vector_size(LANES * sizeof(element))));
INLINE lanes widen(packed x) { /* written out where compilers convert element by element */
#if defined(__AVX512F__)
  return (lanes)_mm512_cvtph_ps((__m256i)x);
#elif LANES == 8 && defined(__F16C__)
  return (lanes)_mm256_cvtph_ps((__m128i)x);
#else
  return __builtin_convertvector(x, lanes);
#endif
}
INLINE element narrow(float x) { return x; }
#else /* bfloat16: the upper half of a float, rounded to nearest, ties to even */
typedef uint16_t element;
typedef element packed __attribute__((vector_size(LANES * sizeof(element))));
typedef uint32_t words __attribute__((vector_size(LANES * sizeof(uint32_t))));
INLINE lanes widen(packed x) { return (lanes)(__builtin_convertvector(x, words) << 16); }
INLINE element narrow(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}
#endif

INLINE lanes all(float x) { return (lanes){0} + x; }

/* a * b + c, rounded once where the machine can. */
INLINE lanes multiply_add(lanes a, lanes b, lanes c) {
#if defined(__AVX512F__)
  return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX__) && defined(__FMA__)
  return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (lanes)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

/* A block of a row of DIM elements, padded with zeros. */
INLINE lanes load(const element *row, int block) {
  packed part = {0};
  if ((block + 1) * LANES <= DIM)
    memcpy(&part, row + block * LANES, sizeof part);
  else
    memcpy(&part, row + block * LANES, DIM % LANES * sizeof(element));
  return widen(part);
}

/* Folds: neighbouring lanes are added, of 16 bytes each in the first two. After all of them, lane t
   is the sum of all lanes of the t-th vector. */
#if LANES == 16
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
INLINE lanes fold_lanes(lanes a, lanes b) {
  return PICK(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
         PICK(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
INLINE lanes fold_pairs(lanes a, lanes b) {
  return PICK(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
         PICK(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}
INLINE lanes fold_quartets(const lanes *x) {
  lanes half[2];
  for (int i = 0; i < 2; i++)
    half[i] =
        PICK(x[2 * i], x[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
        PICK(x[2 * i], x[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  return PICK(half[0], half[1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         PICK(half[0], half[1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
#elif LANES == 8
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
INLINE lanes fold_lanes(lanes a, lanes b) {
  return PICK(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + PICK(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
}
INLINE lanes fold_pairs(lanes a, lanes b) {
  return PICK(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + PICK(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
}
INLINE lanes fold_quartets(const lanes *x) {
  return PICK(x[0], x[1], 0, 1, 2, 3, 8, 9, 10, 11) + PICK(x[0], x[1], 4, 5, 6, 7, 12, 13, 14, 15);
}
#else
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
INLINE lanes fold_lanes(lanes a, lanes b) {
  return PICK(a, b, 0, 4, 1, 5) + PICK(a, b, 2, 6, 3, 7);
}
INLINE lanes fold_pairs(lanes a, lanes b) {
  return PICK(a, b, 0, 1, 4, 5) + PICK(a, b, 2, 3, 6, 7);
}
INLINE lanes fold_quartets(const lanes *x) { return x[0]; }
#endif

/* e^x for x <= 0; 0 below the smallest normal number. The C library's takes a call for each lane.
   With x = k ln 2 + r and |r| <= ln 2 / 2, e^r is a polynomial (Taylor, degree 7; the error is
   below 1e-8) and 2^k is added to its exponent. */
INLINE lanes exponential(lanes x) {
  const integers normal = ~(x < -87.0f); /* true for NaN, which is passed on */
  const lanes halves = multiply_add(x, all(1.44269504f), all(-0.5f));
  const integers k = __builtin_convertvector(halves, integers); /* towards 0 */
  const lanes r = multiply_add(__builtin_convertvector(k, lanes), all(-0.693147181f), x);
  lanes value = all(1.0f / 5040);
  value = multiply_add(value, r, all(1.0f / 720));
  value = multiply_add(value, r, all(1.0f / 120));
  value = multiply_add(value, r, all(1.0f / 24));
  value = multiply_add(value, r, all(1.0f / 6));
  value = multiply_add(value, r, all(0.5f));
  value = multiply_add(value, r, all(1.0f));
  value = multiply_add(value, r, all(1.0f));
  return (lanes)(((integers)value + (k << 23)) & normal);
}

INLINE float highest_of(lanes x, float top) {
  for (int t = 0; t < LANES; t++) top = fmaxf(x[t], top);
  return top;
}

INLINE float sum_of(lanes x) {
  float sums[LANES];
  memcpy(sums, &x, sizeof sums);
  for (int width = LANES / 2; width; width /= 2)
    for (int t = 0; t < width; t++) sums[t] += sums[t + width];
  return sums[0];
}
