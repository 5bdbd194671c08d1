"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // What the reader has chosen, by names that stay the same when the page is made anew.
  const off = new Set(), seeds = new Set();
  const taskOf = (node) => node.closest(".task");
  const sideKey = (task, side) => task.id + "/" + task.querySelector(`.side[data-of="${side}"]`)?.dataset.name;

  function apply() {
    for (const task of document.querySelectorAll(".task")) {
      for (const chip of task.querySelectorAll(".side")) {
        const hidden = off.has(sideKey(task, chip.dataset.of));
        chip.setAttribute("aria-pressed", String(!hidden));
        for (const group of task.querySelectorAll(`[data-side="${chip.dataset.of}"]`)) group.toggleAttribute("data-off", hidden);
      }
      task.classList.toggle("seeds-on", seeds.has(task.id));
      task.querySelector(".all-seeds")?.setAttribute("aria-pressed", String(seeds.has(task.id)));
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const flip = (set, key) => { set.has(key) ? set.delete(key) : set.add(key); apply(); };
    if (button.classList.contains("side")) flip(off, sideKey(taskOf(button), button.dataset.of));
    else if (button.classList.contains("all-seeds")) flip(seeds, taskOf(button).id);
    else if (button.classList.contains("copy")) copy(button);
  });

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    } catch { // not allowed here: select it, for the reader to copy
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
    }
  }

  // Readings of a chart: at the pointer, or step by step with the arrow keys.
  const SVG = "http://www.w3.org/2000/svg";
  let at = null; // { svg, index }
  const readings = (svg) => svg.readings ??= JSON.parse(svg.dataset.readings);

  function clear() {
    if (!at) return;
    at.svg.querySelector(".mark")?.remove();
    at.svg.parentElement.querySelector(".tip")?.remove();
    at = null;
  }

  function show(svg, index) {
    if (at && at.svg === svg && at.index === index) return;
    clear();
    const all = readings(svg), [x, y, heading, rows] = all[index], task = taskOf(svg);
    const seen = rows.filter(([side]) => side === null || !task || !off.has(sideKey(task, side)));
    if (!seen.length) return;
    at = { svg, index };
    const mark = svg.appendChild(document.createElementNS(SVG, "g"));
    mark.setAttribute("class", "mark");
    const box = svg.viewBox.baseVal;
    const shape = mark.appendChild(document.createElementNS(SVG, y === null ? "path" : "circle"));
    if (y === null) { shape.setAttribute("class", "rule"); shape.setAttribute("d", `M${x} 30V${box.height - 46}`); }
    else for (const [key, value] of Object.entries({ class: "ring", cx: x, cy: y, r: 7 })) shape.setAttribute(key, value);
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("role", "status");
    tip.appendChild(document.createElement("b")).textContent = heading;
    for (const [side, name, value] of seen) {
      const line = tip.appendChild(document.createElement("span"));
      if (side !== null) line.className = "k" + side % 5;
      line.textContent = name ? `${name}: ${value}` : value;
    }
    svg.parentElement.appendChild(tip);
    const scale = svg.clientWidth / box.width, wide = svg.clientWidth;
    const right = x * scale + 14, left = x * scale - 14 - tip.offsetWidth;
    const place = right + tip.offsetWidth <= wide ? right : left >= 0 ? left : (wide - tip.offsetWidth) / 2;
    const down = y === null ? 34 * scale : y * scale - tip.offsetHeight - 14;
    tip.style.transform = `translate(${place}px, ${Math.max(-tip.offsetHeight, down)}px)`;
  }

  function nearest(svg, event) {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
    let best = -1, least = Infinity;
    readings(svg).forEach(([x, y], index) => {
      const far = y === null ? Math.abs(x - px) : Math.hypot(x - px, y - py);
      if (far < least) { least = far; best = index; }
    });
    return readings(svg)[best][1] !== null && least > 40 ? -1 : best;
  }

  function point(event) {
    const svg = event.target.closest?.("svg[data-readings]");
    if (!svg) { if (at && document.activeElement !== at.svg) clear(); return; }
    const index = nearest(svg, event);
    index < 0 ? clear() : show(svg, index);
  }
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
  document.addEventListener("focusout", clear);
  document.addEventListener("keydown", (event) => {
    const svg = event.target.closest?.("svg[data-readings]");
    if (!svg) return;
    const count = readings(svg).length, now = at?.svg === svg ? at.index : -1;
    const next = { ArrowRight: now + 1, ArrowLeft: now < 0 ? count - 1 : now - 1, Home: 0, End: count - 1 }[event.key];
    if (event.key === "Escape") clear();
    if (next === undefined) return;
    event.preventDefault();
    show(svg, Math.max(0, Math.min(count - 1, next)));
  });

  // On paper everything is open.
  let opened = [];
  addEventListener("beforeprint", () => {
    clear();
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of opened) each.open = false; });

  // A live page asks for itself again and takes over what is new, part by part; what is open stays open.
  const live = document.querySelector(".live");
  if (live) {
    let tag = null;
    const every = Number(live.dataset.every);
    const refresh = async () => {
      try {
        const answer = await fetch(location.pathname, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
        if (answer.status !== 304) {
          if (!answer.ok) throw new Error(answer.statusText);
          tag = answer.headers.get("ETag");
          renew(new DOMParser().parseFromString(await answer.text(), "text/html"));
        }
        live.classList.remove("lost");
        live.textContent = "live, last looked at " + new Date().toLocaleTimeString();
      } catch {
        live.classList.add("lost");
        live.textContent = "rlab report --live has stopped: this is what it showed last";
      }
      setTimeout(refresh, every);
    };
    setTimeout(refresh, every);
  }

  function renew(fresh) {
    const open = new Set([...document.querySelectorAll("details[open]")].map((each) => each.id));
    const focus = document.activeElement?.id, y = scrollY;
    const reading = at && { id: at.svg.id, index: at.index };
    clear();
    for (const part of ["title", "header .made-of", "main"]) {
      const [old, now] = [document.querySelector(part), fresh.querySelector(part)];
      if (old && now && old.innerHTML !== now.innerHTML) old.replaceWith(document.adoptNode(now));
    }
    for (const each of document.querySelectorAll("details")) if (open.has(each.id)) each.open = true;
    apply();
    if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
    const svg = reading && document.getElementById(reading.id);
    if (svg && readings(svg)[reading.index]) show(svg, reading.index);
    scrollTo(0, y);
  }
})();
