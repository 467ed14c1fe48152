/* Attention over a cache, for kernels.py. T is bfloat16 or float32; sums are float32. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if BF16
typedef uint16_t T;
static inline float up(T x) {
    union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
    return u.value;
}
static inline T down(float x) { /* to the nearest, of two to the even one */
    union { float value; uint32_t bits; } u = {x};
    return (u.bits + 0x7fff + (u.bits >> 16 & 1)) >> 16;
}
#else
typedef float T;
#define up(x) (x)
#define down(x) (x)
#endif

/* x (hd) as float32. Memory is slow to answer, so what lies 32 places ahead is asked for now. */
static inline void load(const T *x, float *y, int hd) {
    for (int i = 0; i < hd; i += 64 / sizeof(T)) __builtin_prefetch(x + 32 * hd + i);
    for (int i = 0; i < hd; i++) y[i] = up(x[i]);
}

/* A key-value head of one row: queries q -> out (group, hd) see n places of keys, values (n, hd) */
static inline __attribute__((always_inline)) void attend_head(
    const T *q, const T *keys, const T *values, T *out, int n, int group, int hd) {
    float query[group][hd], sum[group][hd], weights[group][n], x[hd];
    for (int g = 0; g < group; g++)
        for (int i = 0; i < hd; i++) query[g][i] = up(q[g * hd + i]) / sqrtf(hd), sum[g][i] = 0;
    for (int p = 0; p < n; p++, keys += hd) {
        load(keys, x, hd);
        for (int g = 0; g < group; g++) {
            float score = 0;
            for (int i = 0; i < hd; i++) score += query[g][i] * x[i];
            weights[g][p] = score;
        }
    }
    for (int g = 0; g < group; g++) {
        float most = weights[g][0], total = 0;
        for (int p = 0; p < n; p++) most = fmaxf(most, weights[g][p]);
        for (int p = 0; p < n; p++) total += weights[g][p] = expf(weights[g][p] - most);
        for (int p = 0; p < n; p++) weights[g][p] /= total;
    }
    for (int p = 0; p < n; p++, values += hd) {
        load(values, x, hd);
        for (int g = 0; g < group; g++)
            for (int i = 0; i < hd; i++) sum[g][i] += weights[g][p] * x[i];
    }
    for (int i = 0; i < group * hd; i++) out[i] = down(sum[i / hd][i % hd]);
}

/* As kernels.attend says; a key-value head's next row in the cache is `capacity` places away. */
void attend(const T *q, const T *k, const T *v, T *keys, T *values, const int64_t *lengths, T *out,
            int rows, int kv, int group, int hd, int capacity, int window) {
#pragma omp parallel for schedule(dynamic, 4)
    for (int j = 0; j < rows * kv; j++) {
        long last = lengths[j / kv], first = last < window ? 0 : last - window + 1;
        long at = (long)j * capacity * hd, see = at + first * hd, group_at = (long)j * group * hd;
        memcpy(keys + at + last * hd, k + (long)j * hd, hd * sizeof(T));
        memcpy(values + at + last * hd, v + (long)j * hd, hd * sizeof(T));
        const T *a = q + group_at, *b = keys + see, *c = values + see;
        int n = last - first + 1;
        if (hd == 64) attend_head(a, b, c, out + group_at, n, group, 64); /* a faster loop */
        else attend_head(a, b, c, out + group_at, n, group, hd);
    }
}
