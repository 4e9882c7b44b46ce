"use strict";
// Zoom, pan, and the panel that tells of what is pointed at. Texts are set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const stage = document.getElementById("stage");
const svg = stage.querySelector("svg");
const panel = document.getElementById("details");
const size = { width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height };
let view = { x: 0, y: 0, scale: 1 };
let picked = null;
let isFitted = true;

function show() {
  svg.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
}

// A tall graph is fitted to the width and read downwards from the top, as far as its letters stay legible.
function fit() {
  const whole = Math.min(stage.clientWidth / size.width, stage.clientHeight / size.height);
  const scale = Math.min(Math.max(whole, Math.min(stage.clientWidth / size.width, 0.8)), 1.5);
  view = {
    scale,
    x: (stage.clientWidth - size.width * scale) / 2,
    y: Math.max((stage.clientHeight - size.height * scale) / 2, 0),
  };
  isFitted = true;
  show();
}

// Moves as far as some of the graph stays in sight; returns whether anything moved.
function move(dx, dy) {
  const within = (value, length, room) => Math.min(Math.max(value, Math.min(room - length, 0) - 60), Math.max(room - length, 0) + 60);
  const x = within(view.x + dx, size.width * view.scale, stage.clientWidth);
  const y = within(view.y + dy, size.height * view.scale, stage.clientHeight);
  const moved = x !== view.x || y !== view.y;
  view = { ...view, x, y };
  isFitted = isFitted && !moved;
  show();
  return moved;
}

function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const scale = Math.min(Math.max(view.scale * factor, 0.05), 6);
  const ratio = scale / view.scale;
  view = { scale, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio };
  isFitted = false;
  show();
}

function tell(number) {
  panel.replaceChildren();
  const add = (tag, text) => {
    const element = document.createElement(tag);
    element.textContent = text;
    panel.append(element);
  };
  const details = number === null ? data.about : data.boxes[number];
  details.forEach(([heading, text], place) => {
    if (heading) {
      add("h3", heading);
      add("pre", text);
    } else {
      add(place === 0 ? "h2" : "p", text);
    }
  });
}

function mark(number) {
  svg.classList.toggle("dimmed", number !== null);
  const near = new Set([number]);
  const lines = new Set();
  data.lines.forEach(([source, target], index) => {
    if (source === number || target === number) {
      near.add(source);
      near.add(target);
      lines.add(index);
    }
  });
  for (const element of svg.querySelectorAll("[data-box]")) {
    element.classList.toggle("near", near.has(Number(element.dataset.box)));
    element.classList.toggle("picked", Number(element.dataset.box) === number);
  }
  for (const element of svg.querySelectorAll("[data-line]")) {
    element.classList.toggle("near", lines.has(Number(element.dataset.line)));
  }
}

function pick(number) {
  picked = number;
  mark(number);
  tell(number);
}

for (const box of svg.querySelectorAll("[data-box]")) {
  const number = Number(box.dataset.box);
  box.setAttribute("tabindex", "0");
  box.setAttribute("role", "button");
  box.addEventListener("mouseenter", () => tell(number));
  box.addEventListener("mouseleave", () => tell(picked));
  box.addEventListener("focus", () => tell(number));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      pick(picked === number ? null : number);
    }
  });
}

let drag = null;
stage.addEventListener("pointerdown", (event) => {
  drag = { x: event.clientX, y: event.clientY, box: event.target.closest("[data-box]"), moved: false };
});
window.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const dx = event.clientX - drag.x;
  const dy = event.clientY - drag.y;
  if (!drag.moved && Math.hypot(dx, dy) < 4) return;
  drag = { ...drag, x: event.clientX, y: event.clientY, moved: true };
  stage.classList.add("dragged");
  move(dx, dy);
});
window.addEventListener("pointerup", () => {
  if (drag && !drag.moved) {
    const number = drag.box ? Number(drag.box.dataset.box) : null;
    pick(number === picked ? null : number);
  }
  drag = null;
  stage.classList.remove("dragged");
});
window.addEventListener("pointercancel", () => { drag = null; stage.classList.remove("dragged"); });
stage.addEventListener("wheel", (event) => {
  // A pinch on a touch pad comes as a wheel with Ctrl.
  if (event.ctrlKey || event.metaKey) {
    const place = stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * 0.005), event.clientX - place.left, event.clientY - place.top);
    event.preventDefault();
  } else if (move(-event.deltaX, -event.deltaY)) {
    event.preventDefault(); // else the page around a frame scrolls
  }
}, { passive: false });
window.addEventListener("keydown", (event) => {
  if (event.key === "Escape") pick(null);
  if (event.key === "+") zoom(1.25);
  if (event.key === "-") zoom(0.8);
  if (event.key === "0") fit();
});
document.getElementById("in").addEventListener("click", () => zoom(1.25));
document.getElementById("out").addEventListener("click", () => zoom(0.8));
document.getElementById("fit").addEventListener("click", fit);
window.addEventListener("resize", () => { if (isFitted) fit(); });
tell(null);
fit();
document.body.dataset.ready = "yes";
