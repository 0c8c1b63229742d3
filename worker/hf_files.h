/* hf_files.h: worker/model/hf/ files, put into the program at build time (worker/embed.cmake), so that an export does not depend on where
 * dha is installed. */
#ifndef DHA_WORKER_HF_FILES_H
#define DHA_WORKER_HF_FILES_H

#include <stddef.h>

struct hf_file {
    const char *name;
    const unsigned char *data;
    size_t len;
};
extern const struct hf_file hf_files[];
extern const size_t hf_files_count;

#endif
