// Rows that were rejected, in a table whose cells can be edited.
function render({ model, el }) {
  const rows = model.get("rows"), head = model.get("head");
  const table = document.createElement("table");
  const cellOf = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
  const top = table.createTHead().insertRow(), body = table.createTBody();
  for (const name of ["place", "reason", ...head]) top.append(Object.assign(cellOf("th", name), { scope: "col" }));
  rows.forEach((row, y) => {
    const line = body.insertRow();
    line.append(cellOf("th", row.place), cellOf("td", row.reason));
    row.cells.forEach((text, x) => {
      const cell = cellOf("td", text);
      cell.contentEditable = "plaintext-only";
      cell.spellcheck = false;
      cell.setAttribute("role", "textbox");
      cell.setAttribute("aria-label", `${head[x]}, ${row.place}`);
      cell.style.cssText = "outline-offset:-2px;cursor:text;border:1px dotted currentColor;min-width:4em";
      cell.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (event.key === "Enter") { event.preventDefault(); cell.blur(); }
      });
      cell.addEventListener("input", () => {
        model.set("changes", { ...model.get("changes"), [`${y}-${x}`]: cell.textContent });
        model.save_changes();
      });
      line.append(cell);
    });
  });
  for (const cell of table.querySelectorAll("th, td")) Object.assign(cell.style, { padding: "2px 8px", textAlign: "left" });
  table.style.cssText = "font-size:12px;border-collapse:collapse";
  el.style.overflowX = "auto";
  el.append(table);
}

export default { render };
