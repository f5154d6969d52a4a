/* The page's own behaviour: cards open a detail view, buttons search onward. Everything that a
   visitor or a model wrote goes through textContent or setAttribute, never through innerHTML. */
(() => {
  "use strict";
  if (window.twolens) return;

  const LENSES = { captions: "Caption lens", clip: "CLIP lens" };

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text) node.textContent = text;
    return node;
  };

  const bridgeOf = (node) => {
    while (node && !node.twolensTrigger) node = node.parentElement;
    return node;
  };

  /* ---- the detail view -------------------------------------------------------------------- */

  let dialog = null;
  let cards = [];
  let place = 0;

  const button = (className, label, onClick) => {
    const node = make("button", className, label);
    node.type = "button";
    node.addEventListener("click", onClick);
    return node;
  };

  const build = () => {
    dialog = make("dialog", "tl-dialog");
    dialog.setAttribute("aria-label", "Picture");
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // the backdrop
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
    (document.querySelector(".gradio-container") || document.body).append(dialog);
  };

  const step = (by) => {
    const next = place + by;
    if (next < 0 || next >= cards.length) return;
    place = next;
    render();
  };

  const ask = (name, data) => {
    const bridge = bridgeOf(cards[place]);
    dialog.close();
    if (!bridge) return;
    bridge.twolensFocus = true;
    bridge.twolensTrigger(name, data);
  };

  const row = (list, term, value) => {
    if (!value) return;
    list.append(make("dt", "", term));
    const cell = make("dd");
    cell.append(value);
    list.append(cell);
  };

  const link = (address, text) => {
    if (!/^https?:\/\//i.test(address)) return text;
    const node = make("a", "", text);
    node.setAttribute("href", address);
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
    return node;
  };

  const standings = (picture) => {
    if (!picture.ranks.length) return null;
    const box = make("div", "tl-standings");
    box.append(make("p", "", `For “${picture.query}”`));
    for (const rank of picture.ranks) {
      const line = make("p", `tl-standing ${rank.lens === "clip" ? "clip" : "captions"}`);
      line.append(make("strong", "", rank.title), make("span", "", rank.place));
      box.append(line);
    }
    return box;
  };

  const moreCaptions = (picture) => {
    if (!picture.more.length) return null;
    const box = make("details", "tl-more");
    const count = picture.more.length;
    const list = make("ul");
    for (const caption of picture.more) list.append(make("li", "", caption));
    box.append(make("summary", "", `${count} more caption${count === 1 ? "" : "s"}`), list);
    return box;
  };

  const render = () => {
    const picture = JSON.parse(cards[place].dataset.picture);
    const shut = button("tl-close", "×", () => dialog.close());
    shut.setAttribute("aria-label", "Close");

    const figure = make("figure", "tl-figure");
    const image = make("img");
    image.setAttribute("src", picture.src);
    image.setAttribute("alt", picture.alt);
    figure.append(image);
    if (cards.length > 1) {
      const turn = make("figcaption", "tl-turn");
      const back = button("", "←", () => step(-1));
      back.setAttribute("aria-label", "Previous picture");
      back.disabled = place === 0;
      const on = button("", "→", () => step(1));
      on.setAttribute("aria-label", "Next picture");
      on.disabled = place === cards.length - 1;
      turn.append(back, make("span", "", `${place + 1} of ${cards.length}`), on);
      figure.append(turn);
    }

    const facts = make("div", "tl-about-picture");
    facts.append(make("blockquote", "", picture.caption || "No caption"));
    facts.append(
      make("p", "tl-origin", [picture.origin, picture.confidence].filter(Boolean).join(" · ")),
    );
    for (const flag of picture.flags) facts.append(make("p", "tl-flag", flag));
    const more = moreCaptions(picture);
    if (more) facts.append(more);
    const ranks = standings(picture);
    if (ranks) facts.append(ranks);

    const onward = make("div", "tl-onward");
    onward.append(make("p", "", "Find similar pictures"));
    for (const [lens, title] of Object.entries(LENSES)) {
      const word = lens === "clip" ? "similar by CLIP" : "similar by captions";
      const go = button(`tl-similar ${lens}`, word, () =>
        ask("similar", { id: picture.id, lens, query: picture.query }),
      );
      go.setAttribute("title", title);
      onward.append(go);
    }
    if (bridgeOf(cards[place])) facts.append(onward); // only a results area can search onward

    const list = make("dl", "tl-file");
    row(list, "File", picture.file);
    row(list, "Size", picture.size);
    row(list, "Licence", picture.licence);
    row(list, "Source", picture.source ? link(picture.source, new URL(picture.source).host) : "");
    facts.append(list);

    const focused = document.activeElement && document.activeElement.getAttribute("aria-label");
    dialog.replaceChildren(shut, figure, facts);
    const again = [...dialog.querySelectorAll("button:not(:disabled)")].find(
      (node) => focused && node.getAttribute("aria-label") === focused,
    );
    if (dialog.open) (again || shut).focus();
  };

  const open = (card) => {
    if (!dialog || !dialog.isConnected) build();
    cards = [...card.closest(".tl-row, .tl-m-pair").querySelectorAll(".tl-card")];
    place = cards.indexOf(card);
    render();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };

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
      item.querySelector(".tl-rank").textContent = place + 1;
      if (list.children[place] !== item) list.insertBefore(item, list.children[place] || null);
    });
    const term = section.querySelector(".tl-mix-how .tl-term");
    term.firstChild.textContent = stop.short;
    term.querySelector(".tl-tip").textContent = stop.long;
    box.querySelector("input[type=range]").setAttribute("aria-valuetext", stop.short);
  };

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
  });

  /* ---- results ---------------------------------------------------------------------------- */

  const announce = (text) => {
    let region = document.getElementById("tl-live");
    if (!region) {
      region = make("div", "tl-sr");
      region.id = "tl-live";
      region.setAttribute("role", "status");
      (document.querySelector(".gradio-container") || document.body).append(region);
    }
    region.textContent = text;
  };

  window.addEventListener("twolens:shown", (event) => {
    const host = event.detail;
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

  const visible = (node) => node.offsetParent !== null;
  const fieldOf = (where) => [...where.querySelectorAll(".tl-query input")].find(visible);

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
    const jump = event.target.closest("[data-tab]");
    if (!jump) return;
    // On a narrow page gradio moves the last tabs into a menu.
    const tab = [...document.querySelectorAll('[role="tab"], .overflow-dropdown button')].find(
      (node) => node.textContent.trim() === jump.dataset.tab,
    );
    if (tab) tab.click();
  });

  window.twolens = { open };
})();
