// What is said of a video that is done: words first, then numbers, then the evidence.

import { blob, hasToken, json, made } from "./api.js";
import { Axis, Lane, legend } from "./lanes.js";
import { chance, clock, draw, make, percent, sentence } from "./made.js";

const WORDS = {
  "called fake": ["Likely fake", "fake"],
  uncertain: ["Uncertain", "doubt"],
  "called real": ["Likely not forged", "real"],
  "not called fake": ["Not called fake", "doubt"],
};

// The verdict in words, and the class of its colour.
export function verdict(result) {
  const worst = result.most_suspicious;
  const isShort = result.file && result.file.frames < 10 * result.file.fps;
  const at = worst && !["called real", "not called fake"].includes(result.verdict)
    ? `, most suspicious at ${clock(worst.seconds[0], isShort)}` : "";
  if (result.outcome === "unfamiliar") return ["Unfamiliar: no verdict", "doubt"];
  if (!result.verdict) return [`No verdict: ${result.outcome}`, "doubt"];
  const [words, kind] = WORDS[result.verdict] || [result.verdict, "doubt"];
  return [`${words}${at}`, kind];
}

export function resultView(job, result, model) {
  const [words, kind] = verdict(result);
  const calibrated = result.probability !== undefined && result.probability !== null;
  const view = make("div", { class: "result" },
    make("p", { class: `verdict ${kind}` }, words),
    ...meaning(result, calibrated));
  const warnings = [...result.warnings];
  if (result.outcome === "partial") warnings.unshift(`only a part was seen: ${result.reason}`);
  if (warnings.length) {
    view.append(make("div", { class: "warning", role: "note" },
      make("ul", {}, ...warnings.map((text) => make("li", {}, sentence(text))))));
  }
  const evidence = make("div", { class: "shown" });
  view.append(evidence, notLookedAt(result), facts(job, result), downloads(job));
  return { view, evidence };
}

function meaning(result, calibrated) {
  if (result.score === null || result.score === undefined) {
    return [make("p", {}, sentence(result.reason || "nothing more is known"))];
  }
  const value = calibrated ? result.probability : result.score;
  const band = calibrated ? result.probability_band : result.band;
  const limit = calibrated ? result.probability_threshold : result.threshold;
  const lead = calibrated
    ? "The model gives a forged face a probability of " : "The model's score, which is no probability, is ";
  const rule = band
    ? `Above ${chance(band[1], calibrated)} it calls a video fake, at or below `
      + `${chance(band[0], calibrated)} real; in between it is uncertain.`
    : `Above ${chance(limit, calibrated)} it calls a video fake.`;
  const holds = calibrated
    ? " That holds for videos like those it was calibrated on, with as large a share of forged ones." : "";
  const said = [make("p", {}, lead, make("strong", {}, chance(value, calibrated)), `. ${rule}${holds}`)];
  if (result.outcome === "unfamiliar") said.unshift(make("p", {}, sentence(result.reason)));
  said.push(gauge(value, band, limit, calibrated));
  if (result.part) {
    const p = result.part;
    const chanceOf = calibrated ? p.probability : p.score;
    const above = calibrated ? p.probability_threshold : p.threshold;
    said.push(make("p", {}, "Its most suspicious part, ",
      make("strong", {}, `${clock(p.seconds[0])} to ${clock(p.seconds[1])}`),
      ` (face ${p.face + 1}): ${p.verdict}, ${chance(chanceOf, calibrated)}. A part is called fake above `
      + `${chance(above, calibrated)}, which allows for the ${p.looked_at} parts looked at.`));
  }
  return said;
}

// A bar from 0 to 1 with the uncertain band, and where this video is.
function gauge(value, band, limit, calibrated) {
  const x = (v) => 10 + 380 * v;
  const svg = draw("svg", {
    class: "gauge", viewBox: "0 0 400 54", role: "img",
    "aria-label": `${chance(value, calibrated)} on a scale from real to fake`,
  });
  svg.append(draw("rect", { class: "base", x: 10, y: 16, width: 380, height: 14, rx: 3 }));
  const ends = band || [limit, limit];
  svg.append(draw("rect", {
    class: "zone", x: x(ends[0]), y: 16, width: Math.max(x(ends[1]) - x(ends[0]), 1), height: 14,
  }));
  for (const end of new Set(ends)) {
    svg.append(draw("line", { x1: x(end), x2: x(end), y1: 13, y2: 33 }));
  }
  svg.append(draw("path", { class: "mark", d: `M${x(value)} 15 l-6 -11 h12 z` }));
  const text = (at, anchor, words) => {
    const found = draw("text", { x: at, y: 48, "text-anchor": anchor });
    found.textContent = words;
    return found;
  };
  svg.append(text(10, "start", calibrated ? percent(0) : "0"), text(390, "end", calibrated ? percent(1) : "1"));
  return svg;
}

// Curves and player; called once the evidence is there.
export async function showEvidence(place, job, result) {
  if (!job.evidence || !result.file) return;
  place.replaceChildren(make("p", { class: "muted", role: "status" }, "The evidence is being collected…"));
  let found;
  try {
    found = await (await made(`v1/jobs/${job.id}/evidence`)).json();
  } catch (error) {
    place.replaceChildren(make("p", {}, sentence(error.message)));
    return undefined;
  }
  const player = new Player(job);
  const end = Math.max(0, ...found.parts.map((part) => part.seconds[1]));
  const axis = new Axis(end, (seconds) => { player.seek(seconds); axis.show(seconds); });
  player.onTime = (seconds) => axis.show(seconds);
  const lanes = found.faces.map((face) => new Lane(axis, face, result, found.parts)
    .element(result.faces[face.number]));
  const more = result.faces.length - found.faces.length;
  place.replaceChildren(
    make("h3", {}, "Where to look"),
    make("div", { class: "evidence" },
      player.element,
      make("div", {}, legend(result), ...lanes,
        more > 0 ? make("p", { class: "muted" }, `${more} more faces are in the results file.`) : null,
        lanes.length ? null : make("p", {}, "No face was scored."))),
    partsTable(found.parts));
  axis.show(0);
  player.ask();
  return player;
}

// The copy that browsers play, as soon as it is there.
export class Player {
  constructor(job) {
    this.id = job.id;
    this.start = job.playable_start;
    this.video = make("video", { controls: true, preload: "auto", muted: true, playsinline: true,
      "aria-label": "A small copy of the video, without sound" });
    this.note = make("p", { class: "small muted", role: "status" });
    this.element = make("div", { class: "player" }, this.video, this.note);
    this.onTime = () => {};
    this.wanted = null;
    const tell = () => this.onTime(this.video.currentTime + this.start);
    this.video.addEventListener("timeupdate", tell);
    this.video.addEventListener("loadedmetadata", () => {
      if (this.wanted !== null) this.seek(this.wanted);
    });
    this.update(job);
  }

  seek(seconds) {
    this.wanted = seconds;
    if (this.video.readyState) this.video.currentTime = Math.max(seconds - this.start, 0);
  }

  // Has the copy made before those that nobody looks at; of one byte, to see that it is there.
  async ask() {
    const job = `v1/jobs/${this.id}`;
    try {
      await made(`${job}/copy`, { range: "bytes=0-0" });
    } catch { /* the job says why there is none */ }
    try {
      await this.update(await json(job));
    } catch (error) {
      this.note.textContent = sentence(error.message);
    }
  }

  async update(job) {
    this.start = job.playable_start;
    this.video.hidden = job.playable !== "ready";
    if (job.playable === "wanted") this.note.textContent = "A copy to look at is being made…";
    if (job.playable === "none") {
      this.note.textContent = `There is no copy to look at${job.playable_reason ? `: ${job.playable_reason}` : ""}.`;
    }
    if (job.playable === "ready" && !this.video.src) {
      const path = `v1/jobs/${job.id}/copy`;
      this.video.src = hasToken() ? URL.createObjectURL(await blob(path)) : path;
      this.note.textContent = "A small copy, without sound, made for looking; the file itself was scored.";
    }
  }
}

const LEFT_OUT = {
  small: "too small beside the largest", seldom: "in too few frames", beside: "beside the largest",
  enlarged: "too small for the model", short: "in too few frames for a clip",
};

function leftOut(counts) {
  const some = Object.keys(LEFT_OUT).filter((name) => counts && counts[name]).map((name) => `${counts[name]} ${LEFT_OUT[name]}`);
  return (some.length ? ` Faces that were found and not scored, counted once in each part: ${some.join(", ")}.` : "")
    + " A face that is turned far aside, half hidden or very small may not be found at all, and then it is in no count.";
}

function notLookedAt(result) {
  if (!result.file) return make("p", {}, "Nothing was looked at: the file could not be decoded.");
  const { file } = result;
  const frames = file.frames.toLocaleString("en");
  return make("div", {},
    make("h3", {}, "What was not looked at"),
    make("p", {}, `${(result.frames_looked_at || 0).toLocaleString("en")} of ${frames} frames were searched `
      + `for faces, in ${result.windows} part${result.windows === 1 ? "" : "s"}; ${result.windows_without_face} `
      + "of these show no face. The rest of the picture, the frames between and the sound "
      + "were not looked at." + leftOut(result.faces_left_out)));
}

function partsTable(parts) {
  const head = ["Part", "shot", "from", "to", "frames looked at", "faces"];
  const rows = parts.map((part, i) => [
    i + 1, part.shot + 1, clock(part.seconds[0]), clock(part.seconds[1]), part.looked_at,
    part.faces || "none",
  ]);
  return make("details", {},
    make("summary", {}, "The parts that were looked at"),
    make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Parts" },
      make("table", {},
        make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
        make("tbody", {}, ...rows.map((row) => make("tr", {},
          ...row.map((cell) => make("td", {}, String(cell)))))))));
}

const MANIFESTS = {
  none: "none", valid: "valid: nothing was changed since it was signed",
  invalid: "it does not hold, so its words may be anybody's",
  unreadable: "it could not be read", "not read": "there is one, and it was not read",
};

// What the file says of itself: facts, which did not count for the score.
function said(file) {
  const { container, credentials } = file;
  const why = credentials && (credentials.reason || credentials.problems.join(", "));
  const words = [
    container && `Container ${container.format}; written by ${container.encoder.join(", ") || "nobody named"}`
      + (container.created && `; made ${container.created}, by its own words`),
    credentials && `C2PA manifest: ${MANIFESTS[credentials.state]}${why ? ` (${why})` : ""}`
      + (credentials.signer && `; signed by ${credentials.signer}, whom no list here vouches for`)
      + (credentials.generator && `; claimed by the program ${credentials.generator}`),
  ];
  return words.filter(Boolean).map((sentence) => make("p", { class: "small" }, sentence));
}

function facts(job, result) {
  const { file } = result;
  return make("div", {},
    make("h3", {}, "The file"),
    file ? make("p", { class: "small" }, `${file.width}×${file.height} pixels, `
      + `${file.frames.toLocaleString("en")} frames at ${file.fps.toFixed(2)} a second, ${file.codec}`) : null,
    ...(file ? said(file) : []),
    make("p", { class: "small" }, "SHA-256 ", make("span", { class: "digest" }, job.sha256)));
}

function downloads(job) {
  const link = (what, ending, words) => {
    const path = `v1/jobs/${job.id}/${what}`;
    return make("li", {}, make("a", {
      href: path, download: true,
      onclick: (event) => { if (hasToken()) { event.preventDefault(); save(path, `${job.id}.${ending}`); } },
    }, words));
  };
  const evidence = job.evidence && job.outcome !== "";
  return make("div", {},
    make("h3", {}, "To keep"),
    make("ul", { class: "downloads" },
      evidence ? link("page", "html", "This evidence as a page") : null,
      link("result", "json", "Result (JSON)"),
      evidence ? link("table", "csv", "Faces (CSV)") : null,
      evidence && job.outcome !== "unreadable" ? make("li", {}, annotatedVideo(job)) : null));
}

// A button that has the video made, then the link to it.
function annotatedVideo(job) {
  const path = `v1/jobs/${job.id}/annotated`;
  const said = make("span", { class: "small muted", role: "status" });
  const button = make("button", { type: "button", class: "plain", onclick: async () => {
    button.disabled = true;
    said.textContent = " It is being made…";
    try {
      const answer = await made(path, { range: "bytes=0-0" });
      const ending = (answer.headers.get("content-type") || "").includes("matroska") ? "mkv" : "mp4";
      const link = make("a", { href: path, download: true,
        onclick: (event) => { if (hasToken()) { event.preventDefault(); save(path, `${job.id}.${ending}`); } },
      }, "Annotated video");
      button.replaceWith(link);
      link.focus();
      said.textContent = "";
    } catch (error) {
      button.disabled = false;
      said.textContent = ` ${sentence(error.message)}`;
    }
  } }, "Make the annotated video");
  return make("span", {}, button, said);
}

// A link carries no token, so the file is fetched and then saved.
async function save(path, name) {
  const address = URL.createObjectURL(await blob(path));
  make("a", { href: address, download: name }).click();
  URL.revokeObjectURL(address);
}
