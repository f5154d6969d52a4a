/* One map of the tab "Map": what part of it is in sight, moved by pointer, wheel and keys, and what
   is picked there. */
(() => {
  "use strict";
  const page = window.twolens;
  if (page.mapChart) return;
  const { make, button, icon } = page;

  const REACH = 16; // px between a pointer and a point
  const MARGIN = 40; // px round the outermost points
  const ZOOMS = [0.8, 400];
  const ICONS = {
    lasso: "M7 16c-3-1-4-3-4-6 0-4 4-6 9-6s9 2 9 6-4 6-9 6c-2 0-3 0-5-1m0 1a2 2 0 1 1-3 2c0 2 1 3 3 3",
    list: "M8 6h13M8 12h13M8 18h13M3.5 6h.01M3.5 12h.01M3.5 18h.01",
    closer: "M12 5v14M5 12h14",
    away: "M5 12h14",
    whole: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  };

  /** Makes the map of a lens. `on` has point(row, chart), open(row), lasso(rows, chart), and data(). */
  page.mapChart = (lens, title, on) => {
    const node = make("section", `tl-lens tl-map-one ${lens}`);
    node.setAttribute("aria-label", `Map of the ${title}`);
    const head = make("header", "tl-lens-head");
    const box = make("div", "tl-map-box");
    const canvas = make("canvas", "tl-map-canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "map");
    canvas.setAttribute(
      "aria-label",
      `Map of the ${title}: arrows move it, plus and minus zoom, Enter opens the picture in the ` +
        "middle, L lists the pictures in sight",
    );
    box.append(canvas);
    node.append(head, box);

    let [width, height, dense] = [0, 0, 1];
    let camera = { x: 0, y: 0, zoom: 1 };
    let fit = 1; // px a unit, at zoom 1
    let moving = 0; // time of the last move: no thumbnail is asked for on the way
    let asked = 0;
    let lassoed = null; // the line that is being drawn, in px
    let selecting = false;

    const draw = () => {
      if (!asked) asked = requestAnimationFrame(paint);
    };
    const scale = () => fit * camera.zoom;
    const toScreen = (x, y) => [
      (x - camera.x) * scale() + width / 2,
      (y - camera.y) * scale() + height / 2,
    ];
    const screenOf = (row) => {
      const { places } = on.data()[lens];
      return toScreen(places[2 * row], places[2 * row + 1]);
    };

    /** The points, and how a place becomes one on the screen: times scale, plus left and top. */
    const where = () => {
      const s = scale();
      const [left, top] = [width / 2 - camera.x * s, height / 2 - camera.y * s];
      return { places: on.data()[lens].places, scale: s, left, top };
    };

    const eachInSight = (visit) => {
      const { places, scale: s, left, top } = where();
      for (let at = 0; at < places.length; at += 2) {
        const x = places[at] * s + left;
        const y = places[at + 1] * s + top;
        if (x > 0 && y > 0 && x < width && y < height) visit(at / 2, x, y);
      }
    };

    const rowsInSight = () => {
      const rows = [];
      eachInSight((row) => rows.push(row));
      return rows;
    };

    const nearest = (x, y, reach) => {
      let [found, best] = [-1, reach * reach];
      eachInSight((row, px, py) => {
        const away = (px - x) ** 2 + (py - y) ** 2;
        if (away < best) [found, best] = [row, away];
      });
      return found;
    };

    const painter = page.mapPainter(lens, node, canvas, {
      data: on.data,
      where,
      screenOf,
      toScreen,
    });
    const paint = () => {
      asked = 0;
      if (!width || !on.data()) return;
      painter.paint({ width, height, dense, zoom: camera.zoom, moving, lassoed, again: draw });
    };

    /* ---- moving --------------------------------------------------------------------------- */

    const moved = () => {
      moving = performance.now();
      draw();
    };
    const zoomAt = (factor, x = width / 2, y = height / 2) => {
      const zoom = Math.max(ZOOMS[0], Math.min(ZOOMS[1], camera.zoom * factor));
      const by = 1 / scale() - 1 / (fit * zoom);
      camera = { x: camera.x + (x - width / 2) * by, y: camera.y + (y - height / 2) * by, zoom };
      moved();
    };
    const pan = (dx, dy) => {
      camera.x -= dx / scale();
      camera.y -= dy / scale();
      moved();
    };
    const whole = () => {
      const data = on.data();
      if (!data) return;
      const [left, top, right, bottom] = data[lens].bounds;
      const room = (side) => Math.max(side - 2 * MARGIN, side / 2);
      fit = Math.min(room(width) / (right - left || 1), room(height) / (bottom - top || 1));
      camera = { x: (left + right) / 2, y: (top + bottom) / 2, zoom: 1 };
      draw();
    };

    const lasso = () => {
      const path = lassoed;
      lassoed = null;
      draw();
      if (!path || path.length < 3) return;
      const inside = [];
      eachInSight((row, x, y) => {
        let odd = false;
        path.forEach(([ax, ay], at) => {
          const [bx, by] = path[(at + 1) % path.length];
          if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
        });
        if (odd) inside.push(row);
      });
      on.lasso(inside, chart);
    };

    const at = (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    const reach = () => (rowsInSight().length <= page.MOST_MAP_PICTURES ? 2 * REACH : REACH);
    const fingers = new Map();
    let began = null;
    let travelled = false;

    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, at(event));
      if (fingers.size > 1) {
        travelled = true; // what two fingers do is no tap
        return void (lassoed = null);
      }
      began = at(event);
      travelled = false;
      if (selecting || event.shiftKey) lassoed = [began];
    });
    canvas.addEventListener("pointermove", (event) => {
      const here = at(event);
      const last = fingers.get(event.pointerId);
      if (!last) return void (event.pointerType === "mouse" && on.point(nearest(...here, reach()), chart));
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()];
        fingers.set(event.pointerId, here);
        const [c, d] = [...fingers.values()];
        const apart = (p, q) => Math.max(8, Math.hypot(p[0] - q[0], p[1] - q[1]));
        const middle = [(c[0] + d[0]) / 2, (c[1] + d[1]) / 2];
        pan(middle[0] - (a[0] + b[0]) / 2, middle[1] - (a[1] + b[1]) / 2);
        return zoomAt(apart(c, d) / apart(a, b), ...middle);
      }
      fingers.set(event.pointerId, here);
      travelled ||= Math.hypot(here[0] - began[0], here[1] - began[1]) > 5;
      if (lassoed) {
        lassoed.push(here);
        return draw();
      }
      pan(here[0] - last[0], here[1] - last[1]);
    });
    const lift = (event) => {
      if (!fingers.delete(event.pointerId) || fingers.size) return;
      if (event.type === "pointercancel") return void (lassoed = null);
      const here = at(event);
      if (travelled) return lasso();
      lassoed = null;
      const row = nearest(...here, event.pointerType === "mouse" ? reach() : 2 * REACH);
      on.point(row, chart, event.pointerType !== "mouse");
      if (event.pointerType === "mouse" && row >= 0) on.open(row);
    };
    canvas.addEventListener("pointerup", lift);
    canvas.addEventListener("pointercancel", lift);
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !fingers.size) on.point(-1, chart);
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const lines = event.deltaMode === 1 ? 20 : 1;
        zoomAt(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), ...at(event));
      },
      { passive: false },
    );

    const middle = () => on.point(nearest(width / 2, height / 2, Math.max(width, height)), chart, true);
    const list = () => on.lasso(rowsInSight(), chart);
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = Math.min(width, height) / 8;
      const keys = {
        ArrowLeft: () => pan(step, 0),
        ArrowRight: () => pan(-step, 0),
        ArrowUp: () => pan(0, step),
        ArrowDown: () => pan(0, -step),
        "+": () => zoomAt(1.5),
        "=": () => zoomAt(1.5),
        "-": () => zoomAt(1 / 1.5),
        0: whole,
      };
      const others = { Enter: () => on.open(on.data().pointed), l: list, Escape: () => on.clear() };
      const act = keys[event.key] || others[event.key];
      if (!act) return;
      event.preventDefault();
      act();
      if (keys[event.key]) middle();
    });
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && middle());

    const tool = (name, path, act) => {
      const made = button("tl-tool", "", act);
      made.setAttribute("aria-label", name);
      made.title = name;
      made.append(icon(path));
      return made;
    };
    const select = tool("Draw round pictures to list them", ICONS.lasso, () => {
      selecting = !selecting;
      select.setAttribute("aria-pressed", String(selecting));
      canvas.classList.toggle("is-selecting", selecting);
    });
    select.setAttribute("aria-pressed", "false");
    const tools = make("div", "tl-map-tools");
    tools.append(
      select,
      tool("List the pictures in sight", ICONS.list, list),
      tool("Zoom out", ICONS.away, () => zoomAt(1 / 1.6)),
      tool("Zoom in", ICONS.closer, () => zoomAt(1.6)),
      tool("Show all", ICONS.whole, whole),
    );
    head.append(make("h2", "", title), tools);

    const resize = () => {
      const size = box.getBoundingClientRect();
      if (!size.width || (size.width === width && size.height === height)) return;
      const first = !width;
      const before = Math.min(width, height);
      [width, height] = [size.width, size.height];
      dense = Math.min(2, window.devicePixelRatio || 1);
      canvas.width = Math.round(width * dense);
      canvas.height = Math.round(height * dense);
      painter.resized();
      if (first) return whole();
      fit *= Math.min(width, height) / before;
      draw();
    };
    new ResizeObserver(resize).observe(box);

    /** Zooms and paints at once, to be timed. */
    const frame = (zoom) => {
      camera.zoom = zoom;
      paint();
    };
    const chart = { lens, node, box, draw, whole, frame, screenOf, size: () => [width, height] };
    return chart;
  };
})();
