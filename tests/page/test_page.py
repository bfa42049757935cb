"""The chat page at `/` on the scripted engine, used as a person uses it: with a mouse, with keys alone, on a phone."""

import base64
import hashlib
import re

import pytest

from test_serve import WITHOUT_END

LONG = "Some words of an answer that goes on for a while. " * 4
ANSWERS = [
    {"when": "guide", "token_ms": 1, "think": "They want a *list*.",
     "say": "## Title\n\nA **bold** word, `code` and *more*.\n\n"
     "1. one\n2. two\n   - inner\n\n```c\nint a = b[0] * c[1];\n```\n\n| a | b |\n|---|---|\n| x | `y` |\n\n> said\n\n"
     "See https://example.com/a_b_c. And [this](https://example.org)."},
    {"when": "endless", "say": "word ", "endless": True, "token_ms": 3},
    {"when": "breaks", "say": "abcdefgh", "fail_after": 6},
    {"when": "first", "say": "Answer to the first."},
    {"when": "second", "say": "Answer to the second."},
    {"when": "chance", "say": "nothing fixed", "spread": 8},
    {"when": "long", "think": "Hm.", "say": LONG},
]


@pytest.fixture
def begin(start):
    return lambda *args, **more: start(*args, **dict({"answers": ANSWERS, "ctx": 8192}, **more))


def ask(page, text):
    page.click("#ask")
    page.type(text)
    page.press("Enter")


def answered(page, n=1):
    """Waits until n answers are on the page and none is in progress."""
    page.until(f"document.querySelectorAll('article.assistant .stats').length === {n} && "
               "document.querySelector('#stop').hidden")


def test_the_page_is_one_file_that_names_its_style_and_script_and_nothing_else(begin):
    status, headers, body = begin().request("GET", "/")
    html, policy = body.decode(), headers["Content-Security-Policy"]
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
    for name in ("style", "script"):
        inner = re.search(rf"<{name}>(.*)</{name}>", html, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}';" in policy
    for part in ("default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
                 "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"):
        assert part in policy
    assert "unsafe" not in policy and "*" not in policy and "http:" not in policy
    assert re.findall(r"(?:src|href)=[\"'](?!#|data:)[^\"']*", html) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", html) == []


def test_there_is_no_page_when_it_is_not_wanted(begin):
    _, headers, body = begin("--no-page").request("GET", "/")
    assert headers["Content-Type"].startswith("text/plain") and b"<" not in body


def test_an_answer_streams_with_its_thoughts_folded_and_its_figures_below(begin, visit):
    page = visit(begin())
    ask(page, "a guide please")
    answered(page)
    article = "article.assistant > .body"
    assert page.text(f"{article} h4") == "Title" and page.text(f"{article} strong") == "bold"
    assert page.text(f"{article} pre code") == "int a = b[0] * c[1];"
    assert page.text(f"{article} ol > li:nth-child(2) li") == "inner"
    assert page.text(f"{article} td code") == "y" and page.text(f"{article} blockquote") == "said"
    assert page.js(f"[...document.querySelectorAll('{article} a')].map((a) => a.href + a.rel)") == [
        "https://example.com/a_b_cnoopener noreferrer nofollow", "https://example.org/noopener noreferrer nofollow"]
    assert not page.js("document.querySelector('details.think').open")
    page.click("details.think summary")
    assert page.until("document.querySelector('details.think .body em')?.innerText") == "list"
    assert re.search(r"\d+ tokens . [\d.,]+ tokens/s . read \d+", page.text(".stats"))
    assert re.match(r"Speed over the answer: from [\d.,]+ to [\d.,]+ tokens a second",
                    page.js("document.querySelector('article svg').getAttribute('aria-label')"))
    used = int(page.js("document.querySelector('#context').getAttribute('aria-valuenow')"))
    assert page.text("#context-text") == f"{used} / 8,192" and used > 100
    assert page.text("#title") == "a guide please"


def test_growing_text_ends_as_the_same_nodes_as_the_whole_text(begin, visit):
    page = visit(begin())
    text = ANSWERS[0]["say"] + "\n\npara\n\n- a\n\n- b\n\n~~~\n\n```\n\n~~~\n\n**x**\n\nlast *one*"
    assert page.js("""((text) => {
        const grown = document.createElement("div"), whole = document.createElement("div");
        const growing = new GrowingText(grown);
        for (let i = 1; i <= text.length; i++) growing.show(text.slice(0, i));
        putBlocks(whole, text.split("\\n"));
        return grown.isEqualNode(whole) && whole.children.length;
    })(""" + repr(text) + ")") >= 12


def test_reading_a_long_prompt_shows_how_far_it_is(begin, visit):
    page = visit(begin(chunk=16, chunk_ms=80))
    page.js("""window.seen = []; new MutationObserver(() => {
        const bar = document.querySelector('progress');
        if (bar) seen.push([bar.value, bar.closest('.progress').innerText]);
    }).observe(document.querySelector('#messages'),
               {subtree: true, childList: true, attributes: true, characterData: true})""")
    ask(page, "first " * 60)
    answered(page)
    between = [text for value, text in page.js("window.seen") if 0 < value < 1]
    assert between and all(re.fullmatch(r"Reading [1-9]\d* of \d+ tokens", text) for text in between)
    assert page.count("progress") == 0


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stopping_keeps_what_was_said_and_frees_the_server(begin, visit, way):
    server = begin(**WITHOUT_END)
    page = visit(server)
    ask(page, "endless")
    page.until("document.querySelector('article.assistant > .body').innerText.length > 40")
    page.click("#stop") if way == "button" else page.press("Escape")
    answered(page)
    assert page.text(".stats").startswith("Stopped") and page.text("article.assistant > .body").startswith("word word")
    server.wait_idle()
    assert server.metric("cancelled_total") == 1
    ask(page, "first")
    answered(page, 2)


def test_an_edited_message_becomes_a_branch_and_both_stay(begin, visit):
    page = visit(begin())
    ask(page, "first")
    answered(page)
    ask(page, "long")
    answered(page, 2)
    page.click("article.user [aria-label='Edit the message']")
    page.js("document.querySelector('.editor textarea').value = ''")
    page.type("second")
    page.press("Enter")
    page.until("document.querySelector('#messages').innerText.includes('Answer to the second.')")
    answered(page, 1)
    assert page.text(".branch span") == "2/2"
    page.click("[aria-label='Earlier version']")
    assert "Answer to the first." in page.text("#messages") and LONG[:20] in page.text("#messages")
    page.open(page.js("location.href"))
    page.click("#mine .open")
    page.click("[aria-label='Later version']")
    assert "Answer to the second." in page.text("#messages") and "first" not in page.text("#messages")


def test_an_answer_made_again_is_a_sibling_of_the_first(begin, visit):
    page = visit(begin())
    ask(page, "chance")
    answered(page)
    first = page.text("article.assistant > .body")
    page.click("[aria-label='Answer again']")
    page.until("document.querySelector('.branch span')?.innerText === '2/2'")
    answered(page)
    page.click("[aria-label='Earlier version']")
    assert page.text("article.assistant > .body") == first and page.count("article.user") == 1


def test_conversations_stay_in_the_browser_until_they_are_removed(begin, visit):
    page = visit(begin())
    ask(page, "first")
    answered(page)
    page.open(page.js("location.href"))
    assert page.until("document.querySelector('#mine .open span')?.innerText") == "first"
    page.click("#mine .open")
    assert "Answer to the first." in page.text("#messages")
    page.click("#mine .remove")
    assert page.count("#mine li") == 1  # asks once more
    page.click("#mine .remove")
    page.until("document.querySelectorAll('#mine li').length === 0")
    assert page.js("Object.keys(localStorage).filter((key) => key.startsWith('ds4.chat'))") == []


def test_stored_conversations_are_listed_and_opened_only_where_that_is_allowed(begin, visit, tmp_path):
    (tmp_path / "kv").mkdir(mode=0o700)
    shown = begin("--kv-dir", str(tmp_path / "kv"), "--show-stored")
    page = visit(shown)
    ask(page, "first <b>words</b>")
    answered(page)
    page.until("document.querySelector('#stored .open span')?.innerText")
    other = visit(shown)
    assert other.until("document.querySelector('#stored .open span')?.innerText") == "first <b>words</b>"
    other.click("#stored .open")
    other.until("document.querySelectorAll('article').length === 2")
    assert other.text("article.user > .body") == "first <b>words</b>"
    assert other.text("article.assistant > .body") == "Answer to the first."
    ask(other, "second")
    answered(other, 2)
    page.open(page.js("location.href"))
    page.until("document.querySelectorAll('#stored li').length === 1")  # the longer one has taken its place
    (tmp_path / "other").mkdir(mode=0o700)
    hidden = begin("--kv-dir", str(tmp_path / "other"))
    assert hidden.request("GET", "/v1/ds4/conversations")[2] == b'{"object":"list","available":false,"data":[]}'
    assert not visit(hidden).js("!document.querySelector('#stored-section').hidden")
    for key in ("0" * 32, "../../etc/passwd", "%00", "x" * 200):
        assert b"messages" not in hidden.request("GET", "/v1/ds4/conversations/" + key)[2]


def test_a_conversation_that_a_busy_disk_stores_late_is_listed_then(begin, visit, tmp_path):
    busy = tmp_path / "busy"
    busy.touch()
    (tmp_path / "kv").mkdir(mode=0o700)
    page = visit(begin("--kv-dir", str(tmp_path / "kv"), "--show-stored", hang_disk=str(busy)))
    page.until("document.querySelector('#stored-section').hidden === false")
    ask(page, "first")
    answered(page)
    looks = "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/conversations')).length"
    before = page.js(looks)
    page.until(f"{looks} > {before} && !document.querySelector('#stored .open')")
    busy.unlink()
    assert page.until("document.querySelector('#stored .open span')?.innerText") == "first"


def test_what_goes_wrong_is_said_and_can_be_tried_again(begin, visit):
    server = begin(fail_prefill="poison")
    page = visit(server)
    ask(page, "breaks")
    page.until("document.querySelector('.trouble')")
    assert "failed during the answer" in page.text(".trouble") and page.text("article.assistant > .body")
    assert page.js("document.querySelector('.trouble').getAttribute('role')") == "alert"
    ask(page, "poison")
    page.until("document.querySelectorAll('.trouble').length === 2")
    ask(page, "x" * 9000)
    page.until("document.querySelectorAll('.trouble').length === 3")
    assert "maximum context length is 8192" in page.text("article:last-child .trouble")
    server.stop()
    page.click("article:last-child .trouble button")
    page.until("document.querySelector('article:last-child .trouble')?.innerText.includes('cannot be reached')")
    page.errors = [e for e in page.errors if "400 (Bad Request)" not in e and "ERR_CONNECTION_REFUSED" not in e]


def test_an_api_key_is_asked_for_and_kept_for_the_tab_only(begin, visit, tmp_path):
    key = tmp_path / "key"
    key.write_text("secret-one\n")
    key.chmod(0o600)
    page = visit(begin("--api-key-file", str(key)), ready=False)
    page.until("document.querySelector('#settings').open")
    assert page.js("document.activeElement.id") == "set-key"
    page.type("secret-one")
    page.press("Enter")
    page.until("document.querySelector('#model-line').innerText.includes('context')")
    ask(page, "first")
    answered(page)
    assert "secret-one" not in page.js("JSON.stringify(localStorage)")
    page.errors = [e for e in page.errors if "401 (Unauthorized)" not in e]


def test_settings_reach_the_server(begin, visit):
    page = visit(begin())
    page.click("#open-settings")
    page.until("document.querySelector('#settings').open")
    page.type("Be brief.")
    page.js("document.querySelector('#set-tokens').value = '5'")
    page.click("#settings .primary")
    page.js("document.querySelector('#think').value = 'none'; "
            "document.querySelector('#think').dispatchEvent(new Event('change'))")
    ask(page, "long")
    answered(page)
    assert page.text("article.assistant > .body") == LONG[:5].strip() and page.count("details.think") == 0
    assert page.text(".stats").startswith("Stopped at the limit")
    assert page.js("bodyOf([], 'm').messages") == [{"role": "system", "content": "Be brief."}]


def test_an_answer_that_runs_in_circles_says_why_it_ended(begin, visit):
    page = visit(begin(answers=[{"say": "la ", "endless": True}]))
    ask(page, "sing")
    answered(page)
    assert page.text(".stats").startswith("Stopped: it repeated itself")


# ---- for everybody -----------------------------------------------------------------------------------------------

def focused(page):
    return page.js("document.activeElement.getAttribute('aria-label') || document.activeElement.id || "
                   "document.activeElement.innerText || document.activeElement.tagName")


def test_everything_can_be_done_with_keys_alone(begin, visit):
    page = visit(begin())
    assert focused(page) == "ask"
    page.type("first")
    page.press("Enter", shift=True)
    page.type("line two")
    page.press("Enter")
    answered(page)
    assert page.text("article.user > .body") == "first\nline two"
    assert focused(page) == "ask"
    seen = []
    page.js("document.activeElement.blur()")
    while len(seen) < 30:
        page.press("Tab")
        seen.append(focused(page))
        if seen[-1] == "ask":
            break
    for name in ("Skip to the message field", "Settings", "Edit the message", "Copy the message", "Answer again"):
        assert name in seen, seen
    assert any(name.startswith("Remove: ") for name in seen) and any("New conversation" in name for name in seen)
    page.js("document.querySelector(\"[aria-label='Edit the message']\").focus()")
    page.press("Enter")
    assert focused(page) == "Edit the message" and page.count(".editor") == 1
    page.press("Escape")
    assert page.count(".editor") == 0 and focused(page) == "Edit the message"
    page.js("document.querySelector('#open-settings').focus()")
    page.press("Enter")
    page.until("document.querySelector('#settings').open")
    page.press("Escape")
    page.until("!document.querySelector('#settings').open")
    assert focused(page) == "Settings"


def test_assistive_programs_are_told_a_name_for_everything(begin, visit):
    page = visit(begin())
    ask(page, "guide")
    answered(page)
    page.click("details.think summary")
    tree = page.tree()
    for role in ("button", "textbox", "combobox", "link", "meter", "navigation", "main", "article", "image", "region"):
        names = [name for r, name in tree if r == role]
        assert names and all(names), (role, names)
    for wanted in (("button", "Send"), ("textbox", "Message"), ("combobox", "Thinking"), ("meter", "Context used"),
                   ("navigation", "Conversations"), ("article", "You"), ("article", "Model"), ("heading", "guide")):
        assert wanted in tree
    assert ("status", "") in tree and re.fullmatch(r"Answered with \d+ tokens", page.text("#status"))
    assert page.js("document.documentElement.lang") == "en"


def test_a_phone_shows_everything_without_scrolling_sideways(begin, visit):
    page = visit(begin(), width=320, height=640, mobile=True)
    ask(page, "guide")
    answered(page)
    assert page.js("document.documentElement.scrollWidth") == 320
    assert page.js("""[...document.querySelectorAll('article, #composer, header')].every((e) => {
        const r = e.getBoundingClientRect(); return r.left >= 0 && r.right <= 320; })""")
    assert ("navigation", "Conversations") not in page.tree()
    page.click("#side-open")
    page.until("getComputedStyle(document.querySelector('#side')).visibility === 'visible'")
    assert ("navigation", "Conversations") in page.tree() and focused(page) == "Close the list"
    page.press("Escape")
    page.until("getComputedStyle(document.querySelector('#side')).visibility === 'hidden'")
    assert focused(page) == "Conversations"
    assert float(page.js("getComputedStyle(document.querySelector('#ask')).fontSize").removesuffix("px")) >= 16


# The ratio of WCAG 2.2 (1.4.3) between an element's colour and the first opaque background behind it.
CONTRAST = """(selector) => {
    const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgb = (colour) => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data]; };
    const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 :
        ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const element = document.querySelector(selector);
    let behind = element;
    while (behind && rgb(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const a = light(rgb(getComputedStyle(element).color));
    const b = light(rgb(getComputedStyle(behind ?? document.body).backgroundColor));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(begin, visit, scheme):
    page = visit(begin())
    page.media(prefers_color_scheme=scheme)
    ask(page, "guide")
    answered(page)
    ask(page, "breaks")
    page.until("document.querySelector('.trouble')")
    for selector in ("article.user > .body", "article.assistant p", "article.assistant a", "article.assistant code",
                     "blockquote", ".stats", ".trouble span", "details.think summary", "#context-text", ".hint",
                     "#mine .current small", "#side h2", "#send", "#new", "#think", ".codebox .bar-top span"):
        assert page.js(f"({CONTRAST})({selector!r})") >= 4.5, selector


def test_the_scheme_follows_the_system_or_the_choice(begin, visit):
    page = visit(begin())
    background = "getComputedStyle(document.body).backgroundColor"
    page.media(prefers_color_scheme="light")
    light = page.js(background)
    page.media(prefers_color_scheme="dark")
    dark = page.js(background)
    assert light != dark
    page.click("#open-settings")
    page.js("document.querySelector('#set-theme').value = 'light'")
    page.click("#settings .primary")
    page.until(f"{background} === {light!r}")
    page.open(page.js("location.href"))
    assert page.js(background) == light
