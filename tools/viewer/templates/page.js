// The page of the demo: sends images to each run and draws the answers. The slider only filters what was answered.
"use strict";

const by = (id) => document.getElementById(id);
const slider = by("score"), list = by("images");
const SIDE = 1600; // longest side of a canvas in pixels
const LEAST = 0.05; // least score that can be chosen
const LABEL = 12; // height of a label in pixels of the screen
const MOST_BYTES = 20 * 1024 * 1024;
let runs = [];
let opacity = null; // of label maps; null: that of the slider
const shown = []; // for each image: the decoded image, and for each run its answer with the elements that show it

// Return whether the slider sets the opacity of label maps: it does without a detector.
function isOpacity() {
  const tasks = runs.map((run) => run.task);
  return tasks.includes("segmentation") && !tasks.includes("detection");
}

async function begin() {
  runs = (await (await fetch("/runs")).json()).runs;
  by("about").textContent = runs.map((run) => `${run.name} (${run.task})`).join(" beside ");
  const detector = runs.find((run) => run.task === "detection");
  const labels = isOpacity();
  opacity = detector ? 0.6 : null;
  by("what").textContent = labels ? "Opacity" : "Least score";
  slider.min = labels ? 0 : LEAST;
  slider.value = detector ? detector.score : labels ? 0.6 : LEAST;
  showValue();
}

function showValue() {
  by("value").textContent = Number(slider.value).toFixed(2);
}

function say(text) {
  by("message").textContent = text;
  by("message").hidden = !text;
}

// Say what the page waits for; "" if it waits for nothing.
function busy(text) {
  by("busy").textContent = text;
  by("busy").hidden = !text;
  if (text) document.body.setAttribute("aria-busy", "true");
  else document.body.removeAttribute("aria-busy");
}

async function add(files) {
  say("");
  const problems = [];
  for (const [index, file] of [...files].entries()) {
    busy(`Predicting ${file.name} (${index + 1} of ${files.length})`);
    try {
      await show(file);
    } catch (error) {
      problems.push(`${file.name}: ${error.message}`);
    }
  }
  busy("");
  say(problems.join(" "));
}

async function ask(address, file) {
  let answer;
  try {
    answer = await fetch(address, {
      method: "POST", body: file, headers: { "X-Resnet-Transfer": "1" },
    });
  } catch {
    throw new Error("The server does not answer.");
  }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

async function show(file) {
  if (file.size > MOST_BYTES) throw new Error("The file has more than 20 MB.");
  // The server decides whether this is an image.
  const answers = await Promise.all(runs.map((_, index) => ask(`/runs/${index}/predict`, file)));
  const bitmap = await picture(URL.createObjectURL(file)).catch(() => null); // browsers show no TIFF
  const section = by("image").content.firstElementChild.cloneNode(true);
  section.querySelector("h2").textContent = file.name;
  const entry = { bitmap, panels: [] };
  for (const [index, answer] of answers.entries()) {
    const panel = by("panel").content.firstElementChild.cloneNode(true);
    for (const box of answer.boxes || []) if (box.mask) box.image = await picture(box.mask);
    if (answer.labels) answer.image = await picture(answer.labels);
    if (answer.heat) panel.append(await explanation(answer, "in the part of the image that it sees"));
    section.querySelector(".runs").append(panel);
    entry.panels.push({
      canvas: panel.querySelector("canvas"), list: panel.querySelector("ul"), name: runs[index].name, answer,
      caption: panel.querySelector("figcaption"), figure: panel, index, file, shown: [],
    });
    if (answer.task === "detection") addChooser(entry.panels.at(-1));
  }
  section.querySelector(".remove").addEventListener("click", () => {
    section.remove();
    shown.splice(shown.indexOf(entry), 1);
    by("controls").hidden = !shown.length;
  });
  shown.push(entry);
  list.prepend(section);
  by("controls").hidden = false;
  draw(entry);
}

async function explanation(answer, place) {
  const image = await picture(answer.heat), part = document.createElement("div");
  image.alt = `where the model finds ${answer.explained}`;
  part.className = "heat";
  part.append(image, `Where it finds ${answer.explained} (Grad-CAM), ${place}`);
  return part;
}

// A list of the boxes that are shown, and clicks on them: the one that is chosen is explained by a heat map.
function addChooser(panel) {
  const label = document.createElement("label");
  panel.select = document.createElement("select");
  label.className = "why";
  label.append("Explain ", panel.select);
  panel.figure.append(label);
  panel.select.addEventListener("change", () => explain(panel));
  panel.canvas.addEventListener("click", (event) => {
    // The image is centred in the canvas, which may be wider.
    const { clientWidth: wide, clientHeight: high } = panel.canvas, { width, height } = panel.answer;
    const scale = Math.max(width / wide, height / high);
    const x = (event.offsetX - wide / 2) * scale + width / 2, y = (event.offsetY - high / 2) * scale + height / 2;
    const hit = panel.shown.findIndex(({ box }) => box[0] <= x && x < box[2] && box[1] <= y && y < box[3]);
    if (hit < 0) return;
    panel.select.value = hit;
    explain(panel);
  });
}

function fillChooser(panel, boxes) {
  const chosen = panel.shown[panel.select.value];
  panel.shown = boxes;
  const names = ["a detection", ...boxes.map((box) => `${box.name} ${box.score.toFixed(2)}`)];
  panel.select.replaceChildren(...names.map((name, index) => new Option(name, index ? index - 1 : "")));
  panel.select.value = chosen && boxes.includes(chosen) ? boxes.indexOf(chosen) : "";
  panel.select.parentElement.hidden = !boxes.length;
}

async function explain(panel) {
  const box = panel.shown[panel.select.value];
  panel.figure.querySelector(".heat")?.remove();
  say("");
  if (!box) return;
  busy(`Explaining ${box.name}`);
  try {
    const words = new URLSearchParams({ box: box.box.join(","), name: box.name });
    const part = await explanation(await ask(`/runs/${panel.index}/explain?${words}`, panel.file), "in the white box");
    panel.figure.querySelector(".heat")?.remove(); // of a choice that was made meanwhile
    panel.figure.append(part);
  } catch (error) {
    say(error.message);
  } finally {
    busy("");
  }
}

function picture(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = source;
  });
}

function draw(entry) {
  for (const panel of entry.panels) drawPanel(entry.bitmap, panel, Number(slider.value));
}

function drawPanel(bitmap, panel, value) {
  const { canvas, answer } = panel, { width, height } = answer;
  const scale = SIDE / Math.max(width, height);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  if (bitmap) pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  panel.list.replaceChildren();
  panel.caption.textContent = panel.name;
  if (answer.task === "detection") drawBoxes(pen, panel, answer.boxes.filter((box) => box.score >= value), scale);
  if (answer.task === "segmentation") drawLabels(pen, panel, value);
  if (answer.task === "classification") {
    // Beside a label map alone the slider is an opacity. The best class is shown in any case.
    const least = isOpacity() ? LEAST : value;
    listBars(panel, answer.classes.filter((each, rank) => !rank || each.score >= least));
  }
}

// Return how many pixels of the screen one pixel of a canvas takes. The image fits into the element.
function shrunk(canvas) {
  return Math.min(canvas.clientWidth / canvas.width, canvas.clientHeight / canvas.height) || 1;
}

// Return black or white, whichever differs more from a colour such as "#00d000" (WCAG 2, relative luminance).
function inkOn(colour) {
  const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
  const [red, green, blue] = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

function drawBoxes(pen, panel, boxes, scale) {
  const { width } = pen.canvas;
  // A label has LABEL pixels of the screen, however large the canvas is shown.
  const size = Math.round(LABEL / shrunk(panel.canvas));
  const line = Math.max(3, Math.round(size / 7));
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  const counts = new Map();
  fillChooser(panel, boxes);
  for (const box of [...boxes].reverse()) { // the best is on top
    const [left, top, right, bottom] = box.box.map((each) => each * scale);
    if (box.image) {
      const [x, y] = box.corner;
      pen.drawImage(box.image, x * scale, y * scale, box.image.width * scale, box.image.height * scale);
    }
    pen.strokeStyle = box.colour;
    pen.lineWidth = line;
    pen.strokeRect(left, top, right - left, bottom - top);
    counts.set(box.name, { count: (counts.get(box.name)?.count || 0) + 1, colour: box.colour });
  }
  for (const box of [...boxes].reverse()) { // labels are above all masks
    const [left, top] = box.box.map((each) => each * scale);
    const text = `${box.name} ${box.score.toFixed(2)}`, wide = pen.measureText(text).width + 8;
    const x = Math.max(0, Math.min(left - line / 2, width - wide)), y = Math.max(0, top - size - 6);
    pen.fillStyle = box.colour;
    pen.fillRect(x, y, wide, size + 6);
    pen.fillStyle = inkOn(box.colour);
    pen.fillText(text, x + 4, y + 3);
  }
  for (const [name, { count, colour }] of counts) item(panel, `${name} × ${count}`, colour);
  panel.caption.textContent = `${panel.name}: ${boxes.length} of ${panel.answer.boxes.length} detections`;
  panel.canvas.setAttribute("aria-label", `${boxes.length} detections of ${panel.name}`);
}

function drawLabels(pen, panel, value) {
  pen.globalAlpha = opacity ?? value;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(panel.answer.image, 0, 0, pen.canvas.width, pen.canvas.height);
  pen.globalAlpha = 1;
  for (const each of panel.answer.classes) item(panel, `${each.name} ${(100 * each.score).toFixed(1)} %`, each.colour);
  panel.canvas.setAttribute("aria-label", `label map of ${panel.name}`);
}

function listBars(panel, classes) {
  for (const each of classes) {
    const row = item(panel, `${each.name} ${(100 * each.score).toFixed(1)} %`);
    row.className = "bar";
    row.style.setProperty("--part", `${100 * each.score}%`);
  }
  panel.canvas.setAttribute("aria-label", `image classified by ${panel.name}`);
}

function item(panel, text, colour) {
  const row = document.createElement("li");
  row.textContent = text;
  if (colour) row.style.setProperty("--mark", colour);
  panel.list.append(row);
  return row;
}

slider.addEventListener("input", () => {
  showValue();
  shown.forEach(draw);
});
window.addEventListener("resize", () => shown.forEach(draw)); // labels have a size on the screen
by("files").addEventListener("change", (event) => {
  add([...event.target.files]).finally(() => { event.target.value = ""; });
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); by("drop").classList.add("over"); });
}
document.addEventListener("dragleave", () => by("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  by("drop").classList.remove("over");
  add([...event.dataTransfer.files]);
});
begin().catch(() => say("The server does not answer."));
