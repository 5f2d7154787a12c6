"use strict";
(function () {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  root.classList.add("js");

  // Theme: the system's until the button is pressed; the choice is kept where the browser allows.
  const button = document.getElementById("theme");
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
  function kept(value) {
    try {
      if (value) localStorage.setItem("vlood-theme", value);
      return localStorage.getItem("vlood-theme");
    } catch (error) {
      return null;
    }
  }
  function isDark() {
    return (root.dataset.theme || (systemDark.matches ? "dark" : "light")) === "dark";
  }
  function showTheme() {
    button.setAttribute("aria-pressed", String(isDark()));
  }
  const before = kept();
  if (before === "dark" || before === "light") root.dataset.theme = before;
  button.hidden = false;
  button.addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    kept(root.dataset.theme);
    showTheme();
  });
  systemDark.addEventListener("change", showTheme);
  showTheme();

  // Sorting: a press sorts by the column, the next the other way, the third as it was.
  document.querySelectorAll("table.sortable").forEach(function (table) {
    const body = table.tBodies[0];
    const original = Array.from(body.rows);
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      const press = document.createElement("button");
      press.type = "button";
      while (head.firstChild) press.append(head.firstChild);
      head.append(press);
      press.addEventListener("click", function () {
        const numbers = head.classList.contains("num");
        const order = numbers ? ["descending", "ascending"] : ["ascending", "descending"];
        const now = order[order.indexOf(head.getAttribute("aria-sort")) + 1];
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        if (now) head.setAttribute("aria-sort", now);
        table.classList.toggle("sorted", Boolean(now));
        const sorted = now ? original.slice().sort(comparer(column, numbers, now)) : original;
        body.append(...sorted);
      });
    });
  });
  function comparer(column, numbers, order) {
    const sign = order === "ascending" ? 1 : -1;
    return function (a, b) {
      const left = a.cells[column], right = b.cells[column];
      if (!numbers) return sign * left.textContent.localeCompare(right.textContent);
      const x = number(left), y = number(right);
      // What is not known stays last either way.
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
      return sign * (x - y);
    };
  }
  function number(cell) {
    return parseFloat(cell.dataset.key === undefined ? cell.textContent : cell.dataset.key);
  }

  // One detector at a time.
  const articles = Array.from(document.querySelectorAll(".detector"));
  const chooser = document.querySelector(".chooser");
  function choose(id) {
    articles.forEach(function (article) { article.hidden = article.id !== id; });
  }
  if (chooser) {
    chooser.hidden = false;
    chooser.addEventListener("change", function (event) { choose(event.target.value); });
    choose(chooser.querySelector("input:checked").value);
  }

  // The threshold of each detector.
  articles.forEach(function (article, i) { threshold(article, data[i]); });

  function threshold(article, detector) {
    const slider = article.querySelector("input[type=range]");
    const output = article.querySelector("output");
    const reset = article.querySelector(".reset");
    const rows = Array.from(article.querySelectorAll(".accepted tbody tr"));
    const marks = Array.from(article.querySelectorAll(".mark-threshold"));
    const flips = article.querySelector(".flips");

    function show() {
      const at = Number(slider.value);
      const start = detector.start;
      const shares = {};
      let id = 0, flipped = 0;
      detector.sets.forEach(function (set, place) {
        const count = set.accepted[at];
        const share = set.total ? count / set.total : 0;
        const change = count - set.accepted[start];
        flipped += Math.abs(change);
        if (place === 0) id = share;
        if (set.group) (shares[set.group] = shares[set.group] || []).push(share);
        const row = rows[place];
        row.querySelector(".count").textContent = String(count);
        row.querySelector(".share").textContent = percent(share);
        row.querySelector(".fill").setAttribute("width", percent(share));
        row.querySelector(".change").textContent = signed(change);
      });
      const groups = Object.values(shares).map(mean);
      const text = detector.labels[at] + ": accepts " + percent(id) + " % of ID" +
        (groups.length ? " and " + percent(mean(groups)) + " % of OOD" : "");
      output.textContent = text;
      slider.setAttribute("aria-valuetext", text);
      reset.disabled = at === start;
      const moved = (detector.thresholds[at] - detector.thresholds[start]) * (detector.axis.scale || 0);
      marks.forEach(function (mark) { mark.setAttribute("transform", "translate(" + moved + " 0)"); });
      showFlips(at, start, flipped);
    }

    function showFlips(at, start, flipped) {
      flips.hidden = flipped === 0;
      if (!flipped) return;
      const low = detector.thresholds[Math.min(at, start)], high = detector.thresholds[Math.max(at, start)];
      const found = detector.flips.filter(function (card) { return card.score >= low && card.score < high; });
      const shown = found.slice(0, 24);
      const what = at > start ? "rejected instead of accepted" : "accepted instead of rejected";
      flips.querySelector(".flips-heading").textContent =
        flipped.toLocaleString("en") + (flipped === 1 ? " image is " : " images are ") + what +
        (shown.length < flipped ? "; the " + shown.length + " nearest to the report’s threshold are shown" : "");
      flips.querySelector(".cards").replaceChildren(...shown.map(card));
    }

    slider.addEventListener("input", show);
    reset.addEventListener("click", function () {
      slider.value = String(detector.start);
      show();
      slider.focus();
    });
    // A browser may keep the slider where it was when the page is loaded again.
    slider.value = String(detector.start);
    show();
  }

  function card(image) {
    const item = element("li", "card");
    const picture = element("div", "thumb " + (image.thumb || "none"));
    if (image.thumb) {
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", image.path);
    } else {
      picture.setAttribute("aria-hidden", "true");
      picture.textContent = "no picture";
    }
    const what = element("p", "what");
    what.append(element("b", image.label ? "" : "unlabelled", image.label || "no label"));
    if (image.predicted) {
      const arrow = element("span", "arrow", " → ");
      arrow.setAttribute("aria-hidden", "true");
      what.append(arrow, element("span", "sr", " predicted "), image.predicted);
    }
    item.append(picture, what, element("p", "fact", image.score_text + " · " + image.set));
    if (image.nearest.length) item.append(element("p", "fact nearest", "nearest: " + image.nearest.join(", ")));
    item.append(element("p", "path", image.path));
    return item;
  }
  function element(tag, name, text) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function mean(values) {
    return values.reduce(function (sum, value) { return sum + value; }, 0) / values.length;
  }
  function percent(share) { return (100 * share).toFixed(1); }
  function signed(change) { return change > 0 ? "+" + change : change < 0 ? "−" + -change : "0"; }

  // On paper everything is open.
  let opened = [];
  window.addEventListener("beforeprint", function () {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (details) { details.open = true; });
  });
  window.addEventListener("afterprint", function () {
    opened.forEach(function (details) { details.open = false; });
  });
})();
