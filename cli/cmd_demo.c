/* cmd_demo.c: dha demo: four ordinary jobs on the model that ships with dha, and a page about them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/demo_report.h"
#include "cli/follow.h"
#include "cli/interrupt.h"
#include "cli/locate.h"
#include "cli/specfile.h"
#include "cli/view.h"

/* Specs in the demo directory, NAME.json: the baseline first. */
static const char *const specs[] = {"gqa", "dha", "spectral", "spectral-gqa"};
#define N_SPECS ((int)(sizeof specs / sizeof *specs))

static int submit_all(struct client *c, const char *dir, const struct args *a, char ids[][24],
                      struct dha_err *e)
{
    for (int i = 0; i < N_SPECS; i++) {
        char path[LOCATE_MAX + 32];
        cJSON *spec = NULL;
        cJSON *doc = NULL;
        int rc;
        snprintf(path, sizeof path, "%s/%s.json", dir, specs[i]);
        rc = specfile_read(path, a, &spec, e) ||
             specfile_post(c, spec, &(struct submission){0}, &doc, e);
        if (!rc) {
            snprintf(ids[i], 24, "%s", json_str(json_get(doc, "job"), "id", ""));
        }
        cJSON_Delete(spec);
        cJSON_Delete(doc);
        if (rc) {
            return dha_err_context(e, "submitting %s", path);
        }
    }
    return 0;
}

static void introduce(const char *dir, char ids[][24])
{
    fprintf(stderr,
            "\n  The demo takes a small language model with full multi-head attention (%s/hf)\n"
            "  and makes it keep a quarter of its key/value heads, in four ways, each with the "
            "same number of\n"
            "  training tokens: gqa (mean pooling, the usual baseline), dha (learned grouping and "
            "fusion),\n"
            "  spectral (closed form, any head map) and spectral-gqa (the same, as a plain GQA "
            "checkpoint).\n"
            "  These are jobs %s to %s of your own daemon; Ctrl-C leaves them running.\n\n",
            dir, ids[0], ids[N_SPECS - 1]);
}

/* The picture's file, in the daemon's state directory; "" where it cannot be made (said on stderr). */
static void draw_png(const struct plot *p, const char *state_dir, const struct fmt *f, char *file,
                     size_t cap)
{
    struct dha_err e = {0};
    int n = snprintf(file, cap, "%s/demo", state_dir);

    if (n < 0 || (size_t)n >= cap || locate_mkdirs(file, 0700, &e)) {
        cli_complain(&e);
        file[0] = 0;
        return;
    }
    snprintf(file + n, cap - (size_t)n, "/loss.png");
    if (plot_draw(p, file, f, &e)) {
        cli_complain(&e);
        file[0] = 0;
    }
}

static void print_report(const struct fmt *f, cJSON *const *docs, const struct plot *p,
                         const char *png, const char *dir)
{
    struct dha_err e = {0};
    const char *b = fmt_on(f, FMT_BOLD);
    const char *o = fmt_off(f);

    printf("\n%sA quarter of the KV cache: what it costs%s\n\n", b, o);
    demo_table(stdout, f, docs, N_SPECS);
    printf("\n%sWhich query heads share a key (K) or value (V) head%s (equal letters share)\n\n", b,
           o);
    demo_maps(stdout, f, docs, N_SPECS);
    printf("\n%sLoss on held-out text against training tokens%s\n\n", b, o);
    if (plot_draw(p, "-", f, &e)) {
        cli_complain(&e);
    }
    if (p->note) {
        char a[FMT_BUF];
        printf("  dha jumps at %s tokens: %s.\n", fmt_count(a, p->note_x), p->note);
    }
    if (*png) {
        printf("  as a picture: %s\n", png);
    }
    printf("\n%sReused%s\n\n", b, o);
    if (!demo_reuse(stdout, docs, N_SPECS)) {
        puts("  Nothing: every stage ran now. Run the demo again and all of it is reused.");
    }
    printf("\n%sThe checkpoints, and what to do with them%s\n\n", b, o);
    demo_next_steps(stdout, docs, N_SPECS, dir);
}

static int report(const struct args *a, struct client *c, cJSON *const *docs, const char *dir,
                  struct dha_err *e)
{
    struct plot_series series[N_SPECS] = {0};
    struct fmt f = fmt_for(stdout);
    struct plot p = {.title = "validation loss at a quarter of the KV cache",
                     .x_label = "training tokens",
                     .y_label = "loss",
                     .series = series,
                     .n = N_SPECS,
                     .level_title = "MHA parent"};
    char png[LOCATE_MAX] = "";
    cJSON *version = NULL;
    cJSON *doc = NULL;
    int ret = -1;

    if (demo_curves(docs, N_SPECS, series, e) || client_get(c, &version, e, "/v1/version")) {
        goto out;
    }
    for (int i = 0; i < N_SPECS && !p.level; i++) {
        p.level_at = json_num(json_at(docs[i], "result.loss"), "parent", NAN);
        p.level = isfinite(p.level_at);
    }
    if (demo_jump(docs, N_SPECS, &p.note_x, &p.note_y)) {
        p.note = "heads are tied here";
    }
    draw_png(&p, json_str(version, "state_dir", "."), &f, png, sizeof png);
    ret = 0;
    if (arg_flag(a, "json")) {
        doc = demo_json(docs, N_SPECS, *png ? png : NULL);
        ret = doc ? cli_print_json(doc, e) : dha_fail(e, DHA_E_NO_MEMORY, "printing the report");
    } else {
        print_report(&f, docs, &p, png, dir);
    }
out:
    cJSON_Delete(doc);
    cJSON_Delete(version);
    for (int i = 0; i < N_SPECS; i++) {
        plot_series_finish(&series[i]);
    }
    return ret;
}

static int run(const struct cli *cli, const struct args *a, struct dha_err *e)
{
    char dir[LOCATE_MAX];
    char ids[N_SPECS][24];
    const char *list[N_SPECS];
    cJSON *docs[N_SPECS] = {NULL};
    struct client *c = NULL;
    int ret = -1;
    int end;

    if (locate_demo(dir, sizeof dir, e)) {
        return -1;
    }
    c = client_open(cli, e);
    if (!c || submit_all(c, dir, a, ids, e)) {
        goto out;
    }
    introduce(dir, ids);
    for (int i = 0; i < N_SPECS; i++) {
        list[i] = ids[i];
    }
    end = follow_jobs(c, list, N_SPECS, stderr, docs, e);
    if (end < 0) {
        goto out;
    }
    if (end == FOLLOW_INTERRUPTED) {
        cli_say("the jobs go on; `dha demo` again reuses what is finished, `dha watch %s %s %s %s` "
                "comes back",
                ids[0], ids[1], ids[2], ids[3]);
        ret = INTERRUPT_EXIT;
        goto out;
    }
    ret = report(a, c, docs, dir, e);
    if (!ret) {
        ret = view_outcomes(docs, N_SPECS, e);
    }
out:
    for (int i = 0; i < N_SPECS; i++) {
        cJSON_Delete(docs[i]);
    }
    client_close(c);
    return ret;
}

const struct command cmd_demo = {
    .name = "demo",
    .args = "",
    .summary = "Convert the model that ships with dha four ways and compare them",
    .help = "Submits four jobs (the specs lie beside the model and can be copied), shows them "
            "live, and ends with a\n"
            "page: KV bytes a token, losses, head maps, loss against tokens. A second run reuses "
            "what is finished.\n"
            "$DHA_DEMO names another demo directory.",
    .example = "dha demo\ndha demo --json > report.json",
    .group = "Start here",
    .json = true,
    .run = run,
};
