/* Attention of single tokens over their pages, compiled on the machine for one model's shape. The
   build defines DIM, KV_HEADS, GROUP (query heads per key head), PAGE (tokens) and FORMAT. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define MASKED -1e30f
#define LANES 16 /* floats per vector; the compiler splits it for narrower registers */
#define BLOCKS ((DIM + LANES - 1) / LANES)
#define LINE (64 / (int)sizeof(element)) /* elements in a cache line */
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
INLINE lanes widen(packed x) { return __builtin_convertvector(x, lanes); }
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

/* A block of a row of DIM elements, padded with zeros. */
INLINE lanes load(const element *row, int block) {
  packed part = {0};
  if ((block + 1) * LANES <= DIM)
    memcpy(&part, row + block * LANES, sizeof part);
  else
    memcpy(&part, row + block * LANES, DIM % LANES * sizeof(element));
  return widen(part);
}

/* Pairwise sums of neighbouring lanes, those of `a` before those of `b`. */
INLINE lanes fold(lanes a, lanes b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
         __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* e^x for x <= 0; 0 below the smallest normal number. The C library's takes a call for each lane.
   With x = k ln 2 + r and |r| <= ln 2 / 2, e^r is a polynomial (Taylor, degree 7; the error is below
   1e-8) and 2^k is added to its exponent. */
INLINE lanes exponential(lanes x) {
  const integers normal = ~(x < -87.0f); /* true for NaN, which is passed on */
  const integers k = __builtin_convertvector(x * 1.44269504f - 0.5f, integers); /* towards 0 */
  const lanes r = x - __builtin_convertvector(k, lanes) * 0.693147181f;
  lanes value = (lanes){0} + 1.0f / 5040;
  value = value * r + 1.0f / 720;
  value = value * r + 1.0f / 120;
  value = value * r + 1.0f / 24;
  value = value * r + 1.0f / 6;
  value = value * r + 0.5f;
  value = value * r + 1.0f;
  value = value * r + 1.0f;
  return (lanes)(((integers)value + (k << 23)) & normal);
}

/* Prefetches the next page of a head into the L2 cache while the current one is read. Without it, or
   with the L1 cache, which is too small, the kernel is half as fast. */
INLINE void fetch(const element *page) {
  for (int i = 0; i < PAGE * DIM; i += LINE) __builtin_prefetch(page + i, 0, 2);
}

/* Attends one head of keys and values with the queries of its group. */
static void attend_head(const element *query, const element *keys, const element *values,
                        const int64_t *pages, int64_t lowest, int64_t newest, float scale,
                        element *out) {
  const int64_t first = lowest / PAGE, last = newest / PAGE, page_size = KV_HEADS * PAGE * DIM;
  lanes scaled_query[GROUP][BLOCKS], sum[GROUP][BLOCKS];
  float highest[GROUP], total[GROUP];
  for (int g = 0; g < GROUP; g++) {
    for (int b = 0; b < BLOCKS; b++) {
      scaled_query[g][b] = load(query + g * DIM, b) * scale;
      sum[g][b] = (lanes){0};
    }
    highest[g] = MASKED;
    total[g] = 0;
  }
  for (int64_t number = first; number <= last; number++) {
    const element *key_page = keys + pages[number] * page_size;
    const element *value_page = values + pages[number] * page_size;
    const int end = number == last ? newest % PAGE + 1 : PAGE;
    if (number < last) {
      fetch(keys + pages[number + 1] * page_size);
      fetch(values + pages[number + 1] * page_size);
    }
    for (int from = number == first ? lowest % PAGE : 0; from < end; from += LANES) {
      const int count = end - from < LANES ? end - from : LANES;
      const element *key = key_page + from * DIM, *value = value_page + from * DIM;
      lanes score[GROUP][LANES]; /* per key: products not yet reduced over lanes */
      memset(score, 0, sizeof score);
      for (int t = 0; t < count; t++)
        for (int b = 0; b < BLOCKS; b++) {
          const lanes row = load(key + t * DIM, b);
          for (int g = 0; g < GROUP; g++) score[g][t] += scaled_query[g][b] * row;
        }
      float weight[GROUP][LANES], rescale[GROUP];
      for (int g = 0; g < GROUP; g++) {
        for (int width = LANES / 2; width; width /= 2)
          for (int t = 0; t < width; t++) score[g][t] = fold(score[g][2 * t], score[g][2 * t + 1]);
        float top = highest[g], added = 0;
        memcpy(weight[g], score[g], sizeof weight[g]);
        for (int t = count; t < LANES; t++) weight[g][t] = MASKED;
        /* Online softmax (Milakov and Gimelshein, arXiv 1805.02867): the sums so far are rescaled
           when a higher score occurs. */
        for (int t = 0; t < LANES; t++) top = fmaxf(weight[g][t], top);
        lanes shifted;
        memcpy(&shifted, weight[g], sizeof shifted);
        shifted = exponential(shifted - top);
        memcpy(weight[g], &shifted, sizeof shifted);
        for (int t = 0; t < LANES; t++) added += weight[g][t];
        rescale[g] = exponential((lanes){0} + (highest[g] - top))[0];
        highest[g] = top;
        total[g] = total[g] * rescale[g] + added;
      }
      for (int b = 0; b < BLOCKS; b++) {
        lanes updated[GROUP];
        for (int g = 0; g < GROUP; g++) updated[g] = sum[g][b] * rescale[g];
        for (int t = 0; t < count; t++) {
          const lanes row = load(value + t * DIM, b);
          for (int g = 0; g < GROUP; g++) updated[g] += weight[g][t] * row;
        }
        for (int g = 0; g < GROUP; g++) sum[g][b] = updated[g];
      }
    }
  }
  for (int g = 0; g < GROUP; g++) {
    float row[BLOCKS * LANES];
    memcpy(row, sum[g], sizeof row);
    for (int d = 0; d < DIM; d++) out[g * DIM + d] = narrow(row[d] / total[g]);
  }
}

/* Queries (tokens, KV_HEADS * GROUP, DIM), with `stride` elements from token to token, over keys and
   values (pages, KV_HEADS, PAGE, DIM). Token i sees its keys lowest[i] ... newest[i]; its pages
   start at pages[offsets[i]]. `out` is dense. */
void attend(const element *query, int64_t stride, const element *keys, const element *values,
            const int64_t *pages, const int64_t *offsets, const int64_t *lowest,
            const int64_t *newest, int64_t tokens, float scale, element *out) {
#pragma omp parallel for collapse(2) schedule(dynamic, 4)
  for (int64_t i = 0; i < tokens; i++)
    for (int64_t head = 0; head < KV_HEADS; head++)
      attend_head(query + i * stride + head * GROUP * DIM, keys + head * PAGE * DIM,
                  values + head * PAGE * DIM, pages + offsets[i], lowest[i], newest[i], scale,
                  out + (i * KV_HEADS + head) * GROUP * DIM);
}
