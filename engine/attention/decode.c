/* Attention of single tokens over their pages, compiled on the machine for one model's shape. The
   build defines DIM, KV_HEADS, GROUP (query heads per key head), PAGE (tokens) and FORMAT.

   Tokens whose page tables begin alike are attended in two passes: in the first, the shared pages
   are read once for a tile of rows; in the second, each row goes on over its own pages from the
   sums that it has so far. So a query meets its keys in the same order in either case, and its
   result is the same to the bit, whatever else is in the step. */

#include "lanes.h"

#define MASKED -1e30f
#define QUARTET 4                        /* keys scored together, and registers of values added */
#define LINE (64 / (int)sizeof(element)) /* elements in a cache line */
#define AHEAD 16                         /* tokens from a row to the one that is prefetched */
#define HEAD_SIZE (PAGE * DIM)           /* elements of a head in a page */
#define PAGE_SIZE (KV_HEADS * HEAD_SIZE)
#define WIDE_QUERIES (5 * SIDE)          /* with more, rows are widened once for all of them */
#define TILE_BYTES 24576                 /* queries and sums of a tile: half of an L1 cache */
#define TILE_QUERIES (TILE_BYTES / (2 * BLOCKS * LANES * (int)sizeof(float)))
#define TILE_ROWS (TILE_QUERIES > 4 * GROUP ? TILE_QUERIES / GROUP : 4)
#define LEAST_TILE_ROWS 4  /* fewer rows are no faster together */
#define TILES_PER_THREAD 4 /* at least, so that threads end at about the same time */

int omp_get_max_threads(void);

/* Some rows' queries of one key head, and what they have summed up so far. */
typedef struct {
  lanes query[TILE_ROWS * GROUP][BLOCKS], sum[TILE_ROWS * GROUP][BLOCKS];
  lanes total[TILE_ROWS * GROUP]; /* of the weights, lane by lane */
  float highest[TILE_ROWS * GROUP];
} tile;

/* Up to LANES keys or values of one head: as stored or, where many queries read them, widened. With
   `next`, the rows there are prefetched into the L1 cache, each register's as one is read: in
   bursts, prefetches wait for each other. */
typedef struct {
  const element *stored;
  const lanes (*wide)[BLOCKS];
  const element *next;
} matrix;

INLINE lanes block_of(matrix from, int row, int block) {
  if (from.next && block * LANES % LINE == 0)
    __builtin_prefetch(from.next + row * DIM + block * LANES);
  return from.wide ? from.wide[row][block] : load(from.stored + row * DIM, block);
}

INLINE matrix widened(matrix from, int count, lanes (*wide)[BLOCKS]) {
  for (int t = 0; t < count; t++)
    for (int b = 0; b < BLOCKS; b++) wide[t][b] = load(from.stored + t * DIM, b);
  return (matrix){from.stored, (const lanes(*)[BLOCKS])wide, from.next};
}

/* Scores of `count` keys for the queries from `first` on: a lane for each key. */
INLINE void score(const tile *own, int first, int queries, matrix keys, int count, lanes *scores) {
  lanes part[SIDE][LANES / QUARTET];
  for (int four = 0; four < LANES / QUARTET; four++) {
    lanes product[SIDE][QUARTET] = {0}; /* not yet summed over lanes */
    for (int b = 0; b < BLOCKS; b++)
      for (int t = 0; t < QUARTET; t++) {
        const int key = four * QUARTET + t; /* beyond `count`, the last one again */
        const lanes block = block_of(keys, key < count ? key : count - 1, b);
        for (int q = 0; q < queries; q++)
          product[q][t] = multiply_add(own->query[first + q][b], block, product[q][t]);
      }
    for (int q = 0; q < queries; q++)
      part[q][four] = fold_pairs(fold_lanes(product[q][0], product[q][1]),
                                 fold_lanes(product[q][2], product[q][3]));
  }
  for (int q = 0; q < queries; q++) scores[q] = fold_quartets(part[q]);
}

/* Online softmax (Milakov and Gimelshein, arXiv 1805.02867): weights of `count` keys; the sums so
   far are rescaled when a higher score occurs. */
INLINE void weigh(tile *own, int query, lanes scores, int count, float *weights) {
  memcpy(weights, &scores, sizeof scores);
  for (int t = count; t < LANES; t++) weights[t] = MASKED;
  memcpy(&scores, weights, sizeof scores);
  const float before = own->highest[query], top = highest_of(scores, before);
  scores = exponential(scores - top);
  memcpy(weights, &scores, sizeof scores);
  if (top != before) {
    const float rescale = exponential(all(before - top))[0];
    own->highest[query] = top;
    own->total[query] *= rescale;
    for (int b = 0; b < BLOCKS; b++) own->sum[query][b] *= rescale;
  }
  own->total[query] += scores;
}

/* Adds `count` values to the sums of the queries from `first` on, QUARTET registers at a time. */
INLINE void add(tile *own, int first, int queries, matrix values, int count,
                float (*weights)[LANES]) {
  for (int from = 0; from < BLOCKS; from += QUARTET) {
    const int blocks = BLOCKS - from < QUARTET ? BLOCKS - from : QUARTET;
    lanes sum[SIDE][QUARTET];
    for (int q = 0; q < queries; q++)
      for (int b = 0; b < blocks; b++) sum[q][b] = own->sum[first + q][from + b];
    for (int t = 0; t < count; t++)
      for (int b = 0; b < blocks; b++) {
        const lanes block = block_of(values, t, from + b);
        for (int q = 0; q < queries; q++)
          sum[q][b] = multiply_add(all(weights[q][t]), block, sum[q][b]);
      }
    for (int q = 0; q < queries; q++)
      for (int b = 0; b < blocks; b++) own->sum[first + q][from + b] = sum[q][b];
  }
}

/* Attends the queries from `first` on over `count` keys, SIDE queries at a time. */
INLINE void attend_keys(tile *own, int first, int queries, matrix keys, matrix values, int count) {
  lanes scores[TILE_ROWS * GROUP];
  float weights[TILE_ROWS * GROUP][LANES];
  const int sides = queries / SIDE * SIDE, left = queries - sides;
  for (int q = 0; q < sides; q += SIDE, keys.next = 0)
    score(own, first + q, SIDE, keys, count, scores + q);
  if (left == 1) score(own, first + sides, 1, keys, count, scores + sides);
  if (left == 2) score(own, first + sides, 2, keys, count, scores + sides);
  if (left == 3) score(own, first + sides, 3, keys, count, scores + sides);
  for (int q = 0; q < queries; q++) weigh(own, first + q, scores[q], count, weights[q]);
  for (int q = 0; q < sides; q += SIDE, values.next = 0)
    add(own, first + q, SIDE, values, count, weights + q);
  if (left == 1) add(own, first + sides, 1, values, count, weights + sides);
  if (left == 2) add(own, first + sides, 2, values, count, weights + sides);
  if (left == 3) add(own, first + sides, 3, values, count, weights + sides);
}

/* Attends the queries from `first` on over the keys lowest ... newest of one head, whose pages
   start at `pages`. `after`: where the page starts that is read next. */
INLINE void attend_pages(tile *own, int first, int queries, const element *keys,
                         const element *values, const int64_t *pages, int64_t lowest,
                         int64_t newest, int64_t after) {
  const int64_t last = newest / PAGE;
  for (int64_t number = lowest / PAGE; number <= last; number++) {
    const int64_t page = pages[number] * PAGE_SIZE;
    const int64_t next_page = number < last ? pages[number + 1] * PAGE_SIZE : after;
    const int end = number == last ? newest % PAGE + 1 : PAGE;
    for (int from = number == lowest / PAGE ? lowest % PAGE : 0; from < end; from += LANES) {
      const int count = end - from < LANES ? end - from : LANES, ahead = from + AHEAD;
      const int64_t here = page + from * DIM;
      const int64_t next = ahead < PAGE ? page + ahead * DIM : next_page + ahead % PAGE * DIM;
      matrix key = {keys + here, 0, keys + next}, value = {values + here, 0, values + next};
      if (FORMAT != 32 && queries > WIDE_QUERIES && queries != GROUP) {
        lanes wide_keys[LANES][BLOCKS], wide_values[LANES][BLOCKS];
        key = widened(key, count, wide_keys);
        value = widened(value, count, wide_values);
        attend_keys(own, first, queries, key, value, count);
      } else if (count == LANES) {
        attend_keys(own, first, queries, key, value, LANES);
      } else {
        attend_keys(own, first, queries, key, value, count);
      }
    }
  }
}

/* Begins with a row's queries of a key head: nothing is summed up yet. */
INLINE void begin(tile *own, int row, const element *query, float scale) {
  for (int g = row * GROUP; g < (row + 1) * GROUP; g++, query += DIM) {
    for (int b = 0; b < BLOCKS; b++) {
      own->query[g][b] = load(query, b) * scale;
      own->sum[g][b] = all(0);
    }
    own->total[g] = all(0);
    own->highest[g] = MASKED;
  }
}

INLINE void finish(const tile *own, element *out) {
  for (int g = 0; g < GROUP; g++) {
    const float total = sum_of(own->total[g]);
    float sums[BLOCKS * LANES];
    memcpy(sums, own->sum[g], sizeof sums);
    for (int d = 0; d < DIM; d++) out[g * DIM + d] = narrow(sums[d] / total);
  }
}

/* The sums of a row's queries of a key head, between the passes. */
typedef struct {
  float sum[GROUP][BLOCKS * LANES], total[GROUP][LANES], highest[GROUP];
} state;

INLINE void save(const tile *own, int row, state *to) {
  memcpy(to->sum, own->sum[row * GROUP], sizeof to->sum);
  memcpy(to->total, own->total + row * GROUP, sizeof to->total);
  memcpy(to->highest, own->highest + row * GROUP, sizeof to->highest);
}

INLINE void restore(tile *own, const state *from) {
  memcpy(own->sum, from->sum, sizeof from->sum);
  memcpy(own->total, from->total, sizeof from->total);
  memcpy(own->highest, from->highest, sizeof from->highest);
}

int64_t state_bytes(void) { return KV_HEADS * sizeof(state); }

/* A step, see `attend`. The passes go over its rows in an order: the n-th row is token order[n]. */
typedef struct {
  const element *query;
  int64_t stride;
  const element *keys, *values;
  const int64_t *pages, *offsets, *lowest, *newest, *order, *shared;
  state *states;
  int64_t tokens;
  float scale;
  element *out;
} step;

INLINE int64_t token_of(const step *s, int64_t n) { return s->order ? s->order[n] : n; }

INLINE const int64_t *pages_of(const step *s, int64_t n) {
  return s->pages + s->offsets[token_of(s, n)];
}

/* Cuts the rows into tiles that share pages. Gives where they start, with the end of the last, and
   how many pages the first pass reads for each row; returns the number of tiles. */
static int64_t cut(const step *s, int64_t *starts, int64_t *done) {
  const int threads = omp_get_max_threads();
  const int64_t even = s->tokens * KV_HEADS / (TILES_PER_THREAD * threads);
  int64_t rows = threads == 1 || even > TILE_ROWS ? TILE_ROWS : even, tiles = 0;
  if (rows < LEAST_TILE_ROWS) rows = 1;
  for (int64_t n = 0; n < s->tokens; n++) {
    done[n] = 0;
    if (!tiles || !s->shared[n] || n - starts[tiles - 1] >= rows) {
      starts[tiles++] = n;
    } else {
      if (s->shared[n] > done[n - 1]) done[n - 1] = s->shared[n];
      done[n] = s->shared[n];
    }
  }
  starts[tiles] = s->tokens;
  return tiles;
}

/* Attends the rows from ... to - 1 of the tile that starts at row `start` over the pages that two
   or more of them share; all have attended their first `done` pages. */
static void attend_shared(const step *s, tile *own, int64_t start, int from, int to, int64_t done,
                          int64_t head) {
  if (to - from < 2) return;
  const int64_t *shared = s->shared + start;
  int64_t fewest = shared[from + 1];
  for (int row = from + 2; row < to; row++)
    if (shared[row] < fewest) fewest = shared[row];
  if (fewest > done)
    attend_pages(own, from * GROUP, (to - from) * GROUP, s->keys + head * HEAD_SIZE,
                 s->values + head * HEAD_SIZE, pages_of(s, start + from), done * PAGE,
                 fewest * PAGE - 1, 0);
  for (int row = from + 1; row <= to; row++)
    if (row == to || shared[row] == fewest) {
      attend_shared(s, own, start, from, row, fewest, head);
      from = row;
    }
}

static void first_pass(const step *s, int64_t start, int64_t end, int64_t head) {
  tile own;
  for (int64_t n = start; n < end; n++)
    begin(&own, n - start, s->query + token_of(s, n) * s->stride + head * GROUP * DIM, s->scale);
  attend_shared(s, &own, start, 0, end - start, 0, head);
  for (int64_t n = start; n < end; n++) save(&own, n - start, s->states + n * KV_HEADS + head);
}

/* The first key that the second pass reads for the n-th row. */
INLINE int64_t first_own(const step *s, const int64_t *done, int64_t n) {
  return done && done[n] ? done[n] * PAGE : s->lowest[token_of(s, n)];
}

static void second_pass(const step *s, const int64_t *done, int64_t n, int64_t head) {
  const int64_t i = token_of(s, n), from = first_own(s, done, n);
  int64_t after = 0; /* read next: the next head of the row, then the next row */
  if (head + 1 < KV_HEADS)
    after = pages_of(s, n)[from / PAGE] * PAGE_SIZE + HEAD_SIZE;
  else if (n + 1 < s->tokens)
    after = pages_of(s, n + 1)[first_own(s, done, n + 1) / PAGE] * PAGE_SIZE - head * HEAD_SIZE;
  tile own;
  begin(&own, 0, s->query + i * s->stride + head * GROUP * DIM, s->scale);
  if (done && done[n]) restore(&own, s->states + n * KV_HEADS + head);
  attend_pages(&own, 0, GROUP, s->keys + head * HEAD_SIZE, s->values + head * HEAD_SIZE,
               pages_of(s, n), from, s->newest[i], after);
  finish(&own, s->out + (i * KV_HEADS + head) * GROUP * DIM);
}

/* Queries (tokens, KV_HEADS * GROUP, DIM), with `stride` elements from token to token, over keys
   and values (pages, KV_HEADS, PAGE, DIM). Token i sees its keys lowest[i] ... newest[i]; its pages
   start at pages[offsets[i]]. `out` is dense.

   Token order[n] begins with the same shared[n] pages as order[n - 1], and both see all of them.
   `states` is memory for state_bytes() for each token. Without an order no pages are shared. */
void attend(const element *query, int64_t stride, const element *keys, const element *values,
            const int64_t *pages, const int64_t *offsets, const int64_t *lowest,
            const int64_t *newest, const int64_t *order, const int64_t *shared, state *states,
            int64_t tokens, float scale, element *out) {
  const step s = {query, stride, keys, values, pages, offsets, lowest,
                  newest, order, shared, states, tokens, scale, out};
  int64_t starts[order ? tokens + 1 : 1], depths[order ? tokens : 1];
  const int64_t *done = order ? depths : 0, tiles = order ? cut(&s, starts, depths) : 0;
#pragma omp parallel
  {
    if (tiles) {
#pragma omp for collapse(2) schedule(dynamic)
      for (int64_t n = 0; n < tiles; n++)
        for (int64_t head = 0; head < KV_HEADS; head++)
          if (starts[n + 1] - starts[n] > 1) first_pass(&s, starts[n], starts[n + 1], head);
    }
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t n = 0; n < tokens; n++)
      for (int64_t head = 0; head < KV_HEADS; head++) second_pass(&s, done, n, head);
  }
}
