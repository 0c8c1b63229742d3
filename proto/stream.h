/* stream.h: whether what was written to a stream has arrived. */
#ifndef DHA_PROTO_STREAM_H
#define DHA_PROTO_STREAM_H

#include <stdio.h>

/* Flushes f. 0: all that was ever written to it has arrived; else the errno that kept it from that. */
int stream_unwritten(FILE *f);

#endif
