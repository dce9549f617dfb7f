// Texts whose contrast is below WCAG 2.2 AA (1.4.3), as "ratio text"; [] is good.
(() => {
  const channels = (colour) => {
    const found = /rgba?\(([^)]+)\)/.exec(colour);
    if (!found) return null;
    const [red, green, blue, alpha = 1] = found[1].split(/[\s,/]+/).map(Number);
    return { red, green, blue, alpha };
  };
  const luminance = ({ red, green, blue }) => {
    const linear = [red, green, blue].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const over = (front, back) => {
    const mix = (name) => front[name] * front.alpha + back[name] * (1 - front.alpha);
    return { red: mix("red"), green: mix("green"), blue: mix("blue"), alpha: 1 };
  };
  const background = (element) => {
    const layers = [];
    for (let node = element; node; node = node.parentElement) {
      const layer = channels(getComputedStyle(node).backgroundColor);
      if (layer && layer.alpha > 0) layers.push(layer);
      if (layer && layer.alpha === 1) break;
    }
    return layers.reverse().reduce((back, layer) => over(layer, back), { red: 255, green: 255, blue: 255, alpha: 1 });
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let looked = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("button:disabled, style, script")) continue;
    const style = getComputedStyle(element);
    const inDrawing = element.closest("svg");
    const front = channels(inDrawing ? style.fill : style.color);
    if (!front) continue;
    const back = background(inDrawing ? inDrawing.parentElement : element);
    const [a, b] = [luminance(over(front, back)), luminance(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    looked += 1;
    if (ratio < (isLarge ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${text.slice(0, 60)}`);
  }
  return looked < 5 ? ["too little text to judge"] : found;
})()
