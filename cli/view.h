/* view.h: a job document as lines for people. Pure: from JSON to text. */
#ifndef DHA_CLI_VIEW_H
#define DHA_CLI_VIEW_H

#include "cli/fmt.h"
#include "proto/json.h"

/* done | failed | cancelled */
bool view_ended(const char *state);
enum fmt_colour view_state_colour(const char *state);
/* The running stage, else the newest that is not pending, else the first. NULL without stages. */
const cJSON *view_active_stage(const cJSON *job);
/* The stage that runs now, or NULL: the job waits, for slots or for another job's stage. */
const cJSON *view_running_stage(const cJSON *job);
/* Share done of a stage, 0..1. */
double view_stage_share(const cJSON *stage);
/* "32/60 steps", "calibrate 3/8", "" */
void view_stage_steps(FILE *out, const cJSON *stage);
/* What a stage's training loss is: "kl" where it is distillation alone, else "loss". */
const char *view_loss_name(const cJSON *job, const cJSON *stage);
/* One line a stage, without newline: name, state, bar, steps, loss, tokens/s, eta; or where it was reused from. */
void view_stage_line(FILE *out, const struct fmt *f, const cJSON *job, const cJSON *stage);
/* One line for a whole job: "job 3  demo-dha  train [####....] 32/60 steps  loss 2.71  45.2k tok/s  eta 2 s". */
void view_job_line(FILE *out, const struct fmt *f, const cJSON *job, int name_cols);
/* The same without bar and colour, for output that is not a terminal. */
void view_plain_line(FILE *out, const cJSON *job);
/* The frame of `dha watch`: heading, stages, sparkline of the losses. */
void view_watch(FILE *out, const struct fmt *f, const cJSON *job, const double *losses, size_t n);
/* Everything `dha show` says. */
void view_show(FILE *out, const struct fmt *f, const cJSON *job);
/* Loss table, tokens, KV bytes, head map: the result; prints nothing that is not known yet. */
void view_result(FILE *out, const struct fmt *f, const cJSON *job);

/* result.error, else the error of a failed stage, else NULL. */
const cJSON *view_job_error(const cJSON *job);
/* One sentence: which stages were reused and from which job; nothing and false where none was. */
bool view_reused(FILE *out, const cJSON *job);
/* Turns the end of a job into *e and -1 (failed, cancelled), or 0 (done). */
int view_outcome(const cJSON *job, struct dha_err *e);
/* The same for several: every error but the last, which is *e, is printed. */
int view_outcomes(cJSON *const *jobs, int n, struct dha_err *e);

#endif
