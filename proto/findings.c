/* findings.c: see findings.h. */
#include "proto/findings.h"

int findings_print(FILE *out, const cJSON *report, bool repair)
{
    const cJSON *list = json_get(report, "findings"), *seen = json_get(report, "seen"), *f;
    int n = cJSON_GetArraySize(list);

    cJSON_ArrayForEach(f, list)
    {
        const char *path = json_str(f, "path", ""), *message = json_str(f, "message", "?");
        const char *hint = json_str(f, "hint", NULL), *fix = json_str(f, "repair", NULL);
        fprintf(out, "%-10s  %s%s%s\n", json_str(f, "kind", "?"), path, *path ? ": " : "", message);
        if (hint) {
            fprintf(out, "            %s\n", hint);
        }
        if (fix) {
            fprintf(out, "            %s %s\n", repair ? "will" : "--repair would", fix);
        }
    }
    fprintf(out, "%.0f jobs, %.0f stages, %.0f checkpoints looked at: ", json_num(seen, "jobs", 0),
            json_num(seen, "stages", 0), json_num(seen, "checkpoints", 0));
    if (n == 0) {
        fputs("all as it should be\n", out);
    } else {
        fprintf(out, "%d thing%s not as it should be%s\n", n, n == 1 ? " is" : "s are",
                json_bool(report, "more", false) ? ", and more that are not listed" : "");
    }
    fflush(out);
    return n;
}
