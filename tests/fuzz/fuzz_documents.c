/* A training file: the first byte picks text, jsonl or instruct, the rest is the file (plain, gzip or zstd); the same file as
 * questions of a benchmark. Pieces are within their bounds, and an error says why. */
#include "fuzz_dir.h"
#include "worker/data/documents.h"
#include "worker/eval/tasks.h"

enum { PIECES = 64 }; /* a few bytes of zstd can stand for gigabytes */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const formats[] = {"text", "jsonl", "instruct"};
    struct dha_err e = {0};
    struct documents *d;
    struct piece p;
    char path[128];
    int rc = 0;
    if (size == 0)
        return 0;
    fuzz_dir_make();
    fuzz_dir_put("file", data + 1, size - 1);
    snprintf(path, sizeof path, "%s/file", fuzz_dir);
    if (documents_open(&d, path, formats[data[0] % 3], &e) != 0) {
        fuzz_said(-1, &e);
        return 0;
    }
    for (int i = 0; i < PIECES && (rc = documents_next(d, &p, &e)) > 0; i++) {
        if (p.len > DOCUMENT_PIECE || p.prompt > p.len || (i == 0 && !p.first) ||
            memchr(p.text, '\0', p.len))
            abort();
        free(p.text);
    }
    fuzz_said(rc < 0 ? -1 : 0, &e);
    documents_close(d);
    e = (struct dha_err){0};
    fuzz_said(task_check("piqa", path, &e), &e);
    return 0;
}
