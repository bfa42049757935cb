/* doctor.c - `ds4 serve --doctor`: what to set in the clients, with this server's address in place, and a look at the
 * server that answers there. The settings are those that tests/clients runs the clients with. */
#include "serve/doctor.h"

#include <stdio.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/net.h"
#include "serve/http/gate.h"
#include "serve/json.h"

#define PATIENCE_MS 3000
#define REPLY_BYTES_MAX (1u << 20)
#define CTX_TOKENS_UNKNOWN 32768u
#define TURN_TOKENS_MIN 20480u /* the first turn of the agent with the longest one (Claude Code) is about 19,000 */
#define CLAUDE_WINDOW_MIN 100000u /* it takes no less, and compacts at the server's word below */

struct site {
    struct buf url;          /* http://host:port */
    const char *key, *model;
    unsigned ctx_tokens;
};

/* ---- settings ------------------------------------------------------------------------------------------------- */

static void put_claude_code(struct buf *out, const struct site *s, const char *url)
{
    static const char *const names[] = {"ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL",
                                        "ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL",
                                        "CLAUDE_CODE_SUBAGENT_MODEL"};
    buf_printf(out, "Claude Code (shell):\n  export ANTHROPIC_BASE_URL=%s\n  export ANTHROPIC_AUTH_TOKEN=%s\n", url,
               s->key);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) buf_printf(out, "  export %s=%s\n", names[i], s->model);
    if (s->ctx_tokens >= CLAUDE_WINDOW_MIN)
        buf_printf(out, "  export CLAUDE_CODE_AUTO_COMPACT_WINDOW=%u\n", s->ctx_tokens);
    buf_put_text(out, "  export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1\n"
                 "  export CLAUDE_CODE_ATTRIBUTION_HEADER=0\n\n");
}

static void put_codex(struct buf *out, const struct site *s, const char *url)
{
    buf_printf(out, "Codex (~/.codex/config.toml; and in the shell: export DS4_API_KEY=%s):\n"
               "  model = \"%s\"\n"
               "  model_provider = \"ds4\"\n"
               "  model_context_window = %u\n"
               "  [model_providers.ds4]\n"
               "  name = \"ds4\"\n"
               "  base_url = \"%s/v1\"\n"
               "  wire_api = \"responses\"\n"
               "  env_key = \"DS4_API_KEY\"\n"
               "  stream_idle_timeout_ms = 1000000\n\n", s->key, s->model, s->ctx_tokens, url);
}

static void put_opencode(struct buf *out, const struct site *s, const char *url)
{
    buf_printf(out, "opencode (~/.config/opencode/opencode.json):\n"
               "  {\"provider\":{\"ds4\":{\"npm\":\"@ai-sdk/openai-compatible\",\"name\":\"ds4\",\n"
               "    \"options\":{\"baseURL\":\"%s/v1\",\"apiKey\":\"%s\"},\n"
               "    \"models\":{\"%s\":{\"name\":\"DeepSeek V4 Flash\",\"reasoning\":true,\n"
               "      \"tool_call\":true,\"limit\":{\"context\":%u,\"output\":%u}}}}},\n"
               "   \"model\":\"ds4/%s\",\"small_model\":\"ds4/%s\"}\n\n",
               url, s->key, s->model, s->ctx_tokens, s->ctx_tokens / 4, s->model, s->model);
}

static void put_pi(struct buf *out, const struct site *s, const char *url)
{
    buf_printf(out, "Pi (~/.pi/agent/models.json; then: pi --provider ds4 --model %s):\n"
               "  {\"providers\":{\"ds4\":{\"baseUrl\":\"%s/v1\",\"api\":\"openai-completions\",\n"
               "    \"apiKey\":\"%s\",\"compat\":{\"supportsStore\":false,\"supportsDeveloperRole\":false,\n"
               "      \"supportsReasoningEffort\":true,\"supportsUsageInStreaming\":true,\n"
               "      \"maxTokensField\":\"max_tokens\",\"supportsStrictMode\":false,\"thinkingFormat\":\"deepseek\",\n"
               "      \"requiresReasoningContentOnAssistantMessages\":true},\n"
               "    \"models\":[{\"id\":\"%s\",\"name\":\"DeepSeek V4 Flash\",\"reasoning\":true,\n"
               "      \"input\":[\"text\"],\"contextWindow\":%u,\"maxTokens\":%u,\n"
               "      \"cost\":{\"input\":0,\"output\":0,\"cacheRead\":0,\"cacheWrite\":0}}]}}}\n\n",
               s->model, url, s->key, s->model, s->ctx_tokens, s->ctx_tokens / 4);
}

static void put_sdks(struct buf *out, const struct site *s, const char *url)
{
    buf_printf(out, "OpenAI SDK (Python, Node):\n"
               "  OpenAI(base_url=\"%s/v1\", api_key=\"%s\")\n"
               "  new OpenAI({ baseURL: \"%s/v1\", apiKey: \"%s\" })\n\n"
               "Anthropic SDK (Python, Node):\n"
               "  Anthropic(base_url=\"%s\", api_key=\"%s\")\n"
               "  new Anthropic({ baseURL: \"%s\", apiKey: \"%s\" })\n\n",
               url, s->key, url, s->key, url, s->key, url, s->key);
}

/* ---- the server that runs ------------------------------------------------------------------------------------- */

struct reply {
    int status; /* 0 = none came */
    struct buf bytes;
    struct ds4_span body;
};

/* Sends what there is and reads to the end, or until the time is over. */
static void exchange_bytes(int fd, struct ds4_span request, struct buf *in)
{
    uint64_t began = clock_ns();
    char bytes[4096];
    long n = 1;
    while (n != 0 && n != NET_GONE && !in->failed && clock_seconds_since(began) * 1e3 < PATIENCE_MS) {
        struct net_poll item = {.fd = fd, .wants = NET_READ | (request.len ? NET_WRITE : 0)};
        net_poll(&item, 1, 200);
        n = NET_AGAIN;
        if (request.len && item.got & NET_WRITE) {
            n = net_send(fd, request.ptr, request.len);
            if (n > 0) request = span_skip(request, (size_t)n);
        } else if (item.got) {
            n = net_recv(fd, bytes, sizeof bytes);
            if (n > 0) buf_put(in, bytes, (size_t)n);
        }
    }
}

static struct reply get(const struct doctor *d, const char *host, const char *path, const char *key)
{
    struct reply reply = {.bytes.limit = REPLY_BYTES_MAX};
    struct buf request = {0};
    int fd;
    if (net_connect(host, (uint16_t)d->port, &fd, NULL) != DS4_OK) return reply;
    buf_printf(&request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nConnection: close\r\n", path, d->port);
    if (key) buf_printf(&request, "Authorization: Bearer %s\r\n", key);
    buf_put_text(&request, "\r\n");
    exchange_bytes(fd, buf_span(&request), &reply.bytes);
    net_close(fd);
    buf_deinit(&request);
    struct ds4_span all = buf_span(&reply.bytes);
    size_t head = span_find(all, SPAN("\r\n\r\n"), 0);
    if (head == SIZE_MAX || !span_starts(all, SPAN("HTTP/1.1 "))) return reply;
    for (size_t i = 9; i < 12; i++) reply.status = reply.status * 10 + (all.ptr[i] - '0');
    reply.body = span_skip(all, head + 4);
    return reply;
}

/* The model's name and context, when it is a ds4 that answers. */
static bool read_model(struct ds4_span body, struct arena *arena, struct ds4_span *id, unsigned *ctx_tokens)
{
    const struct jv *root, *data;
    double ctx;
    if (jv_parse(arena, body, &root, NULL) != DS4_OK) return false;
    data = jv_get(root, "data");
    if (!jv_is(data, JV_ARRAY) || !data->first || !jv_text_is(jv_get(data->first, "owned_by"), "ds4")) return false;
    if (!jv_number(jv_get(data->first, "context_length"), &ctx) || ctx < 1 || ctx > 4e9) return false;
    *id = jv_text(jv_get(data->first, "id"));
    *ctx_tokens = (unsigned)ctx;
    return true;
}

static void put_running(struct buf *out, const struct doctor *d, const char *host, const char *url,
                        const struct site *s, bool *well)
{
    struct reply health = get(d, host, "/health", NULL), open = get(d, host, "/v1/models", NULL);
    if (health.status == 200) buf_put_text(out, "  health   fine\n");
    else buf_put_text(out, "  health   NOT FINE: it is busy with something for too long, or going down\n");
    *well = *well && health.status == 200;
    buf_printf(out, "  key      %s\n", open.status == 401 ? "asked for" : "none asked for");
    if (s->ctx_tokens < TURN_TOKENS_MIN) {
        buf_printf(out, "  context  %u tokens: TOO FEW for coding agents, whose first turn takes 1,500 (Pi) to 19,000 "
                   "(Claude Code);\n           start with --ctx 65536 or more\n", s->ctx_tokens);
        *well = false;
    } else {
        buf_printf(out, "  context  %u tokens\n", s->ctx_tokens);
    }
    buf_printf(out, "  page     %s/\n", url);
    buf_deinit(&health.bytes);
    buf_deinit(&open.bytes);
}

/* Fills in what the running server says of itself, and appends what was found. */
static void look(struct buf *out, const struct doctor *d, const char *host, struct site *s, bool *well)
{
    const char *url = s->url.text.ptr;
    struct reply models = get(d, host, "/v1/models", d->secret);
    struct arena arena;
    struct ds4_span id;
    arena_init(&arena, REPLY_BYTES_MAX);
    *well = models.status == 0 || models.status == 200;
    if (models.status == 0) {
        buf_printf(out, "Running: nothing answers at %s. Start it with: ds4 serve\n", url);
    } else if (models.status == 401) {
        buf_printf(out, "Running: a server at %s asks for a key: say --api-key-file\n", url);
    } else if (models.status == 200 && read_model(models.body, &arena, &id, &s->ctx_tokens)) {
        buf_printf(out, "Running: ds4 at %s with the model %.*s\n", url, (int)id.len, id.ptr);
        put_running(out, d, host, url, s, well);
    } else {
        buf_printf(out, "Running: something else than ds4 answers at %s: choose another --port\n", url);
        *well = false;
    }
    arena_deinit(&arena);
    buf_deinit(&models.bytes);
}

bool doctor_put(struct buf *out, const struct doctor *d)
{
    bool everywhere = strcmp(d->host, "0.0.0.0") == 0 || strcmp(d->host, "::") == 0, well;
    const char *host = everywhere ? "127.0.0.1" : d->host;
    struct site s = {.key = d->secret ? "YOUR-KEY" : "any", .model = d->alias,
                     .ctx_tokens = d->ctx_tokens ? d->ctx_tokens : CTX_TOKENS_UNKNOWN};
    struct buf running = {0};
    buf_printf(&s.url, strchr(host, ':') ? "http://[%s]:%u" : "http://%s:%u", host, d->port);
    if (s.url.failed) return false;
    look(&running, d, host, &s, &well);
    put_claude_code(out, &s, s.url.text.ptr);
    put_codex(out, &s, s.url.text.ptr);
    put_opencode(out, &s, s.url.text.ptr);
    put_pi(out, &s, s.url.text.ptr);
    put_sdks(out, &s, s.url.text.ptr);
    if (everywhere) buf_put_text(out, "On other machines write this machine's address instead of 127.0.0.1.\n\n");
    buf_put_span(out, buf_span(&running));
    buf_deinit(&running);
    buf_deinit(&s.url);
    return well && !out->failed;
}
