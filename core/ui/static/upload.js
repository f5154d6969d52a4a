/* Your photos: one place to drop them, buttons that can do something, and nothing lost by mistake.
   What there is stands in the data of the state element, which the server renders. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.confirm) return;
  const { make, button, root } = page;

  const KEPT = "twolens-upload"; // in this tab's sessionStorage: finds the upload after a reload
  // Files that systems put into any folder, never a person's photo.
  const HIDDEN = /^(\._.*|\.ds_store|\.picasa\.ini|thumbs\.db|desktop\.ini)$/i;

  /* ---- sending ---------------------------------------------------------------------------- */

  let waiting = [];

  /** Hands files to gradio's own sender, once it is there: it is not while it sends others. */
  const give = () => {
    const sender = document.querySelector("#upload-files input[type=file]");
    if (!waiting.length) return;
    if (!sender) return void setTimeout(give, 200);
    const list = new DataTransfer();
    for (const file of waiting) list.items.add(file);
    waiting = [];
    sender.files = list.files;
    sender.dispatchEvent(new Event("change", { bubbles: true }));
  };

  /** Files of several folders may have one name: then each is sent under its folders' as well. */
  const named = (files) => {
    const times = new Map();
    for (const [file] of files) times.set(file.name, (times.get(file.name) || 0) + 1);
    return files.map(([file, path]) => {
      const folders = path.split("/").filter(Boolean).slice(0, -1);
      if (times.get(file.name) === 1 || !folders.length) return file;
      const { type, lastModified } = file;
      return new File([file], [...folders, file.name].join(" \u203a "), { type, lastModified });
    });
  };

  /** Sends files, each with its path in what was chosen or dropped. */
  const send = (files) => {
    waiting.push(...named(files.filter(([file]) => !HIDDEN.test(file.name))));
    give();
  };

  const filesOf = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      return [[file, entry.fullPath]];
    }
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return found; // a browser gives a folder in pieces
      for (const each of some) found.push(...(await filesOf(each)));
    }
  };

  const zoneOf = (event) => event.target instanceof Element && event.target.closest(".tl-drop");

  for (const kind of ["dragover", "dragleave", "drop"])
    document.addEventListener(kind, (event) => {
      const zone = zoneOf(event);
      if (!zone) return;
      event.preventDefault();
      zone.classList.toggle("is-over", kind === "dragover");
      if (kind !== "drop") return;
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry());
      Promise.all(entries.filter(Boolean).map(filesOf)).then((all) => send(all.flat()));
    });

  document.addEventListener("change", (event) => {
    if (!zoneOf(event) || !event.target.files) return;
    send([...event.target.files].map((file) => [file, file.webkitRelativePath]));
    event.target.value = ""; // the same files may be chosen again
  });

  /* ---- asking first ----------------------------------------------------------------------- */

  /** Asks a question; the answer is a promise of true or false. */
  page.confirm = (question, yes) =>
    new Promise((resolve) => {
      const dialog = make("dialog", "tl-confirm");
      const close = (answer) => {
        dialog.close();
        dialog.remove();
        resolve(answer);
      };
      const row = make("div", "tl-confirm-buttons");
      row.append(
        button("tl-button", "Keep", () => close(false)),
        button("tl-button bad", yes, () => close(true)),
      );
      dialog.append(make("p", "", question), row);
      dialog.addEventListener("cancel", () => close(false));
      root().append(dialog);
      dialog.showModal();
    });

  const photos = (count) => (count === 1 ? "1 photo" : `${count} photos`);
  let agreed = false;

  document.addEventListener(
    "click",
    async (event) => {
      if (!(event.target instanceof Element)) return;
      const chosen = event.target.closest("[data-choose]");
      if (chosen) return chosen.closest(".tl-drop").querySelector(`.${chosen.dataset.choose}`).click();
      if (event.target.closest("[data-search-again]"))
        return document.querySelector("#upload-search").click();
      const describe = event.target.closest("#upload-describe");
      if (describe) return setTimeout(() => update(true));
      const forget = event.target.closest("#upload-forget");
      if (!forget || agreed) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const what = facts().kind === "running" ? "your photos" : photos(held());
      const question = `Forget ${what} with their captions? They are deleted here for good.`;
      if (!(await page.confirm(question, "Forget everything"))) return;
      agreed = true;
      forget.click();
      agreed = false;
    },
    true, // before gradio hears of it
  );

  /* ---- what there is ---------------------------------------------------------------------- */

  let asked = false; // a run was asked for and has not begun

  const facts = () => {
    const state = document.querySelector("#upload-state .tl-upload-state");
    return state ? state.dataset : {};
  };
  const held = () => Number(facts().waiting || 0) + Number(facts().photos || 0);

  const stay = (event) => event.preventDefault(); // the browser asks before the page is left

  const enable = (selector, on) => {
    const node = document.querySelector(selector);
    if (node) node.disabled = !on;
  };

  const update = (begun = false) => {
    const { kind, waiting: ready, keep } = facts();
    asked = begun || (asked && kind === "ready");
    const running = kind === "running";
    enable("#upload-describe", Number(ready || 0) > 0 && !running);
    enable("#upload-stop", running || asked);
    enable("#upload-forget", held() > 0 || running);
    window.removeEventListener("beforeunload", stay);
    if (held() || running) window.addEventListener("beforeunload", stay);
    if (keep) sessionStorage.setItem(KEPT, keep);
    else if (kind !== "start") sessionStorage.removeItem(KEPT);
  };

  window.addEventListener("twolens:upload", (event) => {
    const kept = event.detail.first && sessionStorage.getItem(KEPT);
    if (kept) event.detail.resume({ token: kept });
    update();
  });

  window.addEventListener("twolens:shown", (event) => {
    if (event.detail.closest("#upload-results") || event.detail.id === "upload-results")
      document.querySelector("[data-search-again]")?.remove();
  });
})();
