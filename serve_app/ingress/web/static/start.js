// Sets the chosen theme, and loads the page's modules after its first paint, which would otherwise wait for them.

try {
  const theme = localStorage.getItem("glm-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* storage is off: the system's theme is used */ }

const early = []; // buttons that were used before the modules had run

function keep(event) {
  const used = event.target.closest("button");
  if (!used) return;
  event.preventDefault();
  early.push(used);
}

async function load() {
  for (const name of document.body.dataset.modules.split(" ")) { // all at once, not each after the one that imports it
    const link = document.createElement("link");
    [link.rel, link.href] = ["modulepreload", new URL(name, import.meta.url).href];
    document.head.append(link);
  }
  await import("./page.js");
  removeEventListener("click", keep, true);
  for (const each of early) each.click();
  performance.mark("ready");
}

addEventListener("click", keep, true);
if (document.hidden) load(); // a tab in the background paints nothing
else requestAnimationFrame(() => setTimeout(load)); // the frame is painted before the next task
