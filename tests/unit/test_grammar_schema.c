/* test_grammar_schema.c - which JSON texts the grammar of a schema takes: for each keyword, schemas with texts that
 * conform and texts that do not, by tokens of one byte and by the longest ones. Every beginning of a text that is taken
 * must have a completion which the grammar takes. */
#include <stdio.h>

#include "lib/grammar_walk.h"
#include "lib/test.h"

struct example {
    const char *schema;
    const char *good[12], *bad[14];
};

static void check_completions(const char *schema, const char *text)
{
    for (size_t n = 0; n <= strlen(text); n++) {
        struct ds4_grammar *g = walker_schema(schema);
        struct ds4_text out = {0};
        assert_int_not_equal(walker_walk(g, span_make(text, n), false, false), WALK_REFUSED);
        walker_complete(g, &out);
        ds4_text_free(&out);
        ds4_grammar_destroy(g);
    }
}

static void check_text(const char *schema, const char *text, bool good)
{
    for (int longest = 0; longest < 2; longest++) {
        struct ds4_grammar *g = walker_schema(schema);
        enum walk walk = walker_walk(g, span_from(text), longest, false);
        if ((walk == WALK_WHOLE) != good)
            fail_msg("%s must %sbe taken by %s and is not", text, good ? "" : "not ", schema);
        ds4_grammar_destroy(g);
    }
    if (good) check_completions(schema, text);
}

static void check(const struct example *examples, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (int t = 0; examples[i].good[t]; t++) check_text(examples[i].schema, examples[i].good[t], true);
        for (int t = 0; examples[i].bad[t]; t++) check_text(examples[i].schema, examples[i].bad[t], false);
    }
}
#define CHECK(examples) check(examples, sizeof(examples) / sizeof *(examples))

TEST(types_are_kept)
{
    static const struct example examples[] = {
        {"{\"type\":\"null\"}", {"null"}, {"", "nul", "nullx", "true", "0", " null", "null "}},
        {"{\"type\":\"boolean\"}", {"true", "false"}, {"truE", "1", "\"true\"", "null"}},
        {"{\"type\":\"integer\"}", {"0", "-1", "10", "123456789012345678"}, {"-0", "01", "1.0", "1e2", "-", "+1",
            "1 "}},
        {"{\"type\":\"number\"}",
         {"0", "-0", "1.5", "-0.25", "1e5", "1E-05", "12.50e+10", "0.000"},
         {"01", ".5", "1.", "1e", "1e+", "--1", "1e999", "NaN", "Infinity", "0x1"}},
        {"{\"type\":\"string\"}", {"\"\"", "\"a b\"", "\"caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\""},
         {"a", "\"", "\"a\"b", "'a'", "\"\n\"", "\"\t\""}},
        {"{\"type\":\"array\"}", {"[]", "[1, \"a\", null, [true], {}]", "[\n  1\n]"}, {"[1,]", "[,]", "[1 2]", "{}"}},
        {"{\"type\":\"object\"}", {"{}", "{\"a\": 1}", "{ \"a\": 1 }"}, {"{a:1}", "{\"a\"}", "{\"a\":1,}", "[]"}},
        {"{\"type\":[\"string\",\"null\"]}", {"\"x\"", "null"}, {"1", "true", "[]", "{}"}},
        {"{\"type\":[\"integer\",\"boolean\"]}", {"7", "false"}, {"7.5", "null", "\"7\""}},
        {"{}", {"null", "1.5", "\"a\"", "[]", "{\"a\": [{}]}"}, {"", "nul", "[", "tru"}},
        {"true", {"1", "{}"}, {"x"}},
    };
    CHECK(examples);
}

TEST(strings_keep_utf8_escapes_and_lengths)
{
    static const struct example examples[] = {
        {"{\"type\":\"string\"}",
         {"\"\\n\\t\\\"\\\\\\/\\b\\f\\r\"", "\"\\u00e9\\u20AC\"", "\"\\uD7FF\\uE000\"", "\"\xED\x9F\xBF\""},
         {"\"\\x\"", "\"\\u12G4\"", "\"\\u12\"", "\"\\uD800\"", "\"\\udfff\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"",
          "\"\xF5\x80\x80\x80\"", "\"\x80\"", "\"\xE2\x82\"", "\"\xFF\""}},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
         {"\"ab\"", "\"abc\"", "\"\xE2\x82\xAC\xE2\x82\xAC\"", "\"\xF0\x9F\x98\x80\xF0\x9F\x98\x80x\"", "\"\\n\\n\""},
         {"\"\"", "\"a\"", "\"abcd\"", "\"\xE2\x82\xAC\"", "\"\\u0041\"", "\"\\n\\n\\n\\n\""}},
        {"{\"minLength\":1}", {"\"a\""}, {"\"\""}},
        {"{\"maxLength\":0}", {"\"\""}, {"\"a\""}},
    };
    CHECK(examples);
}

TEST(bounds_of_numbers_are_kept)
{
    static const struct example examples[] = {
        {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":120}", {"5", "7", "12", "99", "100", "120"},
         {"4", "0", "121", "130", "200", "1000", "-5", "1"}},
        {"{\"type\":\"integer\",\"minimum\":-20,\"maximum\":-3}", {"-3", "-19", "-20"}, {"-2", "-21", "3", "0", "-1"}},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":0}", {"1", "999999999999999999"}, {"0", "-1"}},
        {"{\"type\":\"integer\",\"exclusiveMaximum\":10,\"minimum\":9.5}", {}, {"9", "10"}},
        {"{\"type\":\"number\",\"minimum\":0.5,\"maximum\":0.75}", {"0.5", "0.500000", "0.62", "0.75"},
         {"0.4", "0.751", "0", "1", "0.7500001", "5e-1", "-0.5"}},
        {"{\"type\":\"number\",\"exclusiveMinimum\":-1,\"exclusiveMaximum\":1}", {"0", "-0.5", "0.999999", "-0.999999"},
         {"1", "-1", "-1.0", "1.5"}},
        {"{\"type\":\"number\",\"minimum\":1e2}", {"100", "100.5", "2000"}, {"99.9", "1e3", "50"}},
        {"{\"type\":\"integer\",\"minimum\":1e30,\"maximum\":1e31}", {}, {}},
    };
    check(examples, 3);
    check(examples + 4, 3);
}

TEST(arrays_keep_items_and_counts)
{
    static const struct example examples[] = {
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", {"[]", "[1]", "[1,2, 3]"}, {"[1.5]", "[\"a\"]",
            "[[]]"}},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":2}", {"[1]", "[1,\"b\"]"}, {"[]", "[1,2,3]"}},
        {"{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":3,\"maxItems\":3}", {"[true,false,true]"},
         {"[true]", "[true,true,true,true]"}},
        {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":false}",
         {"[]", "[1]", "[1,\"a\"]"}, {"[\"a\"]", "[1,2]", "[1,\"a\",3]"}},
        {"{\"type\":\"array\",\"prefixItems\":[{\"const\":1}],\"items\":{\"const\":2},\"minItems\":2}",
         {"[1,2]", "[1,2,2]"}, {"[1]", "[2,2]", "[1,1]"}},
        {"{\"items\":{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":1}}", {"[]",
            "[[null],[null,null]]"},
         {"[[]]", "[null]"}},
        {"{\"type\":\"array\",\"maxItems\":0}", {"[]", "[ ]"}, {"[1]"}},
    };
    CHECK(examples);
}

TEST(objects_keep_members)
{
    static const struct example examples[] = {
        {"{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"}},\"required\":[\"a\"]}",
         {"{\"a\":1}", "{\"a\": 1, \"b\": \"x\"}", "{\"b\":\"x\",\"a\":1}", "{\n \"a\": 1\n}"},
         {"{}", "{\"b\":\"x\"}", "{\"a\":\"1\"}", "{\"a\":1,\"c\":1}", "{\"a\":1,\"a\":2}", "{\"a\":1,\"b\":2}",
          "{\"\\u0061\":1}"}},
        {"{\"properties\":{\"a\":{\"type\":\"integer\"}},\"additionalProperties\":{\"type\":\"boolean\"}}",
         {"{}", "{\"x\":true}", "{\"a\":1,\"ab\":false}", "{\"x\":true,\"y\":false,\"a\":0}"},
         {"{\"a\":true}", "{\"x\":1}", "{\"\\u0061\":true}"}},
        {"{\"type\":\"object\",\"additionalProperties\":false}", {"{}"}, {"{\"a\":1}"}},
        {"{\"properties\":{\"a\":false,\"b\":true}}", {"{}", "{\"b\":[1]}"}, {"{\"a\":1}"}},
        {"{\"required\":[\"z\",\"z\"]}", {"{\"z\":null}"}, {"{}", "{\"y\":1}"}},
        {"{\"properties\":{\"a\\\"b\\n\":{\"const\":1},\"\xC3\xA9\":{\"const\":2}}}",
         {"{\"a\\\"b\\n\":1,\"\xC3\xA9\":2}"}, {"{\"a\":1}"}},
        {"{\"properties\":{\"a\":{},\"ab\":{\"const\":1},\"abc\":{\"const\":2}},\"required\":[\"abc\"]}",
         {"{\"abc\":2,\"a\":1,\"ab\":1}"}, {"{\"ab\":2}", "{\"abc\":1}"}},
    };
    CHECK(examples);
}

TEST(constants_and_choices_are_kept)
{
    static const struct example examples[] = {
        {"{\"enum\":[\"red\",\"re\",1,10,null,{\"a\":[1]}]}",
         {"\"red\"", "\"re\"", "1", "10", "null", "{\"a\": [1]}"}, {"\"r\"", "\"reds\"", "100", "{}", "0"}},
        {"{\"type\":\"string\",\"enum\":[\"a\",1]}", {"\"a\""}, {"1"}},
        {"{\"const\":\"x\\ny\"}", {"\"x\\ny\""}, {"\"x\"", "\"xy\""}},
        {"{\"const\":1.50}", {"1.50"}, {"1", "1.5"}},
        {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}", {"5", "\"a\""}, {"\"ab\"",
            "true"}},
        {"{\"anyOf\":[{\"type\":\"array\",\"items\":{\"type\":\"integer\"}},"
         "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}]}",
         {"[]", "[1,2]", "[\"a\"]"}, {"[1,\"a\"]"}},
        {"{\"type\":\"string\",\"anyOf\":[{\"const\":1},{\"const\":\"b\"}]}", {"\"b\""}, {"1"}},
        {"{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}]}", {"\"\"", "1"}, {"1.5", "null"}},
        {"{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"a\"},\"n\":{\"type\":\"integer\"}},"
         "\"required\":[\"k\",\"n\"]},"
         "{\"type\":\"object\",\"properties\":{\"k\":{\"enum\":[\"b\",\"c\"]}},\"required\":[\"k\"]}]}",
         {"{\"k\":\"a\",\"n\":1}", "{\"k\":\"c\"}", "{\"n\":1,\"k\":\"a\"}"}, {"{\"k\":\"a\"}",
             "{\"k\":\"b\",\"n\":1}"}},
        {"{\"allOf\":[{\"type\":\"null\"}]}", {"null"}, {"1"}},
    };
    CHECK(examples);
}

TEST(references_and_recursion_are_kept)
{
    static const struct example examples[] = {
        {"{\"$ref\":\"#/$defs/x\",\"$defs\":{\"x\":{\"type\":\"integer\"}}}", {"1"}, {"\"a\""}},
        {"{\"$defs\":{\"a/b~c\":{\"const\":3}},\"items\":{\"$ref\":\"#/$defs/a~1b~0c\"}}", {"[3]"}, {"[4]"}},
        {"{\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}},"
         "\"required\":[\"v\",\"next\"]}",
         {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":{\"next\":null,\"v\":3}}}"},
         {"{\"v\":1}", "{\"v\":1,\"next\":{}}", "{\"v\":1,\"next\":{\"v\":2}}"}},
        {"{\"$ref\":\"#/$defs/tree\",\"$defs\":{\"tree\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/tree\"}}}}",
         {"[]", "[[],[[]]]"}, {"[1]", "[{}]"}},
    };
    CHECK(examples);
}

TEST(nesting_ends_at_its_limit_and_can_still_be_closed)
{
    char deep[200];
    struct ds4_grammar *g = walker_schema("{\"type\":\"array\"}");
    memset(deep, '[', sizeof deep);
    assert_int_equal(walker_walk(g, span_make(deep, 64), false, false), WALK_OPEN);
    struct ds4_text out = {0};
    walker_complete(g, &out);
    assert_int_equal(out.len, 64);
    ds4_text_free(&out);
    assert_int_equal(walker_walk(g, span_make(deep, 1), false, false), WALK_REFUSED);
    ds4_grammar_destroy(g);
}

TEST(members_beyond_64_keep_their_order_and_their_obligations)
{
    char schema[8192] = "{\"properties\":{";
    for (int i = 0; i < 100; i++)
        (void)snprintf(schema + strlen(schema), 40, "%s\"k%d\":{\"const\":%d}", i ? "," : "", i, i);
    (void)snprintf(schema + strlen(schema), 60, "},\"required\":[\"k3\",\"k70\"]}");
    check_text(schema, "{\"k3\":3,\"k70\":70}", true);
    check_text(schema, "{\"k0\":0,\"k3\":3,\"k69\":69,\"k70\":70,\"k99\":99}", true);
    check_text(schema, "{\"k70\":70,\"k3\":3}", false);
    check_text(schema, "{\"k3\":3,\"k71\":71}", false);
    check_text(schema, "{\"k3\":3}", false);
}

TEST(numbers_are_multiples)
{
    static const struct example examples[] = {
        {"{\"type\":\"integer\",\"multipleOf\":7}", {"0", "7", "-14", "7007"}, {"1", "8", "-1", "70.0"}},
        {"{\"type\":\"integer\",\"multipleOf\":100,\"minimum\":-100,\"maximum\":250}",
         {"-100", "0", "100", "200"}, {"10", "300", "-200", "150"}},
        {"{\"type\":\"number\",\"multipleOf\":0.25}", {"0.25", "-1.5", "3", "2.50"}, {"0.3", "0.26", "1e2"}},
        {"{\"type\":\"integer\",\"multipleOf\":5,\"minimum\":-4}", {"0", "5"}, {"-5", "-", "3"}}};
    CHECK(examples);
}

TEST(members_are_counted)
{
    static const struct example examples[] = {
        {"{\"type\":\"object\",\"minProperties\":1}", {"{\"a\":1}", "{\"a\":1,\"b\":{}}"}, {"{}"}},
        {"{\"type\":\"object\",\"maxProperties\":1}", {"{}", "{\"a\":1}"}, {"{\"a\":1,\"b\":2}", "{\"a\":1,}"}},
        {"{\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2},\"c\":{\"const\":3}},\"required\":[\"b\"],"
         "\"minProperties\":2,\"maxProperties\":2}", {"{\"a\":1,\"b\":2}", "{\"b\":2,\"c\":3}"},
         {"{\"b\":2}", "{\"a\":1,\"c\":3}", "{\"a\":1,\"b\":2,\"c\":3}"}},
        {"{\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2}},\"additionalProperties\":{\"type\":\"null\"},"
         "\"minProperties\":2,\"maxProperties\":3}", {"{\"a\":1,\"x\":null}", "{\"x\":null,\"y\":null,\"b\":2}"},
         {"{\"a\":1}", "{\"x\":null,\"x\":null}", "{\"x\":null,\"y\":null,\"z\":null}"}}};
    CHECK(examples);
}

TEST(items_that_must_differ_do)
{
    static const struct example examples[] = {
        {"{\"items\":{\"enum\":[\"a\",\"ab\",\"b c\"]},\"uniqueItems\":true}",
         {"[]", "[\"a\"]", "[\"ab\", \"a\"]", "[ \"b c\",\"ab\" , \"a\" ]"},
         {"[\"a\",\"a\"]", "[\"a\",\"ab\",\"a\"]", "[\"a\",\"ab\",\"b c\",", "[\"a\",]", "[,]", "[\"c\"]", "[\"a\""}},
        {"{\"items\":{\"enum\":[1,12,2]},\"uniqueItems\":true,\"minItems\":2}", {"[1,12]", "[12,1,2]", "[2, 1]"},
         {"[1]", "[]", "[1,1]", "[12,12]", "[1,12,1]", "[1,13]"}},
        {"{\"items\":{\"enum\":[1,1.0,10e-1,\"1\",true,0,-0.0]},\"uniqueItems\":true}",
         {"[1,\"1\",true,0]", "[1.0,0]", "[10e-1]"}, {"[1,1.0]", "[1.0,10e-1]", "[0,-0.0]", "[true,true]"}},
        {"{\"items\":{\"enum\":[{\"a\":1,\"b\":[2]},{\"b\":[2.0],\"a\":1},{\"a\":1}]},\"uniqueItems\":true}",
         {"[{\"a\": 1, \"b\": [2]}, {\"a\": 1}]"}, {"[{\"a\": 1, \"b\": [2]}, {\"b\": [2.0], \"a\": 1}]"}},
        {"{\"items\":{\"enum\":[\"A\",\"\\u0041\",[],{}]},\"uniqueItems\":true}", {"[\"A\",[],{}]"}, {"[\"A\",\"A\"]"}},
        {"{\"items\":{\"type\":\"boolean\"},\"uniqueItems\":true}", {"[true]", "[false,true]"},
         {"[true,true]", "[true,false,", "[null]"}},
        {"{\"items\":{\"type\":[\"boolean\",\"null\"]},\"uniqueItems\":true,\"maxItems\":2}", {"[null,true]"},
         {"[null,true,false]", "[null,null]"}},
        {"{\"items\":{\"type\":\"integer\",\"minimum\":-1,\"exclusiveMaximum\":12},\"uniqueItems\":true}",
         {"[1,11,-1,10,0]"}, {"[1,1]", "[12]", "[11,1,11]", "[-2]"}},
        {"{\"items\":{\"$ref\":\"#/$defs/d\"},\"uniqueItems\":true,\"$defs\":{\"d\":{\"const\":\"x\"}}}",
         {"[]", "[\"x\"]"}, {"[\"x\",\"x\"]"}},
        {"{\"type\":\"array\",\"uniqueItems\":true,\"maxItems\":1}", {"[]", "[\"any\"]"}, {"[1,2]"}},
        {"{\"type\":\"array\",\"uniqueItems\":false}", {"[1,1]"}, {"{}"}}};
    CHECK(examples);
}

TEST(strings_match_their_pattern_as_they_are_written)
{
    static const struct example examples[] = {
        {"{\"pattern\":\"^[a-c]+$\"}", {"\"abc\"", "\"a\""}, {"\"\"", "\"abd\"", "\"d", "1"}},
        {"{\"pattern\":\"b\"}", {"\"b\"", "\"abc\"", "\"xx\\nb\xE2\x82\xAC\""}, {"\"a\"", "\"\""}},
        {"{\"pattern\":\"^a|b$\"}", {"\"ax\"", "\"xb\""}, {"\"xa\"", "\"bx\""}},
        {"{\"pattern\":\"^\\\\d{3}-\\\\w?\\\\s$\"}", {"\"123-_ \"", "\"000- \""}, {"\"12-a \"", "\"123-ab \""}},
        {"{\"pattern\":\"^[\\\"\\\\\\\\\\n]{2}$\"}", {"\"\\\"\\\\\"", "\"\\n\\n\""}, {"\"\\\"\"", "\"nn\""}},
        {"{\"pattern\":\"^[\xC3\xA4-\xC3\xBC]{2}$\"}", {"\"\xC3\xA4\xC3\xBC\""},
         {"\"\xC3\xA4\"", "\"\xC3\xA3\xC3\xA4\"", "\"ae\""}},
        {"{\"pattern\":\"^[^a]$\"}", {"\"b\"", "\"\xF0\x9F\x98\x80\"", "\"\xE2\x82\xAC\""}, {"\"a\"", "\"bb\""}},
        {"{\"pattern\":\"^(?:ab){1,2}c??$\",\"maxLength\":4}", {"\"ab\"", "\"abc\"", "\"abab\""},
         {"\"ababc\"", "\"a\""}},
        {"{\"pattern\":\"^[a-z]*$\",\"minLength\":2,\"maxLength\":3}", {"\"ab\"", "\"abc\""}, {"\"a\"", "\"abcd\""}},
        {"{\"pattern\":\"^(?!a)(?!.*xx)[a-z]+$\"}", {"\"b\"", "\"bxax\""}, {"\"ab\"", "\"bxxb\""}},
        {"{\"pattern\":\"^(?=.*[0-9])[a-z0-9]{3}$\"}", {"\"a1b\""}, {"\"abc\"", "\"12\""}},
        {"{\"pattern\":\"\\\\u00e9\\\\x41$\"}", {"\"\xC3\xA9" "A\""}, {"\"eA\""}},
        {"{\"type\":[\"string\",\"null\"],\"pattern\":\"^x$\"}", {"\"x\"", "null"}, {"\"y\""}}};
    CHECK(examples);
}

/* From the texts that define them: RFC 3339, 9562, 5321, 2673, 4291, 1123, 3986. */
TEST(strings_have_their_format)
{
    static const struct example examples[] = {
        {"{\"format\":\"date\"}", {"\"1985-04-12\"", "\"1996-12-31\""},
         {"\"1985-4-12\"", "\"2001-02-30\"", "\"2001-13-01\"", "\"2001-04-31\"", "\"x\""}},
        {"{\"format\":\"time\"}", {"\"23:20:50.52Z\"", "\"12:00:27+00:20\""},
         {"\"24:00:00Z\"", "\"12:00\"", "\"12:00:00\""}},
        {"{\"format\":\"date-time\"}", {"\"1985-04-12T23:20:50.52Z\"", "\"1996-12-19T16:39:57-08:00\""},
         {"\"1985-04-12\"", "\"1985-04-12 23:20:50Z\"", "\"1985-04-12T23:20:50\""}},
        {"{\"format\":\"uuid\"}", {"\"f81d4fae-7dec-11d0-a765-00a0c91e6bf6\""},
         {"\"f81d4fae7dec11d0a76500a0c91e6bf6\""}},
        {"{\"format\":\"email\"}", {"\"joe.bloggs@example.com\""},
         {"\"joe\"", "\"a@b\"", "\".a@example.com\"", "\"a..b@example.com\""}},
        {"{\"format\":\"ipv4\"}", {"\"192.168.0.1\"", "\"255.0.0.10\""},
         {"\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""}},
        {"{\"format\":\"ipv6\"}", {"\"2001:DB8:0:0:8:800:200C:417A\""}, {"\"12345::\"", "\"1:2:3\""}},
        {"{\"format\":\"hostname\"}", {"\"www.example.com\"", "\"a\""}, {"\"-a\"", "\"a-\"", "\"a..b\""}},
        {"{\"format\":\"uri\"}", {"\"http://www.ietf.org/rfc/rfc2396.txt\"", "\"ftp://a.b:21/c?d=e#f\""},
         {"\"//a\"", "\"a b\""}},
        {"{\"format\":\"duration\"}", {"\"P1Y2M3DT4H\"", "\"P2W\"", "\"PT36H\""},
         {"\"P\"", "\"1D\"", "\"P1S\"", "\"P1D2H\""}},
        {"{\"format\":\"date\",\"pattern\":\"^20\"}", {"\"2025-04-12\""}, {"\"1985-04-12\""}},
        {"{\"format\":\"email\",\"pattern\":\"^(?!\\\\.)(?!.*\\\\.\\\\.)([A-Za-z0-9_'+\\\\-\\\\.]*)[A-Za-z0-9_+-]@"
         "([A-Za-z0-9][A-Za-z0-9\\\\-]*\\\\.)+[A-Za-z]{2,}$\"}", {"\"joe.b@example.com\""}, {"\"joe@example\""}}};
    CHECK(examples);
}

struct refusal {
    const char *schema;
    enum ds4_status status;
    const char *message; /* a part of it */
};

TEST(what_cannot_be_honoured_is_named_with_its_path)
{
    static const struct refusal refusals[] = {
        {"{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", DS4_ERR_UNSUPPORTED, "\"pattern\""},
        {"{\"pattern\":\"a(?=b)\"}", DS4_ERR_UNSUPPORTED, "lookahead"},
        {"{\"pattern\":\"(\"}", DS4_ERR_FORMAT, "\"pattern\""},
        {"{\"pattern\":\"a**\"}", DS4_ERR_FORMAT, "\"pattern\""},
        {"{\"pattern\":\"^a$\",\"minLength\":2}", DS4_ERR_UNSUPPORTED, "no text matches"},
        {"{\"pattern\":\"^(([ab]{1000}){1000}){1000}$\"}", DS4_ERR_LIMIT, "\"pattern\""},
        {"{\"properties\":{\"a\":{\"items\":{\"format\":\"iri\"}}}}", DS4_ERR_UNSUPPORTED,
         "the \"format\" iri is not supported at #/properties/a/items"},
        {"{\"anyOf\":[{},{\"not\":{}}]}", DS4_ERR_UNSUPPORTED, "\"not\" is not supported at #/anyOf/1"},
        {"{\"patternProperties\":{}}", DS4_ERR_UNSUPPORTED, "\"patternProperties\""},
        {"{\"minProperties\":2}", DS4_ERR_UNSUPPORTED, "minProperties"},
        {"{\"maxProperties\":2,\"minProperties\":3,\"additionalProperties\":false}", DS4_ERR_FORMAT, "no value"},
        {"{\"uniqueItems\":true}", DS4_ERR_UNSUPPORTED, "\"uniqueItems\""},
        {"{\"properties\":{\"a\":{\"items\":{\"type\":\"string\"},\"uniqueItems\":true}}}", DS4_ERR_UNSUPPORTED,
         "not for those at #/properties/a/items"},
        {"{\"items\":{\"type\":\"integer\",\"minimum\":0},\"uniqueItems\":true}", DS4_ERR_UNSUPPORTED, "#/items"},
        {"{\"items\":{},\"uniqueItems\":1}", DS4_ERR_FORMAT, "\"uniqueItems\""},
        {"{\"items\":{\"enum\":[1,1.0]},\"uniqueItems\":true,\"minItems\":2}", DS4_ERR_FORMAT, "no value"},
        {"{\"multipleOf\":1e-7}", DS4_ERR_UNSUPPORTED, "multipleOf"},
        {"{\"type\":\"integer\",\"multipleOf\":10,\"minimum\":11,\"maximum\":19}", DS4_ERR_FORMAT, "no value"},
        {"{\"wibble\":3}", DS4_ERR_UNSUPPORTED, "\"wibble\""},
        {"{\"if\":{},\"then\":{}}", DS4_ERR_UNSUPPORTED, "\"if\""},
        {"{\"allOf\":[{},{}]}", DS4_ERR_UNSUPPORTED, "allOf"},
        {"{\"anyOf\":[{}],\"minLength\":1}", DS4_ERR_UNSUPPORTED, "\"anyOf\" beside others"},
        {"{\"oneOf\":[{\"type\":\"number\"},{\"type\":\"integer\"}]}", DS4_ERR_UNSUPPORTED, "oneOf"},
        {"{\"$ref\":\"http://a/b\"}", DS4_ERR_UNSUPPORTED, "not inside the schema"},
        {"{\"$ref\":\"#/nothing\"}", DS4_ERR_FORMAT, "finds nothing"},
        {"{\"type\":\"strnig\"}", DS4_ERR_FORMAT, "\"type\""},
        {"{\"minItems\":-1}", DS4_ERR_FORMAT, "\"minItems\""},
        {"{\"items\":3}", DS4_ERR_FORMAT, "#/items"},
        {"{", DS4_ERR_FORMAT, "JSON"},
        {"false", DS4_ERR_FORMAT, "no value can satisfy it"},
        {"{\"$ref\":\"#\"}", DS4_ERR_FORMAT, "no value can satisfy it"},
        {"{\"items\":{\"$ref\":\"#\"},\"type\":\"array\",\"minItems\":1}", DS4_ERR_FORMAT, "no value can satisfy it"},
        {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", DS4_ERR_FORMAT, "no value can satisfy it"},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":1}", DS4_ERR_FORMAT, "no value can satisfy it"},
        {"{\"type\":\"integer\",\"minimum\":2,\"maximum\":1}", DS4_ERR_FORMAT, "no value can satisfy it"},
        {"{\"type\":\"string\",\"minLength\":4000000000}", DS4_ERR_LIMIT, "shortest value"},
        {"{\"type\":\"array\",\"minItems\":99999999}", DS4_ERR_LIMIT, "shortest value"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct ds4_grammar_options options = {.schema = span_from(refusals[i].schema)};
        struct ds4_grammar *g = NULL;
        struct ds4_error error = {0};
        if (ds4_grammar_create(walker_open()->index, &options, &g, &error) != refusals[i].status ||
            !strstr(error.message, refusals[i].message))
            fail_msg("%s: %d \"%s\", not \"%s\"", refusals[i].schema, error.status, error.message, refusals[i].message);
    }
}

TEST(schemas_that_explode_meet_a_limit)
{
    /* Each array holds ten of the next: 10^k values at least. */
    char schema[4096] = "{\"$ref\":\"#/$defs/a0\",\"$defs\":{";
    struct ds4_error error = {0};
    struct ds4_grammar *g = NULL;
    for (int i = 0; i < 30; i++)
        (void)snprintf(schema + strlen(schema), 120,
                       "\"a%d\":{\"type\":\"array\",\"minItems\":10,\"items\":{\"$ref\":\"#/$defs/a%d\"}},", i, i + 1);
    (void)snprintf(schema + strlen(schema), 40, "\"a30\":{\"type\":\"null\"}}}");
    struct ds4_grammar_options options = {.schema = span_from(schema)};
    assert_status(ds4_grammar_create(walker_open()->index, &options, &g, &error), DS4_ERR_LIMIT, error);
}

static int close_all(void **state)
{
    (void)state;
    walker_close();
    return 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        T(types_are_kept), T(strings_keep_utf8_escapes_and_lengths), T(bounds_of_numbers_are_kept),
        T(arrays_keep_items_and_counts), T(objects_keep_members), T(constants_and_choices_are_kept),
        T(references_and_recursion_are_kept), T(nesting_ends_at_its_limit_and_can_still_be_closed),
        T(members_beyond_64_keep_their_order_and_their_obligations),
        T(numbers_are_multiples), T(members_are_counted), T(items_that_must_differ_do),
        T(strings_match_their_pattern_as_they_are_written),
        T(strings_have_their_format), T(what_cannot_be_honoured_is_named_with_its_path),
        T(schemas_that_explode_meet_a_limit)};
    int failed = run_tests_(__FILE__, tests, sizeof tests / sizeof *tests);
    (void)close_all(NULL);
    return failed;
}
