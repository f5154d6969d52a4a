/* The page's own behaviour: results, the mix of the lenses, the query. Everything that a visitor or
   a model wrote goes through textContent or setAttribute, never through innerHTML. */
(() => {
  "use strict";
  const { make, bridgeOf, root, open, fieldOf } = window.twolens;

  /* ---- best of both: the page has the row for each weight of the lenses ------------------- */

  let mixed = null; // what the visitor chose: {weight} or {rank: true}; kept for later searches

  const showMix = (box, stop) => {
    const section = box.closest("section");
    const list = section.querySelector(".tl-row");
    const spare = section.parentElement.querySelector(".tl-mix-spare").content;
    const idOf = (item) => JSON.parse(item.querySelector(".tl-card").dataset.picture).id;
    const items = new Map();
    for (const item of [...list.children, ...spare.children]) items.set(idOf(item), item);
    const shown = stop.ids.map((id) => items.get(id));
    spare.append(...[...list.children].filter((item) => !shown.includes(item)));
    shown.forEach((item, place) => {
      item.querySelector(".tl-rank").textContent = Number(box.dataset.first) + place;
      if (list.children[place] !== item) list.insertBefore(item, list.children[place] || null);
    });
    const term = section.querySelector(".tl-mix-how .tl-term");
    term.firstChild.textContent = stop.short;
    term.querySelector(".tl-tip").textContent = stop.long;
    box.querySelector("input[type=range]").setAttribute("aria-valuetext", stop.short);
  };

  window.twolens.mix = { set: (value) => (mixed = value) };

  const applyMix = (box) => {
    const mix = JSON.parse(box.dataset.mix);
    const [range, rank] = box.querySelectorAll("input");
    rank.checked = mixed.rank;
    if (!mixed.rank) {
      const away = (stop) => Math.abs(stop.weight - mixed.weight);
      const nearest = mix.weights.reduce((a, b) => (away(b) < away(a) ? b : a));
      range.value = mix.weights.indexOf(nearest);
    }
    showMix(box, mixed.rank ? mix.rank : mix.weights[range.value]);
  };

  document.addEventListener("input", (event) => {
    const box = event.target instanceof Element && event.target.closest(".tl-mix");
    if (!box) return;
    const [range, rank] = box.querySelectorAll("input");
    const weight = JSON.parse(box.dataset.mix).weights[range.value].weight;
    mixed = { rank: event.target === rank && rank.checked, weight };
    applyMix(box);
    window.dispatchEvent(new CustomEvent("twolens:mixed", { detail: mixed }));
  });

  /* ---- results ---------------------------------------------------------------------------- */

  const announce = (window.twolens.announce = (text) => {
    let region = document.getElementById("tl-live");
    if (!region) {
      region = make("div", "tl-sr");
      region.id = "tl-live";
      region.setAttribute("role", "status");
      root().append(region);
    }
    region.textContent = text;
  });

  /* The default gallery opens with the answer to an example. */
  const answerExample = (host) => {
    const waiting = host.querySelector("[data-open]");
    if (!waiting) return;
    const query = waiting.dataset.open;
    waiting.removeAttribute("data-open");
    host.twolensTrigger("pick", { query });
  };

  window.addEventListener("twolens:ready", (event) => setTimeout(answerExample, 0, event.detail));

  window.addEventListener("twolens:shown", (event) => {
    const host = event.detail;
    answerExample(host);
    const stage = host.querySelector(".tl-stage");
    if (!stage) return;
    announce(stage.dataset.summary || "");
    const box = mixed && stage.querySelector(".tl-mix");
    if (box) applyMix(box);
    if (!host.twolensFocus) return;
    host.twolensFocus = false;
    const answer = stage.querySelector(".tl-answer");
    answer.focus({ preventScroll: true });
    if (answer.getBoundingClientRect().top < 0) answer.scrollIntoView({ block: "start" });
  });

  /* ---- the query -------------------------------------------------------------------------- */

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable], dialog")) return;
    const field = fieldOf(document);
    if (!field) return;
    event.preventDefault(); // the stroke itself is no part of the query
    field.focus();
    field.select();
  });

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const clear = event.target.closest(".tl-clear");
    if (clear) return fieldOf(clear.closest(".tl-search")).focus();
    const card = event.target.closest(".tl-card");
    if (card) return open(card);
    const chip = event.target.closest("[data-query]");
    const bridge = chip && bridgeOf(chip);
    if (bridge) {
      bridge.twolensFocus = true;
      return bridge.twolensTrigger("pick", { query: chip.dataset.query });
    }
    const leaf = event.target.closest("[data-start]");
    const book = leaf && bridgeOf(leaf);
    if (book) {
      book.twolensFocus = true;
      const field = !leaf.dataset.words && fieldOf(document);
      if (field) {
        field.value = ""; // a whole gallery answers no words
        field.dispatchEvent(new Event("input", { bubbles: true }));
      }
      return book.twolensTrigger("turn", { start: leaf.dataset.start, query: leaf.dataset.words });
    }
    const anew = event.target.closest("[data-rerank]");
    const ranker = anew && bridgeOf(anew);
    if (ranker) {
      ranker.twolensFocus = true;
      return ranker.twolensTrigger("rerank", { query: anew.dataset.rerank });
    }
    const jump = event.target.closest("[data-tab]");
    if (!jump) return;
    const tab = [...document.querySelectorAll('[role="tab"]')].find(
      (node) => node.textContent.trim() === jump.dataset.tab,
    );
    if (tab) tab.click();
  });

})();
