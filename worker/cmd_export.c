#include <string.h>

#include "worker/cmd.h"
#include "worker/export.h"

#include <stdio.h>

int cmd_export(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    const char *model = NULL, *out = NULL, *format = "auto", *dtype = NULL;
    const struct option_spec options[] = {{.name = "model", .str = &model, .required = true},
                                          {.name = "out", .str = &out, .required = true},
                                          {.name = "format", .str = &format},
                                          {.name = "dtype", .str = &dtype},
                                          {0}};
    struct kern_err ke = {0};
    int first = cmd_options(argc, argv, options, e);
    if (first < 0)
        return -1;
    if (comm->size > 1)
        return dha_fail(e, DHA_E_USAGE, "export runs as one process, not under mpirun -n %d",
                        comm->size);
    if (first != argc)
        return dha_fail(e, DHA_E_USAGE, "unexpected argument %s", argv[first]);
    if (dtype && strcmp(dtype, "float32") && strcmp(dtype, "bfloat16") && strcmp(dtype, "float16"))
        return dha_fail(e, DHA_E_USAGE, "--dtype is float32, bfloat16 or float16, not \"%s\"",
                        dtype);
    struct kern *k = kern_open("cpu", 0, &ke);
    if (!k)
        return dha_fail(e, DHA_E_INTERNAL, "backend cpu: %s", ke.msg);
    int rc = export_model(k, model, model, out, format, dtype, NULL, e);
    kern_close(k);
    if (rc == 0)
        printf("%s\n", out);
    return rc;
}
