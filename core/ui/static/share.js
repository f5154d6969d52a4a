/* The address of what is shown: kept in the browser's history, restored from it, shared. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.share) return;
  const { make, button, root } = page;

  const USUAL = { tab: "compare", k: "5", index: "flat", nprobe: "", s: "", start: "", more: "", w: "", p: "" };
  const NAMES = ["q", "g", "tab", "k", "index", "nprobe", "s", "start", "more", "w", "p"];

  let view = null; // what is shown; null while it has no address
  let restoring = null; // what was asked of the server and has not come
  let quiet = false; // whether what comes next was not asked for by the visitor
  let opening = null; // that example: what the first screen shows, which has no address
  let pushed = false; // whether the large view has an entry of its own in the history
  let closing = false; // whether the large view is closed by going back

  const fromAddress = () => {
    const given = new URLSearchParams(location.search);
    const found = { q: "", g: "", ...USUAL };
    for (const name of NAMES) if (given.has(name)) found[name] = given.get(name);
    return found;
  };

  const toAddress = (shown) => {
    const query = new URLSearchParams();
    for (const name of NAMES) {
      const value = String(shown[name] ?? "");
      const isUsual = value === "" || value === USUAL[name];
      if (!isUsual && !(name === "nprobe" && shown.index === "flat")) query.set(name, value);
    }
    const text = query.toString();
    return location.pathname + (text ? `?${text}` : "");
  };

  const write = (shown, how) => {
    const address = toAddress(shown);
    if (address !== location.pathname + location.search) history[how](null, "", address);
  };

  /* ---- results ---------------------------------------------------------------------------- */

  const ask = (wanted) => {
    restoring = wanted;
    const mix = Number.parseFloat(wanted.w);
    if (wanted.w === "rank") page.mix.set({ rank: true, weight: 0.5 });
    else if (mix >= 0 && mix <= 1) page.mix.set({ rank: false, weight: mix });
    window.twolensRestore(wanted);
  };

  const cardOf = (host, id) =>
    [...host.querySelectorAll(".tl-card")].find((card) => JSON.parse(card.dataset.picture).id === id);

  const arrived = (host) => {
    const told = host.querySelector("[data-address]");
    if (!told && restoring && !(restoring.q || restoring.s || restoring.start)) {
      restoring = view = null; // the first screen: it has no address of its own
    }
    // A tab that is restored may come into sight only after its results.
    if (!told || (host.offsetParent === null && !restoring)) return;
    const shown = { ...USUAL, ...JSON.parse(told.dataset.address) };
    if (restoring) {
      const { w, p } = restoring;
      restoring = null;
      view = { ...shown, w, p };
      if (location.search) write(view, "replaceState");
      const card = p && cardOf(host, p);
      pushed = false;
      if (!card) view.p = "";
      if (card) page.open(card);
      return;
    }
    view = { ...shown, w: view ? view.w : "" };
    if (quiet) opening = { ...view };
    else write(view, "pushState");
    quiet = false;
  };

  window.addEventListener("twolens:shown", (event) => arrived(event.detail));

  window.addEventListener("twolens:ready", (event) => {
    // The results of a tab that is opened for the first time are there before their place is.
    if (restoring) setTimeout(arrived, 0, event.detail);
    const example = event.detail.querySelector("[data-open]");
    if (!example) return;
    // Who comes with an address did not come for the example.
    const { q, s, start } = fromAddress();
    if (q || s || start) example.removeAttribute("data-open");
    else quiet = true;
  });

  window.addEventListener("twolens:restorable", () => {
    const wanted = fromAddress();
    if (location.search && (wanted.q || wanted.g || wanted.s || wanted.start || wanted.tab !== "compare"))
      setTimeout(ask, 0, wanted);
  });

  window.addEventListener("twolens:mixed", (event) => {
    if (!view) return;
    view.w = event.detail.rank ? "rank" : String(event.detail.weight);
    write(view, "replaceState");
  });

  /* ---- the large view --------------------------------------------------------------------- */

  window.addEventListener("twolens:picture", (event) => {
    const card = event.detail;
    if (!view) return;
    if (!card) {
      if (view.p && !closing) {
        view.p = "";
        if (pushed) history.back();
        else write(view, "replaceState"); // who came with its address has nowhere to go back to
      }
      return;
    }
    const host = page.bridgeOf(card);
    if (!host || !host.querySelector("[data-address]")) return;
    const before = view.p;
    if (!before) pushed = true;
    view.p = JSON.parse(card.dataset.picture).id;
    write(view, before ? "replaceState" : "pushState");
  });

  window.addEventListener("popstate", () => {
    const wanted = opening && !location.search ? { ...opening } : fromAddress();
    const same = view && toAddress({ ...wanted, p: "", w: "" }) === toAddress({ ...view, p: "", w: "" });
    const dialog = document.querySelector(".tl-dialog[open]");
    if (dialog && !wanted.p) {
      closing = true;
      if (view) view.p = "";
      dialog.addEventListener("close", () => setTimeout(() => (closing = false), 0), { once: true });
      dialog.close();
    }
    if (!same) return ask(wanted);
    if (!wanted.p || dialog) return;
    for (const host of document.querySelectorAll(".tl-results")) {
      const card = host.offsetParent !== null && cardOf(host, wanted.p);
      if (card) return page.open(card);
    }
  });

  /* ---- sharing ---------------------------------------------------------------------------- */

  /** What is shown or on its way here: sharing need not wait for the results of an address. */
  const shared = () => restoring ?? view ?? fromAddress();

  const copy = async (text, field) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    field.select(); // where the page is not served over https
    document.execCommand("copy");
  };

  const copied = (label, text) => {
    const box = make("div", "tl-share-copy");
    const field = make("textarea");
    field.readOnly = true;
    field.rows = text.split("\n").length;
    field.value = text;
    field.setAttribute("aria-label", label);
    const press = button("tl-chip", label, async () => {
      await copy(text, field);
      press.textContent = "Copied";
      page.announce("Copied.");
    });
    box.append(field, press);
    return box;
  };

  /** What an endpoint takes for a value that is left out; all of these come last. */
  const LEFT_OUT = { fusion: "default", caption_weight: null, filters: "", text: false, start: 0, nprobe: null };

  /** The calls of the API behind the view: names, and values by the names of their parameters. */
  const calls = () => {
    const { q: query, g: gallery, tab, k: count, index, nprobe: probes, s, start: first, more, w } = shared();
    const k = Number(count);
    const start = Number(first) || 0;
    if (s) {
      const [lens, image_id] = s.split(":");
      return [["similar", { image_id, lens, k, gallery }]];
    }
    if (!["compare", "map"].includes(tab)) {
      const exact = index === USUAL.index;
      const nprobe = exact ? null : Number(probes) || null;
      const kind = exact ? "default" : index;
      return [[`search_${tab}`, { query, k, index: kind, gallery, filters: "", start, nprobe }]];
    }
    const mixed = tab === "compare" && w !== "";
    const box = document.querySelector(".tl-mix[data-sum]");
    const sum = box ? box.dataset.sum : "zscore";
    const fusion = !mixed ? "default" : w === "rank" ? "rrf" : sum;
    const caption_weight = fusion === sum ? Number(w) : null;
    const rows = tab === "compare" ? more.split(",") : [];
    const text = rows.includes("text") && Boolean(document.querySelector(".tl-text"));
    const both = { query, k, gallery, fusion, caption_weight, filters: "", text, start };
    const words = rows.includes("words") ? [["search_words", { query, k, gallery }]] : [];
    return [["compare", both], ...words];
  };

  const isLeftOut = ([name, value]) => name in LEFT_OUT && value === LEFT_OUT[name];

  const asPython = (server) => {
    const literal = (value) => (value === true ? "True" : JSON.stringify(value));
    const lines = calls().map(([name, values]) => {
      const given = Object.entries(values)
        .filter((each) => !isLeftOut(each))
        .map(([key, value]) => (key in LEFT_OUT ? `${key}=` : "") + literal(value));
      return `print(client.predict(${given.join(", ")}, api_name="/${name}"))`;
    });
    return (
      `from gradio_client import Client\n\nclient = Client(${JSON.stringify(server)})\n` +
      lines.join("\n")
    );
  };

  const asCurl = (server) =>
    calls()
      .map(([name, values]) => {
        const entries = Object.entries(values);
        while (isLeftOut(entries.at(-1))) entries.pop();
        const body = JSON.stringify({ data: entries.map(([, value]) => value) });
        return (
          `curl '${server}gradio_api/run/${name}' \\\n  -H 'Content-Type: application/json' \\\n` +
          `  -d '${body.replaceAll("'", "'\\''")}'`
        );
      })
      .join("\n");

  const card = (q, g) => {
    const query = new URLSearchParams({ q, g });
    const figure = make("figure");
    const image = make("img");
    image.setAttribute("alt", `The first picture of each lens for “${q}”`);
    image.setAttribute("width", "1200");
    image.setAttribute("height", "630");
    image.setAttribute("src", `preview.png?${query}`);
    const save = make("a", "tl-chip", "Save the picture");
    save.setAttribute("href", `preview.png?${query}`);
    save.setAttribute("download", "twolens.png");
    figure.append(image, save);
    return figure;
  };

  page.share = () => {
    const dialog = make("dialog", "tl-share-dialog");
    dialog.setAttribute("aria-label", "Share");
    const shut = button("tl-close", "×", () => dialog.close());
    shut.setAttribute("aria-label", "Close");
    const { q, g, s } = shared();
    const address = location.origin + toAddress(shared());
    const server = new URL("./", document.baseURI).href;
    dialog.append(shut, make("h2", "", "Share"), copied("Copy the address", address));
    if (q && !s) dialog.append(card(q, g));
    if (q || s) {
      dialog.append(
        copied("Copy as Python", asPython(server)),
        copied("Copy as curl", asCurl(server)),
      );
    }
    dialog.addEventListener("close", () => dialog.remove());
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // the backdrop
    });
    root().append(dialog);
    dialog.showModal();
  };

  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest(".tl-share")) page.share();
  });
})();
