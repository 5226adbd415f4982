// The page's one script. Texts go into the page as texts, never as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const HINTS = {
  text2mask: "Words between semicolons: a ball; a mug. Every word gets a mask, whether there is such a thing or not.",
  narrative: "A narrative with its phrases in [brackets]; without any, its nouns are found. Needs what png_train trained.",
  personal: "A learned token and what is said of it: <new1> filled with cola. Needs the folder of a learned token.",
  grounded: "Words of the prompt, between semicolons. Needs what grounding_train trained.",
};
let choices = null;
let chosen = 0; // the number of a sample; null: a file, or a prompt
let source = ""; // the picture that is asked about, without masks
let typed = false; // words of the visitor's own are left alone

const sampled = () => choices.samples[chosen];

function fill() {
  const method = at("method").value;
  at("hint").textContent = HINTS[method];
  at("checkpoint-line").hidden = method === "text2mask";
  at("prompt-line").hidden = method !== "grounded";
  const options = choices.checkpoints.filter((each) => each.method === method);
  at("checkpoints").replaceChildren(...options.map((each) => new Option("", each.path)));
  if (!options.some((each) => each.path === at("checkpoint").value)) {
    at("checkpoint").value = options.length ? options[0].path : "";
  }
  if (!typed && chosen !== null) {
    at("words").value = method === "narrative" ? sampled().narrative : sampled().words;
  }
}

function clear() {
  at("error").hidden = true;
  at("maps").replaceChildren();
  at("shown").src = source;
  at("shown").alt = "The picture that is asked about";
}

function choose(number) {
  chosen = number;
  if (number !== null) {
    at("file").value = "";
    at("prompt").value = "";
    typed = false;
    source = `samples/${number}.png`;
  }
  [...at("samples").children].forEach((each, place) => {
    each.setAttribute("aria-checked", String(place === number));
  });
  clear();
  fill();
}

function encoded(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}

async function question() {
  const file = at("file").files[0];
  const method = at("method").value;
  const prompt = method === "grounded" ? at("prompt").value.trim() : "";
  return {
    method,
    words: at("words").value,
    sample: prompt || file ? null : chosen,
    image: prompt || !file ? null : await encoded(file),
    prompt: prompt || null,
    model: at("model").value.trim() || null,
    checkpoint: at("checkpoint").value.trim() || null,
    seed: Number(at("seed").value),
  };
}

function show(found) {
  at("shown").src = found.overlay;
  at("shown").alt = "The picture with the masks in colours, and a legend";
  at("maps").replaceChildren(...found.phrases.map((phrase) => {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = phrase.text;
    name.style.color = phrase.colour;
    const share = `${(100 * phrase.share).toFixed(1)} % of the picture, ${phrase.note}`;
    const scale = phrase.map ? `. Map: 0 (dark) to ${phrase.highest.toPrecision(2)}` : "";
    caption.append(name, share + scale);
    if (phrase.map) {
      const picture = document.createElement("img");
      picture.src = phrase.map;
      picture.alt = `Attention map of ${phrase.text}`;
      figure.append(picture);
    }
    figure.append(caption);
    return figure;
  }));
}

async function ask(event) {
  event.preventDefault();
  clear();
  at("ask").disabled = true;
  at("state").textContent = "Looking ...";
  try {
    const answer = await fetch("ground", {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify(await question()),
    });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    show(found);
    at("state").textContent = "";
  } catch (error) {
    at("error").textContent = error.message;
    at("error").hidden = false;
    at("state").textContent = "";
  } finally {
    at("ask").disabled = false;
  }
}

async function begin() {
  choices = await (await fetch("choices")).json();
  at("method").replaceChildren(...choices.methods.map((each) => new Option(each.title, each.name)));
  at("method").value = "text2mask";
  at("model").placeholder = choices.model;
  at("samples").replaceChildren(...choices.samples.map((each, number) => {
    const button = document.createElement("button");
    const picture = document.createElement("img");
    button.type = "button";
    button.setAttribute("role", "radio");
    button.setAttribute("aria-label", each.words);
    picture.src = `samples/${number}.png`;
    picture.alt = "";
    button.append(picture);
    button.addEventListener("click", () => choose(number));
    return button;
  }));
  at("file").addEventListener("change", () => {
    if (!at("file").files[0]) return;
    source = URL.createObjectURL(at("file").files[0]);
    choose(null);
  });
  at("words").addEventListener("input", () => { typed = true; });
  at("method").addEventListener("change", () => { clear(); fill(); });
  at("form").addEventListener("submit", ask);
  choose(0);
}

begin();
