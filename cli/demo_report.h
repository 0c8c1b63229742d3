/* demo_report.h: the last page of `dha demo`: what four conversions of one model cost and gave.
 *
 * Everything is read from the jobs' own documents; nothing about the demo model is written here.
 */
#ifndef DHA_CLI_DEMO_REPORT_H
#define DHA_CLI_DEMO_REPORT_H

#include "cli/cli.h"
#include "cli/fmt.h"
#include "cli/plot.h"

/* Tokens trained on before stage `kind` of a job began. Calibration trains nothing and does not count. */
int64_t demo_tokens_before(const cJSON *job, const char *kind);
/* One curve a job: validation loss against training tokens. series: n zeroed ones, finished by the caller. */
int demo_curves(cJSON *const *jobs, int n, struct plot_series *series, struct dha_err *e);
/* Where the curve of the job that trains before its conversion jumps; false where there is none. */
bool demo_jump(cJSON *const *jobs, int n, double *tokens, double *loss);
/* Index of the finished job with the lowest final loss, -1 if none has one. */
int demo_best(cJSON *const *jobs, int n);
/* Seconds that the job's stages took, those it reused at what they took then; -1 if unknown. */
double demo_seconds(const cJSON *job);
void demo_table(FILE *out, const struct fmt *f, cJSON *const *jobs, int n);
void demo_maps(FILE *out, const struct fmt *f, cJSON *const *jobs, int n);
/* Which stages were taken over from earlier jobs; false where none was. */
bool demo_reuse(FILE *out, cJSON *const *jobs, int n);
void demo_next_steps(FILE *out, cJSON *const *jobs, int n, const char *demo_dir);
/* The report as JSON; NULL when out of memory. */
cJSON *demo_json(cJSON *const *jobs, int n, const char *plot_file);

#endif
