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

/* x (HD) as float32. Memory is slow to answer, so what lies 32 places ahead is asked for now. */
static inline void load(const T *x, float *y) {
    for (int i = 0; i < HD; i += 64 / sizeof(T)) __builtin_prefetch(x + 32 * HD + i);
    for (int i = 0; i < HD; i++) y[i] = up(x[i]);
}

/* As kernels.attend says; `stride` is the size of one head's cache of one row. */
void attend(const T *queries, const T *k, const T *v, T *keys, T *values, const int64_t *lengths,
            T *out, int rows, int kv, int group, long stride, int window) {
#pragma omp parallel for schedule(dynamic, 4)
    for (int j = 0; j < rows * kv; j++) {
        int last = lengths[j / kv], first = last < window ? 0 : last - window + 1;
        const T *q = queries + (long)j * group * HD;
        T *key = keys + j * stride, *value = values + j * stride;
        memcpy(key + (long)last * HD, k + (long)j * HD, HD * sizeof(T));
        memcpy(value + (long)last * HD, v + (long)j * HD, HD * sizeof(T));
        float query[group][HD], sum[group][HD], weights[group][last + 1], x[HD];
        for (int i = 0; i < group * HD; i++)
            query[i / HD][i % HD] = up(q[i]) / sqrtf(HD), sum[i / HD][i % HD] = 0;
        for (int p = first; p <= last; p++) {
            load(key + (long)p * HD, x);
            for (int g = 0; g < group; g++) {
                float score = 0;
                for (int i = 0; i < HD; i++) score += query[g][i] * x[i];
                weights[g][p] = score;
            }
        }
        for (int g = 0; g < group; g++) {
            float most = weights[g][first], total = 0;
            for (int p = first; p <= last; p++) most = fmaxf(most, weights[g][p]);
            for (int p = first; p <= last; p++) total += weights[g][p] = expf(weights[g][p] - most);
            for (int p = first; p <= last; p++) weights[g][p] /= total;
        }
        for (int p = first; p <= last; p++) {
            load(value + (long)p * HD, x);
            for (int g = 0; g < group; g++)
                for (int i = 0; i < HD; i++) sum[g][i] += weights[g][p] * x[i];
        }
        for (int i = 0; i < group * HD; i++) out[(long)j * group * HD + i] = down(sum[i / HD][i % HD]);
    }
}
