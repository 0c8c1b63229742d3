/* What an attempt leaves: exit.json, status.json and shim.json (in this order, "====" between them; a missing one is
 * missing), as the daemon reads them, and its verdict. */
#define store_lost_found_add fuzz_lost_found_add /* the store is not under test, and syncs */
#include "daemon/attempt.c"
#include "daemon/attempt_end.c"

#include "fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int store_lost_found_add(struct store *s, const char *origin, const char *content, size_t len,
                         const char *reason, int64_t at_us, struct dha_err *e)
{
    (void)s, (void)origin, (void)content, (void)len, (void)at_us, (void)e;
    if (!reason[0])
        abort();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"exit.json", "status.json", "shim.json"};
    static struct daemon d;
    struct attempt a = {.d = &d, .dir = fuzz_dir};
    struct verdict_facts f = {.exited = -1};
    struct dha_err e = {0};
    bool there[3];
    size_t n;
    fuzz_dir_make();
    for (int i = 0; i < 3; i++) {
        const uint8_t *text = fuzz_next(&data, &size, &n);
        there[i] = text;
        fuzz_dir_put(names[i], text, n);
    }
    /* what is there and is no JSON is set aside; nothing of it is trouble that passes */
    if (read_status(&a, &f, &e) != 0 || read_exit(&a, &f, &e) != 0 || a.unread)
        abort();
    if ((f.has_exit && (!there[0] || f.exited > 255 || f.signal > 127)) ||
        (f.has_status && !there[1]))
        abort();
    struct verdict v = verdict_of(&f);
    if (v.kind != VERDICT_DONE && (v.error.code == DHA_E_OK || !v.error.msg[0]))
        abort();
    if (shim_swept_all(&a) && !there[0])
        abort();
    if (read_shim_json(&a) == 0 && (!there[2] || a.pid <= 0))
        abort();
    return 0;
}
