/* Why this picture? In the large view, asked for by the visitor: the words of its captions that speak
   for the query, the parts of the picture where CLIP sees it, and what another caption would do. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.why) return;
  const { make, button } = page;

  const SORRY = "It cannot be said now why this picture was found.";

  const asked = async (name, ...data) => {
    const answer = await fetch(`gradio_api/run/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ data }),
    });
    const content = await answer.json().catch(() => ({}));
    if (!answer.ok || !content.data) throw new Error(content.error || content.detail || SORRY);
    return content.data[0];
  };

  /* A text whose words are underlined the more, the more they add to the score. */
  const underlined = (text, words, most) => {
    const line = make("p", "tl-why-words");
    let at = 0;
    // Places are counted in characters, where JavaScript counts in halves of some of them.
    const characters = [...text];
    for (const word of words) {
      line.append(characters.slice(at, word.start).join(""));
      const share = Math.max(0, word.share / most);
      const mark = make("span", "", characters.slice(word.start, word.end).join(""));
      mark.style.setProperty("--share", share.toFixed(2));
      mark.title = `${word.share < 0 ? "−" : "+"}${Math.abs(word.share).toFixed(3)}`;
      line.append(mark);
      at = word.end;
    }
    line.append(characters.slice(at).join(""));
    return line;
  };

  const captionPart = (found) => {
    const box = make("div", "tl-why-part captions");
    const said = found.captions;
    box.append(make("strong", "", `Caption lens: ${said.score.toFixed(2)}`));
    const captions = said.captions.filter((caption) => caption.text && caption.share > 0);
    captions.sort((a, b) => b.share - a.share);
    const shown = captions.slice(0, 3);
    const most = Math.max(1e-6, ...shown.flatMap((each) => each.words.map((word) => word.share)));
    for (const caption of shown) box.append(underlined(caption.text, caption.words, most));
    const many = shown.length > 1 ? "these captions" : "the caption";
    box.append(
      make("p", "tl-why-note", `The thicker a word's line, the more it adds to the score of ${many}.`),
    );
    return box;
  };

  const drawMap = (canvas, image, area, patches) => {
    const pen = canvas.getContext("2d");
    const [rows, columns] = [patches.length, patches[0].length];
    const shade = document.createElement("canvas");
    [shade.width, shade.height] = [columns, rows];
    const dots = shade.getContext("2d").createImageData(columns, rows);
    patches.flat().forEach((value, place) => {
      dots.data[4 * place + 3] = 190 * (1 - Math.sqrt(value)); // faint parts can be seen too
    });
    shade.getContext("2d").putImageData(dots, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    const [left, top, width, height] = area;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(
      shade,
      left * canvas.width,
      top * canvas.height,
      width * canvas.width,
      height * canvas.height,
    );
  };

  const clipPart = (found, picture) => {
    const box = make("div", "tl-why-part clip");
    box.append(make("strong", "", `CLIP lens: ${found.clip.score.toFixed(2)}`));
    const { words, area } = found.clip;
    if (!words.length) return box;
    const canvas = make("canvas", "tl-why-map");
    canvas.setAttribute("role", "img");
    const image = new Image();
    const choices = make("div", "tl-why-choices");
    const show = (word) => {
      for (const choice of choices.children) {
        choice.setAttribute("aria-pressed", String(choice.textContent === word.text));
      }
      canvas.setAttribute("aria-label", `Where CLIP sees “${word.text}”`);
      if (image.complete && image.naturalWidth) drawMap(canvas, image, area, word.patches);
    };
    for (const word of words) {
      const choice = button("", word.text, () => show(word));
      for (const kind of ["mouseenter", "focus"]) choice.addEventListener(kind, () => show(word));
      choices.append(choice);
    }
    image.addEventListener("load", () => {
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      show(words[0]);
    });
    image.src = picture.src;
    box.append(canvas, choices);
    box.append(make("p", "tl-why-note", "The brighter a part, the more it speaks for these words."));
    return box;
  };

  /* What can be read in the picture, its words that are the query's marked. */
  const textPart = (found) => {
    const box = make("div", "tl-why-part text");
    const { text, words } = found.text;
    box.append(make("strong", "", words.length ? "Your words can be read in it" : "It says"));
    const line = make("p", "tl-why-words");
    const shown = text.length > 300 ? `${text.slice(0, 300)} …` : text;
    for (const piece of shown.split(/([\p{L}\p{N}]+)/u)) {
      line.append(words.includes(piece) ? make("mark", "", piece) : piece);
    }
    line.prepend("“");
    line.append("”");
    box.append(line);
    return box;
  };

  /* Where the picture would stand with another caption, while the visitor types it. */
  const tryPart = (picture) => {
    const box = make("div", "tl-why-part");
    const label = make("label", "tl-why-try", "Try another caption");
    const field = make("input");
    field.type = "text";
    field.maxLength = 300;
    field.value = picture.caption;
    label.append(field);
    const places = make("p", "tl-why-places", "Its places change as you type. Nothing is stored.");
    places.setAttribute("aria-live", "polite");
    const told = (name, moved, count) => {
      const [from, to] = [moved.before.rank, moved.after.rank];
      const place = from === to ? `still place ${to}` : `place ${from} → ${to}`;
      return `${name}: ${place} of ${count}`;
    };
    let latest = 0;
    const tryNow = async () => {
      const turn = ++latest;
      const { query, id, gallery } = picture;
      try {
        const moved = await asked("try_caption", query, id, field.value, gallery);
        if (turn !== latest) return; // what was typed since is on its way
        const lines = [told("Caption lens", moved.captions, moved.pictures)];
        if (moved.fused && !textCounts()) lines.push(told("Best of both", moved.fused, moved.pictures));
        places.textContent = lines.join(". ") + ".";
      } catch (error) {
        if (turn === latest) places.textContent = error.message || SORRY;
      }
    };
    let waiting = 0;
    field.addEventListener("input", () => {
      clearTimeout(waiting);
      if (field.value.trim()) waiting = setTimeout(tryNow, 60);
    });
    box.append(label, places);
    return box;
  };

  /* Whether the text in the pictures is joined in the fused row that is shown. */
  const textCounts = () => Boolean(document.querySelector(".tl-mix[data-text]"));

  /* The secret in the address of a visitor's own photo, which lets its holder ask about it. */
  const ownPhoto = (picture) => (picture.src.match(/^uploads\/([\w-]+)\//) || [])[1];

  const answerInto = async (box, picture) => {
    const body = make("div", "tl-why-body", "Looking …");
    body.setAttribute("aria-live", "polite");
    box.append(body);
    try {
      const own = ownPhoto(picture);
      const found = own
        ? await asked("upload_why", picture.query, picture.id, own)
        : await asked("why", picture.query, picture.id, picture.gallery);
      const parts = [];
      if (found.captions) parts.push(captionPart(found));
      if (found.captions && !own) parts.push(tryPart(picture)); // one's own are corrected in a table
      if (found.clip) parts.push(clipPart(found, picture));
      if (found.text) parts.push(textPart(found));
      for (const sentence of Object.values(found.failures)) {
        parts.push(make("p", "tl-flag", sentence));
      }
      if (found.fused) {
        const { captions, clip } = found.fused;
        const say = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
        parts.push(
          make(
            "p",
            "tl-why-note",
            `Best of both: captions ${say(captions)}, CLIP ${say(clip)}` +
              `${textCounts() && found.text ? `, text ${say(found.text.added)}` : ""}.`,
          ),
        );
      }
      body.replaceChildren(...parts);
    } catch (error) {
      body.replaceChildren(make("p", "tl-flag", error.message || SORRY));
    }
  };

  page.why = (picture) => {
    if (!picture.query || !(picture.gallery || ownPhoto(picture))) return null;
    const box = make("details", "tl-why");
    box.append(make("summary", "", "Why this picture?"));
    let begun = false;
    box.addEventListener("toggle", () => {
      if (!box.open || begun) return;
      begun = true;
      answerInto(box, picture);
    });
    return box;
  };
})();
