/* replay_main.c: runs a fuzz target over the files named on the command line, so that a corpus is also
 * an ordinary test. A crash or a sanitizer report is the failure; no file at all is one, too. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "replay: no corpus files given\n");
        return 1;
    }
    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");
        if (!f) {
            perror(argv[i]);
            return 1;
        }
        size_t cap = 1 << 16, len = 0;
        uint8_t *buf = malloc(cap);
        while (buf && (len += fread(buf + len, 1, cap - len, f)) == cap)
            buf = realloc(buf, cap *= 2);
        fclose(f);
        if (!buf) {
            fprintf(stderr, "replay: out of memory\n");
            return 1;
        }
        /* exact size, so that ASan sees a read past the end */
        uint8_t *exact = malloc(len ? len : 1);
        if (!exact)
            return 1;
        for (size_t j = 0; j < len; j++)
            exact[j] = buf[j];
        LLVMFuzzerTestOneInput(exact, len);
        free(exact);
        free(buf);
    }
    printf("replayed %d inputs\n", argc - 1);
    return 0;
}
