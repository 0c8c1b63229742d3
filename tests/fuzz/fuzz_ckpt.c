/* A manifest.json beside two shards: the worker's verifier and loader and the daemon's check. What the worker takes for a
 * good checkpoint the daemon does, too, or it would throw away what the job goes on from. */
#include "daemon/checkpoint.h"
#include "fuzz_dir.h"
#include "kernels/kern.h"
#include "worker/train/ckpt.h"

enum { N = 8, M = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct comm comm;
static struct optim optim;
static struct kern_buf *buffer[4];

static void start(void)
{
    struct dha_err e;
    struct optim_span all = {0, N, 0, 1}, all2 = {0, M, 0, 1};
    float shard[3 * (N / 2 + 2)];
    char dir[128];
    struct kern *k = kern_open("reference", 1, NULL);
    if (!k)
        abort();
    for (int i = 0; i < 4; i++)
        buffer[i] = k->ops->alloc(k, KERN_F32, N);
    comm_alone(&comm);
    optim_init(&optim, k, &comm, 0);
    if (optim_add(&optim, buffer[0], buffer[1], N, 1e-2, &all, 1, &e) ||
        optim_add(&optim, buffer[2], buffer[3], M, 1e-2, &all2, 1, &e))
        abort();
    fuzz_dir_make();
    snprintf(dir, sizeof dir, "%s/step-00000001", fuzz_dir);
    if (fs_make_dirs(dir, &e))
        abort();
    /* saved by two ranks with pieces of 4 and 2 */
    for (size_t i = 0; i < sizeof shard / sizeof *shard; i++)
        shard[i] = (float)i;
    fuzz_dir_put("step-00000001/shard-0000.bin", shard, 3 * (N / 2 + 2) * sizeof *shard);
    fuzz_dir_put("step-00000001/shard-0001.bin", shard, 3 * (N / 2 + 1) * sizeof *shard);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char dir[128];
    struct dha_err e = {0}, why = {0};
    struct progress p = {0};
    struct ckpt_state s;
    if (!fuzz_dir[0])
        start();
    fuzz_dir_put("step-00000001/manifest.json", data, size);
    snprintf(dir, sizeof dir, "%s/step-00000001", fuzz_dir);
    int rc = ckpt_verify(dir, NULL, &e);
    fuzz_said(rc, &e);
    enum checkpoint_found deep = checkpoint_check_path(dir, true, &p, &why);
    fuzz_said(deep != CHECKPOINT_WHOLE, &why);
    if ((rc == 0 && deep != CHECKPOINT_WHOLE) || deep == CHECKPOINT_GONE)
        abort();
    why = (struct dha_err){0};
    enum checkpoint_found shallow = checkpoint_check_path(dir, false, &p, &why);
    fuzz_said(shallow != CHECKPOINT_WHOLE, &why);
    if (deep == CHECKPOINT_WHOLE && shallow != CHECKPOINT_WHOLE)
        abort();
    e = (struct dha_err){0};
    int got = ckpt_load(fuzz_dir, &optim, &s, NULL, NULL, NULL, &e);
    fuzz_said(got < 0 ? -1 : 0, &e);
    if (got == 1 && rc != 0)
        abort();
    return 0;
}
