"use strict";
// Without this script the page has everything it says; with it, tables can be chosen from, drawn and calculated with.
// It asks nobody for anything. What is chosen is what the fields of a form say, and the address keeps it.
(() => {
  const address = new URLSearchParams(location.search);

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function makeButton(words, press) {
    const button = make("button", { type: "button" }, words);
    button.onclick = press;
    return button;
  }

  const label = (id, words) => make("label", { for: id }, words);

  // Fill a form with its fields; `show` gets what they say, now and after each change.
  function keepForm(form, fields, show) {
    form.append(...fields);
    const named = [...form.elements].filter(field => field.name);
    if (named.some(field => address.has(field.name))) {
      for (const field of named) {
        if (field.type === "checkbox") field.checked = address.getAll(field.name).includes(field.value);
        else if (address.has(field.name)) field.value = address.get(field.name);
      }
    }
    form.onsubmit = () => false;
    form.oninput = () => {
      for (const field of named) address.delete(field.name);
      for (const [name, value] of new FormData(form)) if (value) address.append(name, value);
      try {
        history.replaceState(null, "", `${location.pathname}?${address}${location.hash}`);
      } catch { /* a browser may not let a file change its address */ }
      show(new FormData(form));
    };
    show(new FormData(form));
  }

  const digits = value => value >= 1000 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(3)).toString();

  // Bars as the page draws them without this script: [label, value, low, high, stands out].
  function drawBars(place, title, bars, unit = "") {
    const most = Math.max(...bars.map(bar => bar[3])) || 1, share = value => `${100 * value / most}%`;
    place.replaceChildren(make("p", { class: "caption" }, title), make("ul", { class: "long" }, ...bars.map(([name, value, low, high, isOurs]) => {
      const words = digits(value) + unit, hasInterval = low < high;
      const tip = `${name}: ${words}` + (hasInterval ? `, 95% interval ${digits(low)} to ${digits(high)}` : "");
      const track = make("span", { class: "track", "aria-hidden": "true" }, make("i", { style: `width:${share(value)}` }));
      if (hasInterval) track.append(make("b", { style: `left:${share(low)};width:${share(high - low)}` }));
      return make("li", { class: isOurs ? "ours" : "", title: tip }, make("span", { class: "name" }, name), track, make("span", { class: "value" }, words));
    })));
  }

  // A table with the numbers behind its cells; `texts` of a row are by the name of the column.
  function read(box) {
    const { kinds, values, facts } = JSON.parse(box.querySelector("script").textContent);
    const heads = [...box.querySelectorAll("thead th")], names = heads.map(head => head.textContent);
    const rows = [...box.querySelectorAll("tbody tr")].map((node, at) => ({
      node, values: values[at], texts: Object.fromEntries(names.map((name, column) => [name, node.cells[column].textContent.replace(" ~", "")])),
    }));
    return { kinds, facts, heads, names, rows };
  }

  // --- all cases: choose, sort, find, draw -------------------------------------------------------------------------

  function offerCases(box) {
    const { kinds, facts, heads, names, rows } = read(box);
    const axes = names.filter((_, at) => kinds[at] === "of"), metrics = names.filter((_, at) => /less|more/.test(kinds[at]));
    if (!rows.length || !metrics.length) return;
    const toggles = axes.map(name => {
      const at = names.indexOf(name), numbers = new Map(rows.map(({ texts, values }) => [texts[name], values[at] ?? 0]));
      const values = [...numbers.keys()].sort((one, other) => numbers.get(one) - numbers.get(other));
      return make("fieldset", {}, make("legend", {}, name), ...values.map(value =>
        make("label", {}, make("input", { type: "checkbox", name, value, ...value === facts[name] && { checked: "" } }), value)));
    });
    const form = make("form", { class: "controls" }), chart = make("div", { class: "bars" }), count = make("span", { role: "status" });
    const sort = make("input", { type: "hidden", name: "sort" }), find = make("input", { type: "search", name: "find", id: "find" });
    const metric = make("select", { name: "metric", id: "metric" }, ...metrics.map(name => make("option", {}, name)));
    const all = makeButton("Show all", () => {
      form.querySelectorAll(":checked:not(option)").forEach(field => { field.checked = false; });
      find.value = "";
      form.oninput();
    });
    heads.forEach((head, at) => head.replaceChildren(makeButton(names[at], () => {
      sort.value = `${names[at]}:${sort.value === `${names[at]}:up` ? "down" : "up"}`;
      form.oninput();
    })));
    box.prepend(form, chart);
    keepForm(form, [...toggles, make("p", {}, label("metric", "Draw "), metric, label("find", " Find "), find, " ", all, " ", count), sort], data => {
      const words = data.get("find").toLowerCase();
      for (const { node, texts } of rows) {
        const fits = axes.every(name => !data.has(name) || data.getAll(name).includes(texts[name]));
        node.hidden = !(fits && node.textContent.toLowerCase().includes(words));
      }
      const shown = rows.filter(({ node }) => !node.hidden);
      count.textContent = `${shown.length} of ${rows.length} cases`;
      sortBy(...data.get("sort").split(":"));
      draw(data.get("metric"), shown);
    });

    function sortBy(name, way) {
      const sorted = names.indexOf(name), sign = way === "up" ? 1 : -1;
      heads.forEach((head, at) => at === sorted ? head.setAttribute("aria-sort", `${way === "up" ? "a" : "de"}scending`) : head.removeAttribute("aria-sort"));
      if (sorted < 0) return;
      box.querySelector("tbody").append(...rows.toSorted((one, other) => {
        const [left, right] = [one, other].map(({ values }) => [values[sorted]].flat()[0]);
        if (left === null && right === null) return sign * one.texts[name].localeCompare(other.texts[name]);
        return left === null ? 1 : right === null ? -1 : sign * (left - right);
      }).map(({ node }) => node));
    }

    function draw(name, shown) {
      const at = names.indexOf(name), better = kinds[at];
      const right = shown.filter(({ values, texts }) => values[at] !== null && texts.outcome === "right");
      const telling = axes.slice(1).filter(axis => new Set(right.map(({ texts }) => texts[axis])).size > 1);
      const bars = right.map(({ node, values, texts }) => {
        const words = [node.cells[0].textContent, ...telling.map(axis => `${axis} ${texts[axis]}`)].join(", ");
        const [value, low = value, high = value] = [values[at]].flat();
        return [words, value, low, high, facts.ours.split(",").includes(texts.strategy)];
      }).sort((one, other) => better === "more" ? other[1] - one[1] : one[1] - other[1]);
      const drawn = bars.slice(0, 30), wrong = shown.length - right.length;
      const cut = bars.length > drawn.length ? `, the best ${drawn.length} of ${bars.length}` : "";
      const left = wrong ? `; ${wrong} not drawn (not right in every run, or not measured)` : "";
      if (drawn.length) drawBars(chart, `${name}: ${better} is better${cut}${left}`, drawn);
      else chart.replaceChildren(make("p", {}, "None of these cases has this value."));
    }
  }

  // --- what if -----------------------------------------------------------------------------------------------------

  function offerModel(box) {
    const { facts, rows } = read(box);
    if (!rows.length) return;
    const states = [...new Set(rows.map(({ texts }) => texts.table))];
    const count = make("input", { type: "number", name: "if-rows", id: "if-rows", min: 1, step: "any", value: facts.most });
    const overlap = make("input", { type: "range", name: "if-overlap", id: "if-overlap", min: 0, max: 100, value: 50 });
    const state = make("select", { name: "if-table", id: "if-table" }, ...states.map(name => make("option", {}, name)));
    const shared = make("output", { for: "if-overlap" }), answer = make("p", { class: "lead", role: "status" });
    const form = make("form", { class: "controls" }), chart = make("div", { class: "bars" });
    box.append(make("details", {}, make("summary", {}, "The model behind it"), box.querySelector(".scroll")));
    box.prepend(form, answer, chart);
    const fields = [label("if-rows", "Rows "), count, label("if-overlap", " Keys shared with the file before "), overlap, " ", shared, label("if-table", " Table "), state];
    keepForm(form, [make("p", { class: "controls" }, ...fields)], data => {
      const wanted = Number(data.get("if-rows")), share = Number(data.get("if-overlap")) / 100, files = Number(facts.files);
      shared.textContent = `${data.get("if-overlap")}%`;
      if (!(wanted > 0)) return;
      const keys = wanted / files * (1 + (files - 1) * (1 - share));
      const own = rows.filter(({ texts }) => texts.keys === (share && files > 1 ? "shared" : "not shared") && texts.table === data.get("if-table"));
      const bars = own.map(({ texts, values: [, , , fixed, perRow, perKey] }) => {
        const seconds = fixed + perRow * wanted / 1e6 + perKey * keys / 1e6;
        return [texts.strategy, seconds, seconds * facts.low, seconds * facts.high];
      }).sort((one, other) => one[1] - other[1]);
      const [name, seconds, low, high] = bars[0];
      bars[0].push(true);
      const beyond = wanted < facts.least || wanted > facts.most ? " Fewer or more rows than were measured, so this is a guess." : "";
      answer.textContent = `${name}: about ${digits(seconds)} s (${digits(low)} to ${digits(high)} s).${beyond}`;
      drawBars(chart, "Predicted seconds: less is better; the line is where 95% of the loads should be", bars, " s");
    });
  }

  // --- races, step by step -----------------------------------------------------------------------------------------

  function offerSteps(box) {
    const lanes = [...box.querySelectorAll(".lane")].map(lane => ({ title: lane.querySelector("h4").textContent, steps: [...lane.querySelectorAll("li")] }));
    const most = Math.max(...lanes.map(({ steps }) => steps.length));
    const words = make("span", { role: "status" }), sql = make("pre", { tabindex: 0, role: "group", "aria-label": "SQL of this step" });
    let at = most;
    const step = (name, to) => makeButton(name, () => show(Math.min(most, Math.max(1, to()))));
    box.before(make("p", { class: "controls" }, step("Step through", () => 1), step("◀ Back", () => at - 1), step("Next ▶", () => at + 1), step("Show all", () => most), " ", words));
    box.after(sql);
    show(most);

    function show(to) {
      at = to;
      const isWhole = at === most;
      sql.textContent = lanes.map(({ title, steps }) => {
        // The longer lane sets the pace: both begin and end together.
        const reached = Math.ceil(at * steps.length / most) - 1;
        steps.forEach((item, number) => {
          item.classList.toggle("ahead", number > reached);
          item.classList.toggle("now", !isWhole && number === reached);
        });
        const [who, code, reply] = [...steps[reached]?.children ?? []].map(part => part.textContent);
        return who && `-- ${title}: ${who}\n${code}\n-- ${reply || "…"}`;
      }).filter(Boolean).join("\n\n");
      words.textContent = isWhole ? `${most} steps` : `Step ${at} of ${most}`;
      sql.hidden = isWhole;
    }
  }

  // --- the values under the pointer, at once ---------------------------------------------------------------------

  const tip = make("div", { class: "tip-box", "aria-hidden": "true", hidden: "" });
  document.body.append(tip);
  document.addEventListener("pointerover", event => {
    const title = event.target.closest?.(".tip")?.querySelector("title");
    tip.hidden = !title;
    tip.textContent = title?.textContent;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - 260)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });

  document.documentElement.classList.add("with-script");
  document.querySelectorAll('.choices[data-kind="cases"]').forEach(offerCases);
  document.querySelectorAll('.choices[data-kind="model"]').forEach(offerModel);
  document.querySelectorAll(".lanes").forEach(offerSteps);
})();
