/* An output.json beside what it lists: the worker's check of contents and the daemon's of sizes. */
#include "daemon/output.h"
#include "fuzz_dir.h"
#include "worker/output_list.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dha_err e = {0}, why = {0};
    char model[128];
    if (!fuzz_dir[0]) {
        fuzz_dir_make();
        snprintf(model, sizeof model, "%s/model", fuzz_dir);
        if (fs_make_dirs(model, &e))
            abort();
        fuzz_dir_put("model/config.json", "{}\n", 3);
        fuzz_dir_put("model/model.safetensors", "weights", 7);
        fuzz_dir_put("plan.json", "{\"layers\": 1}\n", 14);
    }
    fuzz_dir_put("output.json", data, size);
    int rc = output_list_verify(fuzz_dir, &e);
    fuzz_said(rc, &e);
    int checked = output_check(STAGE_TRAIN, fuzz_dir, &why);
    fuzz_said(checked, &why);
    /* a list that is no good is damage, and nothing that passes by itself */
    if (checked != 0 && output_is_unknown(&why))
        abort();
    return 0;
}
