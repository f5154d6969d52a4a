/* The large view of a picture: zoom, previous and next, download, and what is known of it. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.open) return;
  const { make, button, icon, bridgeOf, root } = page;

  const LENSES = { captions: "Caption lens", clip: "CLIP lens" };
  const ICONS = {
    back: "M15 5l-7 7 7 7",
    on: "M9 5l7 7-7 7",
    zoom: "M10.5 17a6.5 6.5 0 1 0 0-13a6.5 6.5 0 0 0 0 13zM15.5 15.5L21 21M10.5 8v5M8 10.5h5",
    save: "M12 4v11M7 11l5 5 5-5M5 20h14",
    link: "M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1",
  };
  const SWIPE_PX = 60;

  let dialog = null;
  let cards = [];
  let place = 0;

  /** Says which card is shown large; null once none is. */
  const tell = (card) => window.dispatchEvent(new CustomEvent("twolens:picture", { detail: card }));

  const build = () => {
    dialog = make("dialog", "tl-dialog");
    dialog.setAttribute("aria-label", "Picture");
    dialog.addEventListener("close", () => tell(null));
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // the backdrop
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const view = dialog.querySelector(".tl-view");
      const pans = view.classList.contains("is-zoomed");
      if (event.key === "ArrowLeft" && !pans) step(-1);
      if (event.key === "ArrowRight" && !pans) step(1);
      if (event.key === "+" || event.key === "z") zoom(view, true);
      if (event.key === "-") zoom(view, false);
    });
    root().append(dialog);
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

  /* ---- the picture ------------------------------------------------------------------------ */

  /** Shows a picture at twice the size that fits or at its own, whichever is more, or fitted. */
  const zoom = (view, on, at) => {
    const image = view.querySelector("img");
    const box = image.getBoundingClientRect();
    view.classList.toggle("is-zoomed", on);
    view.tabIndex = on ? 0 : -1; // arrows scroll what has the focus
    dialog.querySelector(".tl-zoom").setAttribute("aria-pressed", on);
    if (!on) return void (image.style.width = "");
    const fitted = Math.min(
      view.clientWidth,
      (view.clientHeight * image.naturalWidth) / image.naturalHeight,
    );
    image.style.width = `${Math.max(2 * fitted, image.naturalWidth)}px`;
    const [x, y] = at ? [(at[0] - box.x) / box.width, (at[1] - box.y) / box.height] : [0.5, 0.5];
    view.scrollLeft = x * view.scrollWidth - view.clientWidth / 2;
    view.scrollTop = y * view.scrollHeight - view.clientHeight / 2;
    view.focus({ preventScroll: true });
  };

  /** Lets a mouse drag a zoomed picture, and a finger turn to the next one. */
  const movable = (view) => {
    let from = null;
    view.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, left: view.scrollLeft, top: view.scrollTop };
    });
    view.addEventListener("pointermove", (event) => {
      if (!from || event.pointerType !== "mouse" || !event.buttons) return;
      view.scrollLeft = from.left + from.x - event.clientX;
      view.scrollTop = from.top + from.y - event.clientY;
    });
    view.addEventListener("click", (event) => {
      const moved = from && Math.hypot(event.clientX - from.x, event.clientY - from.y) > 5;
      const on = !view.classList.contains("is-zoomed");
      if (!moved) zoom(view, on, [event.clientX, event.clientY]);
    });
    let touch = null;
    view.addEventListener("touchstart", (event) => (touch = event.touches[0]), { passive: true });
    view.addEventListener("touchend", (event) => {
      const by = event.changedTouches[0].clientX - touch.clientX;
      const aside = Math.abs(by) > 2 * Math.abs(event.changedTouches[0].clientY - touch.clientY);
      if (!view.classList.contains("is-zoomed") && aside && Math.abs(by) > SWIPE_PX)
        step(by < 0 ? 1 : -1);
    });
    view.addEventListener("dragstart", (event) => event.preventDefault());
  };

  /** The picture: its thumbnail at once, the large copy as soon as it has come. */
  const viewOf = (picture) => {
    const view = make("div", "tl-view");
    const image = make("img");
    image.setAttribute("src", picture.src);
    image.setAttribute("alt", picture.alt);
    view.append(image);
    movable(view);
    if (picture.large) {
      const large = new Image();
      large.addEventListener("load", () => image.setAttribute("src", large.src));
      large.src = picture.large;
    }
    return view;
  };

  const tool = (label, path, onClick) => {
    const node = button("tl-tool", "", onClick);
    node.setAttribute("aria-label", label);
    node.setAttribute("title", label);
    node.append(icon(path));
    return node;
  };

  const save = (picture) => {
    const node = make("a", "tl-tool");
    node.setAttribute("href", picture.large || picture.src);
    node.setAttribute("download", picture.file.split("/").pop().replace(/\.\w+$/, "") + ".webp");
    node.setAttribute("aria-label", "Download");
    node.setAttribute("title", "Download");
    node.append(icon(ICONS.save));
    return node;
  };

  const toolsFor = (picture, view) => {
    const tools = make("figcaption", "tl-turn");
    if (cards.length > 1) {
      const back = tool("Previous picture", ICONS.back, () => step(-1));
      back.disabled = place === 0;
      const on = tool("Next picture", ICONS.on, () => step(1));
      on.disabled = place === cards.length - 1;
      tools.append(back, make("span", "", `${place + 1} of ${cards.length}`), on);
    }
    const closer = tool("Zoom", ICONS.zoom, () =>
      zoom(view, !view.classList.contains("is-zoomed")),
    );
    closer.classList.add("tl-zoom");
    closer.setAttribute("aria-pressed", "false");
    tools.append(closer, save(picture));
    if (!picture.src.startsWith("uploads/")) {
      // The address of a visitor's own photo holds a secret.
      const link = tool("Copy link", ICONS.link, async () => {
        const address = new URL(picture.large || picture.src, document.baseURI).href;
        await page.copy(address, dialog);
        page.announce("Link copied.");
        said.textContent = "Link copied";
      });
      const said = make("span", "tl-copied");
      tools.append(link, said);
    }
    return tools;
  };

  /* ---- what is known of it ---------------------------------------------------------------- */

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

  const onwardFrom = (picture) => {
    const onward = make("div", "tl-onward");
    onward.append(make("p", "", "Find similar pictures"));
    for (const [lens, title] of Object.entries(LENSES)) {
      const word = lens === "clip" ? "similar by CLIP" : "similar by captions";
      const go = button(`tl-similar ${lens}`, word, () =>
        ask("similar", { id: picture.id, lens, query: page.askedFor(cards[place]) }),
      );
      go.setAttribute("title", title);
      onward.append(go);
    }
    // Where there is no field of words, nobody asked in words.
    if (page.fieldOf(document))
      onward.append(page.withPicture(cards[place], (query) => ask("pick", { query })));
    return onward;
  };

  const onlySmall = (picture, image) => {
    const note = make("p", "tl-only-small");
    const tell = () => {
      if (picture.large || image.naturalWidth >= picture.width) return;
      note.textContent = "Only a small copy is kept here. ";
      if (picture.source) note.append(link(picture.source, "See the original"));
    };
    if (image.complete) tell();
    else image.addEventListener("load", tell, { once: true });
    return note;
  };

  const factsOf = (picture, image) => {
    const facts = make("div", "tl-about-picture");
    facts.append(make("blockquote", "", picture.caption || "No caption"));
    facts.append(
      make("p", "tl-origin", [picture.origin, picture.confidence].filter(Boolean).join(" · ")),
    );
    for (const flag of picture.flags) facts.append(make("p", "tl-flag", flag));
    for (const part of [moreCaptions(picture), standings(picture), page.why(picture)]) {
      if (part) facts.append(part);
    }
    if (bridgeOf(cards[place])) facts.append(onwardFrom(picture)); // else nothing can search
    const list = make("dl", "tl-file");
    row(list, "File", picture.file);
    row(list, "Size", picture.size);
    row(list, "Licence", picture.licence);
    row(list, "Source", picture.source ? link(picture.source, new URL(picture.source).host) : "");
    facts.append(list, onlySmall(picture, image));
    return facts;
  };

  const render = () => {
    const picture = JSON.parse(cards[place].dataset.picture);
    const shut = button("tl-close", "×", () => dialog.close());
    shut.setAttribute("aria-label", "Close");
    const figure = make("figure", "tl-figure");
    const view = viewOf(picture);
    figure.append(view, toolsFor(picture, view));
    const facts = factsOf(picture, view.querySelector("img"));
    const focused = document.activeElement && document.activeElement.getAttribute("aria-label");
    dialog.replaceChildren(shut, figure, facts);
    const again = [...dialog.querySelectorAll("button:not(:disabled)")].find(
      (node) => focused && node.getAttribute("aria-label") === focused,
    );
    if (dialog.open) (again || shut).focus();
    tell(cards[place]);
  };

  page.open = (card) => {
    if (!dialog || !dialog.isConnected) build();
    // Those that are folded away as nearly the same are passed over, unless one of them is opened.
    const shown = (each) => each === card || each.checkVisibility({ contentVisibilityAuto: true });
    cards = [...card.closest(".tl-row, .tl-m-pair").querySelectorAll(".tl-card")].filter(shown);
    place = cards.indexOf(card);
    render();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
})();
