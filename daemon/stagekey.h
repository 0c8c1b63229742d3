/* stagekey.h: a stage is a function of its inputs; its key is a digest over them (DESIGN section 6).
 *
 * Key = SHA-256 of canonical JSON: format version, kind, the part of the normalised spec that the
 * stage reads, the key of the stage whose result it starts from, and the identities (path, size,
 * mtime in ns, inode) of the files it reads. Files are never opened: a file that was rewritten has
 * another identity, a file that was only copied counts as new. Two equal keys therefore mean equal
 * results; two different keys mean nothing.
 */
#ifndef DHA_DAEMON_STAGEKEY_H
#define DHA_DAEMON_STAGEKEY_H

#include "proto/spec.h"

/* Raise it whenever the meaning of a stage's result changes: results of older daemons are then not
 * reused. */
#define STAGEKEY_VERSION 1
#define STAGEKEY_SIZE    65 /* hex and NUL */

struct stagekey {
    enum stage_kind kind;
    char key[STAGEKEY_SIZE];
};

/* SHA-256 of the text, in hex. Fails only where the machine's OpenSSL does not have it. */
int stagekey_digest(const char *text, char out[STAGEKEY_SIZE], struct dha_err *e);

/* Keys of all the stages of a job, in order: fills out[0..*n). Fails with DHA_E_INPUT naming the file
 * and the spec's path when a file is missing or of the wrong type. */
int stagekey_job(const struct job_spec *s, struct stagekey out[STAGE_KINDS], int *n,
                 struct dha_err *e);

/* The files that a spec names, each checked to be there: every missing one is added to errs. Returns
 * the number of errors added. */
int stagekey_check_files(const struct job_spec *s, struct spec_errors *errs);

/* The keys are not what they were since then, or a file cannot be found: fails with DHA_E_INPUT that says of which
 * file it is so, as far as the files themselves tell. */
int stagekey_changed(const struct job_spec *s, int64_t since_us, struct dha_err *e);

#endif
