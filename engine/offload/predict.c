/* The attention that tokens will get, predicted from 4-bit codes of their keys; compiled on the
   machine for one model's shape. The build defines DIM and GROUP (query heads per key head). */

#include <math.h>
#include <stdint.h>

#define BYTES (DIM / 2) /* of a key's codes: a dimension of each half in a byte */

/* Scores of a key for the queries of a group, each up to a constant of its own. */
static void score(const uint8_t *codes, const float (*weights)[DIM], float *scores,
                  int64_t stride) {
  float key[DIM];
  for (int i = 0; i < BYTES; i++) key[i] = codes[i] & 15;
  for (int i = 0; i < BYTES; i++) key[BYTES + i] = codes[i] >> 4;
  for (int g = 0; g < GROUP; g++) {
    float sum = 0;
    for (int d = 0; d < DIM; d++) sum += weights[g][d] * key[d];
    scores[g * stride] = sum;
  }
}

/* For each sequence and key head: the softmax of the scores of its first tokens, summed over the
   queries of the group; -1 beyond them. `weights` (sequences, kv_heads, GROUP, DIM) are the queries
   times the steps of the codes, `places` (sequences, kv_heads, tokens) the rows of `codes`,
   `lengths` (sequences) the tokens of each. `scores` (sequences, kv_heads, GROUP, tokens) is
   overwritten, `out` is (sequences, kv_heads, tokens). */
void predict(const uint8_t *codes, const int64_t *places, const int64_t *lengths,
             const float (*weights)[GROUP][DIM], int64_t sequences, int64_t kv_heads,
             int64_t tokens, float *scores, float *out) {
#pragma omp parallel for schedule(dynamic)
  for (int64_t at = 0; at < sequences * kv_heads; at++) {
    const int64_t length = lengths[at / kv_heads], *rows = places + at * tokens;
    float *own = scores + at * GROUP * tokens, *sums = out + at * tokens;
    for (int64_t t = 0; t < length; t++)
      score(codes + rows[t] * BYTES, weights[at], own + t, tokens);
    for (int64_t t = 0; t < tokens; t++) sums[t] = t < length ? 0 : -1;
    for (int g = 0; g < GROUP; g++, own += tokens) {
      float highest = -INFINITY, total = 0;
      for (int64_t t = 0; t < length; t++) highest = own[t] > highest ? own[t] : highest;
      for (int64_t t = 0; t < length; t++) total += own[t] = expf(own[t] - highest);
      for (int64_t t = 0; t < length; t++) sums[t] += own[t] / total;
    }
  }
}
