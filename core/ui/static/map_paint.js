/* Paints one map: points, small pictures where few are in sight, and marks over them. Points are
   written as pixels: two maps of 10,000 take 2 ms a frame without a GPU, where WebGL takes 50. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.mapPainter) return;

  const MOST_PICTURES = (page.MOST_MAP_PICTURES = 140); // in sight, to be drawn as pictures
  const MOST_KEPT = 600; // thumbnails in memory
  const HIT = 34; // px, a hit's picture
  const COLOURS = ["soft", "ink", "line", "surface", "captions", "clip"];

  const thumbnails = new Map(); // by address; both maps show the same pictures

  const thumbnail = (address, onLoad, mayLoad) => {
    let image = thumbnails.get(address);
    if (!image && mayLoad) {
      image = new Image();
      image.decoding = "async";
      image.addEventListener("load", onLoad);
      image.src = address;
      thumbnails.set(address, image);
      if (thumbnails.size > MOST_KEPT) thumbnails.delete(thumbnails.keys().next().value);
    }
    return image && image.complete && image.naturalWidth ? image : null;
  };

  /** A CSS colour as the bytes of a pixel. */
  const pixelOf = (css, alpha) => {
    const pen = pixelOf.pen || (pixelOf.pen = document.createElement("canvas").getContext("2d"));
    pen.fillStyle = css;
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(pen.fillStyle.slice(at, at + 2), 16));
    return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
  };

  /** Makes what paints a lens's map; `viewport` has data(), where(), screenOf() and toScreen(). */
  page.mapPainter = (lens, node, canvas, viewport) => {
    const pen = canvas.getContext("2d");
    let pixels = null;
    let image = null;
    let disc = {};
    let now = null; // what is painted

    /** The pixels of a disc, counted from its middle. */
    const discOf = (radius) => {
      if (disc.radius === radius && disc.width === canvas.width) return disc;
      const at = [];
      for (let dy = -radius; dy <= radius; dy++) {
        const half = Math.floor(Math.sqrt((radius + 0.5) ** 2 - dy * dy));
        for (let dx = -half; dx <= half; dx++) at.push(dy * canvas.width + dx);
      }
      disc = { radius, width: canvas.width, at: Int32Array.from(at) };
      return disc;
    };

    /** Paints all points, or those of `only`, and returns the rows in sight, or the first of many. */
    const stamp = (radius, colour, only = null) => {
      const { places, scale, left, top } = viewport.where();
      const [s, x0, y0] = [scale * now.dense, left * now.dense, top * now.dense];
      const [w, right, bottom] = [canvas.width, canvas.width - radius, canvas.height - radius];
      const { at } = discOf(radius);
      const rows = [];
      const count = only ? only.length : places.length / 2;
      for (let place = 0; place < count; place++) {
        const row = only ? only[place] : place;
        const x = Math.round(places[2 * row] * s + x0);
        const y = Math.round(places[2 * row + 1] * s + y0);
        if (x < radius || y < radius || x >= right || y >= bottom) continue;
        if (rows.length <= MOST_PICTURES) rows.push(row);
        const middle = y * w + x;
        for (let k = 0; k < at.length; k++) pixels[middle + at[k]] = colour;
      }
      return rows;
    };

    const paintPoints = (colours, chosen) => {
      const { count } = viewport.data();
      const size = count > 4000 ? 1.2 : count > 800 ? 2.2 : 3.2;
      const radius = Math.round(Math.min(5, size * Math.sqrt(Math.sqrt(now.zoom))) * now.dense);
      pixels.fill(0);
      const rows = stamp(radius, pixelOf(colours.soft, chosen ? 80 : 190));
      if (chosen) stamp(radius + 1, pixelOf(colours.ink, 255), [...chosen]);
      pen.putImageData(image, 0, 0);
      return rows;
    };

    const framed = (picture, x, y, side, line, colour) => {
      const ratio = picture.naturalWidth / picture.naturalHeight;
      const [w, h] = ratio > 1 ? [side, side / ratio] : [side * ratio, side];
      pen.drawImage(picture, x - w / 2, y - h / 2, w, h);
      pen.lineWidth = line;
      pen.strokeStyle = colour;
      pen.strokeRect(x - w / 2, y - h / 2, w, h);
    };

    /** Pictures in the place of points; of those that would overlap, the first. Returns their size. */
    const paintPictures = (rows, colours, chosen) => {
      const side = Math.max(30, Math.min(84, 0.62 * Math.sqrt((now.width * now.height) / (rows.length + 1))));
      const taken = new Set();
      const still = performance.now() - now.moving > 120;
      if (!still) setTimeout(now.again, 140);
      for (const row of rows) {
        const [x, y] = viewport.screenOf(row);
        const cell = [Math.floor(x / (side * 0.8)), Math.floor(y / (side * 0.8))].join();
        if (taken.has(cell)) continue;
        const picture = thumbnail(viewport.data().thumbnail(row), now.again, still);
        if (!picture) continue;
        taken.add(cell);
        const marked = chosen && chosen.has(row);
        framed(picture, x, y, side, marked ? 3 : 1, marked ? colours.ink : colours.line);
      }
      return side;
    };

    const shape = (kind, x, y, r) => {
      pen.beginPath();
      if (kind === "captions") pen.arc(x, y, r, 0, 7);
      else if (kind === "clip") pen.rect(x - r, y - r, 2 * r, 2 * r);
      else for (const [dx, dy] of [[0, -r], [r, 0], [0, r], [-r, 0]]) pen.lineTo(x + dx, y + dy);
      pen.closePath();
    };

    const paintHits = (colours, side) => {
      const { hits, places } = viewport.data().query;
      const start = places[lens] && viewport.toScreen(...places[lens]);
      for (const [other, rows] of Object.entries(hits)) {
        pen.strokeStyle = colours[other];
        pen.lineWidth = 1;
        pen.globalAlpha = 0.6;
        if (start && other === lens)
          for (const row of rows) {
            pen.beginPath();
            pen.moveTo(...start);
            pen.lineTo(...viewport.screenOf(row));
            pen.stroke();
          }
        pen.globalAlpha = 1;
      }
      // This lens's own are drawn last, the first of them on top.
      const order = Object.keys(hits).sort((a) => (a === lens ? 1 : -1));
      for (const other of order)
        [...hits[other]].reverse().forEach((row, back) => {
          const [x, y] = viewport.screenOf(row);
          const rank = hits[other].length - back;
          const picture = thumbnail(viewport.data().thumbnail(row), now.again, true);
          if (picture && other === lens) framed(picture, x, y, side, 3, colours[other]);
          const [bx, by] = other === lens ? [x - side / 2, y - side / 2] : [x, y];
          shape(other, bx, by, 9);
          pen.fillStyle = colours[other];
          pen.fill();
          pen.strokeStyle = colours.surface;
          pen.lineWidth = 1.5;
          pen.stroke();
          pen.fillStyle = colours.surface;
          pen.fillText(String(rank), bx, by + 0.5);
        });
      if (!start) return;
      shape("query", ...start, 11);
      pen.fillStyle = colours.ink;
      pen.fill();
      pen.strokeStyle = colours.surface;
      pen.lineWidth = 2;
      pen.stroke();
    };

    const paintMark = (row, colours) => {
      const [x, y] = viewport.screenOf(row);
      // What lies outside is marked at the edge that it lies behind.
      const [cx, cy] = [Math.max(4, Math.min(now.width - 4, x)), Math.max(4, Math.min(now.height - 4, y))];
      const picture = cx === x && cy === y && thumbnail(viewport.data().thumbnail(row), now.again, true);
      if (picture) framed(picture, x, y, 46, 3, colours.ink);
      for (const [radius, line, colour] of [[picture ? 31 : 12, 5, colours.surface], [picture ? 31 : 12, 2.5, colours.ink]]) {
        pen.beginPath();
        pen.arc(cx, cy, radius, 0, 7);
        pen.lineWidth = line;
        pen.strokeStyle = colour;
        pen.stroke();
      }
    };

    const paintLasso = (path, colour) => {
      pen.beginPath();
      for (const [x, y] of path) pen.lineTo(x, y);
      pen.closePath();
      pen.fillStyle = colour;
      pen.globalAlpha = 0.15;
      pen.fill();
      pen.globalAlpha = 1;
      pen.lineWidth = 2;
      pen.strokeStyle = colour;
      pen.stroke();
    };

    /** Paints what is in sight; `state` has width, height, dense, zoom, moving, lassoed, again(). */
    const paint = (state) => {
      now = state;
      const data = viewport.data();
      const style = getComputedStyle(node);
      const colours = Object.fromEntries(
        COLOURS.map((name) => [name, style.getPropertyValue(`--tl-${name}`).trim()]),
      );
      const chosen = data.chosen.size ? data.chosen : data.passing;
      const rows = paintPoints(colours, chosen);
      pen.setTransform(now.dense, 0, 0, now.dense, 0, 0);
      pen.font = `700 11px ${style.fontFamily}`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      // Where filters chose some, those alone are pictures: others would lie over them.
      const pictured = data.passing && !data.chosen.size ? [...data.passing] : rows;
      const side = pictured.length <= MOST_PICTURES ? paintPictures(pictured, colours, chosen) : HIT;
      if (data.query.query) paintHits(colours, side);
      if (data.pointed >= 0) paintMark(data.pointed, colours);
      if (now.lassoed) paintLasso(now.lassoed, colours[lens]);
    };

    const resized = () => {
      image = pen.createImageData(canvas.width, canvas.height);
      pixels = new Uint32Array(image.data.buffer);
    };
    return { paint, resized };
  };
})();
