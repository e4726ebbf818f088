(async () => {
  "use strict";
  const DOINGS = ["start", "rendezvous", "fork", "set-up", "call", "teardown", "waiting", "killed"];
  const STATES = ["ok", "skipped", "xfailed", "failed", "lost peer", "killed"];
  const ORDER = ["error", "failed", "xpassed", "rerun", "skipped", "xfailed", "passed"];
  const BAD = new Set(["error", "failed", "xpassed"]);
  const FAILURE = 4; // a kind of marks
  const PAGE = 500, OPENED = 10, LANES = 256;
  const $ = (id) => document.getElementById(id);

  // --- the data: JSON, compressed, in base64 ---

  // What browsers before 2023 do not have: RFC 1951, without the checks.
  function inflate(input) {
    let at = 2, bit = 0, out = new Uint8Array(1 << 20), size = 0;
    const bits = (count) => {
      let value = 0;
      for (let i = 0; i < count; i++) {
        value |= ((input[at] >> bit) & 1) << i;
        if (++bit === 8) { bit = 0; at++; }
      }
      return value;
    };
    const push = (byte) => {
      if (size === out.length) { const more = new Uint8Array(2 * size); more.set(out); out = more; }
      out[size++] = byte;
    };
    const table = (lengths) => {
      const counts = new Uint16Array(16), offsets = new Uint16Array(16), symbols = new Uint16Array(lengths.length);
      for (const length of lengths) counts[length]++;
      counts[0] = 0;
      for (let i = 1; i < 16; i++) offsets[i] = offsets[i - 1] + counts[i - 1];
      lengths.forEach((length, symbol) => { if (length) symbols[offsets[length]++] = symbol; });
      return { counts, symbols };
    };
    const symbol = ({ counts, symbols }) => {
      let code = 0, first = 0, index = 0;
      for (let length = 1; length < 16; length++) {
        code |= bits(1);
        if (code - counts[length] < first) return symbols[index + code - first];
        index += counts[length];
        first = (first + counts[length]) << 1;
        code <<= 1;
      }
      throw new Error("the data of this page is damaged");
    };
    const lengthOf = [], extraOf = [], distanceOf = [], extraDistance = [];
    for (let i = 0, base = 3; i < 28; i++) { extraOf[i] = i < 8 ? 0 : (i >> 2) - 1; lengthOf[i] = base; base += 1 << extraOf[i]; }
    lengthOf[28] = 258; extraOf[28] = 0;
    for (let i = 0, base = 1; i < 30; i++) { extraDistance[i] = i < 4 ? 0 : (i >> 1) - 1; distanceOf[i] = base; base += 1 << extraDistance[i]; }
    for (let last = 0; !last;) {
      last = bits(1);
      const kind = bits(2);
      if (kind === 0) {
        if (bit) { bit = 0; at++; }
        const length = input[at] | (input[at + 1] << 8);
        at += 4;
        for (let i = 0; i < length; i++) push(input[at++]);
        continue;
      }
      let literals, distances;
      if (kind === 1) {
        literals = table(Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8)));
        distances = table(new Array(30).fill(5));
      } else {
        const many = bits(5) + 257, far = bits(5) + 1, codes = bits(4) + 4, lengths = new Array(19).fill(0);
        for (let i = 0; i < codes; i++) lengths[[16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15][i]] = bits(3);
        const coded = table(lengths), all = [];
        while (all.length < many + far) {
          const what = symbol(coded);
          if (what < 16) { all.push(what); continue; }
          const value = what === 16 ? all[all.length - 1] : 0;
          let times = what === 16 ? 3 + bits(2) : what === 17 ? 3 + bits(3) : 11 + bits(7);
          while (times--) all.push(value);
        }
        literals = table(all.slice(0, many));
        distances = table(all.slice(many));
      }
      for (;;) {
        const what = symbol(literals);
        if (what === 256) break;
        if (what < 256) { push(what); continue; }
        const length = lengthOf[what - 257] + bits(extraOf[what - 257]);
        const how = symbol(distances), back = distanceOf[how] + bits(extraDistance[how]);
        for (let i = 0; i < length; i++) push(out[size - back]);
      }
    }
    return out.subarray(0, size);
  }

  async function unpacked() {
    const packed = Uint8Array.from(atob($("data").textContent), (letter) => letter.charCodeAt(0));
    if (typeof DecompressionStream === "undefined") return JSON.parse(new TextDecoder().decode(inflate(packed)));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  }

  const data = await unpacked();
  const tests = data.tests;

  // --- small things ---

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const seconds = (us) => {
    const s = us / 1e6;
    if (us === 0) return "0 s";
    return s >= 100 ? `${s.toFixed(0)} s` : s >= 1 ? `${s.toFixed(2)} s` : `${(s * 1000).toFixed(s < 0.01 ? 1 : 0)} ms`;
  };
  const whoIs = (lane) => (lane.rank === null ? `node ${lane.node}` : `rank ${lane.rank}`);
  const whereIs = (lane) => `node ${lane.node}${lane.host ? ` (${lane.host})` : ""}`;
  const lines = (text) => { const count = text.split("\n").length; return `${count} line${count === 1 ? "" : "s"}`; };
  const isBad = (test) => BAD.has(test.outcome);

  function fold(ranks) {
    const runs = [];
    for (const rank of ranks) {
      const run = runs[runs.length - 1];
      if (run && rank === run[1] + 1) run[1] = rank; else runs.push([rank, rank]);
    }
    return `rank${ranks.length === 1 ? "" : "s"} ${runs.map(([a, b]) => (a === b ? a : `${a}-${b}`)).join(",")}`;
  }

  // --- one launch ---

  function part(title, content, open = false) {
    const details = make("details", { class: "part", open }, make("summary", {}, title));
    details.append(content);
    return details;
  }

  function lateStart(launch) {
    // Most of a session's first launch is the import of torch: what follows would be a line in a corner.
    let first = Infinity;
    for (const lane of launch.lanes) {
      for (let i = 0; i < lane.spans.length; i += 3) if (lane.spans[i] > 0) first = Math.min(first, lane.spans[i + 1]);
    }
    return first === Infinity || first < 0.5 * launch.us ? 0 : first;
  }

  function drawn(launch) {
    // Of thousands of ranks those that went wrong, and some of the others.
    const first = [...launch.lanes.keys()].sort((a, b) => (launch.lanes[b].state >= 3) - (launch.lanes[a].state >= 3) || a - b);
    return first.slice(0, LANES).sort((a, b) => a - b).map((index) => launch.lanes[index]);
  }

  function drawLanes(launch, from) {
    const box = make("div", { class: "lanes" });
    const length = Math.max(1, launch.us - from);
    const percent = (us) => Math.max(0, Math.min(100, (100 * (us - from)) / length));
    let group = "";
    const several = launch.worlds.length > 1;
    let list = null;
    const failure = launch.marks.find(([kind]) => kind === FAILURE);
    for (const lane of drawn(launch).sort((a, b) => a.world - b.world || a.node - b.node || a.rank - b.rank)) {
      const last = lane.world === launch.worlds.length - 1;
      const own = `${several ? `world ${lane.world + 1} of ${launch.worlds.length} (${launch.worlds[lane.world]} ranks), ` : ""}${whereIs(lane)}`;
      if (own !== group) {
        group = own;
        box.append(make("div", { class: "group" }, own));
        list = make("ul", { "aria-label": own });
        box.append(list);
      }
      const track = make("div", { class: "track", "aria-hidden": "true" });
      const said = [];
      let until = 0;
      for (let i = 0; i < lane.spans.length; i += 3) {
        const [doing, begin, end] = lane.spans.slice(i, i + 3);
        const text = (lane.texts || {})[i / 3] || "";
        const told = `${DOINGS[doing]}${text ? ` (${text})` : ""} ${seconds(end - begin)}`;
        said.push(told);
        const within = doing === 6 && begin < until;
        until = Math.max(until, end);
        if (end < from && doing !== 7) continue;
        const left = percent(begin), right = percent(end);
        const broken = failure && failure[3] === lane.rank && last && doing >= 3 && doing <= 5 && begin < failure[1] && failure[1] <= end;
        track.append(make("b", {
          class: `d${doing}${within ? " within" : ""}${broken ? " broken" : ""}`, title: told,
          style: `left:${doing === 7 ? Math.min(left, 99.4) : left}%;width:${right - left}%`,
        }));
      }
      list.append(make("li", { class: "lane" },
        make("span", { class: "who" }, whoIs(lane)), track,
        make("span", { class: `state ${["good", "skipped", "xfailed", "bad", "bad", "bad"][lane.state]}`, title: lane.text }, STATES[lane.state]),
        make("span", { class: "hidden" }, `${lane.text}: ${said.join(", ")}`)));
    }
    const over = make("div", { class: "over", "aria-hidden": "true" });
    let label = null, labelled = -Infinity;
    launch.marks.forEach(([, at], index) => {
      if (at < from) return;
      const left = percent(at), line = make("i", { style: `left:${left}%` });
      over.append(line);
      if (left - labelled < 2) {
        label.textContent += ` ${index + 1}`;
      } else {
        label = make("span", {}, String(index + 1));
        labelled = left;
        line.append(label);
      }
    });
    box.append(over);
    const ticks = make("div");
    const step = niceStep(length / 5);
    for (let at = Math.ceil(from / step) * step; at <= launch.us; at += step) {
      if (percent(at) < 97) ticks.append(make("span", { style: `left:${percent(at)}%` }, seconds(at)));
    }
    return make("div", {}, box, make("div", { class: "axis", "aria-hidden": "true" }, make("div"), ticks, make("div")));
  }

  function niceStep(rough) {
    const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
    return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= rough);
  }

  function tableOf(launch) {
    const head = make("tr", {}, ...["rank", "node", "outcome", ...DOINGS.slice(0, 7)].map((text, i) => make("th", { scope: "col", class: i < 3 ? "l" : undefined }, text)));
    const rows = launch.lanes.map((lane) => {
      const sums = new Array(8).fill(0);
      for (let i = 0; i < lane.spans.length; i += 3) sums[lane.spans[i]] += lane.spans[i + 2] - lane.spans[i + 1];
      const world = launch.worlds.length > 1 ? ` of world ${lane.world + 1}` : "";
      return make("tr", {},
        make("th", { scope: "row", class: "l" }, `${whoIs(lane)}${world}`), make("td", { class: "l" }, whereIs(lane)),
        make("td", { class: "l" }, lane.text), ...sums.slice(0, 7).map((sum) => make("td", {}, sum ? seconds(sum) : "")));
    });
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Seconds of each rank" },
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  function drawLaunch(launch, test, number) {
    const box = make("section", { class: "launch", "aria-label": `Launch ${launch.name}` });
    const sizes = launch.worlds.map((size) => `${size} rank${size === 1 ? "" : "s"}`).join(", then ");
    const restarts = launch.restarts ? `, ${launch.restarts} restart${launch.restarts === 1 ? "" : "s"}` : "";
    box.append(make("h2", {}, `${test.launches.length > 1 ? `Launch ${number + 1}: ` : ""}${launch.name || "launch"}: ${sizes || "no rank"}${restarts}, ${seconds(launch.us)}`));
    if (launch.verdict) box.append(make("p", { class: "verdict bad" }, launch.verdict));
    box.append(make("p", { class: "legend", "aria-hidden": "true" },
      ...DOINGS.map((text, doing) => make("span", {}, make("i", { class: `d${doing}` }), text))));
    const late = lateStart(launch);
    const lanes = make("div", {}, drawLanes(launch, late));
    if (late) {
      const button = make("button", { type: "button", "aria-pressed": "false" }, "Show the start too");
      button.addEventListener("click", () => {
        const whole = button.getAttribute("aria-pressed") === "false";
        button.setAttribute("aria-pressed", String(whole));
        lanes.replaceChildren(drawLanes(launch, whole ? 0 : late));
      });
      box.append(button);
    }
    box.append(lanes);
    if (launch.lanes.length > LANES) box.append(make("p", { class: "quiet" }, `${launch.lanes.length - LANES} ranks more are not drawn; all are in the table below.`));
    if (launch.marks.length) {
      box.append(make("ol", { class: "marks", "aria-label": "What happened" },
        ...launch.marks.map(([, at, text], index) => make("li", {}, make("b", { "aria-hidden": "true" }, String(index + 1)), `${seconds(at)}: ${text}`))));
    }
    if (launch.traceback) box.append(part(`Traceback of rank ${launch.culprit}`, make("pre", { tabindex: "0" }, launch.traceback), true));
    for (const [ranks, text] of launch.stacks) box.append(part(`Stack of ${fold(ranks)}`, make("pre", { tabindex: "0" }, text)));
    box.append(part("Seconds of each rank", tableOf(launch)));
    for (const lane of launch.lanes) {
      if (lane.collectives) {
        const begun = lane.collectives.map(([at, text]) => `${seconds(at)}  ${text}`).join("\n");
        box.append(part(`Last collectives of ${whoIs(lane)}${ofWorld(launch, lane)}`, make("pre", { tabindex: "0" }, begun)));
      }
      for (const stream of ["stdout", "stderr"]) {
        if (!lane[stream]) continue;
        box.append(part(`${stream} of ${whoIs(lane)}${ofWorld(launch, lane)} (${lines(lane[stream])})`, make("pre", { tabindex: "0" }, lane[stream])));
      }
    }
    return box;
  }

  function ofWorld(launch, lane) {
    return launch.worlds.length > 1 ? ` of world ${lane.world + 1}` : "";
  }

  // --- one test ---

  function bodyOf(test) {
    const body = make("div", { class: "body" });
    if (test.verdict && !test.launches.some((launch) => launch.verdict)) {
      body.append(make("p", { class: `verdict${isBad(test) ? " bad" : ""}` }, test.verdict));
    }
    test.launches.forEach((launch, number) => body.append(drawLaunch(launch, test, number)));
    for (const [title, text] of test.texts) body.append(part(title, make("pre", { tabindex: "0" }, text), isBad(test)));
    for (const [title, text] of test.sections) body.append(part(title, make("pre", { tabindex: "0" }, text)));
    if (!body.childNodes.length) body.append(make("p", { class: "quiet" }, "Nothing more is known of this test."));
    return body;
  }

  function rowOf(test) {
    const last = test.launches[test.launches.length - 1];
    const lanes = last ? last.lanes.filter((lane) => lane.rank !== null && lane.world === last.worlds.length - 1) : [];
    const squares = lanes.length
      ? make("span", { class: "squares", "aria-hidden": "true" }, ...lanes.slice(0, 64).map((lane) => make("i", { class: `s${lane.state}`, title: `${whoIs(lane)}: ${lane.text}` })))
      : null;
    const summary = make("summary", {},
      make("span", { class: `badge ${test.outcome}` }, test.outcome),
      make("span", { class: "name" }, test.id),
      squares,
      lanes.length ? make("span", { class: "quiet" }, `${lanes.length} rank${lanes.length === 1 ? "" : "s"}`) : null,
      test.worker ? make("span", { class: "quiet" }, test.worker) : null,
      make("span", { class: "time" }, seconds(test.us)));
    const details = make("details", { class: "test" }, summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.childNodes.length === 1) details.append(bodyOf(test));
    });
    return make("li", { "data-outcome": test.outcome }, details);
  }

  // --- the list ---

  const state = { listed: [], shown: 0 };
  const rows = new Map();

  tests.forEach((test, index) => {
    test.index = index;
    test.nodes = new Set();
    test.badRanks = new Set();
    for (const launch of test.launches) {
      for (const lane of launch.lanes) {
        test.nodes.add(whereIs(lane));
        if (lane.rank !== null && lane.state >= 3) test.badRanks.add(lane.rank);
      }
    }
  });

  function haystack(test) {
    if (test.words === undefined) {
      const words = [test.id, test.verdict, ...test.texts.map(([, text]) => text)];
      for (const launch of test.launches) {
        words.push(launch.verdict, ...launch.marks.map(([, , text]) => text));
        for (const lane of launch.lanes) words.push(lane.text, lane.stdout || "", lane.stderr || "");
      }
      test.words = words.join("\n").toLowerCase();
    }
    return test.words;
  }

  const outcomes = ORDER.filter((outcome) => tests.some((test) => test.outcome === outcome));
  for (const outcome of outcomes) {
    const count = tests.filter((test) => test.outcome === outcome).length;
    $("outcomes").append(make("label", {}, make("input", { type: "checkbox", value: outcome, checked: true }), ` ${count} `, make("span", { class: outcome }, outcome)));
  }
  for (const node of [...new Set(tests.flatMap((test) => [...test.nodes]))].sort()) $("node").append(make("option", { value: node }, node));

  function list() {
    const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set([...$("outcomes").querySelectorAll("input:checked")].map((box) => box.value));
    const rank = $("rank").value === "" ? null : Number($("rank").value);
    const least = Number($("least").value || 0) * 1e6;
    const node = $("node").value;
    state.listed = tests.filter((test) =>
      wanted.has(test.outcome) && test.us >= least && (rank === null || test.badRanks.has(rank)) && (!node || test.nodes.has(node)) &&
      words.every((word) => haystack(test).includes(word)));
    const order = $("order").value;
    if (order === "bad") state.listed.sort((a, b) => ORDER.indexOf(a.outcome) - ORDER.indexOf(b.outcome) || a.index - b.index);
    if (order === "slow") state.listed.sort((a, b) => b.us - a.us);
    state.shown = 0;
    $("tests").replaceChildren();
    showMore();
    const all = tests.length;
    $("count").textContent = state.listed.length === all ? `${all} test${all === 1 ? "" : "s"}` : `${state.listed.length} of ${all} tests`;
  }

  function showMore() {
    const next = state.listed.slice(state.shown, state.shown + PAGE);
    state.shown += next.length;
    for (const test of next) {
      if (!rows.has(test)) rows.set(test, rowOf(test));
      $("tests").append(rows.get(test));
    }
    $("more").hidden = state.shown >= state.listed.length;
    $("more").textContent = `Show more (${state.listed.length - state.shown} are left)`;
  }

  $("more").addEventListener("click", showMore);
  let soon = 0;
  const later = () => { clearTimeout(soon); soon = setTimeout(list, 60); };
  $("filters").addEventListener("input", later);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(list));
  $("help").addEventListener("click", () => $("keys").showModal());

  // --- keys ---

  const shownTests = () => [...$("tests").children].map((row) => row.firstChild);
  function step(direction, bad) {
    const all = shownTests().filter((details) => !bad || BAD.has(details.parentNode.dataset.outcome));
    const here = document.activeElement.closest ? document.activeElement.closest(".test") : null;
    const every = shownTests();
    const at = here ? every.indexOf(here) : -1;
    const found = direction > 0 ? all.find((details) => every.indexOf(details) > at) : [...all].reverse().find((details) => every.indexOf(details) < at);
    if (found) {
      found.firstChild.focus();
      found.scrollIntoView({ block: "nearest" });
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (event.key === "Escape" && document.activeElement === $("words")) {
      $("words").value = "";
      list();
      $("words").blur();
      return;
    }
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) return;
    const actions = {
      "/": () => $("words").focus(),
      j: () => step(1, false), k: () => step(-1, false), n: () => step(1, true), p: () => step(-1, true),
      e: () => shownTests().forEach((details) => { details.open = true; }),
      c: () => shownTests().forEach((details) => { details.open = false; }),
      "?": () => $("keys").showModal(),
    };
    if (Object.hasOwn(actions, event.key)) {
      event.preventDefault();
      actions[event.key]();
    }
  });

  // --- a session that goes on, and serves this page ---

  const FIELDS = ["words", "rank", "least", "node", "order"];

  function showAgain() {
    sessionStorage.setItem("fields", JSON.stringify(FIELDS.map((id) => $(id).value)));
    location.reload();
  }

  async function follow() {
    const line = $("live");
    line.hidden = false;
    for (;;) {
      let now;
      try {
        now = await (await fetch("state", { cache: "no-store" })).json();
      } catch {
        line.replaceChildren("The session is over, or was ended: nothing more comes.");
        return;
      }
      const more = now.tests - tests.length;
      const running = now.running.slice(0, 3);
      if (now.running.length > 3) running.push(`${now.running.length - 3} more`);
      const text = running.length ? `Running: ${running.join(", ")}.` : "Between two tests.";
      if (line.dataset.text !== text + more) { // who listens to the page is told of changes only
        line.dataset.text = text + more;
        line.replaceChildren(text);
        if (more > 0) {
          const button = make("button", { type: "button", id: "again" }, `Show ${more} more test${more > 1 ? "s" : ""}`);
          button.addEventListener("click", showAgain);
          line.append(" ", button);
        }
      }
      await new Promise((resolve) => { setTimeout(resolve, 1000); });
    }
  }

  if ("live" in document.body.dataset) {
    const kept = JSON.parse(sessionStorage.getItem("fields") || "[]");
    FIELDS.forEach((id, index) => { if (kept[index]) $(id).value = kept[index]; });
    follow();
  }

  // --- the beginning ---

  $("filters").hidden = false;
  list();
  state.listed.filter(isBad).slice(0, OPENED).forEach((test) => { if (rows.has(test)) rows.get(test).firstChild.open = true; });
  const wanted = decodeURIComponent(location.hash.slice(1));
  const named = wanted && tests.find((test) => test.id === wanted);
  if (named && rows.has(named)) {
    rows.get(named).firstChild.open = true;
    rows.get(named).scrollIntoView();
  }
  document.documentElement.dataset.ready = "true";
})();
