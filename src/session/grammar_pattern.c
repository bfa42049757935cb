/* grammar_pattern.c - "pattern" and "format" of strings. See grammar_schema.c, pattern.h. */
#include "session/grammar_compiler.h"

static struct ds4_span format_of(const struct compiler *c, const struct view *v)
{
    bool said = is_kind(c, v->k[K_FORMAT], JTEXT_STRING);
    return said ? pattern_of_format(source_of(c, v->k[K_FORMAT])) : (struct ds4_span){0};
}

enum ds4_status schema_check_format(struct compiler *c, const struct view *v)
{
    if (v->k[K_FORMAT] == JTEXT_NONE || !c->strict || format_of(c, v).ptr) return DS4_OK;
    if (!is_kind(c, v->k[K_FORMAT], JTEXT_STRING)) return schema_wrong(c, "\"format\" is no string", v->value);
    return schema_complain(c, DS4_ERR_UNSUPPORTED, "the \"format\" ", source_of(c, v->k[K_FORMAT]),
                           " is not supported", v->value);
}

static enum ds4_status compile(struct compiler *c, struct pattern_options *o, const struct view *v,
                               struct pattern **out)
{
    const char *why = "";
    uint64_t work = 0;
    enum ds4_status status = pattern_compile(o, out, &why, &work);
    if (status == DS4_OK || status == DS4_ERR_NOMEM) {
        enum ds4_status spent = schema_spend(c, work);
        if (status == DS4_OK && spent == DS4_OK) return DS4_OK;
        if (status == DS4_OK) pattern_destroy(*out);
        return spent != DS4_OK ? spent : err_set(c->error, status, "no memory for a pattern");
    }
    TRY(schema_spend(c, work));
    if (!c->strict) return status;
    return schema_complain(c, status, "the keyword \"pattern\" is not supported here (", span_from(why), ")", v->value);
}

enum ds4_status schema_make_pattern(struct compiler *c, uint32_t node, const struct view *v, uint32_t min, uint32_t max,
                                    bool *made)
{
    struct pattern *pattern = NULL;
    struct buf source = {0};
    struct pattern_options o = {.min_chars = min, .max_chars = max == NO_LIMIT ? PATTERN_NO_LIMIT : max};
    bool said = is_kind(c, v->k[K_PATTERN], JTEXT_STRING), raw = v->place == PLACE_RAW;
    *made = false;
    if (v->k[K_PATTERN] != JTEXT_NONE && !said) return schema_wrong(c, "\"pattern\" is no string", v->value);
    o.place = raw ? PATTERN_RAW : c->in_call ? PATTERN_JSON_IN_CALL : PATTERN_JSON;
    o.source[1] = format_of(c, v);
    if ((!said || source_of(c, v->k[K_PATTERN]).len == 0) && !o.source[1].ptr) return DS4_OK;
    if (said) jtext_put_decoded(&c->doc, v->k[K_PATTERN], &source);
    if (said && source.text.len) o.source[0] = buf_span(&source);
    enum ds4_status status = buf_status(&source, c->error);
    if (status == DS4_OK) status = compile(c, &o, v, &pattern);
    buf_deinit(&source);
    bool without = !c->strict && status != DS4_OK && status != DS4_ERR_NOMEM && c->work <= GRAMMAR_WORK_MAX;
    if (without) return DS4_OK; /* as if it were not there */
    TRY(status);
    uint32_t number;
    TRY(program_pattern(c->p, pattern, &number, c->error));
    struct gnode *n = &c->p->nodes[node];
    n->kind = NODE_PATTERN;
    n->first = number;
    n->raw = raw;
    *made = true;
    return DS4_OK;
}
