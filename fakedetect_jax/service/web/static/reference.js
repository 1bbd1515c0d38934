// The calls of openapi.json as a page, without anything from elsewhere.

import { make } from "./made.js";

const described = await (await fetch("openapi.json")).json();
document.getElementById("about").textContent = described.info.description;

const nameOf = (schema) => {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.items) return `list of ${nameOf(schema.items)}`;
  if (schema.anyOf) return schema.anyOf.map(nameOf).join(" or ");
  return schema.enum ? schema.enum.map((v) => JSON.stringify(v)).join(" | ") : schema.type || schema.const || "";
};

function table(rows) {
  return make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Fields" },
    make("table", {}, make("tbody", {}, ...rows.map(([head, ...cells]) => make("tr", {},
      make("th", { scope: "row" }, head), ...cells.map((cell) => make("td", {}, cell)))))));
}

const calls = document.getElementById("calls");
for (const [path, methods] of Object.entries(described.paths)) {
  for (const [method, call] of Object.entries(methods)) {
    const rows = (call.parameters || []).map((p) => [p.name, p.in, p.description || nameOf(p.schema)]);
    const answers = Object.entries(call.responses).map(([status, answer]) => {
      const kinds = Object.entries(answer.content || {});
      return [status, answer.description, kinds.map(([kind, c]) => `${kind} ${nameOf(c.schema)}`).join(", ")];
    });
    calls.append(make("section", { class: "panel" },
      make("h2", {}, `${method.toUpperCase()} ${path}`), make("p", {}, call.description || call.summary),
      ...(rows.length ? [make("h3", {}, "Takes"), table(rows)] : []),
      make("h3", {}, "Answers"), table(answers)));
  }
}
for (const [name, schema] of Object.entries(described.components.schemas)) {
  const rows = Object.entries(schema.properties || {}).map(
    ([field, facts]) => [field, nameOf(facts), facts.description || ""]);
  if (rows.length) {
    calls.append(make("section", { class: "panel" }, make("h2", {}, name),
      make("p", {}, schema.description || ""), table(rows)));
  }
}
