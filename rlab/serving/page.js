"use strict";
// Everything that is shown is put in as text: no name of a model or of a feature is ever read as HTML.
const EVERY = 2000; // milliseconds between two looks
const SVG = "http://www.w3.org/2000/svg";
const sections = new Map(); // "name@version" -> its elements

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function draw(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function short(number) {
  if (!Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return number.toExponential(1).replace("-", "−").replace("e+", "e");
  return String(Number(number.toPrecision(3))).replace("-", "−");
}

function bars(feature) {
  const count = feature.shares.length, width = 272, height = 84, floor = 68, step = width / count;
  const highest = Math.max(...feature.shares, ...feature.reference_shares, 2.5 / count); // so that chance looks small
  const top = (share) => floor - (floor - 4) * share / highest;
  const label = `${feature.name}: ${feature.drifting ? "drifts" : "as on record"}, mean ${short(feature.mean)}, on record ${short(feature.reference_mean)}`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "bars", role: "img", "aria-label": label });
  feature.shares.forEach((share, i) => svg.append(draw("rect", {
    class: "now", x: (i * step + 1).toFixed(1), width: (step - 2).toFixed(1),
    y: top(share).toFixed(1), height: (floor - top(share)).toFixed(1),
  })));
  const line = feature.reference_shares.map((share, i) => `${(i * step).toFixed(1)},${top(share).toFixed(1)} ${((i + 1) * step).toFixed(1)},${top(share).toFixed(1)}`);
  svg.append(draw("polyline", { class: "record", points: line.join(" ") }));
  svg.append(draw("line", { class: "base", x1: 0, x2: width, y1: floor, y2: floor }));
  const places = [[0, "start"], [width / 2, "middle"], [width, "end"]];
  feature.quantiles.forEach((value, i) => svg.append(draw("text", { x: places[i][0], y: 80, "text-anchor": places[i][1] }, short(value))));
  return svg;
}

function featureOf(feature) {
  const shift = `${feature.shift < 0 ? "−" : "+"}${Math.abs(feature.shift).toFixed(2)} sd`;
  const state = feature.drifting ? `${feature.what === "mean" ? "mean has moved" : "spread has changed"}` : "as on record";
  return make("li", { class: feature.drifting ? "feature drifting" : "feature" },
    make("h4", {}, make("span", {}, feature.name), make("span", { class: "state" }, state)),
    bars(feature),
    make("p", {}, `mean ${short(feature.mean)}, on record ${short(feature.reference_mean)} (${shift}), score ${feature.score.toFixed(2)}`));
}

function shape(values) {
  return Array.isArray(values) ? [values.length, ...(values.length ? shape(values[0]) : [])] : [];
}

async function ask(model, place) {
  place.button.disabled = true;
  place.answer.hidden = false;
  place.answer.className = "answer";
  try {
    const inputs = model.inputs.map((input) => {
      const data = JSON.parse(place.fields.get(input.name).value);
      const found = shape(data), rank = input.shape.length - 1;
      const rows = found.length > rank ? found[0] : 1;
      return { name: input.name, datatype: input.datatype, shape: [rows, ...input.shape.slice(1)], data: [data].flat(Infinity) };
    });
    const path = `v2/models/${encodeURIComponent(model.name)}/versions/${encodeURIComponent(model.version)}/infer`;
    const begun = performance.now();
    const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ inputs }) });
    const told = await response.json();
    if (!response.ok) throw new Error(told.error);
    const outputs = told.outputs.map((output) => `${output.name}: ${JSON.stringify(output.data)}`);
    place.answer.textContent = [...outputs, `${short(performance.now() - begun)} ms`].join("\n");
  } catch (error) {
    place.answer.classList.add("refused");
    place.answer.textContent = error instanceof SyntaxError ? "an observation is written as JSON, such as [0.1, 0, 2]" : error.message;
  }
  place.button.disabled = false;
}

function begin(model) {
  const key = `${model.name}@${model.version}`, fields = new Map();
  const form = make("form", {});
  model.inputs.forEach((input, index) => {
    const id = `input-${sections.size}-${index}`;
    const field = make("textarea", { id, rows: 2, spellcheck: "false", autocomplete: "off" });
    field.value = JSON.stringify(input.example);
    fields.set(input.name, field);
    form.append(make("label", { for: id }, `${input.name}, ${input.datatype} [${input.shape.slice(1).join(", ")}]`), field);
  });
  const button = make("button", { type: "submit" }, "Ask");
  const place = {
    fields, button, answer: make("div", { class: "answer", role: "status" }),
    numbers: make("dl", { class: "numbers" }), actions: make("div", { class: "actions" }),
    about: make("p", { class: "about" }), features: make("ul", { class: "features" }),
  };
  place.answer.hidden = true;
  form.append(button);
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(model, place); });
  place.section = make("section", { "data-model": key },
    make("h2", {}, model.name, " ", make("small", {}, `version ${model.version}`)),
    place.numbers, make("h3", {}, "Ask it"), form, place.answer,
    make("h3", {}, "Drift"), place.about, place.features);
  place.actionsHeading = make("h3", {}, "Actions");
  place.section.append(place.actionsHeading, place.actions);
  document.getElementById("models").append(place.section);
  sections.set(key, place);
  return place;
}

function number(name, value) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value));
}

function show(model) {
  const place = sections.get(`${model.name}@${model.version}`) || begin(model);
  const drift = model.drift, moved = drift.features.filter((each) => each.drifting);
  place.numbers.replaceChildren(
    number("answered", model.answered.toLocaleString("en")), number("refused", model.refused.toLocaleString("en")),
    number("mean time", model.answered ? `${short(1000 * model.mean_seconds)} ms` : "–"),
    number("together", model.answered ? `${short(model.mean_rows)} ${short(model.mean_rows) === "1" ? "row" : "rows"}` : "–"));
  if (model.why_not) place.about.textContent = model.why_not;
  else if (!drift.features.length) place.about.textContent = `${drift.observations} observations so far; from 256 on they are compared.`;
  else if (moved.length) place.about.textContent = `${moved.length} of ${drift.features.length} features ${moved.length === 1 ? "drifts" : "drift"}, after ${drift.observations.toLocaleString("en")} observations.`;
  else place.about.textContent = `None of ${drift.features.length} features drifts, after ${drift.observations.toLocaleString("en")} observations.`;
  const shown = [...drift.features].sort((a, b) => b.drifting - a.drifting).slice(0, 48);
  place.features.replaceChildren(...shown.map(featureOf));
  const total = model.actions.reduce((sum, each) => sum + each.count, 0);
  place.actionsHeading.hidden = place.actions.hidden = total === 0;
  place.actions.replaceChildren(...model.actions.slice(0, 64).flatMap((each) => {
    const share = each.count / total;
    return [make("span", {}, each.name), make("meter", { min: 0, max: 1, value: share, "aria-label": `action ${each.name}` }), make("span", {}, `${(100 * share).toFixed(1)} %`)];
  }));
}

async function look() {
  const live = document.getElementById("live");
  try {
    const response = await fetch("status");
    const status = await response.json();
    if (!response.ok) throw new Error(status.error);
    const known = new Set(status.models.map((model) => `${model.name}@${model.version}`));
    for (const [key, place] of sections) if (!known.has(key)) { place.section.remove(); sections.delete(key); }
    status.models.forEach(show);
    document.getElementById("title").textContent = status.models.length === 1 ? status.models[0].name : `${status.models.length} policies`;
    live.textContent = status.ready ? "ready" : "loading";
    live.classList.remove("lost");
  } catch (error) {
    live.textContent = `no answer: ${error.message}`;
    live.classList.add("lost");
  }
  setTimeout(look, EVERY);
}

look();
