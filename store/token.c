#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "store/db.h"

/* Only digests are kept: who reads the database cannot use what is in it. */

int store_token_new(struct store *s, const struct store_token *t, const char *digest,
                    struct dha_err *e)
{
    int64_t there;
    if (strlen(digest) != STORE_DIGEST_SIZE - 1)
        return dha_fail(e, DHA_E_INTERNAL, "a token's digest has %zu characters", strlen(digest));
    if (db_scalar(s, e, db_query(s, e, "SELECT count(*) FROM token WHERE name = ?1", DB_S(t->name)),
                  0, &there) != 0)
        return -1;
    if (there) {
        dha_fail(e, DHA_E_CONFLICT, "there is a token \"%s\" already", t->name);
        return dha_err_hint(e, "revoke it first, or choose another name");
    }
    if (store_begin(s, e) != 0 ||
        db_run(s, e,
               "INSERT INTO token(name, digest, role, owner_uid, created_us)"
               " VALUES(?1, ?2, ?3, ?4, ?5)",
               DB_S(t->name), DB_S(digest), DB_S(t->role), DB_I(t->owner_uid),
               DB_I(t->created_us)) != 0)
        return -1;
    cJSON *data = cJSON_CreateObject();
    if (json_put_str(data, "name", t->name) != 0 || json_put_str(data, "role", t->role) != 0 ||
        json_put_id(data, "uid", t->owner_uid) != 0) {
        cJSON_Delete(data);
        return db_no_memory(e);
    }
    return event_json(s, "token.new", 0, 0, 0, data, t->created_us, e);
}

int store_token_revoke(struct store *s, const char *name, int64_t now_us, struct dha_err *e)
{
    if (store_begin(s, e) != 0 ||
        db_run(s, e, "DELETE FROM token WHERE name = ?1", DB_S(name)) != 0)
        return -1;
    if (sqlite3_changes(s->db) != 1) {
        dha_fail(e, DHA_E_NOT_FOUND, "there is no token \"%.60s\"", name);
        return dha_err_hint(e, "`dha admin token list` names them");
    }
    cJSON *data = cJSON_CreateObject();
    if (json_put_str(data, "name", name) != 0) {
        cJSON_Delete(data);
        return db_no_memory(e);
    }
    return event_json(s, "token.revoke", 0, 0, 0, data, now_us, e);
}

#define TOKEN_COLUMNS "name, role, owner_uid, created_us, digest"

static void read_token(sqlite3_stmt *st, struct store_token *t)
{
    db_copy(st, 0, t->name, sizeof t->name);
    db_copy(st, 1, t->role, sizeof t->role);
    t->owner_uid = sqlite3_column_int64(st, 2);
    t->created_us = sqlite3_column_int64(st, 3);
}

int store_tokens(struct store *s, struct store_token **out, size_t *n, struct dha_err *e)
{
    int rc;
    *out = NULL;
    *n = 0;
    sqlite3_stmt *st = db_query0(s, e, "SELECT " TOKEN_COLUMNS " FROM token ORDER BY id");
    if (!st)
        return -1;
    while ((rc = db_next(s, e, st)) == 1) {
        struct store_token *t = db_grow(out, n, sizeof *t);
        if (!t) {
            db_reset(st);
            rc = db_no_memory(e);
            break;
        }
        read_token(st, t);
    }
    if (rc < 0) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

int store_token_find(struct store *s, const char *digest, struct store_token *out, bool *found,
                     struct dha_err *e)
{
    int rc;
    *found = false;
    sqlite3_stmt *st = db_query0(s, e, "SELECT " TOKEN_COLUMNS " FROM token ORDER BY id");
    if (!st)
        return -1;
    /* Every one is compared, each in the same time: how long it takes says only how many there are. */
    while ((rc = db_next(s, e, st)) == 1) {
        char have[STORE_DIGEST_SIZE] = "";
        struct store_token t = {0};
        db_copy(st, 4, have, sizeof have);
        read_token(st, &t);
        if (CRYPTO_memcmp(have, digest, sizeof have) == 0) {
            *out = t;
            *found = true;
        }
    }
    return rc;
}
