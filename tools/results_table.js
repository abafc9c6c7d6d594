// Filters and sorts the table of results. Without it the table is a plain one.
"use strict";
(() => {
  const box = document.querySelector("#results");
  const table = box && box.querySelector("table");
  if (!table) return;
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent.trim());
  const rows = [...table.tBodies[0].rows];
  const cell = (row, place) => row.cells[place].textContent.trim();
  const parts = (row, place) => cell(row, place).split(" + ");

  const form = document.createElement("form");
  form.className = "results-filter";
  form.addEventListener("submit", (event) => event.preventDefault());
  const labelled = (name, control) => {
    const [place, label] = ["div", "label"].map((tag) => document.createElement(tag));
    control.name = name;
    control.id = label.htmlFor = `results-${name}`;
    label.append(name);
    place.append(label, control);
    form.append(place);
    return control;
  };
  const chosen = ["model", "data", "method"].map((name) => {
    const place = names.indexOf(name);
    const select = document.createElement("select");
    const values = new Set(rows.flatMap((row) => parts(row, place)));
    select.append(new Option("all", ""));
    [...values].sort().forEach((value) => select.append(new Option(value)));
    return { place, select: labelled(name, select) };
  });
  const typed = document.createElement("input");
  typed.type = "search";
  labelled("text", typed);
  const count = document.createElement("output");
  form.append(count);

  const filter = () => {
    const words = typed.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      const fits =
        words.every((word) => text.includes(word)) &&
        chosen.every(({ place, select }) => !select.value || parts(row, place).includes(select.value));
      row.hidden = !fits;
      shown += fits;
    });
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  form.addEventListener("input", filter);

  const number = (text) => parseFloat(text.replace(/,/g, ""));
  const figures = names.map((_, place) => rows.every((row) => /^[\d.,]*( ?%)?( \(|$)/.test(cell(row, place))));
  const sort = (place, down) => {
    const compare = (a, b) => {
      const [left, right] = [cell(a, place), cell(b, place)];
      if (!left || !right) return !left - !right; // what was not measured comes last
      const difference = figures[place]
        ? number(left) - number(right)
        : left.localeCompare(right, "en", { numeric: true });
      return down ? -difference : difference;
    };
    table.tBodies[0].append(...[...rows].sort(compare));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[place].setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () =>
      sort(place, head.getAttribute("aria-sort") === "ascending")
    );
    head.append(button);
  });

  box.prepend(form);
  filter();
})();
