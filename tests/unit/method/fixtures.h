/* fixtures.h: what the tests of worker/method share. Reproducible numbers from one small generator. */
#ifndef DHA_TESTS_METHOD_FIXTURES_H
#define DHA_TESTS_METHOD_FIXTURES_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 1;

/* Uniform in [0,1). */
static inline double uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) / 9007199254740992.0;
}

/* Standard normal (Box-Muller). */
static inline double normal(void)
{
    double u = uniform() + 1e-300;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * uniform());
}

static inline void assert_close(double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance))
        fail_msg("%.17g and %.17g differ by %.3g, more than %.3g", a, b, fabs(a - b), tolerance);
}

static inline double inner(int n, const double *x, const double *y)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

#endif
