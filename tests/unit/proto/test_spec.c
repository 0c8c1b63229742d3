/* Job specs: defaults, every error, all at once; overrides; stages and what their results depend on. */
#include "unit.h"

#define MINIMAL "{'model':'/m/hf','data':{'train':['/d/a.u16']}}"

static struct job_spec good(const char *text)
{
    struct job_spec s;
    struct spec_errors errs;
    cJSON *j = parse_quoted(text);
    if (spec_parse(j, NULL, &s, &errs) != 0)
        fail_msg("%s: %s %s", text, errs.at[0].path, errs.at[0].msg);
    assert_int_equal(errs.n, 0);
    cJSON_Delete(j);
    return s;
}

static struct spec_errors bad(const char *text)
{
    struct job_spec s;
    struct spec_errors errs;
    cJSON *j = parse_quoted(text);
    assert_int_equal(spec_parse(j, NULL, &s, &errs), -1);
    assert_true(errs.n > 0);
    assert_null(s.model); /* nothing is left to free */
    cJSON_Delete(j);
    return errs;
}

static void a_minimal_spec_gets_every_default(void **state)
{
    (void)state;
    struct job_spec s = good(MINIMAL);
    assert_string_equal(s.name, "hf-spectral-25");
    assert_string_equal(s.model, "/m/hf");
    assert_string_equal(s.method.name, "spectral");
    assert_true(s.budget == 0.25);
    assert_int_equal(s.data.n_train, 1);
    assert_string_equal(s.data.train[0], "/d/a.u16");
    assert_null(s.data.valid);
    assert_string_equal(s.data.format, "u16");
    assert_null(s.data.tokenizer);
    assert_int_equal(s.data.seq_len, 0);
    assert_int_equal(s.tokens_search, 32768);
    assert_int_equal(s.tokens_fuse, 0);
    assert_int_equal(s.tokens_train, 1000000);
    assert_true(s.w_kl == 1 && s.w_lm == 0);
    assert_int_equal(s.batch_tokens, 4096);
    assert_true(s.optim.lr_attention == 1);
    assert_true(s.optim.lr == 0 && s.optim.lr_omega == 0 && s.optim.lr_lambda == 0);
    assert_true(s.optim.warmup == 0.02 && s.optim.final_lr == 0 && s.optim.clip == 1);
    assert_true(s.optim.weight_decay == 0);
    assert_string_equal(s.dtype, "f32");
    assert_int_equal(s.seed, 1);
    assert_int_equal(s.eval_windows, 256);
    assert_int_equal(s.checkpoint.every, 0);
    assert_int_equal(s.checkpoint.keep, 2);
    assert_int_equal(s.checkpoint.keep_every, 0);
    assert_int_equal(s.checkpoint.keep_best, 0);
    assert_string_equal(s.format, "auto");
    assert_int_equal(s.resources.ranks, 2);
    assert_int_equal(s.resources.threads, 1);
    assert_string_equal(s.resources.device, "cpu");
    assert_int_equal(s.resources.walltime_s, 0);
    assert_int_equal(s.priority, 0);
    spec_finish(&s);
    spec_finish(&s); /* a finished one is finished */

    /* null is "not given" */
    s = good(
        "{'model':'/m/hf/','data':{'train':['/d/a.u16'],'valid':null},'name':null,'seed':null}");
    assert_string_equal(s.model, "/m/hf");
    assert_int_equal(s.seed, 1);
    spec_finish(&s);
}

static void defaults_follow_the_method(void **state)
{
    (void)state;
    static const struct {
        const char *method, *name;
        int64_t search, fuse;
        double kl, lm;
        int stages;
    } want[] = {
        {"gqa", "hf-gqa-25", 0, 0, 0, 1, 4},
        {"mqa", "hf-mqa", 0, 0, 0, 1, 4},
        {"dha", "hf-dha-25", 100000, 333333, 0, 1, 5},
        {"spectral", "hf-spectral-25", 32768, 0, 1, 0, 5},
        {"spectral-gqa", "hf-spectral-gqa-25", 32768, 0, 1, 0, 4},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        char text[160];
        enum stage_kind st[STAGE_KINDS];
        snprintf(text, sizeof text, "{'model':'/m/hf','data':{'train':['/d/a.u16']},'method':'%s'}",
                 want[i].method);
        struct job_spec s = good(text);
        assert_string_equal(s.name, want[i].name);
        assert_int_equal(s.tokens_search, want[i].search);
        assert_int_equal(s.tokens_fuse, want[i].fuse);
        assert_true(s.w_kl == want[i].kl && s.w_lm == want[i].lm);
        assert_int_equal(spec_stages(&s, st), want[i].stages);
        assert_int_equal(st[0], want[i].stages == 5 ? STAGE_SEARCH : STAGE_FUSE);
        assert_int_equal(st[want[i].stages - 1], STAGE_EXPORT);
        spec_finish(&s);
    }
    struct job_spec s = good("{'model':'/m/hf','method':'dha','budget':0.125,'batch_tokens':5000,"
                             "'data':{'train':['/d/a.u16']},'tokens':{'train':9000}}");
    assert_int_equal(s.tokens_search, 5000); /* one step at least */
    assert_int_equal(s.tokens_fuse, 5000);
    assert_string_equal(s.name, "hf-dha-12.5");
    spec_finish(&s);
    /* what a method does not use is 0, so that one spec serves a sweep over methods */
    s = good("{'model':'/m','method':'gqa','tokens':{'search':5,'fuse':6,'train':0},"
             "'data':{'train':['/a.u16']}}");
    assert_int_equal(s.tokens_search, 0);
    assert_int_equal(s.tokens_fuse, 0);
    enum stage_kind st[STAGE_KINDS];
    assert_int_equal(spec_stages(&s, st), 3); /* fuse eval export */
    spec_finish(&s);
    s = good("{'model':'/m','method':'spectral','tokens':{'search':5,'fuse':6,'train':0},"
             "'data':{'train':['/a.u16']}}");
    assert_int_equal(s.tokens_fuse, 0);
    spec_finish(&s);
    /* one of the two weights given: the other is 0 */
    s = good("{'model':'/m','recovery':{'lm':0.5},'data':{'train':['/a.u16']}}");
    assert_true(s.w_kl == 0 && s.w_lm == 0.5);
    spec_finish(&s);
}

static void formats_follow_the_file_names(void **state)
{
    (void)state;
    static const struct {
        const char *file, *format;
    } want[] = {{"/a.u16", "u16"},        {"/a.u32", "u32"},        {"/a.txt", "text"},
                {"/a.jsonl", "jsonl"},    {"/a.txt.gz", "text"},    {"/a.txt.zst", "text"},
                {"/a.jsonl.gz", "jsonl"}, {"/a.jsonl.zst", "jsonl"}};
    static const char *const unclear[] = {"/a.bin", "/a.u16.gz", "/a", "/.u16/a", "/a.gz"};
    char text[160];
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        snprintf(text, sizeof text, "{'model':'/m','data':{'train':['%s']}}", want[i].file);
        struct job_spec s = good(text);
        assert_string_equal(s.data.format, want[i].format);
        spec_finish(&s);
    }
    for (size_t i = 0; i < sizeof unclear / sizeof unclear[0]; i++) {
        snprintf(text, sizeof text, "{'model':'/m','data':{'train':['%s']}}", unclear[i]);
        struct spec_errors e = bad(text);
        assert_int_equal(e.n, 1);
        assert_string_equal(e.at[0].path, "$.data.format");
        snprintf(text, sizeof text, "{'model':'/m','data':{'train':['%s'],'format':'u32'}}",
                 unclear[i]);
        struct job_spec s = good(text);
        assert_string_equal(s.data.format, "u32");
        spec_finish(&s);
    }
    struct spec_errors e = bad("{'model':'/m','data':{'train':['/a.u16','/b.txt']}}");
    assert_string_equal(e.at[0].path, "$.data.format");
    e = bad("{'model':'/m','data':{'train':['/a.u16'],'valid':'/v.u32'}}");
    assert_non_null(strstr(e.at[0].msg, "v.u32"));
}

static void relative_paths_start_at_the_spec(void **state)
{
    (void)state;
    struct job_spec s;
    struct spec_errors errs;
    cJSON *j = parse_quoted("{'model':'hf','data':{'train':['a.u16','/abs/b.u16'],'valid':'v.u16',"
                            "'tokenizer':'t.model'}}");
    assert_int_equal(spec_parse(j, "/base/dir/", &s, &errs), 0);
    assert_string_equal(s.model, "/base/dir/hf");
    assert_string_equal(s.data.train[0], "/base/dir/a.u16");
    assert_string_equal(s.data.train[1], "/abs/b.u16");
    assert_string_equal(s.data.valid, "/base/dir/v.u16");
    assert_string_equal(s.data.tokenizer, "/base/dir/t.model");
    spec_finish(&s);
    assert_int_equal(spec_parse(j, "/base", &s, &errs), 0);
    assert_string_equal(s.model, "/base/hf");
    spec_finish(&s);
    cJSON_Delete(j);
}

static void walltimes_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t seconds;
    } want[] = {{"'2h'", 7200},    {"'90m'", 5400},  {"'30s'", 30},  {"'1d'", 86400},
                {"'1h30m'", 5400}, {"'3600'", 3600}, {"3600", 3600}, {"null", 0}};
    static const char *const wrong[] = {"'2 h'",
                                        "''",
                                        "'h'",
                                        "'-1h'",
                                        "'1h30'",
                                        "'2w'",
                                        "1.5",
                                        "-5",
                                        "0",
                                        "true",
                                        "'99999999999999999999h'",
                                        "1e300",
                                        "-1e300",
                                        "'4000d'",
                                        "[1]"};
    char text[160];
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        snprintf(text, sizeof text,
                 "{'model':'/m','data':{'train':['/a.u16']},'resources':{'walltime':%s}}",
                 want[i].text);
        struct job_spec s = good(text);
        assert_int_equal(s.resources.walltime_s, want[i].seconds);
        spec_finish(&s);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(text, sizeof text,
                 "{'model':'/m','data':{'train':['/a.u16']},'resources':{'walltime':%s}}",
                 wrong[i]);
        struct spec_errors e = bad(text);
        assert_int_equal(e.n, 1);
        assert_string_equal(e.at[0].path, "$.resources.walltime");
    }
}

/* Each field with a value that is wrong for it: one error, at its path. */
static void every_field_is_checked(void **state)
{
    (void)state;
    static const struct {
        const char *field, *value, *path, *says;
    } cases[] = {
        {"'name'", "7", "$.name", "string"},
        {"'name'", "''", "$.name", "1 to 128"},
        {"'name'", "'a\\nb'", "$.name", "control"},
        {"'method'", "'sepctral'", "$.method", "no method"},
        {"'method'", "3", "$.method", "preset"},
        {"'budget'", "0", "$.budget", "out of range"},
        {"'budget'", "1.01", "$.budget", "out of range"},
        {"'budget'", "'0.25'", "$.budget", "number"},
        {"'tokens'", "{'search':0}", "$.tokens.search", "needs tokens"},
        {"'tokens'", "{'search':-1}", "$.tokens.search", "out of range"},
        {"'tokens'", "{'train':1.5}", "$.tokens.train", "whole"},
        {"'tokens'", "{'train':1e16}", "$.tokens.train", "out of range"},
        {"'tokens'", "[]", "$.tokens", "must be an object"},
        {"'recovery'", "{'kl':-1}", "$.recovery.kl", "out of range"},
        {"'recovery'", "{'kl':0,'lm':0}", "$.recovery", "all 0"},
        {"'batch_tokens'", "0", "$.batch_tokens", "out of range"},
        {"'optim'", "{'lr':-1}", "$.optim.lr", "out of range"},
        {"'method'", "'gqa','optim':{'lr':0}", "$.optim.lr", "more than 0"},
        {"'optim'", "{'lr':11}", "$.optim.lr", "at most 10"},
        {"'optim'", "{'lr_omega':-1}", "$.optim.lr_omega", "out of range"},
        {"'optim'", "{'lr_lambda':-1}", "$.optim.lr_lambda", "out of range"},
        {"'optim'", "{'warmup':1.1}", "$.optim.warmup", "out of range"},
        {"'optim'", "{'final_lr':2}", "$.optim.final_lr", "out of range"},
        {"'optim'", "{'clip':-1}", "$.optim.clip", "out of range"},
        {"'optim'", "{'weight_decay':11}", "$.optim.weight_decay", "out of range"},
        {"'dtype'", "'f16'", "$.dtype", "not a choice"},
        {"'dtype'", "'bf16'", "$.dtype", "not in this version"},
        {"'seed'", "-1", "$.seed", "out of range"},
        {"'eval'", "{'windows':-1}", "$.eval.windows", "out of range"},
        {"'checkpoint'", "{'every':1e10}", "$.checkpoint.every", "out of range"},
        {"'checkpoint'", "{'keep':0}", "$.checkpoint.keep", "out of range"},
        {"'checkpoint'", "{'keep_every':-1}", "$.checkpoint.keep_every", "out of range"},
        {"'checkpoint'", "{'keep_best':1.5}", "$.checkpoint.keep_best", "whole number"},
        {"'checkpoint'", "{'best':1}", "$.checkpoint.best", ""},
        {"'export'", "{'format':'onnx'}", "$.export.format", "not a choice"},
        {"'export'", "{'format':'gqa'}", "$.export.format", "plain GQA"},
        {"'resources'", "{'ranks':0}", "$.resources.ranks", "out of range"},
        {"'resources'", "{'threads':5000}", "$.resources.threads", "out of range"},
        {"'resources'", "{'device':'tpu'}", "$.resources.device", "not a choice"},
        {"'resources'", "{'nodes':0}", "$.resources.nodes", "out of range"},
        {"'resources'", "{'nodes':2,'ranks':3}", "$.resources.nodes", "spread evenly"},
        {"'resources'", "{'memory_gib':-1}", "$.resources.memory_gib", "out of range"},
        {"'resources'", "{'memory_gib':'8'}", "$.resources.memory_gib", "number"},
        {"'resources'", "{'node_names':'a'}", "$.resources.node_names", "list"},
        {"'resources'", "{'node_names':['a','b c']}", "$.resources.node_names[1]", "node's name"},
        {"'resources'", "{'node_names':['-oProxy']}", "$.resources.node_names[0]", "node's name"},
        {"'resources'", "{'node_names':['a',7]}", "$.resources.node_names[1]", "node's name"},
        {"'resources'", "{'node_names':['a','a']}", "$.resources.node_names[1]", "twice"},
        {"'resources'", "{'nodes':2,'node_names':['a']}", "$.resources.node_names", "1 name for 2"},
        {"'priority'", "1001", "$.priority", "out of range"},
        {"'priority'", "-1001", "$.priority", "out of range"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "{'model':'/m','data':{'train':['/a.u16']},%s:%s}",
                 cases[i].field, cases[i].value);
        struct spec_errors e = bad(text);
        if (e.n != 1 || strcmp(e.at[0].path, cases[i].path) != 0 ||
            !strstr(e.at[0].msg, cases[i].says))
            fail_msg("%s: %d errors, %s: %s", text, e.n, e.at[0].path, e.at[0].msg);
    }
    static const struct {
        const char *data, *path;
    } data[] = {
        {"{'train':[]}", "$.data.train"},
        {"{'train':'/a.u16'}", "$.data.train"},
        {"{'train':['/a.u16',7]}", "$.data.train[1]"},
        {"{'train':['']}", "$.data.train[0]"},
        {"{'train':['/a.u16'],'valid':7}", "$.data.valid"},
        {"{'train':['/a.u16'],'format':'megatron'}", "$.data.format"},
        {"{'train':['/a.u16'],'format':'csv'}", "$.data.format"},
        {"{'train':['/a.u16'],'tokenizer':''}", "$.data.tokenizer"},
        {"{'train':['/a.u16'],'seq_len':-1}", "$.data.seq_len"},
        {"{'train':['/a.u16'],'seq_len':5000}", "$.batch_tokens"}, /* no sequence in a step */
    };
    for (size_t i = 0; i < sizeof data / sizeof data[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "{'model':'/m','data':%s}", data[i].data);
        struct spec_errors e = bad(text);
        if (e.n != 1 || strcmp(e.at[0].path, data[i].path) != 0)
            fail_msg("%s: %d errors, %s: %s", text, e.n, e.at[0].path, e.at[0].msg);
    }
    struct spec_errors e = bad("[]");
    assert_string_equal(e.at[0].path, "$");
    char text[4300];
    snprintf(text, sizeof text, "{'model':'/%04200d','data':{'train':['/a.u16']}}", 0);
    assert_string_equal(bad(text).at[0].path, "$.model");
}

static void what_a_gang_asks_of_its_nodes(void **state)
{
    (void)state;
    struct job_spec s = good(
        "{'model':'/m','data':{'train':['/a.u16']},'resources':{'ranks':6,'threads':2,'nodes':3,"
        "'memory_gib':8,'node_names':['n1','n-2.x','N_3']}}");
    assert_int_equal(spec_slots_per_node(&s), 4);
    assert_int_equal(spec_slot_memory(&s), 4ll << 30); /* a rank has two slots */
    cJSON *doc = spec_to_json(&s);
    spec_finish(&s);
    struct spec_errors errs;
    assert_int_equal(spec_parse(doc, NULL, &s, &errs), 0);
    cJSON_Delete(doc);
    assert_int_equal(s.resources.nodes, 3);
    assert_int_equal(s.resources.n_node_names, 3);
    assert_string_equal(s.resources.node_names[1], "n-2.x");
    spec_finish(&s);
    s = good("{'model':'/m','data':{'train':['/a.u16']},'resources':{'node_names':[]}}");
    assert_int_equal(s.resources.nodes, 1);
    assert_int_equal(s.resources.n_node_names, 0);
    assert_int_equal(spec_slot_memory(&s), 0);
    spec_finish(&s);
}

static void all_errors_come_at_once_with_their_paths_and_hints(void **state)
{
    (void)state;
    struct spec_errors e = bad(
        "{'budgte':0.25,'lr':1,'optim':{'lr':-1,'lr_omgea':1},'dtype':'bf16',"
        "'resources':{'ranks':0,'gpus':1},'data':{'vaild':'x'},'zzz':1}");
    static const struct {
        const char *path, *hint;
    } want[] = {
        {"$.budgte", "\"budget\""},
        {"$.lr", "$.optim.lr"},
        {"$.optim.lr_omgea", "\"lr_omega\""},
        {"$.resources.gpus", ""},
        {"$.data.vaild", "\"valid\""},
        {"$.zzz", ""},
        {"$.optim.lr", ""},
        {"$.dtype", "f32"},
        {"$.resources.ranks", ""},
        {"$.model", "directory"},
        {"$.data.train", "example"},
    };
    assert_int_equal(e.n, sizeof want / sizeof want[0]);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        bool found = false;
        for (int k = 0; k < e.n; k++)
            found |= strcmp(e.at[k].path, want[i].path) == 0 && strstr(e.at[k].hint, want[i].hint);
        if (!found)
            fail_msg("no error at %s that hints at %s", want[i].path, want[i].hint);
    }
    /* more than fit are counted */
    char text[2000] = "{'model':'/m','data':{'train':['/a.u16']}", *p = text + strlen(text);
    for (int i = 0; i < 50; i++)
        p += sprintf(p, ",'unknown%d':1", i);
    strcpy(p, "}");
    e = bad(text);
    assert_int_equal(e.n, 50);
    assert_string_equal(e.at[31].path, "$.unknown31");
}

static void a_written_spec_reads_back_the_same(void **state)
{
    (void)state;
    static const char *const specs[] = {
        MINIMAL,
        "{'model':'/m','method':'mqa','data':{'train':['/a.txt','/b.txt.gz'],'valid':'/v.txt',"
        "'tokenizer':'/t','seq_len':128},'tokens':{'train':0},'priority':-3,"
        "'resources':{'ranks':4,'threads':2,'walltime':'1h30m'}}",
        "{'model':'/m','method':{'preset':'dha','budget':'uniform','scalar_omega':true},"
        "'data':{'train':['/a.u16']},'budget':0.3333333333333333,'seed':999999999999999,"
        "'optim':{'lr':0.00012345678901234567},'recovery':{'kl':0.5,'lm':0.5}}",
    };
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        struct job_spec s = good(specs[i]), again;
        struct spec_errors errs;
        cJSON *a = spec_to_json(&s);
        assert_int_equal(spec_parse(a, NULL, &again, &errs), 0);
        cJSON *b = spec_to_json(&again);
        char *ta = json_text(a), *tb = json_text(b);
        assert_string_equal(ta, tb);
        /* every default is written */
        static const char *const paths[] = {"name",
                                            "budget",
                                            "data.format",
                                            "data.seq_len",
                                            "tokens.search",
                                            "recovery.kl",
                                            "batch_tokens",
                                            "optim.weight_decay",
                                            "dtype",
                                            "seed",
                                            "eval.windows",
                                            "checkpoint.every",
                                            "checkpoint.keep",
                                            "checkpoint.keep_every",
                                            "checkpoint.keep_best",
                                            "export.format",
                                            "resources.device",
                                            "resources.walltime",
                                            "data.valid",
                                            "priority"};
        for (size_t k = 0; k < sizeof paths / sizeof paths[0]; k++)
            if (!json_at(a, paths[k]))
                fail_msg("%s is not written", paths[k]);
        free(ta);
        free(tb);
        cJSON_Delete(a);
        cJSON_Delete(b);
        spec_finish(&s);
        spec_finish(&again);
    }
}

static void overrides_set_what_they_name(void **state)
{
    (void)state;
    struct dha_err e = {0};
    cJSON *j = parse_quoted("{'model':'m','n':null}");
    assert_int_equal(spec_set(j, "optim.lr=1e-3", &e), 0);
    assert_int_equal(spec_set(j, "optim.clip=0", &e), 0);
    assert_int_equal(spec_set(j, "data.train=[\"a\",\"b\"]", &e), 0);
    assert_int_equal(spec_set(j, "method=gqa", &e), 0);
    assert_int_equal(spec_set(j, "model=x=y", &e), 0); /* only the first = divides */
    assert_int_equal(spec_set(j, "name=", &e), 0);
    assert_int_equal(spec_set(j, "n.a.b=true", &e), 0);
    char *t = json_text(j);
    assert_string_equal(
        t, "{\"model\":\"x=y\",\"optim\":{\"lr\":0.001,\"clip\":0},\"data\":{\"train\":"
           "[\"a\",\"b\"]},\"method\":\"gqa\",\"name\":\"\",\"n\":{\"a\":{\"b\":true}}}");
    free(t);
    static const char *const wrong[] = {
        "optim", "=1", "a..b=1", ".a=1", "a.=1", "model.x=1", "method.preset.deep=1", "x=\xff\xfe"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(spec_set(j, wrong[i], &e), -1);
        assert_int_equal(e.code, DHA_E_USAGE);
    }
    assert_int_equal(spec_set(j, "model.x=1", &e), -1);
    assert_non_null(strstr(e.msg, "\"model\""));
    char longpath[400];
    memset(longpath, 'a', sizeof longpath);
    memcpy(longpath + sizeof longpath - 3, "=1", 3);
    assert_int_equal(spec_set(j, longpath, &e), -1);
    cJSON_Delete(j);
    j = cJSON_CreateArray();
    assert_int_equal(spec_set(j, "a=1", &e), -1);
    cJSON_Delete(j);
}

/* ---- what a stage's result depends on ---- */

static char *inputs(const char *spec, enum stage_kind k)
{
    struct job_spec s = good(spec);
    cJSON *j = spec_stage_inputs(&s, k);
    assert_non_null(j);
    char *t = json_text(j);
    cJSON_Delete(j);
    spec_finish(&s);
    return t;
}

/* Stages (one letter each) whose inputs differ between the spec and the spec with `change`. */
static void differs(const char *method, const char *change, const char *want)
{
    static const char letters[] = "sftex";
    char a[512], got[8] = "", *g = got;
    struct dha_err e = {0};
    snprintf(a, sizeof a,
             "{'model':'/m','data':{'train':['/a.u16'],'valid':'/v.u16'},'method':'%s'}", method);
    cJSON *doc = parse_quoted(a);
    struct job_spec one, two;
    struct spec_errors errs;
    assert_int_equal(spec_parse(doc, NULL, &one, &errs), 0);
    if (spec_set(doc, change, &e) != 0)
        fail_msg("%s: %s", change, e.msg);
    if (spec_parse(doc, NULL, &two, &errs) != 0)
        fail_msg("%s: %s %s", change, errs.at[0].path, errs.at[0].msg);
    for (int k = 0; k < STAGE_KINDS; k++) {
        cJSON *x = spec_stage_inputs(&one, (enum stage_kind)k);
        cJSON *y = spec_stage_inputs(&two, (enum stage_kind)k);
        char *tx = json_text(x), *ty = json_text(y);
        if (strcmp(tx, ty) != 0)
            *g++ = letters[k];
        free(tx);
        free(ty);
        cJSON_Delete(x);
        cJSON_Delete(y);
    }
    *g = '\0';
    if (strcmp(got, want) != 0)
        fail_msg("%s, %s: differs in \"%s\", not in \"%s\"", method, change, got, want);
    spec_finish(&one);
    spec_finish(&two);
    cJSON_Delete(doc);
}

static void stage_inputs_are_what_the_stage_reads_and_no_more(void **state)
{
    (void)state;
    static const char *const nothing[] = {"name=other",
                                          "priority=5",
                                          "resources.ranks=7",
                                          "resources.threads=3",
                                          "resources.walltime=1h",
                                          "checkpoint.every=10",
                                          "checkpoint.keep=5",
                                          "checkpoint.keep_every=100",
                                          "checkpoint.keep_best=1"};
    static const char *const methods[] = {"gqa", "mqa", "dha", "spectral", "spectral-gqa"};
    for (size_t m = 0; m < sizeof methods / sizeof methods[0]; m++) {
        for (size_t i = 0; i < sizeof nothing / sizeof nothing[0]; i++)
            differs(methods[m], nothing[i], "");
        differs(methods[m], "model=/other", "sftex");
        differs(methods[m], "data.valid=/other.u16", "fte");
        differs(methods[m], "eval.windows=7", "fte");
        differs(methods[m], "tokens.train=5000000", strcmp(methods[m], "dha") == 0 ? "sft" : "t");
        differs(methods[m], "data.seq_len=64", "sfte");
        differs(methods[m], "export.format=dha", "x");
    }
    /* a sweep over budgets searches once */
    differs("spectral", "budget=0.5", "f");
    differs("dha", "budget=0.5", "f");
    differs("gqa", "budget=0.5", "f");
    differs("mqa", "budget=0.5", ""); /* its budget is one head a layer */
    /* calibration is read again by the refit; training settings only where training is */
    differs("spectral", "tokens.search=1000", "sf");
    differs("dha", "tokens.search=1000", "s");
    differs("spectral", "optim.lr=1e-3", "t");
    differs("dha", "optim.lr=1e-3", "sft");
    differs("gqa", "optim.lr=1e-3", "t");
    differs("dha", "optim.lr_omega=1e-3", "sf");
    differs("dha", "optim.lr_lambda=1e-3", "f");
    differs("spectral", "optim.lr_omega=1e-3", "");
    differs("spectral", "recovery.lm=0.5", "t");
    differs("spectral", "batch_tokens=8192", "t");
    differs("spectral", "seed=2", "sft");
    differs("gqa", "seed=2", "st"); /* a gqa job has no search stage */
    differs("spectral", "data.train=[\"/b.u16\"]", "sft");
    differs("gqa", "data.train=[\"/b.u16\"]", "st"); /* mean pooling reads no training data */
    differs("spectral", "tokens.fuse=5000", "");     /* it trains nothing there */
}

static void without_a_validation_file_the_training_data_matter_to_all_who_validate(void **state)
{
    (void)state;
    char *a = inputs("{'model':'/m','data':{'train':['/a.u16']}}", STAGE_EVAL);
    char *b = inputs("{'model':'/m','data':{'train':['/b.u16']}}", STAGE_EVAL);
    assert_string_not_equal(a, b);
    free(a);
    free(b);
    /* and search must know that the end of it is held out */
    a = inputs("{'model':'/m','data':{'train':['/a.u16']}}", STAGE_SEARCH);
    b = inputs("{'model':'/m','data':{'train':['/a.u16'],'valid':'/v.u16'}}", STAGE_SEARCH);
    assert_string_not_equal(a, b);
    free(a);
    free(b);
}

static void a_preset_and_its_parts_written_out_are_one_computation(void **state)
{
    (void)state;
    for (int k = 0; k < STAGE_KINDS; k++) {
        char *a = inputs("{'model':'/m','data':{'train':['/a.u16']},'method':'spectral-gqa'}",
                         (enum stage_kind)k);
        char *b = inputs("{'model':'/m','data':{'train':['/a.u16']},"
                         "'method':{'preset':'spectral','uniform':true}}",
                         (enum stage_kind)k);
        assert_string_equal(a, b);
        free(a);
        free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_minimal_spec_gets_every_default),
        cmocka_unit_test(defaults_follow_the_method),
        cmocka_unit_test(formats_follow_the_file_names),
        cmocka_unit_test(relative_paths_start_at_the_spec),
        cmocka_unit_test(walltimes_are_read),
        cmocka_unit_test(every_field_is_checked),
        cmocka_unit_test(what_a_gang_asks_of_its_nodes),
        cmocka_unit_test(all_errors_come_at_once_with_their_paths_and_hints),
        cmocka_unit_test(a_written_spec_reads_back_the_same),
        cmocka_unit_test(overrides_set_what_they_name),
        cmocka_unit_test(stage_inputs_are_what_the_stage_reads_and_no_more),
        cmocka_unit_test(without_a_validation_file_the_training_data_matter_to_all_who_validate),
        cmocka_unit_test(a_preset_and_its_parts_written_out_are_one_computation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
