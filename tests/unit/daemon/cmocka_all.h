/* cmocka needs these four first. */
#ifndef DHA_TESTS_CMOCKA_ALL_H
#define DHA_TESTS_CMOCKA_ALL_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#endif
