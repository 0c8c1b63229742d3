/* Token files: the first byte picks format and vocabulary, the rest is the file. What is accepted must be in the
 * vocabulary to the last token. */
#include <stdlib.h>

#include "worker/data/token_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct token_span s;
    struct dha_err e;
    if (size == 0)
        return 0;
    const char *format = data[0] & 1 ? "u32" : "u16";
    int vocab = data[0] & 2 ? 512 : 32000;
    if (token_span_parse(data + 1, size - 1, format, vocab, "(memory)", &s, &e) < 0)
        return 0;
    if (s.n <= 0)
        abort();
    for (int64_t i = 0; i < s.n; i++)
        if (token_at(&s, i) >= (uint32_t)vocab)
            abort();
    return 0;
}
