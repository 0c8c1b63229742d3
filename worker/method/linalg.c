#include "worker/method/linalg.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* LAPACKE checks its input for NaN itself and answers with minus the argument's number. */
static int lapack_fail(struct dha_err *e, const char *what, int n, lapack_int info)
{
    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return dha_fail(e, DHA_E_NO_MEMORY, "%s of a %d x %d matrix: out of memory", what, n, n);
    if (info < 0) {
        dha_fail(e, DHA_E_INPUT, "%s of a %d x %d matrix: an entry is not finite", what, n, n);
        return dha_err_hint(e, "the model's weights or activations overflow; check the checkpoint");
    }
    return dha_fail(e, DHA_E_INTERNAL, "%s of a %d x %d matrix failed (info %d)", what, n, n,
                    (int)info);
}

int la_eig_sym(int n, double *a, double *w, bool vectors, struct dha_err *e)
{
    /* Column-major LAPACK reads the transpose, which is the same matrix, and leaves eigenvector r in
     * column r: our row r. No copy is made either way. */
    lapack_int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, vectors ? 'V' : 'N', 'L', n, a, n, w);
    return info == 0 ? 0 : lapack_fail(e, "eigenvalues", n, info);
}

int la_eig_herm(int n, double complex *a, double *w, struct dha_err *e)
{
    lapack_int info = LAPACKE_zheevd(LAPACK_COL_MAJOR, 'V', 'L', n, a, n, w);
    if (info != 0)
        return lapack_fail(e, "eigenvalues", n, info);
    /* LAPACK saw the transpose, that is the conjugate; its eigenvectors are the conjugates of ours. */
    for (size_t i = 0, end = (size_t)n * (size_t)n; i < end; i++)
        a[i] = conj(a[i]);
    return 0;
}

int la_solve_spd(int rows, int n, double *a, double *b, struct dha_err *e)
{
    lapack_int info = LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', n, a, n);
    if (info == 0)
        info = LAPACKE_dpotrs(LAPACK_COL_MAJOR, 'L', n, rows, a, n, b, n);
    return info == 0 ? 0 : lapack_fail(e, "Cholesky factorisation", n, info);
}

/* out = v^T diag(f) v for eigenvectors in the rows of v. */
static void from_eigen(int n, const double *v, const double *f, double *scaled, double *out)
{
    for (int r = 0; r < n; r++)
        for (int i = 0; i < n; i++)
            scaled[(size_t)r * (size_t)n + (size_t)i] = f[r] * v[(size_t)r * (size_t)n + (size_t)i];
    la_gemm(true, false, n, n, n, 1.0, v, n, scaled, n, 0.0, out, n);
}

int la_sqrt(int n, const double *c, double *s, double *s_inv, struct dha_err *e)
{
    size_t nn = (size_t)n * (size_t)n;
    int rc = -1;
    double *v = la_alloc(2 * nn + 2 * (size_t)n, sizeof(double), "a matrix square root", e);
    if (!v)
        return -1;
    double *scaled = v + nn, *w = scaled + nn, *f = w + n;
    memcpy(v, c, nn * sizeof(double));
    if (la_eig_sym(n, v, w, true, e))
        goto out;
    double floor = w[n - 1] * LA_EIGEN_FLOOR;
    if (!(w[n - 1] > 0.0)) {
        dha_fail(e, DHA_E_INPUT,
                 "a second moment of %d dimensions is zero: no signal in the "
                 "calibration tokens",
                 n);
        goto out;
    }
    for (int r = 0; r < n; r++)
        w[r] = sqrt(fmax(w[r], floor));
    if (s)
        from_eigen(n, v, w, scaled, s);
    if (s_inv) {
        for (int r = 0; r < n; r++)
            f[r] = 1.0 / w[r];
        from_eigen(n, v, f, scaled, s_inv);
    }
    rc = 0;
out:
    free(v);
    return rc;
}

void la_gemm(bool ta, bool tb, int m, int n, int k, double alpha, const double *a, int lda,
             const double *b, int ldb, double beta, double *c, int ldc)
{
    cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n,
                k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void la_gram_add(int rows, int n, const double *x, double *c)
{
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, n, rows, 1.0, x, n, 1.0, c, n);
}

void la_mirror(int n, double *c)
{
    size_t ld = (size_t)n;
    for (size_t i = 1; i < ld; i++)
        for (size_t j = 0; j < i; j++)
            c[i * ld + j] = c[j * ld + i];
}

void *la_alloc(size_t n, size_t size, const char *what, struct dha_err *e)
{
    void *p = calloc(n > 0 ? n : 1, size);
    if (!p)
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory for %s (%zu numbers of %zu bytes)", what, n,
                 size);
    return p;
}
