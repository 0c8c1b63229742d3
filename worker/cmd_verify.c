/* cmd_verify.c: are the files of a finished stage what they were when it ended? */
#include "worker/cmd.h"

#include <stdio.h>

#include "worker/output_list.h"

int cmd_verify(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    const struct option_spec none[] = {{0}};
    int first = cmd_options(argc, argv, none, e);
    (void)comm;
    if (first < 0)
        return -1;
    if (first != argc - 1)
        return dha_fail(e, DHA_E_USAGE, "exactly one directory with an output.json is needed");
    if (output_list_verify(argv[first], e))
        return -1;
    printf("ok\n");
    return 0;
}
