"use strict";
// Without this script the page has everything it says; with it, tables can be chosen from, drawn and calculated with.
// It asks nobody for anything, and keeps what was chosen in the address.
(() => {
  const chosen = new URLSearchParams(location.search);

  function remember(name, value) {
    if (value) chosen.set(name, value); else chosen.delete(name);
    const query = chosen.toString();
    try {
      history.replaceState(null, "", location.pathname + (query ? "?" + query : "") + location.hash);
    } catch { /* a browser may not let a file change its address */ }
  }

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick" || name === "oninput") node[name] = value; else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  const digits = value => value >= 1000 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(3)).toString();

  // Bars as the page draws them without this script: [label, value, low, high, is ours].
  function drawBars(place, title, bars, unit = "") {
    const most = Math.max(...bars.map(bar => bar[3] ?? bar[1])) || 1;
    const list = make("ul", { class: "long" });
    for (const [label, value, low, high, isOurs] of bars) {
      const track = make("span", { class: "track", "aria-hidden": "true" }, make("i", { style: `width:${100 * value / most}%` }));
      let words = `${label}: ${digits(value)}${unit}`;
      if (low < high) {
        track.append(make("b", { style: `left:${100 * low / most}%;width:${100 * (high - low) / most}%` }));
        words += `, 95 % interval ${digits(low)} to ${digits(high)}`;
      }
      const value_ = make("span", { class: "value" }, digits(value) + unit);
      list.append(make("li", { class: isOurs ? "ours" : "", title: words }, make("span", { class: "name" }, label), track, value_));
    }
    place.replaceChildren(make("p", { class: "caption" }, title), list);
  }

  const read = box => {
    const table = box.querySelector("table");
    const data = JSON.parse(box.querySelector("script").textContent);
    const names = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
    const rows = [...table.tBodies[0].rows].map((row, at) => ({
      row, texts: [...row.cells].map(cell => cell.textContent), values: data.values[at],
    }));
    return { table, ...data, names, rows };
  };
  const median = value => Array.isArray(value) ? value[0] : value;
  const isOurs = name => /^(auto|partitioned|hybrid|full_parallel|deterministic|streaming)\b/.test(name);

  // --- all cases: choose, sort, find, draw -------------------------------------------------------------------------

  function offerCases(box) {
    const { table, kinds, facts, names, rows } = read(box);
    const axes = names.map((name, at) => ({ name, at })).filter(axis => kinds[axis.at] === "of");
    const metrics = names.map((name, at) => ({ name, at })).filter(({ at }) => kinds[at] === "less" || kinds[at] === "more");
    if (!rows.length || !metrics.length) return;
    const known = [...axes.map(axis => axis.name), "metric", "sort", "find"];
    const picked = new Map(axes.map(({ name }) => {
      const values = known.some(other => chosen.has(other)) ? chosen.get(name)?.split(",") ?? [] : [facts[name]].filter(Boolean);
      return [name, new Set(values.map(value => value.replaceAll("‚", ",")))];
    }));
    let metric = metrics.find(({ name }) => name === chosen.get("metric")) ?? metrics[0];
    let [sortedBy, isUp] = (chosen.get("sort") ?? "").split(":");
    const find = make("input", { type: "search", id: "find-case", oninput: () => show("find") });
    find.value = chosen.get("find") ?? "";
    const count = make("span", { role: "status" });
    const chart = make("div", { class: "bars" });
    const controls = make("div", { class: "controls" });

    for (const axis of axes) {
      const numbers = new Map(rows.map(({ texts, values }) => [texts[axis.at].replace(" ~", ""), values[axis.at]]));
      const values = [...numbers.keys()].sort((one, other) => (numbers.get(one) ?? 0) - (numbers.get(other) ?? 0));
      const buttons = values.map(value => make("button", { type: "button", onclick: () => {
        const own = picked.get(axis.name);
        if (!own.delete(value)) own.add(value);
        show(axis.name);
      } }, value));
      axis.press = () => buttons.forEach((button, at) => button.setAttribute("aria-pressed", picked.get(axis.name).has(values[at])));
      controls.append(make("fieldset", {}, make("legend", {}, axis.name), ...buttons));
    }
    const select = make("select", { id: "metric", oninput: () => {
      metric = metrics.find(({ name }) => name === select.value);
      show("metric");
    } }, ...metrics.map(({ name }) => make("option", {}, name)));
    select.value = metric.name;
    const all = make("button", { type: "button", onclick: () => {
      picked.forEach(own => own.clear());
      find.value = "";
      show("all");
    } }, "Show all");
    controls.append(make("p", {}, make("label", { for: "metric" }, "Draw "), select, make("label", { for: "find-case" }, " Find "), find, " ", all, " ", count));

    for (const [at, head] of [...table.tHead.rows[0].cells].entries()) {
      const name = names[at];
      head.replaceChildren(make("button", { type: "button", onclick: () => {
        isUp = sortedBy === name && isUp === "up" ? "down" : "up";
        sortedBy = name;
        show("sort");
      } }, name));
    }

    function show(changed) {
      const words = find.value.toLowerCase();
      const shown = rows.filter(({ row, texts }) => {
        const fits = axes.every(({ name, at }) => !picked.get(name).size || picked.get(name).has(texts[at].replace(" ~", "")));
        row.hidden = !(fits && texts.join(" ").toLowerCase().includes(words));
        return !row.hidden;
      });
      axes.forEach(axis => axis.press());
      count.textContent = `${shown.length} of ${rows.length} cases`;
      sort();
      draw(shown);
      if (!changed) return;
      axes.forEach(({ name }) => remember(name, [...picked.get(name)].map(value => value.replaceAll(",", "‚")).join(",")));
      remember("find", find.value);
      remember("sort", sortedBy ? `${sortedBy}:${isUp}` : "");
      remember("metric", metric.name);
    }

    function sort() {
      const at = names.indexOf(sortedBy);
      [...table.tHead.rows[0].cells].forEach((head, other) => {
        if (other === at) head.setAttribute("aria-sort", isUp === "up" ? "ascending" : "descending"); else head.removeAttribute("aria-sort");
      });
      if (at < 0) return;
      const sign = isUp === "up" ? 1 : -1;
      table.tBodies[0].append(...rows.toSorted((one, other) => {
        const [left, right] = [median(one.values[at]), median(other.values[at])];
        if (left === null && right === null) return sign * one.texts[at].localeCompare(other.texts[at]);
        return left === null ? 1 : right === null ? -1 : sign * (left - right);
      }).map(({ row }) => row));
    }

    function draw(shown) {
      const { at, name } = metric;
      const right = shown.filter(({ values, texts }) => values[at] !== null && texts[names.indexOf("outcome")] === "right");
      const telling = axes.filter(axis => axis.at === 0 || new Set(right.map(({ texts }) => texts[axis.at])).size > 1);
      const bars = right.map(({ values, texts }) => {
        const value = values[at];
        const label = telling.map(axis => axis.at ? `${axis.name} ${texts[axis.at]}` : texts[0]).join(", ");
        return [label, ...(Array.isArray(value) ? value : [value, value, value]), isOurs(texts[0])];
      }).sort((one, other) => kinds[at] === "more" ? other[1] - one[1] : one[1] - other[1]);
      const drawn = bars.slice(0, 30);
      const cut = bars.length > drawn.length ? `, the best ${drawn.length} of ${bars.length}` : "";
      const wrong = shown.length - right.length;
      const left = wrong ? `; ${wrong} not drawn (not right in every run, or not measured)` : "";
      if (drawn.length) drawBars(chart, `${name}: ${kinds[at]} is better${cut}${left}`, drawn);
      else chart.replaceChildren(make("p", {}, "None of these cases has this value."));
    }

    box.prepend(controls, chart);
    show();
  }

  // --- what if -----------------------------------------------------------------------------------------------------

  function offerModel(box) {
    const { facts, rows } = read(box);
    if (!rows.length) return;
    const again = () => show(true);
    const count = make("input", { type: "number", id: "if-rows", min: 1, step: "any", oninput: again });
    const overlap = make("input", { type: "range", id: "if-overlap", min: 0, max: 100, oninput: again });
    const states = [...new Set(rows.map(({ texts }) => texts[2]))];
    const state = make("select", { id: "if-table", oninput: again }, ...states.map(name => make("option", {}, name)));
    count.value = chosen.get("if-rows") ?? facts.most;
    overlap.value = chosen.get("if-overlap") ?? 50;
    state.value = states.includes(chosen.get("if-table")) ? chosen.get("if-table") : states[0];
    const shared = make("output", { for: "if-overlap" });
    const answer = make("p", { class: "lead", role: "status" });
    const chart = make("div", { class: "bars" });
    const label = (id, words) => make("label", { for: id }, words);
    box.append(make("details", {}, make("summary", {}, "The model behind it"), box.querySelector(".scroll")));
    box.prepend(
      make("p", { class: "controls" }, label("if-rows", "Rows "), count, label("if-overlap", " Keys shared with the file before "), overlap, " ", shared, label("if-table", " Table "), state),
      answer, chart,
    );

    function show(changed) {
      const wanted = Number(count.value), share = Number(overlap.value) / 100, files = Number(facts.files);
      shared.textContent = `${overlap.value} %`;
      if (changed) {
        remember("if-rows", count.value);
        remember("if-overlap", overlap.value);
        remember("if-table", state.value);
      }
      if (!(wanted > 0)) return;
      const keys = wanted / files * (1 + (files - 1) * (1 - share));
      const own = rows.filter(({ texts }) => texts[1] === (share && files > 1 ? "shared" : "not shared") && texts[2] === state.value);
      const bars = own.map(({ texts, values: [, , , fixed, perRow, perKey] }) => {
        const seconds = fixed + perRow * wanted / 1e6 + perKey * keys / 1e6;
        return [texts[0], seconds, seconds * facts.low, seconds * facts.high];
      }).sort((one, other) => one[1] - other[1]);
      const [name, seconds, low, high] = bars[0];
      const beyond = wanted < facts.least || wanted > facts.most ? " Fewer or more rows than were measured, so this is a guess." : "";
      answer.textContent = `${name}: about ${digits(seconds)} s (${digits(low)} to ${digits(high)} s).${beyond}`;
      drawBars(chart, "Predicted seconds: less is better; the line is where 95 % of the loads should be", bars.map((bar, at) => [...bar, at === 0]), " s");
    }
    show(false);
  }

  // --- races, step by step -----------------------------------------------------------------------------------------

  function offerSteps(box) {
    const lanes = [...box.querySelectorAll(".lane")].map(lane => ({ title: lane.querySelector("h4").textContent, steps: [...lane.querySelectorAll("li")] }));
    const most = Math.max(...lanes.map(({ steps }) => steps.length));
    let at = most;
    const words = make("span", { role: "status" });
    const sql = make("pre", { tabindex: 0, role: "group", "aria-label": "SQL of this step" });
    const go = to => () => { at = Math.min(most, Math.max(1, to())); show(); };
    const step = (name, to) => make("button", { type: "button", onclick: go(to) }, name);
    box.before(make("p", { class: "controls" }, step("Step through", () => 1), step("◀ Back", () => at - 1), step("Next ▶", () => at + 1), step("Show all", () => most), " ", words));
    box.after(sql);

    function show() {
      const isWhole = at === most;
      const now = [];
      for (const { title, steps } of lanes) {
        // The longer lane sets the pace: both begin and end together.
        const reached = Math.ceil(at * steps.length / most);
        steps.forEach((item, number) => {
          item.classList.toggle("ahead", number >= reached);
          item.classList.toggle("now", !isWhole && number === reached - 1);
        });
        const item = steps[reached - 1];
        if (item) now.push(`-- ${title}: ${item.querySelector(".who").textContent}\n${item.querySelector("code").textContent}\n-- ${item.querySelector(".answer").textContent || "…"}`);
      }
      words.textContent = isWhole ? `${most} steps` : `Step ${at} of ${most}`;
      sql.hidden = isWhole;
      sql.textContent = now.join("\n\n");
    }
    show();
  }

  // --- the values under the pointer, at once ---------------------------------------------------------------------

  function showTips() {
    const tip = make("div", { class: "tip-box", "aria-hidden": "true" });
    tip.hidden = true;
    document.body.append(tip);
    document.addEventListener("pointerover", event => {
      const title = event.target.closest?.(".tip")?.querySelector("title");
      tip.hidden = !title;
      if (!title) return;
      tip.textContent = title.textContent;
      tip.style.left = `${Math.min(event.clientX + 12, innerWidth - 260)}px`;
      tip.style.top = `${event.clientY + 14}px`;
    });
  }

  document.documentElement.classList.add("with-script");
  document.querySelectorAll('.choices[data-kind="cases"]').forEach(offerCases);
  document.querySelectorAll('.choices[data-kind="model"]').forEach(offerModel);
  document.querySelectorAll(".lanes").forEach(offerSteps);
  showTips();
})();
