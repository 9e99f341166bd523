/* Attention of single tokens over their pages, compiled on the machine for one model's shape:
   DIM, KV_HEADS, GROUP (query heads for each of these), PAGE (tokens) and FORMAT are given. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define UNSEEN -1e30f
#define LANES 16 /* floats in a vector; where the processor's are narrower it takes several */
#define BLOCKS ((DIM + LANES - 1) / LANES)
#define LINE (64 / (int)sizeof(element)) /* elements in a cache line */
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

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
#else /* bfloat16: the upper half of a float, rounded to the nearest, ties to even */
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

/* A block of a row of DIM elements, zeros behind its end. */
INLINE lanes load(const element *row, int block) {
  packed part = {0};
  if ((block + 1) * LANES <= DIM)
    memcpy(&part, row + block * LANES, sizeof part);
  else
    memcpy(&part, row + block * LANES, DIM % LANES * sizeof(element));
  return widen(part);
}

/* Sums of neighbours, those of `a` before those of `b`. */
INLINE lanes fold(lanes a, lanes b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
         __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* Memory answers late: a head's next page is called into the second cache while this one is read.
   Half as fast without, and with the first cache, which is too small. */
INLINE void fetch(const element *page) {
  for (int i = 0; i < PAGE * DIM; i += LINE) __builtin_prefetch(page + i, 0, 2);
}

/* One head of keys and values, and the queries that read it. */
static void attend_head(const element *query, const element *keys, const element *values,
                        const int64_t *pages, int64_t lowest, int64_t newest, float scale,
                        element *out) {
  const int64_t first = lowest / PAGE, last = newest / PAGE, page_size = KV_HEADS * PAGE * DIM;
  lanes asked[GROUP][BLOCKS], sum[GROUP][BLOCKS];
  float highest[GROUP], total[GROUP];
  for (int g = 0; g < GROUP; g++) {
    for (int b = 0; b < BLOCKS; b++) {
      asked[g][b] = load(query + g * DIM, b) * scale;
      sum[g][b] = (lanes){0};
    }
    highest[g] = UNSEEN;
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
      lanes score[GROUP][LANES]; /* of each key, its products not yet summed up */
      memset(score, 0, sizeof score);
      for (int t = 0; t < count; t++)
        for (int b = 0; b < BLOCKS; b++) {
          const lanes row = load(key + t * DIM, b);
          for (int g = 0; g < GROUP; g++) score[g][t] += asked[g][b] * row;
        }
      for (int g = 0; g < GROUP; g++) {
        for (int width = LANES / 2; width; width /= 2)
          for (int t = 0; t < width; t++) score[g][t] = fold(score[g][2 * t], score[g][2 * t + 1]);
        float share[LANES], top = highest[g], added = 0;
        memcpy(share, score[g], sizeof share);
        for (int t = count; t < LANES; t++) share[t] = UNSEEN;
        /* Online softmax (Milakov and Gimelshein, arXiv 1805.02867): what was summed up so far is
           scaled down when a higher score comes. */
        for (int t = 0; t < LANES; t++) top = fmaxf(share[t], top);
        const float kept = expf(highest[g] - top);
        for (int t = 0; t < LANES; t++) {
          share[t] = expf(share[t] - top);
          added += share[t];
        }
        highest[g] = top;
        total[g] = total[g] * kept + added;
        for (int b = 0; b < BLOCKS; b++) {
          lanes here = sum[g][b] * kept;
          for (int t = 0; t < count; t++) here += share[t] * load(value + t * DIM, b);
          sum[g][b] = here;
        }
      }
    }
  }
  for (int g = 0; g < GROUP; g++) {
    float row[BLOCKS * LANES];
    memcpy(row, sum[g], sizeof row);
    for (int d = 0; d < DIM; d++) out[g * DIM + d] = narrow(row[d] / total[g]);
  }
}

/* Queries (tokens, KV_HEADS * GROUP, DIM), a token's `stride` behind the one before, over keys and
   values (pages, KV_HEADS, PAGE, DIM). Token i sees its keys lowest[i] ... newest[i]; its pages
   begin at pages[offsets[i]]. `out` is dense. */
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
