// One lane per face: its curve over time, thumbnails and moments; each leads the player.

import { chance, clock, draw, make } from "./made.js";

const WIDTH = 1000;
const HEIGHT = 100;

// What lanes share: the time axis, and whom to tell that a time was chosen.
export class Axis {
  constructor(duration, seek) {
    this.duration = Math.max(duration, 0.001);
    this.seek = seek;
    this.lanes = [];
  }

  // A time as text.
  clock(seconds) { return clock(seconds, this.duration < 10); }

  x(seconds) { return (WIDTH * seconds) / this.duration; }

  // The player has come to a time.
  show(seconds) {
    for (const lane of this.lanes) lane.show(seconds);
  }
}

export class Lane {
  constructor(axis, face, result, parts) {
    this.axis = axis;
    this.face = face;
    this.calibrated = result.probability != null;
    this.points = face.curve.map((point) => ({
      ...point, value: this.calibrated ? point.probability : point.score,
    }));
    const band = this.calibrated ? result.probability_band : result.band;
    const one = this.calibrated ? result.probability_threshold : result.threshold;
    this.limit = band ? band[1] : one;
    this.band = band;
    this.now = draw("line", { class: "now", y1: 0, y2: HEIGHT, x1: 0, x2: 0 });
    this.at = 0;
    this.curve = this.drawCurve(parts);
    axis.lanes.push(this);
  }

  // Of the clips that hold a time, else of the nearest one.
  valueAt(seconds) {
    const held = this.points.filter((p) => p.seconds[0] <= seconds && seconds <= p.seconds[1]);
    if (held.length) return held.reduce((sum, p) => sum + p.value, 0) / held.length;
    return null;
  }

  show(seconds) {
    this.at = seconds;
    const x = this.axis.x(seconds);
    this.now.setAttribute("x1", x);
    this.now.setAttribute("x2", x);
    const value = this.valueAt(seconds);
    const said = value === null ? "not seen" : `fake ${chance(value, this.calibrated)}`;
    this.curve.setAttribute("aria-valuenow", seconds.toFixed(1));
    this.curve.setAttribute("aria-valuetext", `${this.axis.clock(seconds)}, ${said}`);
  }

  drawCurve(parts) {
    const svg = draw("svg", {
      class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none",
      tabindex: 0, role: "slider", "aria-valuemin": 0,
      "aria-valuemax": this.axis.duration.toFixed(1), "aria-valuenow": "0.0",
      "aria-label": `Face ${this.face.number + 1}: how forged it looks over time. Arrow keys move`,
    });
    svg.append(hatch(), ...this.marks(parts), ...this.bars(), this.line(), this.now);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      this.axis.seek(((event.clientX - box.left) / box.width) * this.axis.duration);
    });
    svg.addEventListener("keydown", (event) => this.onKey(event));
    return svg;
  }

  // Gaps without a face, shots, the uncertain band and the limit.
  marks(parts) {
    const found = [];
    const box = (from, to, y, height, kind) => draw("rect", {
      class: kind, x: this.axis.x(from), width: Math.max(this.axis.x(to - from), 2), y, height,
    });
    parts.forEach((part, i) => {
      const [from, to] = part.seconds;
      if (!part.faces) found.push(box(from, to, 0, HEIGHT, "gap"));
      if (i && part.shot !== parts[i - 1].shot) {
        const x = this.axis.x(from);
        found.push(draw("line", { class: "shot", x1: x, x2: x, y1: 0, y2: HEIGHT }));
      }
    });
    if (this.band) {
      const [low, high] = this.band.map((value) => HEIGHT * (1 - value));
      found.push(draw("rect", { class: "band", x: 0, width: WIDTH, y: high, height: low - high }));
    }
    const y = HEIGHT * (1 - this.limit);
    found.push(draw("line", { class: "limit", x1: 0, x2: WIDTH, y1: y, y2: y }));
    return found;
  }

  bars() {
    return this.points.map((point) => {
      const [from, to] = point.seconds;
      const y = HEIGHT * (1 - point.value);
      const bar = draw("rect", {
        class: point.value > this.limit ? "piece high" : "piece",
        x: this.axis.x(from), width: Math.max(this.axis.x(to - from), 2),
        y, height: Math.max(HEIGHT - y, 1),
      });
      const title = draw("title");
      title.textContent = `${this.axis.clock(from)}: ${chance(point.value, this.calibrated)}`;
      bar.append(title);
      return bar;
    });
  }

  line() {
    const points = this.points.map((point) => {
      const middle = (point.seconds[0] + point.seconds[1]) / 2;
      return `${this.axis.x(middle)},${HEIGHT * (1 - point.value)}`;
    });
    return draw("polyline", { class: "line", points: points.join(" ") });
  }

  onKey(event) {
    const starts = this.points.map((point) => point.seconds[0]);
    const later = starts.find((s) => s > this.at + 0.01);
    const before = starts.filter((s) => s < this.at - 0.01).pop();
    const to = {
      ArrowRight: later, ArrowUp: later, ArrowLeft: before, ArrowDown: before,
      Home: 0, End: starts[starts.length - 1],
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.axis.seek(to);
  }

  element(facts) {
    const { face } = this;
    const value = this.calibrated ? facts.probability : facts.score;
    const said = facts.outcome === "unfamiliar" ? "unfamiliar: no verdict" : facts.verdict;
    const name = `Face ${face.number + 1}`;
    return make("section", { class: "lane", role: "group", "aria-label": name },
      make("div", { class: "lane-title" },
        make("h3", {}, name),
        make("p", { class: "small" }, `${said}, ${chance(value, this.calibrated)}; `
          + `${this.axis.clock(facts.seconds[0])} to ${this.axis.clock(facts.seconds[1])}`)),
      this.curve,
      make("div", { class: "axis", "aria-hidden": "true" },
        make("span", {}, "0:00"), make("span", {}, this.axis.clock(this.axis.duration))),
      this.thumbnails(name),
      this.moments(name));
  }

  thumbnails(name) {
    const row = make("div", { class: "thumbs", role: "group", "aria-label": `${name}: pictures` });
    for (const { seconds, image } of this.face.thumbnails) {
      row.append(make("button", {
        type: "button", "aria-label": `${name} at ${this.axis.clock(seconds)}: go there`,
        onclick: () => this.axis.seek(seconds),
      }, make("img", { src: `data:image/jpeg;base64,${image}`, alt: "" }), this.axis.clock(seconds)));
    }
    return row;
  }

  // The heat maps are large, so they are made when they are asked for.
  moments(name) {
    const list = make("details", {},
      make("summary", {}, `${name}: its most suspicious moments, with heat`));
    list.addEventListener("toggle", () => {
      if (list.dataset.made) return;
      list.dataset.made = "yes";
      for (const moment of this.face.moments) list.append(this.moment(moment));
      if (!this.face.moments.length) list.append(make("p", {}, "None."));
    });
    return list;
  }

  moment(moment) {
    const value = this.calibrated ? moment.probability : moment.score;
    const from = moment.seconds[0];
    const pictures = make("div", {
      class: "frames", tabindex: 0, role: "group", "aria-label": `Pictures from ${this.axis.clock(from)}`,
    });
    const show = (hot) => pictures.replaceChildren(...moment.frames.map((frame) => make(
      "figure", {},
      make("img", {
        src: `data:image/jpeg;base64,${hot ? frame.overlay : frame.image}`,
        alt: `The face at ${frame.seconds.toFixed(2)} s${hot ? ", with heat" : ""}`,
      }),
      make("figcaption", {}, chance(frame.running, this.calibrated)),
    )));
    const heat = make("button", { type: "button", class: "plain", "aria-pressed": "false" }, "Heat");
    heat.addEventListener("click", () => {
      const hot = heat.getAttribute("aria-pressed") !== "true";
      heat.setAttribute("aria-pressed", String(hot));
      show(hot);
    });
    show(false);
    return make("div", { class: "moment" },
      make("p", {}, `${this.axis.clock(from)} to ${this.axis.clock(moment.seconds[1])}: ${chance(value, this.calibrated)}`),
      make("div", { class: "buttons" },
        make("button", { type: "button", class: "plain", onclick: () => this.axis.seek(from) },
          `Go to ${this.axis.clock(from)}`), heat),
      pictures);
  }
}

// What fills gaps.
function hatch() {
  const pattern = draw("pattern", {
    id: "hatch", width: 8, height: 8, patternUnits: "userSpaceOnUse",
    patternTransform: "rotate(45)",
  });
  pattern.append(draw("line", { class: "hatch-line", x1: 0, x2: 0, y1: 0, y2: 8 }));
  const defs = draw("defs");
  defs.append(pattern);
  return defs;
}

export function legend(result) {
  const item = (kind, text) => make("span", {}, make("i", { class: kind }), text);
  return make("p", { class: "legend" },
    item("l-high", "piece above the limit"), item("l-low", "other piece"),
    result.band ? item("l-band", "uncertain band") : null,
    item("l-gap", "no face found"), result.shots > 1 ? item("l-shot", "cut") : null);
}
