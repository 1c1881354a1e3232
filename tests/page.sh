#!/usr/bin/env bash
# The page in a real browser: a headless Chromium opens it by light and by dark, wide and on a phone. No error on its
# console, nothing asked for but what is the page's own, and what a screen reader needs is there: a title, a language,
# landmarks, one first heading, labels. On a phone nothing is wider than the screen, and axe-core finds nothing to mend. The
# screenshots stay in target/page/. tests/page.rs works out the contrasts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
# shellcheck source=tests/wait_for.sh
. tests/wait_for.sh
need chromium "apt-get install chromium"
need python3 "apt-get install python3"

work=$(mktemp -d)
sandbox='' agent=''
clean_up() {
    for pid in $agent $sandbox; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

cargo build --quiet --locked --bins
bin=$(realpath "${CARGO_TARGET_DIR:-target}/debug")
shots=${CARGO_TARGET_DIR:-target}/page
rm -rf "$shots" && mkdir -p "$shots"
"$bin/waldur-sandbox" --listen 127.0.0.1:0 >"$work/sandbox.log" &
sandbox=$!
wait_for "the sandbox listens" grep -q '^listening on ' "$work/sandbox.log"
# What another writer has left in Project B's month is held.
python3 - "$(sed -n 's/^listening on //p' "$work/sandbox.log")" <<'PYTHON'
import datetime, json, sys, urllib.request
month = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-01")
row = {"resource": "project-b", "type": "cpu_hours", "usage": "3200.00", "billing_period": month}
urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/sandbox/rows", json.dumps(row).encode(), method="POST"))
PYTHON
echo sandbox-token >"$work/token"
echo page-token >"$work/page-token"
# Some days of two users' jobs of two projects, and one that Waldur does not know.
python3 - >"$work/jobs" <<'PYTHON'
import datetime, json
now = datetime.datetime.now(datetime.timezone.utc)
first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
count = 0
at = first
while at + datetime.timedelta(hours=6) < now and count < 400:
    end = at + datetime.timedelta(hours=6)
    for project, user in [("project-a", "alice"), ("project-a", "bob"), ("project-b", "carol"), ("unknown", "dave")]:
        count += 1
        print(json.dumps({
            "name": "cpu_seconds", "kind": "delta", "id": str(count), "value": 3600 * (1 + count % 5),
            "start": at.isoformat(), "end": end.isoformat(), "labels": {"project": project, "user": user},
        }))
    at = end
print(json.dumps({
    "name": "cpu_seconds", "kind": "delta", "id": "last", "value": 1800, "start": (now - datetime.timedelta(minutes=1)).isoformat(),
    "end": now.isoformat(), "labels": {"project": "project-a", "user": "alice"},
}))
PYTHON
cat >"$work/agent.yaml" <<YAML
waldur: { url: "$(sed -n 's/^listening on //p' "$work/sandbox.log")", token_file: $work/token }
ledger: $work/ledger.db
page: { listen: "127.0.0.1:0", token_file: $work/page-token }
submit: { schedule: every 1s }
collectors:
  jobs:
    plugin: exec
    command: [cat, $work/jobs]
    schedule: "@hourly"
    resource: { offering: 91ab0000-0000-4000-8000-000000000001, backend_id: "{project}" }
    user: "{user}"
    meters: { cpu_hours: { reading: cpu_seconds, factor: 1/3600 } }
  broken:
    plugin: exec
    command: [sh, -c, "echo the machine does not answer >&2; exit 1"]
    schedule: "@hourly"
    resource: 5e2f0000-0000-4000-8000-000000000002
    meters: { gpu_hours: { reading: gpu_seconds, factor: 1/3600, aggregate: sum } }
YAML
"$bin/waldur-usage-agent" --config "$work/agent.yaml" run >"$work/agent.log" 2>&1 &
agent=$!
wait_for "something is reported" grep -q 'Reported [1-9]' "$work/agent.log"
address=$(sed -n 's|.*The page is at http://\([^/]*\)/.*|\1|p' "$work/agent.log" | head -n 1)

# Opens a page, keeps what came of it and what Chromium said, and makes a screenshot.
browse() { # name, path, width,height, more arguments
    local name=$1 path=$2 size=$3
    shift 3
    local chromium=(chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars
        --user-data-dir="$work/profile" --window-size="$size" --enable-logging=stderr --log-level=0 "$@")
    "${chromium[@]}" --dump-dom "http://any:page-token@$address$path" >"$work/$name.html" 2>"$work/$name.console" ||
        fail "Chromium could not open $path: $(tail -n 5 "$work/$name.console")"
    "${chromium[@]}" --screenshot="$shots/$name.png" "http://any:page-token@$address$path" >/dev/null 2>&1 ||
        fail "no screenshot of $path"
    [ -s "$shots/$name.png" ] || fail "the screenshot of $path is empty"
    if grep -q 'CONSOLE' "$work/$name.console"; then
        fail "the console of $path: $(grep CONSOLE "$work/$name.console")"
    fi
    echo "ok: $name has nothing on its console"
}
resource=/resource/5e2f0000-0000-4000-8000-000000000001
dark=--blink-settings=preferredColorScheme=0
browse overview / 1200,1000
browse resource "$resource" 1200,1600
browse overview-phone / 420,1200
browse resource-phone "$resource" 420,1600
browse overview-dark / 1200,1000 "$dark"
browse resource-dark "$resource" 1200,1600 "$dark"

python3 - "$work" <<'PYTHON'
import html.parser, pathlib, sys

VOID = {"meta", "link", "br", "img", "input", "hr"}

class Page(html.parser.HTMLParser):
    """What a screen reader would go by."""
    def __init__(self, text):
        super().__init__()
        self.found, self.stack, self.text = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(len(self.found) - 1)

    def handle_endtag(self, tag):
        while self.stack and self.found[self.stack.pop()][0] != tag:
            pass

    def handle_data(self, data):
        for at in self.stack:
            self.text[at] = self.text.get(at, "") + data

    def all(self, tag):
        return [(attributes, self.text.get(at, "").strip()) for at, (name, attributes) in enumerate(self.found) if name == tag]

def check(name, fine, why):
    if not fine:
        raise SystemExit(f"page.sh: {name}: {why}")

for name, words in [("overview", ["Project A", "Waldur holds", "the machine does not answer", "3200.00", "held"]), ("resource", ["Project A", "alice", "1/3600"])]:
    text = pathlib.Path(sys.argv[1], f"{name}.html").read_text()
    page = Page(text)
    for word in words:
        check(name, word in text, f"`{word}` is not on it")
    check(name, page.all("html")[0][0].get("lang") == "en", "it has no language")
    check(name, len(page.all("title")) >= 1 and page.all("title")[0][1], "it has no title")
    for landmark in ["header", "main", "nav", "footer"]:
        check(name, page.all(landmark), f"it has no {landmark}")
    check(name, len(page.all("main")) == 1 and len(page.all("h1")) == 1, "it has not one main and one h1")
    check(name, all(attributes.get("aria-label") for attributes, _ in page.all("nav")), "a nav has no label")
    check(name, all(text for _, text in page.all("a")), "a link has no text")
    pictures = page.all("svg")
    check(name, pictures and all(one.get("role") == "img" and one.get("aria-label") for one, _ in pictures), "a picture has no words")
    check(name, len(page.all("table")) == len(page.all("caption")), "a table has no caption")
    check(name, all(one.get("scope") in ("row", "col") for one, _ in page.all("th")), "a heading of a table has no scope")
    regions = [one for one, _ in page.all("div") if one.get("role") == "region"]
    check(name, all(one.get("aria-label") and one.get("tabindex") == "0" for one in regions), "a table can't be scrolled by keyboard")
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    check(name, len(ids) == len(set(ids)), "an id is there twice")
    labels = [attributes["aria-labelledby"] for _, attributes in page.found if "aria-labelledby" in attributes]
    check(name, set(labels) <= set(ids), "a label names nothing")
    levels = [int(tag[1]) for tag, _ in page.found if tag in ("h1", "h2", "h3", "h4")]
    check(name, all(after - before <= 1 for before, after in zip(levels, levels[1:])), "a level of headings is left out")
    check(name, not page.all("script"), "it has a script")
    print(f"ok: {name} has what a screen reader needs")
PYTHON

# axe-core's own rules, each page as it came, with its stylesheet: the page's policy lets no script of others in.
venv=${CARGO_TARGET_DIR:-target}/axe-venv
if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import axe_playwright_python' 2>/dev/null; then
    if ! python3 -m venv "$venv" ||
        ! "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps 'axe-playwright-python==0.1.8'; then
        left_out "axe-core 4.12.1" "It is installed from PyPI (axe-playwright-python 0.1.8), with python3-venv and pip."
    fi
fi
cp "$("$venv/bin/python" -c 'import axe_playwright_python as axe; print(axe.__path__[0])')/axe.min.js" src/daemon/page/style.css "$work"
# Within a frame, because a window of Chromium's is never narrower than 500 pixels.
judge() { # name, width, more arguments
    local name=$1 width=$2
    shift 2
    python3 - "$work" "$name" "$width" <<'PYTHON'
import pathlib, sys
work, name, width = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
text = (work / f"{name}.html").read_text()
assert 'href="/style.css"' in text
text = text.replace('href="/style.css"', 'href="style.css"').replace("</body>", """<script src="axe.min.js"></script><script>
axe.run().then(found => {
    const told = one => one.id + ": " + one.help + ": " + one.nodes.map(node => node.html).join(" ");
    const wide = document.documentElement.scrollWidth - window.innerWidth;
    parent.postMessage(JSON.stringify(
        { passes: found.passes.length, violations: found.violations.map(told), wide: wide, width: window.innerWidth }), "*");
});</script></body>""")
(work / f"{name}.framed.html").write_text(text)
(work / f"{name}.judge.html").write_text(f"""<!DOCTYPE html><html lang="en"><script>
onmessage = said => document.documentElement.setAttribute("data-judged", said.data);
</script><iframe src="{name}.framed.html" style="width: {width}px; height: 1200px; border: 0"></iframe></html>""")
PYTHON
    chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --user-data-dir="$work/profile" \
        --window-size=1300,1300 --virtual-time-budget=60000 "$@" --dump-dom "file://$work/$name.judge.html" \
        >"$work/$name.judged" 2>/dev/null || fail "Chromium could not judge $name"
    python3 - "$name" "$width" "$work/$name.judged" <<'PYTHON'
import html, json, pathlib, re, sys
name, width, text = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]).read_text()
told = re.search(r'data-judged="([^"]*)"', text)
if not told:
    raise SystemExit(f"page.sh: {name}: axe-core did not come to an end")
told = json.loads(html.unescape(told[1]))
if told["violations"]:
    raise SystemExit("\n".join([f"page.sh: {name}: axe-core finds", *told["violations"]]))
if told["width"] != width or told["wide"] > 0:
    raise SystemExit(f"page.sh: {name}: of {told['width']} pixels (asked for: {width}), {told['wide']} too wide")
if told["passes"] < 15:
    raise SystemExit(f"page.sh: {name}: axe-core looked at {told['passes']} rules only")
print(f"ok: {name}: axe-core has nothing to say, by {told['passes']} rules, and nothing is wider than {width} pixels")
PYTHON
}
judge overview 1200
judge resource 1200
judge overview-phone 420
judge resource-phone 420
judge overview-dark 1200 "$dark"
judge resource-dark 1200 "$dark"
echo "page.sh: passed; the screenshots are in $shots"
