"use strict";
// Search, filters and details of the problems in the report. The data are in the page (tasks/reports/explorer.py); nothing is
// requested. Texts are set as text; the HTML of statements and answers is made by tasks/reports/mathml.py, which escapes it.
(() => {
  const PER_PAGE = 20, MOST_RELATIVES = 80;
  const CONTROLS = ["q", "state", "tier", "how", "src", "ok", "flag", "why", "low", "high", "sort"];
  const STANDARD = {state: "exported", sort: "given"};
  const counted = (count, noun) => count.toLocaleString("en") + " " + noun + (count === 1 ? "" : "s");
  const find = id => document.getElementById(id);
  const chunks = new Map();
  let rows = [], found = [], page = 0, byId = new Map(), children = new Map(), beside = {}, timer = 0;

  function make(tag, style, ...parts) {
    const one = document.createElement(tag);
    if (style) one.className = style;
    one.append(...parts.filter(part => part !== null && part !== undefined && part !== ""));
    return one;
  }

  function drawn(tag, style, html) {
    const one = make(tag, style);
    one.innerHTML = html;
    return one;
  }

  function link(content, address, style) {
    const one = make("a", style, content);
    one.href = address;
    return one;
  }

  async function unpack(name) {
    const text = atob(find(name).textContent), bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  async function details(row) {
    const name = "d" + Math.floor(row.at / 100);
    if (chunks.size > 40) chunks.clear();
    if (find(name) && !chunks.has(name)) chunks.set(name, unpack(name));
    return find(name) && (await chunks.get(name))[row.at % 100];
  }

  // --- search ---

  const state = () => Object.fromEntries(CONTROLS.map(name => [name, find(name).value]));

  function matches(row, at, words) {
    const exported = row.s === "exported";
    return (!at.state || at.why || row.s === at.state)
      && (!at.tier || row.tier === at.tier) && (!at.how || row.how === at.how) && (!at.src || row.src === at.src)
      && (!at.why || row.why === at.why) && (!at.ok || (exported && String(row.ok) === at.ok))
      && (!at.flag || (exported && (row.flag.length > 0) === (at.flag === "yes")))
      && (at.low === "" || (exported && row.w >= Number(at.low)))
      && (at.high === "" || (exported && row.w <= Number(at.high)))
      && words.every(word => row.hay.includes(word));
  }

  const ORDERS = {
    given: null,
    "w-up": (one, two) => one.w - two.w,
    "w-down": (one, two) => two.w - one.w,
    wrong: (one, two) => (one.ok ?? 2) - (two.ok ?? 2) || two.w - one.w,
    short: (one, two) => one.t.length - two.t.length,
    long: (one, two) => two.t.length - one.t.length,
  };

  function search() {
    const at = state();
    const words = at.q.toLowerCase().split(/\s+/).filter(Boolean);
    found = rows.filter(row => matches(row, at, words));
    const order = ORDERS[at.sort];
    if (order) found.sort((one, two) => (one.w === undefined) - (two.w === undefined) || order(one, two) || one.at - two.at);
  }

  // --- the list ---

  const pill = (text, style = "") => make("span", "pill " + style, text);

  function marks(row) {
    const box = make("div", "marks", row.tier ? pill(row.tier, "tier-" + row.tier) : "");
    if (row.s === "rejected") box.append(pill(row.why, "wrong"));
    else if (row.s !== "exported") box.append(pill(row.role + ", not exported"));
    if (row.ok === 0) box.append(pill("wrong", "wrong"));
    if (row.flag && row.flag.length) box.append(pill("flagged", "flagged"));
    return box;
  }

  function bar(row) {
    const box = make("div", "shares");
    for (const [style, share] of row.bar) box.appendChild(make("i", style)).style.width = 100 * share + "%";
    return box;
  }

  const statement = (row, style) => row.h ? drawn("div", style, row.h) : make("div", style, row.t || "(no text)");

  function item(row) {
    const numbers = make("div", "numbers");
    if (row.s === "exported") numbers.append(bar(row), `H = ${row.e.toFixed(3)}, w = ${row.w.toFixed(3)}`);
    else if (row.stage) numbers.append("rejected by " + row.stage);
    const summary = make("div", "summary", marks(row), statement(row, "answer clamp"), numbers);
    const one = make("details", "problem", make("summary", "", summary));
    one.id = "row-" + row.id;
    one.addEventListener("toggle", () => {
      if (one.open && one.children.length === 1) fill(one, row);
      if (one.open) keep(row.id);
    });
    return one;
  }

  function render() {
    const last = Math.max(0, Math.ceil(found.length / PER_PAGE) - 1);
    page = Math.min(Math.max(page, 0), last);
    find("rows").replaceChildren(...found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(item));
    find("count").textContent = counted(found.length, "problem");
    find("place").textContent = found.length ? `page ${page + 1} of ${last + 1}` : "Nothing matches: clear a filter.";
    find("before").disabled = page === 0;
    find("after").disabled = page >= last;
  }

  // --- the details ---

  function table(style, heads, lines) {
    const cell = (tag, [content, kind]) => make(tag, kind, typeof content === "number" ? String(content) : content);
    const head = make("thead", "", make("tr", "", ...heads.map(one => cell("th", one))));
    const body = make("tbody", "", ...lines.map(line => make("tr", "", ...line.map(one => cell("td", one)))));
    const whole = make("table", style);
    whole.append(head, body);
    return make("div", "scroll", whole);
  }

  const answer = html => html === null ? "no readable answer" : drawn("span", "", html);
  const permalink = (content, id, style) => link(content, "#open=" + encodeURIComponent(id), style);
  const texts = (row, more) => `report/${String(more.page).padStart(4, "0")}.html#p-${encodeURIComponent(row.id)}`;
  const dot = style => make("span", "dot " + style);

  const fact = (name, value) => make("span", "fact", name + " ", make("b", "answer", value));
  function facts(row, more) {
    const box = make("p", "facts");
    const path = [row.role, row.src && "from " + row.src].filter(Boolean).join(" ");
    box.append(make("span", "fact", [path, ...(more.facts || [])].join(" → ")));
    if (more.samples) {
      box.append(fact("majority answer", more.majority == null ? "none" : answer(more.majority)));
      if (row.ok !== null) box.append(make("b", row.ok ? "good" : "badly", row.ok ? "correct" : "wrong"));
      if (more.truth != null) box.append(fact("ground truth", answer(more.truth)));
      box.append(fact("discrete entropy", more.discrete.toFixed(3)), fact("judge calls", String(more.calls)), fact("licence", more.licence));
    }
    if (row.s === "rejected") box.append(fact("rejected by " + row.stage + ":", row.why), make("span", "answer", row.detail));
    box.append(permalink("permalink", row.id), more.page ? link("whole texts", texts(row, more)) : "");
    return box;
  }

  function sample([number, style, found, mean, tokens, reason, text, cut], address) {
    const numbers = [mean === null ? "" : mean.toFixed(3) + " nats/token", counted(tokens, "token"), reason];
    const summary = make("summary", "", make("span", "number", dot(style), String(number)),
      make("span", "answer", answer(found)), ...numbers.map(one => make("span", "n dim", one)));
    const body = drawn("div", "text", text);
    if (cut) body.append(" … ", link("whole text", address));
    return make("details", "", summary, body);
  }

  const verdicts = more => make("p", "facts", "Quality judge: ",
    ...more.verdict.map(([name, held]) => make("span", "fact " + (held ? "good" : "badly"), (held ? "✓ " : "✗ ") + name)));

  async function fill(one, row) {
    const more = await details(row) || {page: beside[row.id]};
    const body = make("div", "", statement(row, "statement text"), facts(row, more));
    if (more.samples) {
      const lines = more.clusters.map(([style, found, size, share]) =>
        [[make("span", "", dot(style), answer(found)), "answer words"], [size, "n"], [share.toFixed(3), "n"]]);
      body.append(table("clusters", [["cluster", ""], ["samples", "n"], ["probability", "n"]], lines));
      const [samples, clusters] = [more.samples.length, more.clusters.length];
      if (more.of[0] > samples || more.of[1] > clusters)
        body.append(make("p", "caption", `Shown: ${samples} of ${more.of[0]} samples, ${clusters} of ${more.of[1]} clusters.`));
      body.append(make("div", "samples", ...more.samples.map(line => sample(line, texts(row, more)))));
    }
    if (more.verdict) body.append(make("h3", "", "Verdict"), verdicts(more), make("div", "text sample", more.reply));
    if (more.found && more.found.length) body.append(make("h3", "", "Overlap with benchmarks"),
      table("", [["kind", ""], ["benchmark", ""], ["score", "n"], ["detail", ""]],
        more.found.map(([kind, name, score, detail]) => [[kind, ""], [name, "words"], [score.toFixed(3), "n"], [detail, "words answer"]])));
    const tree = lineage(row);
    if (tree) body.append(make("h3", "", "Lineage"), tree);
    if (one.children.length === 1) one.append(body);
  }

  // --- lineage ---

  function lineage(row) {
    const above = new Set([row]);
    let top = row;
    while (byId.has(top.parent) && !above.has(byId.get(top.parent))) above.add(top = byId.get(top.parent));
    const counts = {left: MOST_RELATIVES, hidden: 0};
    const tree = make("ul", "tree", branch(top, row, above, counts, new Set()));
    if (tree.querySelectorAll("li").length < 2) return null;
    if (counts.hidden) tree.append(make("li", "caption", `${counts.hidden} more not drawn`));
    return tree;
  }

  function branch(node, own, above, counts, drawnOnes) {
    drawnOnes.add(node);
    const label = node.how && node.how !== "none" ? `${node.how}, round ${node.round}` : node.role || "reply";
    const fate = node.s === "exported" ? `exported, w = ${node.w.toFixed(3)}` : node.s === "rejected" ? "rejected: " + node.why : "not exported";
    const text = statement(node, "answer clamp");
    const line = make("li", "", make("div", "edge", pill(label), " " + fate));
    line.append(permalink(text, node.id, node === own ? "node current" : "node"));
    const next = (children.get(node.id) || []).filter(one => !drawnOnes.has(one)).sort((one, two) => above.has(two) - above.has(one));
    const kept = next.filter(one => counts.left-- > 0 || above.has(one)); // the chain to the problem is never hidden
    counts.hidden += next.length - kept.length;
    const shown = kept.map(one => branch(one, own, above, counts, drawnOnes));
    if (shown.length) line.append(make("ul", "", ...shown));
    return line;
  }

  // --- address and keyboard ---

  function keep(open) {
    const at = state(), address = new URLSearchParams();
    for (const name of CONTROLS) if (at[name] !== (STANDARD[name] || "")) address.set(name, at[name]);
    if (page) address.set("page", page + 1);
    if (open) address.set("open", open);
    history.replaceState(null, "", "#" + address);
  }

  function follow() {
    const hash = location.hash.slice(1);
    clearTimeout(timer);
    if (hash && !hash.includes("=") && document.documentElement.dataset.ready) return; // a section
    const address = new URLSearchParams(hash), open = address.get("open");
    for (const name of CONTROLS) find(name).value = address.get(name) ?? STANDARD[name] ?? "";
    search();
    page = Number(address.get("page") || 1) - 1 || 0;
    let place = open === null ? -1 : found.findIndex(row => row.id === open);
    if (open !== null && place < 0 && byId.has(open)) {
      for (const name of CONTROLS) find(name).value = name === "sort" ? "given" : "";
      search();
      place = found.findIndex(row => row.id === open);
    }
    if (place >= 0) page = Math.floor(place / PER_PAGE);
    render();
    if (place < 0) return;
    const one = find("row-" + open);
    one.open = true;
    one.scrollIntoView();
    one.firstChild.focus({preventScroll: true});
  }

  function turn(step) {
    page += step;
    render();
    keep();
    find("count").scrollIntoView();
  }

  function press(event) {
    const typing = /^(INPUT|SELECT)$/.test(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey || (typing && event.key !== "Escape")) return;
    const all = [...find("rows").children].map(one => one.firstChild), here = document.activeElement;
    const at = all.findIndex(one => one.parentNode.contains(here));
    const keys = {
      "/": () => find("q").focus(), Escape: () => document.activeElement.blur(),
      j: () => all[Math.min(at + 1, all.length - 1)]?.focus(), k: () => all[Math.max(at - 1, 0)]?.focus(),
      n: () => find("after").disabled || turn(1), p: () => find("before").disabled || turn(-1),
    };
    if (keys[event.key]) event.preventDefault();
    keys[event.key]?.();
  }

  async function start() {
    rows = await unpack("index");
    if (find("pages")) beside = await unpack("pages");
    rows.forEach((row, at) => {
      row.at = at;
      row.hay = [row.t, row.id, row.a, row.src, row.why, row.detail].join("\n").toLowerCase();
      byId.set(row.id, row);
      if (row.parent) children.has(row.parent) ? children.get(row.parent).push(row) : children.set(row.parent, [row]);
    });
    find("form").addEventListener("input", () => {
      page = 0;
      search();
      render();
      clearTimeout(timer);
      timer = setTimeout(keep, 200); // browsers limit how often an address may change
    });
    find("form").addEventListener("submit", event => event.preventDefault());
    find("clear").addEventListener("click", () => { history.replaceState(null, "", "#state=exported"); follow(); });
    find("before").addEventListener("click", () => turn(-1));
    find("after").addEventListener("click", () => turn(1));
    addEventListener("keydown", press);
    addEventListener("hashchange", follow);
    find("explorer").hidden = false;
    follow();
    document.documentElement.dataset.ready = "yes";
  }

  requestAnimationFrame(() => setTimeout(start));
})();
