// What the page asks of the service. Every address is relative, for a path behind a proxy.

let token = sessionStorage.getItem("token") || "";

export function setToken(text) {
  token = text;
  sessionStorage.setItem("token", text);
}

export const hasToken = () => token !== "";

const headers = () => (token ? { authorization: `Bearer ${token}` } : {});

export class Refused extends Error {
  constructor(status, sentence, after) {
    super(sentence);
    this.status = status;
    this.after = after;
  }
}

async function refusal(answer) {
  let sentence = `the service answers ${answer.status}`;
  try {
    sentence = (await answer.json()).error || sentence;
  } catch { /* a proxy may answer otherwise */ }
  return new Refused(answer.status, sentence, Number(answer.headers.get("retry-after")) || 0);
}

export async function ask(path, method = "GET", more = {}) {
  const answer = await fetch(path, { method, headers: { ...headers(), ...more }, cache: "no-store" });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

// The answer once what is asked for is made; onWait is called while it is not.
export async function made(path, more = {}, onWait = () => {}) {
  for (;;) {
    try {
      return await ask(path, "GET", more);
    } catch (error) {
      if (error.status !== 503) throw error;
      onWait();
      await pause(error.after || 2);
    }
  }
}

export const json = async (path, method) => (await ask(path, method)).json();

export const blob = async (path) => (await ask(path)).blob();

// Hands a file in; onProgress gets 0 to 1.
export function upload(file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "v1/videos");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded / (event.total || 1));
    request.onerror = () => reject(new Refused(0, "the connection was lost", 0));
    request.onload = () => {
      if (request.status === 202) return resolve(request.response);
      const said = request.response?.error || `the service answers ${request.status}`;
      const after = Number(request.getResponseHeader("retry-after")) || 0;
      return reject(new Refused(request.status, said, after));
    };
    const form = new FormData();
    form.append("video", file, file.name);
    request.send(form);
  });
}

const pause = (seconds) => new Promise((done) => { setTimeout(done, 1000 * seconds); });

// Calls onJob whenever a job has changed, until it has ended; null once it is gone.
export async function follow(id, onJob) {
  for (;;) {
    try {
      const answer = await ask(`v1/jobs/${id}/events`);
      for await (const data of events(answer.body)) {
        const job = JSON.parse(data);
        if (!job.id) return onJob(null);
        onJob(job);
        if (["done", "failed"].includes(job.state)) return undefined;
      }
    } catch (error) {
      if (error.status === 404) return onJob(null);
      if (error.status === 401) throw error;
    }
    await pause(2);  // the service may be starting again
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data: "));
        if (data.length) yield data.map((line) => line.slice(6)).join("\n");
      }
    }
  } finally {
    reader.cancel();  // a browser has few connections to a service
  }
}
