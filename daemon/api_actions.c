/* api_actions.c: what a user does to a job. */
#include "daemon/api.h"

#include "daemon/doc.h"

enum { PRIORITY_MAX = 1000 };

static enum api_outcome answer_job(struct api_call *c, int rc)
{
    return rc == 0 ? api_answer_job(c, c->id) : API_FAIL;
}

enum api_outcome api_job_cancel(struct api_call *c)
{
    const cJSON *reason = json_get(c->body, "reason"), *now = json_get(c->body, "now");
    if ((reason && !cJSON_IsString(reason)) || (now && !cJSON_IsBool(now))) {
        dha_fail(&c->e, DHA_E_USAGE, "\"reason\" is a string, \"now\" is true or false");
        return API_FAIL;
    }
    const char *text = reason && reason->valuestring[0] ? reason->valuestring : NULL;
    return answer_job(c, stages_cancel(c->d, c->id, text, cJSON_IsTrue(now), &c->e));
}

enum api_outcome api_job_hold(struct api_call *c)
{
    return answer_job(c, stages_hold(c->d, c->id, &c->e));
}

enum api_outcome api_job_release(struct api_call *c)
{
    return answer_job(c, stages_release(c->d, c->id, &c->e));
}

enum api_outcome api_job_retry(struct api_call *c)
{
    return answer_job(c, stages_retry(c->d, c->id, &c->e));
}

enum api_outcome api_job_priority(struct api_call *c)
{
    int64_t p;
    struct store_job job;
    if (json_need_int(c->body, "priority", &p, &c->e) != 0) {
        c->e.code = DHA_E_USAGE;
        return API_FAIL;
    }
    if (p < -PRIORITY_MAX || p > PRIORITY_MAX) {
        dha_fail(&c->e, DHA_E_USAGE, "priority goes from -%d to %d", PRIORITY_MAX, PRIORITY_MAX);
        return API_FAIL;
    }
    if (api_may_priority(c, p) != 0 || store_job_brief(c->d->store, c->id, &job, &c->e) != 0) {
        return API_FAIL;
    }
    bool final = job_state_final(job.state);
    if (final) {
        dha_fail(&c->e, DHA_E_CONFLICT, "job %lld is %s", (long long)c->id,
                 job_state_name(job.state));
    }
    store_job_finish(&job);
    if (final || store_job_set_priority(c->d->store, c->id, (int)p, now_us(), &c->e) != 0) {
        return API_FAIL;
    }
    c->d->want_pass = true;
    return answer_job(c, 0);
}
