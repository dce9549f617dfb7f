// What a page lacks for people who do not see it or use no mouse; [] is good.
(() => {
  const found = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const say = (condition, text) => condition || found.push(text);
  say(document.documentElement.lang === "en", "no language");
  say(document.title.length > 3, "no title");
  say(all("h1").length >= 1, "no h1");
  say(all("main").length === 1 && all("header nav").length === 1, "no landmarks");
  const skip = document.querySelector("a.skip");
  say(skip && document.querySelector(skip.getAttribute("href")), "no way to skip the navigation");
  const named = (element) =>
    element.labels?.length || element.getAttribute("aria-label") || element.textContent.trim();
  all("input:not([type=hidden]), select, textarea, button").forEach((element) => {
    say(named(element), `no label: ${element.outerHTML}`);
  });
  all("a[href]").forEach((element) => say(named(element), `empty link: ${element.outerHTML}`));
  all("th").forEach((heading) => say(heading.scope, `no scope: ${heading.outerHTML}`));
  all("table").forEach((table) => {
    const region = table.closest("[role=region][aria-label]");
    say(table.caption || region, `a table without a name: ${table.outerHTML.slice(0, 80)}`);
  });
  all("svg").forEach((drawing) => {
    const hidden = drawing.closest("[aria-hidden=true]");
    const isNamed = drawing.getAttribute("aria-label") || drawing.querySelector("title");
    say(hidden || isNamed, `a drawing without a name: ${drawing.outerHTML.slice(0, 80)}`);
  });
  const ids = all("[id]").map((element) => element.id);
  say(new Set(ids).size === ids.length, "an id twice");
  const width = document.documentElement.scrollWidth;
  say(width <= innerWidth, `the page is ${width} wide, the window ${innerWidth}`);
  return found;
})()
