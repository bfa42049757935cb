/* logprobs.c - how likely the model held a token and its alternatives, before sampling filters, as the OpenAI dialects
 * show it. */
#include "serve/api/answer.h"

#include <math.h>

static void put_token(struct buf *out, struct ds4_span bytes, double logprob)
{
    buf_put_text(out, "{\"token\":");
    buf_put_json_string(out, bytes);
    buf_printf(out, ",\"logprob\":%.6f,\"bytes\":[", logprob < -9999 ? -9999.0 : logprob);
    for (size_t i = 0; i < bytes.len; i++) buf_printf(out, "%s%u", i ? "," : "", (unsigned)(unsigned char)bytes.ptr[i]);
    buf_put_text(out, "]");
}

void answer_add_logprobs(struct answer *a, const struct ds4_engine *engine, const float *logits, int32_t id,
                         bool thinking)
{
    size_t n_vocab = ds4_engine_info(engine)->n_vocab;
    int32_t top[API_TOP_LOGPROBS_MAX];
    struct buf *out = &a->logprobs[thinking];
    if (thinking && a->request->dialect == API_RESPONSES) return; /* its items of reasoning show none */
    size_t n = a->request->top_logprobs;
    double chosen = (double)ds4_logprob(logits, n_vocab, id), base = chosen - (double)logits[id];
    if (out->text.len) buf_put_text(out, ",");
    put_token(out, ds4_token_bytes(engine, id), chosen);
    buf_put_text(out, ",\"top_logprobs\":[");
    if (n) ds4_top_logits(logits, n_vocab, n, top);
    for (size_t i = 0; i < n; i++) {
        if (i) buf_put_text(out, ",");
        put_token(out, ds4_token_bytes(engine, top[i]), (double)logits[top[i]] + base);
        buf_put_text(out, "}");
    }
    buf_put_text(out, "]}");
}

void answer_put_logprobs(struct answer *a)
{
    buf_put_text(&a->out, ",\"logprobs\":");
    if (!a->request->logprobs) {
        buf_put_text(&a->out, "null");
        return;
    }
    buf_put_text(&a->out, "{\"content\":[");
    buf_put_span(&a->out, buf_span(&a->logprobs[0]));
    buf_put_text(&a->out, "]");
    if (a->logprobs[1].text.len) {
        buf_put_text(&a->out, ",\"reasoning_content\":[");
        buf_put_span(&a->out, buf_span(&a->logprobs[1]));
        buf_put_text(&a->out, "]");
    }
    buf_put_text(&a->out, "}");
    buf_clear(&a->logprobs[0]);
    buf_clear(&a->logprobs[1]);
}
