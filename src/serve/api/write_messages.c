/* write_messages.c - replies of /v1/messages. One content block is open at a time, with indices from 0. */
#include "serve/api/answer.h"
#include "serve/api/sealed.h"

enum block { BLOCK_NONE = -1, BLOCK_THINKING, BLOCK_TEXT, BLOCK_TOOL };

static void begin_event(struct answer *a, const char *type)
{
    buf_printf(&a->out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void end_event(struct answer *a) { buf_put_text(&a->out, "}\n\n"); }

static void put_input_usage(struct answer *a)
{
    const struct answer_usage *u = &a->usage;
    buf_printf(&a->out, "\"input_tokens\":0,\"cache_read_input_tokens\":%zu,\"cache_creation_input_tokens\":%zu",
               u->n_reused, u->n_prompt - u->n_reused);
}

static void put_front(struct answer *a)
{
    buf_printf(&a->out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", a->id);
    buf_put_json_string(&a->out, a->request->model.len ? a->request->model : SPAN("deepseek-v4-flash"));
}

static void begin(struct answer *a)
{
    begin_event(a, "message_start");
    buf_put_text(&a->out, ",\"message\":");
    put_front(a);
    buf_put_text(&a->out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{");
    put_input_usage(a);
    buf_put_text(&a->out, ",\"output_tokens\":0},");
    answer_put_cache(&a->out, a);
    buf_put_text(&a->out, "}");
    end_event(a);
    begin_event(a, "ping");
    end_event(a);
}

static void delta(struct answer *a, const char *type, const char *member, struct ds4_span text)
{
    begin_event(a, "content_block_delta");
    buf_printf(&a->out, ",\"index\":%zu,\"delta\":{\"type\":\"%s\",\"%s\":", a->n_blocks, type, member);
    buf_put_json_string(&a->out, text);
    buf_put_text(&a->out, "}");
    end_event(a);
}

/* Opaque to the client, which sends it back with the block. Thinking that is not shown goes in it, so that the next
 * turn renders to what was computed. */
static void put_signature(const struct answer *a, struct buf *out)
{
    if (a->request->show_thinking) buf_put_text(out, a->id);
    else sealed_put(out, buf_span(&a->think));
}

static void close_block(struct answer *a)
{
    if (a->block == BLOCK_NONE) return;
    if (a->block == BLOCK_THINKING) {
        struct buf signature = {0};
        put_signature(a, &signature);
        delta(a, "signature_delta", "signature", buf_span(&signature));
        if (signature.failed) a->out.failed = true;
        buf_deinit(&signature);
    }
    begin_event(a, "content_block_stop");
    buf_printf(&a->out, ",\"index\":%zu", a->n_blocks++);
    end_event(a);
    a->block = BLOCK_NONE;
}

static void open_block(struct answer *a, enum block kind, const char *content)
{
    if (a->block == (int)kind && kind != BLOCK_TOOL) return;
    close_block(a);
    a->block = (int)kind;
    begin_event(a, "content_block_start");
    buf_printf(&a->out, ",\"index\":%zu,\"content_block\":%s", a->n_blocks, content);
    if (kind != BLOCK_TOOL) end_event(a);
}

static void think(struct answer *a, struct ds4_span text)
{
    open_block(a, BLOCK_THINKING, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
    if (text.len) delta(a, "thinking_delta", "thinking", text);
}

static void text_delta(struct answer *a, struct ds4_span text)
{
    open_block(a, BLOCK_TEXT, "{\"type\":\"text\",\"text\":\"\"}");
    delta(a, "text_delta", "text", text);
}

static void put_tool(struct answer *a, size_t call_i, struct ds4_span input)
{
    buf_printf(&a->out, "\"id\":\"%s\",\"name\":", a->calls[call_i].id);
    buf_put_json_string(&a->out, buf_span(&a->calls[call_i].name));
    buf_put_text(&a->out, ",\"input\":");
    buf_put_span(&a->out, input);
    buf_put_text(&a->out, "}");
}

static void call_begin(struct answer *a, size_t call_i)
{
    open_block(a, BLOCK_TOOL, "{\"type\":\"tool_use\",");
    put_tool(a, call_i, SPAN("{}"));
    end_event(a);
}

static void call_arguments(struct answer *a, size_t call_i, struct ds4_span text)
{
    (void)call_i;
    delta(a, "input_json_delta", "partial_json", text);
}

static void call_end(struct answer *a, size_t call_i)
{
    (void)call_i;
    close_block(a);
}

static void put_stop(struct answer *a)
{
    const char *reason = "end_turn";
    if (answer_is_cut(a)) reason = "max_tokens";
    if (a->finish == FINISH_CALLS && a->n_calls) reason = "tool_use";
    if (a->finish == FINISH_SEQUENCE) reason = "stop_sequence";
    buf_printf(&a->out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (a->finish == FINISH_SEQUENCE) buf_put_json_string(&a->out, a->stop_sequence);
    else buf_put_text(&a->out, "null");
    if (a->finish == FINISH_LOOP) buf_put_text(&a->out, ",\"stop_details\":{\"type\":\"repetition\"}");
}

static void end(struct answer *a)
{
    if (a->text.text.len == 0 && a->n_calls == 0) open_block(a, BLOCK_TEXT, "{\"type\":\"text\",\"text\":\"\"}");
    close_block(a);
    begin_event(a, "message_delta");
    buf_put_text(&a->out, ",\"delta\":{");
    put_stop(a);
    buf_put_text(&a->out, "},\"usage\":{");
    put_input_usage(a);
    buf_printf(&a->out, ",\"output_tokens\":%zu}", a->usage.n_out);
    end_event(a);
    begin_event(a, "message_stop");
    end_event(a);
}

static void fail(struct answer *a, const char *sentence)
{
    buf_put_text(&a->out, "event: error\ndata: ");
    answer_put_error(&a->out, API_MESSAGES, 500, sentence, NULL, NULL);
    buf_put_text(&a->out, "\n\n");
}

static void whole(struct answer *a)
{
    const char *comma = "";
    put_front(a);
    buf_put_text(&a->out, ",\"content\":[");
    if (a->think.text.len) {
        buf_put_text(&a->out, "{\"type\":\"thinking\",\"thinking\":");
        buf_put_json_string(&a->out, a->request->show_thinking ? buf_span(&a->think) : SPAN(""));
        buf_put_text(&a->out, ",\"signature\":\"");
        put_signature(a, &a->out);
        buf_put_text(&a->out, "\"}");
        comma = ",";
    }
    if (a->text.text.len || a->n_calls == 0) {
        buf_printf(&a->out, "%s{\"type\":\"text\",\"text\":", comma);
        buf_put_json_string(&a->out, buf_span(&a->text));
        buf_put_text(&a->out, "}");
        comma = ",";
    }
    for (size_t i = 0; i < a->n_calls; i++) {
        struct ds4_span input = buf_span(&a->calls[i].arguments);
        buf_printf(&a->out, "%s{\"type\":\"tool_use\",", comma);
        put_tool(a, i, input.len ? input : SPAN("{}"));
        comma = ",";
    }
    buf_put_text(&a->out, "],");
    put_stop(a);
    buf_put_text(&a->out, ",\"usage\":{");
    put_input_usage(a);
    buf_printf(&a->out, ",\"output_tokens\":%zu},", a->usage.n_out);
    answer_put_cache(&a->out, a);
    buf_put_text(&a->out, "}");
}

const struct answer_writer answer_messages = {begin, think, text_delta, call_begin, call_arguments, call_end, end, fail,
                                              whole};
