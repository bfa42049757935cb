/* doctor.c - `ds4 serve --doctor`: what to set in the clients, with this server's address in place. */
#include "serve/serve.h"

static void put_claude_code(struct buf *out, const char *host, unsigned port, const char *key)
{
    buf_printf(out, "Claude Code (shell):\n"
               "  export ANTHROPIC_BASE_URL=http://%s:%u\n"
               "  export ANTHROPIC_AUTH_TOKEN=%s\n"
               "  export ANTHROPIC_MODEL=deepseek-v4-flash\n"
               "  export ANTHROPIC_DEFAULT_HAIKU_MODEL=deepseek-v4-flash\n"
               "  export ANTHROPIC_DEFAULT_SONNET_MODEL=deepseek-v4-flash\n"
               "  export ANTHROPIC_DEFAULT_OPUS_MODEL=deepseek-v4-flash\n"
               "  export CLAUDE_CODE_SUBAGENT_MODEL=deepseek-v4-flash\n"
               "  export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1\n"
               "  export CLAUDE_CODE_ATTRIBUTION_HEADER=0\n\n", host, port, key);
}

static void put_codex(struct buf *out)
{
    buf_put_text(out, "Codex: speaks /v1/responses only, which this version does not serve yet.\n\n");
}

static void put_opencode(struct buf *out, const char *host, unsigned port, const char *key, unsigned ctx_tokens)
{
    buf_printf(out, "opencode (~/.config/opencode/opencode.json):\n"
               "  {\"provider\":{\"ds4\":{\"npm\":\"@ai-sdk/openai-compatible\",\"name\":\"ds4\",\n"
               "    \"options\":{\"baseURL\":\"http://%s:%u/v1\",\"apiKey\":\"%s\"},\n"
               "    \"models\":{\"deepseek-v4-flash\":{\"name\":\"DeepSeek V4 Flash\",\"reasoning\":true,\n"
               "      \"tool_call\":true,\"limit\":{\"context\":%u,\"output\":%u}}}}},\n"
               "   \"model\":\"ds4/deepseek-v4-flash\",\"small_model\":\"ds4/deepseek-v4-flash\"}\n\n",
               host, port, key, ctx_tokens, ctx_tokens / 4);
}

static void put_pi(struct buf *out, const char *host, unsigned port, const char *key, unsigned ctx_tokens)
{
    buf_printf(out, "Pi (~/.pi/agent/models.json):\n"
               "  {\"providers\":{\"ds4\":{\"baseUrl\":\"http://%s:%u/v1\",\"api\":\"openai-completions\",\n"
               "    \"apiKey\":\"%s\",\"compat\":{\"supportsStore\":false,\"supportsDeveloperRole\":false,\n"
               "      \"maxTokensField\":\"max_tokens\",\"supportsStrictMode\":false,\"thinkingFormat\":\"deepseek\",\n"
               "      \"requiresReasoningContentOnAssistantMessages\":true},\n"
               "    \"models\":[{\"id\":\"deepseek-v4-flash\",\"name\":\"DeepSeek V4 Flash\",\"reasoning\":true,\n"
               "      \"input\":[\"text\"],\"contextWindow\":%u,\"maxTokens\":%u}]}}}\n\n",
               host, port, key, ctx_tokens, ctx_tokens / 4);
}

static void put_sdks(struct buf *out, const char *host, unsigned port, const char *key)
{
    buf_printf(out, "OpenAI SDK:     base URL http://%s:%u/v1, key %s\n"
               "Anthropic SDK:  base URL http://%s:%u, key %s\n", host, port, key, host, port, key);
}

void doctor_put(struct buf *out, const char *host, unsigned port, unsigned ctx_tokens, bool needs_key)
{
    const char *key = needs_key ? "YOUR-KEY" : "any";
    unsigned ctx = ctx_tokens ? ctx_tokens : 32768;
    put_claude_code(out, host, port, key);
    put_codex(out);
    put_opencode(out, host, port, key, ctx);
    put_pi(out, host, port, key, ctx);
    put_sdks(out, host, port, key);
}
