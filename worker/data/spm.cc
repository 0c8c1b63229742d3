// spm.cc: SentencePiece behind the C face of corpus.h. No exception leaves this file.
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include <sentencepiece_processor.h>

extern "C" {
#include "worker/data/corpus.h"
}

struct spm {
    sentencepiece::SentencePieceProcessor p;
};

// Runs f(); out of memory and whatever else is thrown becomes an error.
template <typename F> static int guarded(struct dha_err *e, const char *doing, F f)
{
    try {
        return f();
    } catch (const std::bad_alloc &) {
        return dha_fail(e, DHA_E_NO_MEMORY, "%s: out of memory", doing);
    } catch (const std::exception &x) {
        return dha_fail(e, DHA_E_INTERNAL, "%s: %s", doing, x.what());
    }
}

extern "C" int spm_open(struct spm **s, const char *model, struct dha_err *e)
{
    *s = nullptr;
    return guarded(e, "loading a tokenizer", [&] {
        spm *n = new spm;
        const auto status = n->p.Load(model);
        if (!status.ok()) {
            delete n;
            dha_fail(e, DHA_E_INPUT, "%s is no SentencePiece model: %.300s", model,
                     status.ToString().c_str());
            if (e)
                snprintf(e->path, sizeof e->path, "%.255s", model);
            return -1;
        }
        *s = n;
        return 0;
    });
}

extern "C" void spm_close(struct spm *s)
{
    delete s;
}

extern "C" int spm_vocab(const struct spm *s)
{
    return s->p.GetPieceSize();
}

extern "C" int spm_bos(const struct spm *s)
{
    return s->p.bos_id();
}

extern "C" int spm_encode(const struct spm *s, const char *text, size_t len, int32_t **ids,
                          size_t *n, struct dha_err *e)
{
    *ids = nullptr;
    *n = 0;
    return guarded(e, "tokenising", [&] {
        std::vector<int> out;
        const auto status = s->p.Encode(absl::string_view(text, len), &out);
        if (!status.ok())
            return dha_fail(e, DHA_E_INPUT, "tokenising: %.300s", status.ToString().c_str());
        *ids = static_cast<int32_t *>(std::malloc(out.size() ? out.size() * sizeof **ids : 1));
        if (!*ids)
            throw std::bad_alloc();
        for (size_t i = 0; i < out.size(); i++)
            (*ids)[i] = out[i];
        *n = out.size();
        return 0;
    });
}

extern "C" int spm_decode(const struct spm *s, const int32_t *ids, size_t n, char **text,
                          struct dha_err *e)
{
    *text = nullptr;
    return guarded(e, "decoding tokens", [&] {
        std::string out;
        for (size_t i = 0; i < n; i++)
            if (ids[i] < 0 || ids[i] >= s->p.GetPieceSize())
                return dha_fail(e, DHA_E_INPUT, "token %d is not the tokenizer's", (int)ids[i]);
        const auto status = s->p.Decode(std::vector<int>(ids, ids + n), &out);
        if (!status.ok())
            return dha_fail(e, DHA_E_INPUT, "decoding tokens: %.300s", status.ToString().c_str());
        *text = strdup(out.c_str());
        if (!*text)
            throw std::bad_alloc();
        return 0;
    });
}
