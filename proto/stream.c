#include "proto/stream.h"

#include <errno.h>
#include <unistd.h>

int stream_unwritten(FILE *f)
{
    errno = 0;
    if (fflush(f))
        return errno ? errno : EIO;
    if (!ferror(f))
        return 0;
    /* It failed earlier, and the stream keeps no errno. The output is in pieces already: a newline more tells
     * why, as a full disk stays full and a closed pipe closed. */
    errno = 0;
    return write(fileno(f), "\n", 1) < 0 && errno ? errno : EIO;
}
