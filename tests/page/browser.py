"""A real browser for tests: headless Chromium driven over its debugging pipe (file descriptors 3 and 4, messages of the
DevTools protocol ended by NUL). No driver, no network port, no package."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import threading
import time

PATIENCE_S = 240  # for anything that a loaded machine may be slow at; a test polls for a state, it never times one
KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32, "ArrowDown": 40, "ArrowUp": 38}


def find_chromium():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    return None


class Browser:
    def __init__(self, profile):
        to_read, self.to_write = os.pipe()
        self.from_read, from_write = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--disable-extensions", "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}",
                 "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "about:blank"]
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_read, from_write)]

        def place():
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen([find_chromium(), *flags], preexec_fn=place, pass_fds=(3, 4),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in ends:
            os.close(fd)
        os.close(to_read)
        os.close(from_write)
        self.answers, self.pages, self.last_id = {}, {}, 0
        self.heard = threading.Condition()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        held = b""
        while part := os.read(self.from_read, 1 << 16):
            *messages, held = (held + part).split(b"\0")
            with self.heard:
                for message in map(json.loads, messages):
                    if "id" in message:
                        self.answers[message["id"]] = message
                    elif page := self.pages.get(message.get("sessionId")):
                        page.note(message["method"], message["params"])
                self.heard.notify_all()

    def call(self, method, session=None, **params):
        with self.heard:
            self.last_id += 1
            own = self.last_id
            message = {"id": own, "method": method, "params": params}
            if session:
                message["sessionId"] = session
            os.write(self.to_write, json.dumps(message).encode() + b"\0")
            if not self.heard.wait_for(lambda: own in self.answers, PATIENCE_S):
                raise TimeoutError(f"the browser did not answer {method}")
            answer = self.answers.pop(own)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def page(self, **size):
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, context)
        page.prepare(**size)
        return page

    def close(self):
        try:
            self.call("Browser.close")
        except (AssertionError, TimeoutError, OSError):
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.to_write)


class Page:
    """One tab with a profile of its own. What goes wrong in it is collected: test_page.py wants it all empty."""

    def __init__(self, browser, session, context):
        self.browser, self.session, self.context = browser, session, context
        self.errors, self.requests = [], []

    def note(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def prepare(self, width=1100, height=800, mobile=False):
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")
        self.resize(width, height, mobile)
        self.call("Page.addScriptToEvaluateOnNewDocument", source="""window.violations = [];
            addEventListener("securitypolicyviolation",
                             (e) => violations.push(e.violatedDirective + " " + e.blockedURI));""")

    def resize(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def media(self, **features):
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": name.replace("_", "-"), "value": value} for name, value in features.items()])

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
                           allowUnsafeEvalBlockedByCSP=False)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression):
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                value = self.js(expression)
                if value not in (None, False, 0, ""):
                    return value
            except AssertionError:  # a page on its way out has no context
                pass
            assert time.monotonic() < end, f"never true: {expression}\n{self.errors}\n{self.text()}"
            time.sleep(0.03)

    def text(self, selector="body"):
        return self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? null")

    def count(self, selector):
        return self.js(f"document.querySelectorAll({json.dumps(selector)}).length")

    def click(self, selector):
        """A press of the mouse in the middle of the first element, where a person would press."""
        box = self.until(f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            if (!e) return null; e.scrollIntoView({{block: "nearest"}}); const r = e.getBoundingClientRect();
            return r.width ? [r.x + r.width / 2, r.y + r.height / 2] : null; }})()""")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], clickCount=1,
                      button="none" if kind == "mouseMoved" else "left")

    def press(self, key, shift=False):
        more = {"text": {"Enter": "\r"}.get(key, key)} if key in ("Enter", " ") else {}
        common = dict(key=key, code="Space" if key == " " else key, windowsVirtualKeyCode=KEYS[key],
                      modifiers=8 if shift else 0)
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def tree(self):
        """(role, name) of everything that assistive programs are told."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]

    def picture(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)
