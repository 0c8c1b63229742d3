/* linalg.h: the dense float64 algebra of the closed forms, as thin wrappers over LAPACKE and CBLAS.
 *
 * Matrices are row-major and tight (row distance = number of columns) unless a leading dimension is given.
 * Nothing here keeps state. An input with a NaN or an infinity is reported as DHA_E_INPUT ("not finite"), a
 * factorisation that does not converge as DHA_E_INTERNAL: neither can happen with finite weights and tokens.
 */
#ifndef DHA_WORKER_LINALG_H
#define DHA_WORKER_LINALG_H

#include <complex.h>
#ifndef CMPLX /* glibc has it for gcc only; no operand here is infinite */
#define CMPLX(re, im) ((double complex)((double)(re) + (double)(im)*I))
#endif
#include <stdbool.h>
#include <stddef.h>
#include "proto/err.h"

/* METHODS 6: eigenvalues of a second moment below this share of the largest one are noise of the
 * calibration tokens and are raised to it. */
#define LA_EIGEN_FLOOR 1e-6

/* Symmetric a [n,n] = sum_r w[r] v_r v_r^T, w ascending. With vectors, row r of a becomes v_r; without, a is
 * destroyed. */
int la_eig_sym(int n, double *a, double *w, bool vectors, struct dha_err *e);
/* Hermitian a [n,n] likewise: a v_r = w[r] v_r, row r of a becomes v_r. */
int la_eig_herm(int n, double complex *a, double *w, struct dha_err *e);
/* x a = b for symmetric positive definite a [n,n] (destroyed); b [rows,n] becomes x. */
int la_solve_spd(int rows, int n, double *a, double *b, struct dha_err *e);
/* Square root s and inverse square root s_inv (either may be NULL) of a symmetric positive semidefinite
 * c [n,n], eigenvalues raised to at least LA_EIGEN_FLOOR of the largest. A zero matrix has no inverse root: error. */
int la_sqrt(int n, const double *c, double *s, double *s_inv, struct dha_err *e);

/* c[m,n] = alpha op(a) op(b) + beta c, op(a) [m,k], op(b) [k,n]; ta: a is stored [k,m]; tb: b is stored [n,k]. */
void la_gemm(bool ta, bool tb, int m, int n, int k, double alpha, const double *a, int lda,
             const double *b, int ldb, double beta, double *c, int ldc);
/* Upper triangle of c [n,n] += x^T x for x [rows,n]; la_mirror() copies it to the lower one at the end. */
void la_gram_add(int rows, int n, const double *x, double *c);
void la_mirror(int n, double *c);

/* calloc of rows*cols*size elements with the overflow check and the error in one place. */
void *la_alloc(size_t n, size_t size, const char *what, struct dha_err *e);

#endif
