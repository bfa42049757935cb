/* schema_check.c - see schema_check.h. */
#include "lib/schema_check.h"

#include <locale.h>
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- checking -------------------------------------------------------------------------------------------------- */

static bool same(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    return json_equal(a, b);
}

static bool is_type(const char *type, const json_t *v)
{
    if (!strcmp(type, "null")) return json_is_null(v);
    if (!strcmp(type, "boolean")) return json_is_boolean(v);
    if (!strcmp(type, "string")) return json_is_string(v);
    if (!strcmp(type, "array")) return json_is_array(v);
    if (!strcmp(type, "object")) return json_is_object(v);
    if (!strcmp(type, "number")) return json_is_number(v);
    return json_is_integer(v) || (json_is_real(v) && floor(json_real_value(v)) == json_real_value(v));
}

static bool type_holds(const json_t *type, const json_t *v)
{
    size_t i;
    json_t *one;
    if (!type) return true;
    if (json_is_string(type)) return is_type(json_string_value(type), v);
    json_array_foreach(type, i, one) if (is_type(json_string_value(one), v)) return true;
    return false;
}

static size_t characters(const json_t *string)
{
    size_t n = 0;
    const char *bytes = json_string_value(string);
    for (size_t i = 0; i < json_string_length(string); i++) n += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    return n;
}

static bool between(const json_t *schema, const char *least, const char *most, double n)
{
    const json_t *lo = json_object_get(schema, least), *hi = json_object_get(schema, most);
    return (!lo || n >= json_number_value(lo)) && (!hi || n <= json_number_value(hi));
}

static bool multiple_holds(const json_t *s, double n)
{
    const json_t *of = json_object_get(s, "multipleOf");
    double times = of ? n / json_number_value(of) : 0;
    return fabs(times - nearbyint(times)) < 1e-6;
}

/* The C library's own reader: patterns of schema_random mean the same to it. */
static bool found(const char *pattern, const char *text)
{
    regex_t re;
    (void)setlocale(LC_CTYPE, "C.UTF-8");
    if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB) != 0) return false;
    bool is = regexec(&re, text, 0, NULL, 0) == 0;
    regfree(&re);
    return is;
}

static bool is_date(const char *text)
{
    static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year, month, day;
    if (strlen(text) < 10 || sscanf(text, "%4d-%2d-%2d", &year, &month, &day) != 3) return false;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1] && (month != 2 || day < 29 || leap);
}

static bool is_clock(const char *text)
{
    int hour, minute, second;
    return sscanf(text, "%2d:%2d:%2d", &hour, &minute, &second) == 3 && hour < 24 && minute < 60 && second < 60 &&
           found("^[0-9:]{8}([.][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$", text);
}

static bool is_ipv4(const char *text)
{
    int part[4];
    char rest;
    if (sscanf(text, "%d.%d.%d.%d%c", &part[0], &part[1], &part[2], &part[3], &rest) != 4) return false;
    char again[32];
    (void)snprintf(again, sizeof again, "%d.%d.%d.%d", part[0], part[1], part[2], part[3]);
    for (int i = 0; i < 4; i++)
        if (part[i] < 0 || part[i] > 255) return false;
    return strcmp(again, text) == 0;
}

static bool format_holds(const char *format, const char *text)
{
    if (!strcmp(format, "date")) return strlen(text) == 10 && is_date(text);
    if (!strcmp(format, "time")) return is_clock(text);
    if (!strcmp(format, "date-time")) return is_date(text) && text[10] == 'T' && is_clock(text + 11);
    if (!strcmp(format, "ipv4")) return is_ipv4(text);
    if (!strcmp(format, "uuid")) return found("^[[:xdigit:]]{8}(-[[:xdigit:]]{4}){3}-[[:xdigit:]]{12}$", text);
    return !strcmp(format, "email") && found("^[^@. ]+([.][^@. ]+)*@[[:alnum:]-]+([.][[:alnum:]-]+)+$", text);
}

static bool string_holds(const json_t *s, const json_t *v)
{
    const json_t *pattern = json_object_get(s, "pattern"), *format = json_object_get(s, "format");
    return between(s, "minLength", "maxLength", (double)characters(v)) &&
           (!pattern || found(json_string_value(pattern), json_string_value(v))) &&
           (!format || format_holds(json_string_value(format), json_string_value(v)));
}

static bool number_holds(const json_t *s, const json_t *v)
{
    double n = json_number_value(v);
    const json_t *above = json_object_get(s, "exclusiveMinimum"), *below = json_object_get(s, "exclusiveMaximum");
    return between(s, "minimum", "maximum", n) && (!above || n > json_number_value(above)) &&
           (!below || n < json_number_value(below)) && multiple_holds(s, n);
}

static bool all_differ(const json_t *v)
{
    for (size_t i = 0; i < json_array_size(v); i++)
        for (size_t k = 0; k < i; k++)
            if (same(json_array_get(v, i), json_array_get(v, k))) return false;
    return true;
}

static bool array_holds(const json_t *root, const json_t *s, const json_t *v)
{
    size_t i;
    json_t *item;
    const json_t *items = json_object_get(s, "items"), *prefix = json_object_get(s, "prefixItems");
    json_array_foreach(v, i, item)
    {
        const json_t *of = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        if (of && !schema_accepts(root, of, item)) return false;
    }
    return between(s, "minItems", "maxItems", (double)json_array_size(v)) &&
           (!json_is_true(json_object_get(s, "uniqueItems")) || all_differ(v));
}

static bool object_holds(const json_t *root, const json_t *s, json_t *v)
{
    size_t i;
    const char *name;
    json_t *member, *required;
    const json_t *declared = json_object_get(s, "properties"), *more = json_object_get(s, "additionalProperties");
    json_array_foreach(json_object_get(s, "required"), i, required)
        if (!json_object_get(v, json_string_value(required))) return false;
    json_object_foreach(v, name, member)
    {
        const json_t *of = json_object_get(declared, name);
        if (!of) of = more;
        if (of && !schema_accepts(root, of, member)) return false;
    }
    return between(s, "minProperties", "maxProperties", (double)json_object_size(v));
}

static size_t branches_that_hold(const json_t *root, const json_t *list, const json_t *v)
{
    size_t i, n = 0;
    json_t *branch;
    json_array_foreach(list, i, branch) n += schema_accepts(root, branch, v);
    return n;
}

static const json_t *referred(const json_t *root, const char *pointer)
{
    if (!strcmp(pointer, "#")) return root;
    return json_object_get(json_object_get(root, "$defs"), pointer + strlen("#/$defs/"));
}

/* A reference that comes back to itself on the same value holds nothing of its own. */
#define REFS_MAX 8
static const json_t *at;
static unsigned n_refs;

bool schema_accepts(const json_t *root, const json_t *s, const json_t *v)
{
    size_t i, n = 0;
    json_t *one;
    const json_t *list;
    if (json_is_boolean(s)) return json_is_true(s);
    if ((list = json_object_get(s, "$ref"))) {
        bool holds = n_refs < REFS_MAX;
        const json_t *outer = at;
        unsigned outer_refs = n_refs;
        n_refs = at == v ? n_refs + 1 : 1;
        at = v;
        holds = holds && schema_accepts(root, referred(root, json_string_value(list)), v);
        at = outer;
        n_refs = outer_refs;
        if (!holds) return false;
    }
    if (!type_holds(json_object_get(s, "type"), v)) return false;
    if ((list = json_object_get(s, "const")) && !same(list, v)) return false;
    if ((list = json_object_get(s, "enum"))) {
        json_array_foreach(list, i, one) n += same(one, v);
        if (n == 0) return false;
    }
    if ((list = json_object_get(s, "anyOf")) && branches_that_hold(root, list, v) == 0) return false;
    if ((list = json_object_get(s, "oneOf")) && branches_that_hold(root, list, v) != 1) return false;
    if ((list = json_object_get(s, "allOf")) && branches_that_hold(root, list,
        v) != json_array_size(list)) return false;
    if (json_is_string(v) && !string_holds(s, v)) return false;
    if (json_is_number(v) && !number_holds(s, v)) return false;
    if (json_is_array(v) && !array_holds(root, s, v)) return false;
    return !json_is_object(v) || object_holds(root, s, (json_t *)(uintptr_t)v);
}

/* ---- making ---------------------------------------------------------------------------------------------------- */

struct maker {
    uint64_t state;
    int n_defs;
};

static int below(struct maker *m, int n)
{
    m->state = m->state * 6364136223846793005u + 1442695040888963407u;
    return (int)((m->state >> 33) % (uint64_t)n);
}

static json_t *constant(struct maker *m)
{
    static const char *const words[] = {"red", "re", "a b", "", "caf\xC3\xA9", "x\"y\\z", "line\nbreak", "</p>"};
    switch (below(m, 6)) {
    case 0: return json_null();
    case 1: return json_boolean(below(m, 2));
    case 2: return json_integer(below(m, 300) - 100);
    case 3: return json_real((double)(below(m, 4000) - 2000) / 16);
    case 4: return json_pack("{s:i,s:[s]}", "k", below(m, 9), "l", words[below(m, 8)]);
    default: return json_string(words[below(m, 8)]);
    }
}

static json_t *make(struct maker *m, int depth);

static json_t *make_string(struct maker *m)
{
    static const char *const patterns[] = {"^[a-z]{2,5}$", "^(red|blue|a b)+$", "[0-9]", "^[^0-9]*x?$", "^.{1,6}$",
        "caf\xC3\xA9|b", "^[A-Z][a-z]*( [A-Z][a-z]*)*$", "^$|^a", "^[\"\\\\]{1,3}", "(ab?){2}c*$"};
    static const char *const formats[] = {"date", "time", "date-time", "ipv4", "uuid", "email"};
    json_t *s = json_pack("{s:s}", "type", "string");
    int min = below(m, 4);
    if (below(m, 2)) (void)json_object_set_new(s, "minLength", json_integer(min));
    if (below(m, 2)) (void)json_object_set_new(s, "maxLength", json_integer(min + below(m, 9)));
    if (below(m, 3) == 0) {
        (void)json_object_set_new(s, "pattern", json_string(patterns[below(m, 10)]));
    } else if (below(m, 4) == 0) { /* alone: most have a length of their own */
        (void)json_object_del(s, "minLength");
        (void)json_object_del(s, "maxLength");
        (void)json_object_set_new(s, "format", json_string(formats[below(m, 6)]));
    }
    return s;
}

static json_t *make_number(struct maker *m)
{
    bool integer = below(m, 2);
    json_t *s = json_pack("{s:s}", "type", integer ? "integer" : "number");
    double lo = (double)(below(m, 2000) - 1000) / (integer ? 1 : 8), room = 1 + below(m, 500);
    if (below(m, 2)) (void)json_object_set_new(s, below(m, 2) ? "minimum" : "exclusiveMinimum", json_real(lo));
    if (below(m, 2)) (void)json_object_set_new(s, below(m, 2) ? "maximum" : "exclusiveMaximum",
        json_real(lo + room + 1));
    if (below(m, 4) == 0) (void)json_object_set_new(s, "multipleOf", integer ? json_integer(1 + below(m, 40))
                                                                             : json_real((1 + below(m, 20)) / 8.0));
    return s;
}

static json_t *make_set(struct maker *m)
{
    json_t *s = json_pack("{s:s,s:b}", "type", "array", "uniqueItems", 1), *list = json_array();
    int min = below(m, 4);
    for (int n = 1 + below(m, 12); n > 0; n--) (void)json_array_append_new(list, constant(m));
    json_t *items = below(m, 3) ? json_pack("{s:o}", "enum", list)
                                : json_pack("{s:s,s:i,s:i}", "type", "integer", "minimum", -below(m, 20), "maximum",
                                            30);
    if (json_object_get(items, "minimum")) json_decref(list);
    (void)json_object_set_new(s, "items", items);
    if (below(m, 2)) (void)json_object_set_new(s, "minItems", json_integer(min));
    if (below(m, 2)) (void)json_object_set_new(s, "maxItems", json_integer(min + below(m, 4)));
    return s;
}

static json_t *make_array(struct maker *m, int depth)
{
    if (below(m, 4) == 0) return make_set(m);
    json_t *s = json_pack("{s:s}", "type", "array");
    int min = below(m, 3), n_prefix = below(m, 4) ? 0 : 1 + below(m, 2);
    for (int i = 0; i < n_prefix; i++) {
        if (i == 0) (void)json_object_set_new(s, "prefixItems", json_array());
        (void)json_array_append_new(json_object_get(s, "prefixItems"), make(m, depth - 1));
    }
    if (below(m, 5)) (void)json_object_set_new(s, "items", make(m, depth - 1));
    if (below(m, 2)) (void)json_object_set_new(s, "minItems", json_integer(min));
    if (below(m, 2)) (void)json_object_set_new(s, "maxItems", json_integer(min + below(m, 4)));
    return s;
}

static json_t *make_object(struct maker *m, int depth)
{
    static const char *const names[] = {"a", "ab", "abc", "name", "na\xC3\xAFve", "q\"uote", "value", "x y", "kind"};
    json_t *s = json_pack("{s:s}", "type", "object"), *properties = json_object(), *required = json_array();
    for (int n = below(m, 6); n > 0; n--) {
        const char *name = names[below(m, 9)];
        if (json_object_get(properties, name)) continue;
        (void)json_object_set_new(properties, name, make(m, depth - 1));
        if (below(m, 2)) (void)json_array_append_new(required, json_string(name));
    }
    if (below(m, 8) == 0) (void)json_array_append_new(required, json_string("undeclared"));
    (void)json_object_set_new(s, "properties", properties);
    (void)json_object_set_new(s, "required", required);
    int more = below(m, 4);
    if (more == 1) (void)json_object_set_new(s, "additionalProperties", json_false());
    if (more == 2) (void)json_object_set_new(s, "additionalProperties", make(m, depth - 1));
    size_t n_declared = json_object_size(properties);
    if (below(m, 5) == 0) (void)json_object_set_new(s, "minProperties", json_integer(below(m, (int)n_declared + 1)));
    int most = (int)n_declared + 1 - below(m, 3);
    if (below(m, 5) == 0) (void)json_object_set_new(s, "maxProperties", json_integer(most > 0 ? most : 0));
    return s;
}

static json_t *make_choice(struct maker *m, int depth)
{
    json_t *list = json_array();
    int n = 2 + below(m, 3);
    if (below(m, 3)) {
        for (int i = 0; i < n; i++) (void)json_array_append_new(list, make(m, depth - 1));
        return json_pack("{s:o}", "anyOf", list);
    }
    for (int i = 0; i < n; i++) {
        char kind[16];
        (void)snprintf(kind, sizeof kind, "k%d", i);
        (void)json_array_append_new(list, json_pack("{s:s,s:{s:{s:s},s:o},s:[s]}", "type", "object", "properties",
            "kind",
                                                    "const", kind, "v", make(m, depth - 1), "required", "kind"));
    }
    return json_pack("{s:o}", "oneOf", list);
}

static json_t *make(struct maker *m, int depth)
{
    json_t *list;
    int kind = below(m, depth > 0 ? 13 : 7);
    switch (kind) {
    case 0: return json_pack("{s:s}", "type", "boolean");
    case 1: return json_pack("{s:[s,s]}", "type", "integer", "null");
    case 2: return json_pack("{s:o}", "const", constant(m));
    case 3:
        list = json_array();
        for (int n = 1 + below(m, 4); n > 0; n--) (void)json_array_append_new(list, constant(m));
        return json_pack("{s:o}", "enum", list);
    case 4: return make_number(m);
    case 5:
    case 6: return make_string(m);
    case 7:
    case 8: return make_array(m, depth);
    case 9:
    case 10: return make_object(m, depth);
    case 11: return make_choice(m, depth);
    default:
        if (below(m, 4) == 0) return below(m, 2) ? json_object() : json_true();
        char pointer[24];
        (void)snprintf(pointer, sizeof pointer, "#/$defs/d%d", below(m, m->n_defs));
        return json_pack("{s:s}", "$ref", below(m, 5) ? pointer : "#");
    }
}

json_t *schema_random(uint64_t seed)
{
    struct maker m = {.state = seed * 0x9E3779B97F4A7C15u + 1, .n_defs = 1};
    m.n_defs += below(&m, 3);
    json_t *root = make(&m, 3), *defs = json_object();
    for (int i = 0; i < m.n_defs; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "d%d", i);
        (void)json_object_set_new(defs, name, make(&m, 2));
    }
    if (json_is_boolean(root)) root = json_object();
    (void)json_object_set_new(root, "$defs", defs);
    return root;
}
