// The page: files in, how far they are, and their results.

import { Refused, ask, follow, json, setToken, upload } from "./api.js";
import { make, size } from "./made.js";
import { resultView, showEvidence, verdict } from "./result.js";

const $ = (id) => document.getElementById(id);
const kept = new Set(JSON.parse(sessionStorage.getItem("jobs") || "[]"));
let model = null;

function keep(id, isThere) {
  if (isThere) kept.add(id);
  else kept.delete(id);
  sessionStorage.setItem("jobs", JSON.stringify([...kept]));
}

// Said to those who do not see the page.
function say(text) { $("said").textContent = text; }

// One file: on its way, waiting, being scored, done.
class Card {
  constructor(name) {
    this.name = name;
    this.job = null;
    this.state = make("p", { class: "state" });
    this.progress = make("progress", { max: 1, "aria-label": `How far ${name} is` });
    this.toggle = make("button", { type: "button", class: "plain", "aria-expanded": "true", hidden: true,
      onclick: () => this.fold() }, "Fold");
    this.remove = make("button", { type: "button", class: "plain", "aria-label": `Delete now: ${name}`,
      onclick: () => this.delete() }, "Delete now");
    this.body = make("div", {});
    this.element = make("article", { class: "panel job", "aria-label": name },
      make("header", {}, make("h2", {}, name), make("div", { class: "buttons" }, this.toggle, this.remove)),
      this.state, this.progress, this.body);
    $("jobs").prepend(this.element);
  }

  tell(text, part) {
    this.state.textContent = text;
    this.progress.hidden = part === null;
    if (part === undefined) this.progress.removeAttribute("value");
    else if (part !== null) this.progress.value = part;
  }

  fold() {
    const open = this.body.hidden;
    this.body.hidden = !open;
    this.toggle.textContent = open ? "Fold" : "Open";
    this.toggle.setAttribute("aria-expanded", String(open));
  }

  // Takes the copies from the players, which would ask for more of them when they are gone.
  unload() {
    const players = [...this.body.querySelectorAll("video[src]")];
    const sources = players.map((player) => player.getAttribute("src"));
    for (const player of players) {
      player.removeAttribute("src");
      player.load();
    }
    return () => players.forEach((player, i) => { player.src = sources[i]; });
  }

  async delete() {
    this.isGone = true;
    const reload = this.unload();
    if (this.job) {
      try {
        await ask(`v1/jobs/${this.job.id}`, "DELETE");
      } catch (error) {
        if (error.status !== 404) {
          this.isGone = false;
          this.tell(error.message, null);
          reload();
          return;
        }
      }
      keep(this.job.id, false);
    }
    this.element.remove();
    say(`${this.name} was deleted`);
    $("files").focus();
  }

  async follow(job) {
    this.job = job;
    keep(job.id, true);
    await this.show(job);
    await follow(job.id, (changed) => this.show(changed));
  }

  async show(job) {
    if (this.isGone) return;
    if (job === null) {
      keep(this.job.id, false);
      this.tell("It is no longer kept.", null);
      this.remove.hidden = true;
      return;
    }
    this.job = job;
    if (job.state === "waiting") this.tell(job.reason ? `Waiting: ${job.reason}` : place(job.place), undefined);
    if (job.state === "running") {
      const done = job.frames ? job.frames_done / job.frames : undefined;
      const part = job.frames ? `: ${job.frames_done} of ${job.frames} frames` : "";
      const phase = { reading: "Reading", looking: "Looking for shots" }[job.phase];
      this.tell(`${phase || "Scoring"}${part}`, done);
    }
    if (job.state === "failed") this.tell(`It could not be scored: ${job.reason}.`, null);
    if (job.state === "done") await this.showResult(job);
  }

  async showResult(job) {
    if (!this.shown) {
      this.shown = true;
      try {
        const result = await json(`v1/jobs/${job.id}/result`);
        const until = new Date(1000 * job.kept_until).toLocaleTimeString([], { timeStyle: "short" });
        this.tell(`Done. All of it is deleted at ${until}, or when you say so.`, null);
        const { view, evidence } = resultView(job, result, model);
        this.body.append(view);
        this.toggle.hidden = false;
        say(`${this.name}: ${verdict(result)[0]}`);
        await showEvidence(evidence, job, result);
      } catch (error) {
        this.tell(error.message, null);
      }
    }
  }
}

const place = (before) => (before ? `Waiting: ${before} before it` : "Waiting: it is next");

const pause = (seconds) => new Promise((done) => { setTimeout(done, 1000 * seconds); });

// Files go out one after another; a full service is asked again.
let sending = Promise.resolve();

function hand(files) {
  for (const file of files) {
    const card = new Card(file.name);
    card.tell("Waiting to be sent", undefined);
    sending = sending.then(() => send(card, file));
  }
}

async function send(card, file) {
  if (card.isGone) return;
  if (model?.max_bytes && file.size > model.max_bytes) {
    card.tell(`Not sent: it has ${size(file.size)}, and ${size(model.max_bytes)} are allowed.`, null);
    return;
  }
  for (;;) {
    try {
      const job = await upload(file, (part) => card.tell(`Sending: ${Math.round(100 * part)}\u202f%`, part));
      if (card.isGone) { await ask(`v1/jobs/${job.id}`, "DELETE"); return; }
      card.follow(job).catch((error) => card.tell(error.message, null));
      return;
    } catch (error) {
      const again = error instanceof Refused && [429, 503].includes(error.status);
      if (!again || card.isGone) {
        card.tell(`Not taken: ${error.message}.`, null);
        if (error.status === 401) askToken();
        return;
      }
      card.tell(`The service is full; trying again in ${error.after || 5} s`, undefined);
      await pause(error.after || 5);
    }
  }
}

function askToken() {
  $("token-form").hidden = false;
  $("token").focus();
}

async function loadModel() {
  try {
    model = await json("v1/model");
  } catch (error) {
    if (error.status === 401) { askToken(); return; }
    model = null;
  }
  if (!model?.ready) {
    $("limits").textContent = "The model is being loaded; videos can be handed in already.";
    setTimeout(loadModel, 2000);
    return;
  }
  const minutes = Math.max(1, Math.round(model.keep_seconds / 60));
  $("limits").textContent = `Up to ${size(model.max_bytes)} each. A video and all that was made of it are removed `
    + `after ${minutes} minute${minutes === 1 ? "" : "s"}.`;
  $("warning").hidden = !model.made;
  $("warning").textContent = model.made
    ? "The model was trained on made videos: its scores mean nothing on real ones." : "";
  $("sample-line").hidden = !model.samples;
  $("card").innerHTML = model.card;  // the service made it of Markdown, without HTML or links
  $("card-panel").hidden = false;
  if (model.made && !model.samples) setTimeout(loadModel, 2000);  // they are being made
}

function restore() {
  for (const id of kept) {
    json(`v1/jobs/${id}`).then((job) => new Card(job.name).follow(job)).catch((error) => {
      if (error.status === 404) keep(id, false);
    });
  }
}

$("files").addEventListener("change", (event) => {
  hand(event.target.files);
  event.target.value = "";
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  hand(event.dataTransfer.files);
});
$("sample").addEventListener("click", async () => {
  try {
    for (const job of await json("v1/samples", "POST")) new Card(job.name).follow(job);
  } catch (error) { say(error.message); }
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
  loadModel();
  restore();
});

loadModel();
restore();
