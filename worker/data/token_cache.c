/* token_cache.c: see token_cache.h. */
#include "worker/data/token_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <omp.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "worker/data/documents.h"
#include "worker/fsutil.h"

#define MAGIC       "DHATOK1\n"
#define TEMPLATES   1 /* raised when question.c words an example differently */
#define HEADER      64
#define MAX_THREADS 8 /* each may hold 300 MB: DOCUMENT_PIECE x 140 */

/* What token_cache_look() reads of a file: this much is parsed, and so much of that tokenised (4 bytes make a token of
 * English; 256 KiB take 0.1 s). */
#define LOOK_DOCUMENTS   1000
#define LOOK_BYTES       ((size_t)1 << 20)
#define LOOK_TOKEN_BYTES 32
#define LOOK_ENCODE      ((size_t)256 << 10)

struct header {
    char magic[8];
    uint32_t width, class_width;
    uint64_t count, hash;
    uint8_t key[32];
};
_Static_assert(sizeof(struct header) == HEADER, "the header is written as it lies");

bool token_cache_format(const char *format)
{
    return strcmp(format, "text") == 0 || strcmp(format, "jsonl") == 0 ||
           strcmp(format, "instruct") == 0;
}

static bool has_classes(const struct corpus_options *o)
{
    return strcmp(o->format, "instruct") == 0;
}

static int fail_at(const char *path, struct dha_err *e)
{
    if (e)
        snprintf(e->path, sizeof e->path, "%.255s", path);
    return -1;
}

/* ---- files -------------------------------------------------------------------------------------- */

int mapped_file_open(struct mapped_file *m, const char *path, struct dha_err *e)
{
    struct stat st;
    *m = (struct mapped_file){NULL, 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        dha_fail_errno(e, errno, "opening %s", path);
        return fail_at(path, e);
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        dha_fail(e, DHA_E_INPUT, "%s is not a file", path);
        return fail_at(path, e);
    }
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            int errnum = errno;
            close(fd);
            dha_fail_errno(e, errnum, "mapping %s", path);
            return fail_at(path, e);
        }
        *m = (struct mapped_file){p, (size_t)st.st_size};
    }
    close(fd);
    return 0;
}

void mapped_file_close(struct mapped_file *m)
{
    if (m->data)
        munmap(m->data, m->len);
    *m = (struct mapped_file){NULL, 0};
}

/* Adds the file's SHA-256 to `into`. */
static int digest_file(EVP_MD_CTX *into, const char *path, struct dha_err *e)
{
    struct mapped_file m;
    unsigned char sum[32];
    unsigned len;
    if (mapped_file_open(&m, path, e) < 0)
        return -1;
    int ok = EVP_Digest(m.data ? m.data : "", m.len, sum, &len, EVP_sha256(), NULL) &&
             EVP_DigestUpdate(into, sum, sizeof sum);
    mapped_file_close(&m);
    return ok ? 0 : dha_fail(e, DHA_E_INTERNAL, "SHA-256 of %s failed", path);
}

static int make_key(const char *path, const struct corpus_options *o, uint8_t key[32],
                    struct dha_err *e)
{
    char options[160];
    unsigned len;
    int rc = -1;
    snprintf(options, sizeof options, "dha tokens 1 %s bos=%d piece=%zu", o->format, o->bos,
             DOCUMENT_PIECE);
    if (has_classes(o))
        snprintf(options + strlen(options), sizeof options - strlen(options),
                 " eos=%d templates=%d", o->eos, TEMPLATES);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    if (!c || !EVP_DigestInit_ex(c, EVP_sha256(), NULL) ||
        !EVP_DigestUpdate(c, options, strlen(options) + 1))
        dha_fail(e, DHA_E_INTERNAL, "SHA-256 failed");
    else if (digest_file(c, o->tokenizer, e) == 0 && digest_file(c, path, e) == 0)
        rc = EVP_DigestFinal_ex(c, key, &len) ? 0 : dha_fail(e, DHA_E_INTERNAL, "SHA-256 failed");
    EVP_MD_CTX_free(c);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------------ */

/* 1: there and whole, 0: absent or damaged, -1: an error worth telling */
static int try_open(const char *file, const uint8_t key[32], struct mapped_file *m,
                    struct token_span *s, const uint8_t **classes, struct dha_err *e)
{
    struct header h;
    if (access(file, F_OK) != 0)
        return 0;
    if (mapped_file_open(m, file, e) < 0)
        return -1;
    if (m->len >= HEADER) {
        memcpy(&h, m->data, sizeof h);
        const uint8_t *tokens = (const uint8_t *)m->data + HEADER;
        size_t bytes = m->len - HEADER;
        if (memcmp(h.magic, MAGIC, 8) == 0 && memcmp(h.key, key, 32) == 0 &&
            (h.width == 2 || h.width == 4) && h.class_width <= 1 && h.count <= bytes &&
            h.count * (h.width + h.class_width) == bytes && h.hash == XXH3_64bits(tokens, bytes)) {
            *s = (struct token_span){tokens, (int64_t)h.count, (int)h.width};
            *classes = h.class_width ? tokens + h.count * h.width : NULL;
            return 1;
        }
    }
    mapped_file_close(m);
    return 0;
}

/* ---- making ------------------------------------------------------------------------------------- */

struct maker {
    struct spm *spm;
    FILE *f;
    XXH3_state_t *hash;
    int bos, eos, width;
    uint64_t count;
    bool with_classes;
    uint8_t *classes; /* [count], written at the end */
    size_t classes_cap;
};

/* The class of the n tokens that follow. */
static int put_class(struct maker *k, uint8_t class, size_t n, struct dha_err *e)
{
    if (k->count + n > k->classes_cap) {
        size_t cap = 2 * (k->count + n);
        uint8_t *grown = realloc(k->classes, cap);
        if (!grown)
            return dha_fail(e, DHA_E_NO_MEMORY, "no memory for the classes of %zu tokens", cap);
        k->classes = grown;
        k->classes_cap = cap;
    }
    memset(k->classes + k->count, class, n);
    return 0;
}

static int put(struct maker *k, const int32_t *ids, size_t n, struct dha_err *e)
{
    unsigned char buf[8192];
    while (n > 0) {
        size_t m = n < sizeof buf / 4 ? n : sizeof buf / 4;
        for (size_t i = 0; i < m; i++)
            for (int b = 0; b < k->width; b++)
                buf[i * (size_t)k->width + (size_t)b] = (unsigned char)((uint32_t)ids[i] >> 8 * b);
        size_t bytes = m * (size_t)k->width;
        if (fwrite(buf, 1, bytes, k->f) != bytes)
            return dha_fail_errno(e, errno, "writing the token cache");
        XXH3_64bits_update(k->hash, buf, bytes);
        k->count += m;
        ids += m;
        n -= m;
    }
    return 0;
}

struct work {
    struct piece piece;
    int32_t *ids;
    size_t n, prompt; /* prompt: of the n */
    int rc;
    struct dha_err err;
};

/* Where the answer's tokens begin: behind as many as the prompt alone has (lm-evaluation-harness: _encode_pair). */
static int encode_prompt(const struct maker *k, struct work *w)
{
    int32_t *ids = NULL;
    int rc = spm_encode(k->spm, w->piece.text, w->piece.prompt, &ids, &w->prompt, &w->err);
    free(ids);
    if (w->prompt > w->n)
        w->prompt = w->n;
    return rc;
}

static void encode_all(const struct maker *k, struct work *w, int n, int threads)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int i = 0; i < n; i++) {
        w[i].rc = spm_encode(k->spm, w[i].piece.text, w[i].piece.len, &w[i].ids, &w[i].n,
                             &w[i].err);
        if (w[i].rc == 0 && k->with_classes)
            w[i].rc = encode_prompt(k, &w[i]);
    }
}

static int put_example(struct maker *k, const struct work *w, struct dha_err *e)
{
    uint8_t first = CORPUS_PROMPT | TOKEN_STARTS;
    size_t at = 0;
    if (k->bos >= 0) {
        if (put_class(k, first, 1, e) < 0 || put(k, &k->bos, 1, e) < 0)
            return -1;
    } else if (w->n > 0) {
        if (put_class(k, first, 1, e) < 0 || put(k, w->ids, 1, e) < 0)
            return -1;
        at = 1;
    }
    size_t prompt = w->prompt > at ? w->prompt - at : 0;
    if (put_class(k, CORPUS_PROMPT, prompt, e) < 0 || put(k, w->ids + at, prompt, e) < 0)
        return -1;
    at += prompt;
    if (put_class(k, CORPUS_ANSWER, w->n - at, e) < 0 || put(k, w->ids + at, w->n - at, e) < 0)
        return -1;
    return k->eos < 0                                                           ? 0
           : put_class(k, CORPUS_ANSWER, 1, e) < 0 || put(k, &k->eos, 1, e) < 0 ? -1
                                                                                : 0;
}

static int put_piece(struct maker *k, const struct work *w, struct dha_err *e)
{
    if (k->with_classes)
        return put_example(k, w, e);
    if (w->piece.first && k->bos >= 0 && put(k, &k->bos, 1, e) < 0)
        return -1;
    return put(k, w->ids, w->n, e);
}

/* Pieces are encoded in batches, side by side, and written in their order. */
static int tokenise(struct maker *k, struct documents *d, struct dha_err *e)
{
    enum { BATCH = 1024 };
    struct work *w = calloc(BATCH, sizeof *w);
    int threads = omp_get_max_threads() < MAX_THREADS ? omp_get_max_threads() : MAX_THREADS;
    int rc = 1, n = 0;
    if (!w)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory to tokenise");
    while (rc > 0) {
        size_t bytes = 0;
        for (n = 0; n < BATCH && bytes < (size_t)threads * DOCUMENT_PIECE; n++) {
            rc = documents_next(d, &w[n].piece, e);
            if (rc <= 0)
                break;
            bytes += w[n].piece.len;
        }
        if (rc >= 0)
            encode_all(k, w, n, threads);
        for (int i = 0; i < n; i++) {
            if (rc >= 0 && w[i].rc < 0) {
                if (e)
                    *e = w[i].err;
                rc = -1;
            }
            if (rc >= 0 && put_piece(k, &w[i], e) < 0)
                rc = -1;
            free(w[i].piece.text);
            free(w[i].ids);
            w[i] = (struct work){0};
        }
    }
    free(w);
    return rc;
}

static int write_file(struct maker *k, struct documents *d, const uint8_t key[32],
                      struct dha_err *e)
{
    struct header h = {.magic = MAGIC, .width = (uint32_t)k->width, .class_width = k->with_classes};
    memcpy(h.key, key, sizeof h.key);
    XXH3_64bits_reset(k->hash);
    if (fwrite(&h, sizeof h, 1, k->f) != 1)
        return dha_fail_errno(e, errno, "writing the token cache");
    if (tokenise(k, d, e) < 0)
        return -1;
    if (k->with_classes && k->count > 0) {
        if (fwrite(k->classes, 1, k->count, k->f) != k->count)
            return dha_fail_errno(e, errno, "writing the token cache");
        XXH3_64bits_update(k->hash, k->classes, k->count);
    }
    h.count = k->count;
    h.hash = XXH3_64bits_digest(k->hash);
    if (fseek(k->f, 0, SEEK_SET) != 0 || fwrite(&h, sizeof h, 1, k->f) != 1 || fflush(k->f) != 0 ||
        fsync(fileno(k->f)) != 0)
        return dha_fail_errno(e, errno, "writing the token cache");
    return 0;
}

static int publish(const char *temp, const char *file, const char *dir, struct dha_err *e)
{
    if (rename(temp, file) != 0)
        return dha_fail_errno(e, errno, "renaming %s", temp);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int bad = fd < 0 || fsync(fd) != 0, errnum = errno;
    if (fd >= 0)
        close(fd);
    return bad ? dha_fail_errno(e, errnum, "syncing %s", dir) : 0;
}

static int make(const char *path, const struct corpus_options *o, const uint8_t key[32],
                const char *file, struct dha_err *e)
{
    char temp[4200];
    struct documents *d = NULL;
    struct maker k = {.bos = o->bos, .eos = o->eos, .with_classes = has_classes(o)};
    int rc = -1;
    snprintf(temp, sizeof temp, "%.4150s.tmp", file);
    if (spm_open(&k.spm, o->tokenizer, e) < 0 || documents_open(&d, path, o->format, e) < 0)
        goto done;
    k.width = spm_vocab(k.spm) <= 65536 ? 2 : 4;
    k.hash = XXH3_createState();
    if (!k.hash) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory to tokenise %s", path);
        goto done;
    }
    k.f = fopen(temp, "wbe");
    if (!k.f) {
        dha_fail_errno(e, errno, "creating %s", temp);
        goto done;
    }
    rc = write_file(&k, d, key, e);
    if (fclose(k.f) != 0 && rc == 0)
        rc = dha_fail_errno(e, errno, "writing %s", temp);
    if (rc == 0)
        rc = publish(temp, file, o->cache_dir, e);
    if (rc < 0)
        unlink(temp);
done:
    XXH3_freeState(k.hash);
    free(k.classes);
    documents_close(d);
    spm_close(k.spm);
    return rc;
}

static int no_text(const char *path, struct dha_err *e)
{
    dha_fail(e, DHA_E_INPUT, "%s: holds no text", path);
    return fail_at(path, e);
}

/* ---- all together ------------------------------------------------------------------------------- */

static bool readable(const char *path)
{
    return path && access(path, R_OK) == 0;
}

int token_cache_check(const struct corpus_options *o, struct dha_err *e)
{
    char json[4200] = "";
    if (readable(o->tokenizer) && !strstr(o->tokenizer, ".json"))
        return 0;
    if (o->tokenizer && strstr(o->tokenizer, ".json"))
        snprintf(json, sizeof json, "%.4096s", o->tokenizer);
    else if (o->model_dir)
        snprintf(json, sizeof json, "%.4096s/tokenizer.json", o->model_dir);
    if (!readable(json)) {
        dha_fail(e, DHA_E_INPUT, "%s needs a SentencePiece model, and there is no %.400s",
                 o->format, o->tokenizer ? o->tokenizer : "tokenizer.model");
        dha_err_hint(e, "set data.tokenizer to a tokenizer.model, or give token files (u16, u32)");
        return fail_at(o->tokenizer ? o->tokenizer : o->model_dir ? o->model_dir : "", e);
    }
    bool wide = o->vocab > 65536;
    dha_fail(e, DHA_E_INPUT, "only %.400s: text is tokenised here with a SentencePiece model",
             json);
    dha_err_hint(
        e,
        "write a token file with three lines of Python and set data.format to \"%s\":\n"
        "  import numpy, tokenizers\n"
        "  t = tokenizers.Tokenizer.from_file(\"tokenizer.json\")\n"
        "  numpy.array(t.encode(open(\"train.txt\").read()).ids, \"<u%d\").tofile(\"train.%s\")",
        wide ? "u32" : "u16", wide ? 4 : 2, wide ? "u32" : "u16");
    return fail_at(json, e);
}

int token_cache_look(const char *path, const struct corpus_options *o, const struct spm *spm,
                     struct token_look *look, struct dha_err *e)
{
    struct documents *d = NULL;
    struct piece p;
    size_t read = 0, room = (size_t)look->want * LOOK_TOKEN_BYTES;
    if (room > LOOK_ENCODE)
        room = LOOK_ENCODE;
    int n = 0, rc = documents_open(&d, path, o->format, e) < 0 ? -1 : 1;
    look->whole = true;
    for (; rc > 0; n++) {
        if (n == LOOK_DOCUMENTS || read >= LOOK_BYTES) {
            look->whole = false;
            break;
        }
        rc = documents_next(d, &p, e);
        if (rc <= 0)
            break;
        size_t len = p.len < room ? p.len : room, k = 0;
        int32_t *ids = NULL;
        read += p.len;
        if (look->tokens < look->want) {
            rc = spm_encode(spm, p.text, len, &ids, &k, e) < 0 ? -1 : 1;
            free(ids);
            look->tokens += (int64_t)k + (p.first && o->bos >= 0) + (has_classes(o) && o->eos >= 0);
            look->whole &= len == p.len;
            room -= len;
        }
        free(p.text);
    }
    documents_close(d);
    if (rc == 0 && n == 0)
        rc = no_text(path, e);
    return rc < 0 ? dha_err_context(e, "tokenising %s", path) : 0;
}

int token_cache_open(const char *path, const struct corpus_options *o, struct mapped_file *m,
                     struct token_span *s, const uint8_t **classes, struct dha_err *e)
{
    char file[4200], lock_path[4220];
    uint8_t key[32];
    *m = (struct mapped_file){NULL, 0};
    *classes = NULL;
    if (token_cache_check(o, e) < 0)
        return -1;
    if (!o->cache_dir)
        return dha_fail(e, DHA_E_INTERNAL, "no cache directory for tokens of %s", path);
    if (make_key(path, o, key, e) < 0 || fs_make_dirs(o->cache_dir, e) < 0)
        return -1;
    size_t at = (size_t)snprintf(file, sizeof file, "%.4000s/tokens-", o->cache_dir);
    for (int i = 0; i < 32; i++)
        at += (size_t)snprintf(file + at, sizeof file - at, "%02x", key[i]);
    int rc = try_open(file, key, m, s, classes, e);
    if (rc == 0) {
        snprintf(lock_path, sizeof lock_path, "%s.lock", file);
        int lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (lock < 0 || flock(lock, LOCK_EX) != 0) {
            dha_fail_errno(e, errno, "locking %s", lock_path);
            if (lock >= 0)
                close(lock);
            return -1;
        }
        rc = try_open(file, key, m, s, classes, e); /* made while we waited? */
        if (rc == 0 && make(path, o, key, file, e) == 0)
            rc = try_open(file, key, m, s, classes, e);
        else if (rc == 0)
            rc = -2;
        close(lock);
    }
    if (rc == -2) {
        dha_err_context(e, "tokenising %s", path);
        return -1;
    }
    if (rc == 0)
        return dha_fail(e, DHA_E_IO, "%s does not read back as it was written", file);
    if (rc > 0 && s->n == 0) {
        mapped_file_close(m);
        return no_text(path, e);
    }
    return rc > 0 ? 0 : -1;
}
