// A matrix of files: wheel zooms, dragging moves, hovering shows counts, a click or Enter chooses two files.
const LARGEST = 520, LABELS = 150, SMALLEST_LABEL = 11, WIDEST_NUMBER = 30;

function render({ model, el }) {
  const names = model.get("names"), order = model.get("order"), keys = model.get("distinct");
  const pairs = model.get("pairs"), count = order.length;
  const shared = new Map(pairs.map(([a, b, n]) => [`${a}-${b}`, n]));
  const most = pairs.reduce((largest, [, , n]) => Math.max(largest, n), 1);
  const placeOf = new Map(order.map((file, n) => [file, n]));
  const SIDE = Math.min(LARGEST, Math.max(160, 48 * count));
  const canvas = document.createElement("canvas"), tip = document.createElement("div");
  const ratio = window.devicePixelRatio || 1;
  let zoom = 1, left = 0, top = 0, at = null, drag = null;

  canvas.width = canvas.height = (SIDE + LABELS) * ratio;
  canvas.style.cssText = `width:${SIDE + LABELS}px;max-width:100%;touch-action:none;cursor:crosshair`;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", model.get("summary"));
  tip.className = "etl-map-tip";
  tip.setAttribute("role", "status");
  tip.style.cssText = "min-height:1.5em;font-size:12px";
  el.append(canvas, tip);

  const number = (value) => value.toLocaleString("en");
  const keysOf = (a, b) => a === b ? keys[a] : shared.get(a < b ? `${a}-${b}` : `${b}-${a}`) || 0;
  const cell = () => (SIDE * zoom) / count;

  function words([x, y]) {
    const a = order[y], b = order[x];
    if (a === b) return `${names[a]}: ${number(keys[a])} distinct keys`;
    const n = keysOf(a, b), none = model.get("is_cut") ? "an unlisted number of" : "no";
    return `${names[Math.min(a, b)]} and ${names[Math.max(a, b)]}: ${n ? number(n) : none} shared key${n === 1 ? "" : "s"}`;
  }

  function draw() {
    const pen = canvas.getContext("2d"), size = cell(), ink = getComputedStyle(el).color;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, SIDE + LABELS, SIDE + LABELS);
    pen.save();
    pen.translate(LABELS, 0);
    pen.beginPath();
    pen.rect(0, 0, SIDE, SIDE);
    pen.clip();
    const gap = size > 6 ? 1 : 0, square = Math.max(1, size - gap);
    pen.fillStyle = ink;
    pen.globalAlpha = 0.12;
    for (let n = 0; n < count; n++) pen.fillRect(n * size - left, n * size - top, square, square);
    pen.fillStyle = "#1565c0";
    for (const [a, b, n] of pairs) {
      const x = placeOf.get(a) * size, y = placeOf.get(b) * size;
      pen.globalAlpha = 0.25 + 0.75 * Math.log1p(n) / Math.log1p(most);
      pen.fillRect(x - left, y - top, square, square);
      pen.fillRect(y - left, x - top, square, square);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = ink;
    pen.lineWidth = 1;
    pen.strokeRect(0.5, 0.5, SIDE - 1, SIDE - 1);
    if (at) { pen.lineWidth = 2; pen.strokeRect(at[0] * size - left, at[1] * size - top, size, size); }
    pen.restore();
    const step = Math.max(1, Math.ceil(SMALLEST_LABEL / size)), stepBelow = Math.max(1, Math.ceil(WIDEST_NUMBER / size));
    pen.fillStyle = ink;
    pen.font = "10px sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (let n = 0; n < count; n += step) {
      const y = (n + 0.5) * size - top, name = names[order[n]];
      if (y > 0 && y < SIDE) pen.fillText(name.length > 24 ? "…" + name.slice(-23) : name, LABELS - 4, y);
    }
    pen.textAlign = "center";
    for (let n = 0; n < count; n += stepBelow) {
      const x = (n + 0.5) * size - left;
      if (x > 0 && x < SIDE) pen.fillText(String(order[n] + 1), LABELS + x, SIDE + 10);
    }
  }

  function place(event) {
    const box = canvas.getBoundingClientRect(), scale = (SIDE + LABELS) / box.width;
    return [(event.clientX - box.left) * scale - LABELS, (event.clientY - box.top) * scale];
  }
  function cellAt(event) {
    const [x, y] = place(event);
    if (x < 0 || y < 0 || x >= SIDE || y >= SIDE) return null;
    return [Math.floor((x + left) / cell()), Math.floor((y + top) / cell())];
  }
  function keepInside() {
    const furthest = SIDE * zoom - SIDE;
    left = Math.min(furthest, Math.max(0, left));
    top = Math.min(furthest, Math.max(0, top));
  }
  function show(where) {
    at = where;
    tip.textContent = at ? words(at) : "Wheel: zoom. Drag: move. Click: sample keys, and who wins.";
    draw();
  }
  function choose() {
    if (!at || at[0] === at[1]) return;
    const pair = [order[at[0]], order[at[1]]].sort((a, b) => a - b);
    model.set("chosen", pair);
    model.save_changes();
  }
  function zoomTo(factor, x, y) {
    const before = zoom;
    zoom = Math.min(Math.max(1, count / 4), Math.max(1, zoom * factor));
    left = (left + x) * zoom / before - x;
    top = (top + y) * zoom / before - y;
    keepInside();
    draw();
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomTo(event.deltaY < 0 ? 1.25 : 0.8, ...place(event));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, left, top, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      const x = event.clientX - drag.x, y = event.clientY - drag.y;
      drag.moved ||= Math.abs(x) + Math.abs(y) > 4;
      left = drag.left - x;
      top = drag.top - y;
      keepInside();
    }
    show(cellAt(event));
  });
  canvas.addEventListener("pointerup", (event) => {
    const moved = drag?.moved;
    drag = null;
    show(cellAt(event));
    if (!moved) choose();
  });
  canvas.addEventListener("pointerleave", () => show(null));
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key], inside = (n) => Math.min(count - 1, Math.max(0, n));
    if (step) show(at ? [inside(at[0] + step[0]), inside(at[1] + step[1])] : [0, 0]);
    else if (event.key === "+" || event.key === "-") zoomTo(event.key === "+" ? 1.25 : 0.8, SIDE / 2, SIDE / 2);
    else if (event.key === "Enter") choose();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  show(null);
}

export default { render };
