// What a person may not see on a page, as a list of sentences: text and marks that hardly differ
// from what is behind them, words that are cut off, and what makes the page wider than its window.
// Run in the page.
(async ({ least, norm, width }) => {
  const said = [], below = [];

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colours = new Map();
  // Any colour of CSS as red, green, blue (0 to 255) and opacity (0 to 1).
  const rgba = text => {
    if (!colours.has(text)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = "#0000";
      canvas.fillStyle = text;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      colours.set(text, [r, g, b, a / 255]);
    }
    return colours.get(text);
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  const luminance = rgb => {
    const [r, g, b] = rgb.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => { // WCAG 2.2
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };

  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const scheme = getComputedStyle(document.documentElement).colorScheme;
  const paper = dark && scheme.includes("dark") ? [18, 18, 18] : [255, 255, 255];
  const opacity = element => {
    let all = 1;
    for (let one = element; one; one = one.parentElement) all *= getComputedStyle(one).opacity;
    return all;
  };
  // The colour behind an element: its own background if it is HTML, and those of what it is in.
  const behind = element => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const background = rgba(getComputedStyle(one).backgroundColor);
      if (background[3]) layers.push(background);
      if (background[3] === 1) break;
    }
    return layers.reduceRight((under, one) => over(one, under), paper);
  };
  const paint = (style, what) => {
    const value = style[what];
    if (value === "none" || value.startsWith("url")) return null;
    const [r, g, b, a] = rgba(value);
    const alpha = a * style[`${what}Opacity`];
    return alpha && (what === "fill" || parseFloat(style.strokeWidth)) ? [r, g, b, alpha] : null;
  };
  // Of a text in a drawing: the filled shape below it, or null where it is a picture.
  const belowText = element => {
    element.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
    const box = element.getBoundingClientRect();
    const stack = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    for (const one of stack) {
      if (one === element || element.contains(one) || one.contains(element)) continue;
      if (!(one instanceof SVGElement) || one.closest("defs")) break;
      if (one.tagName === "image") return null;
      const fill = one.tagName === "text" ? null : paint(getComputedStyle(one), "fill");
      if (fill) return over(fill, behind(one.closest("svg")));
    }
    return behind(element.closest("svg"));
  };
  const seen = element => {
    const style = getComputedStyle(element), box = element.getBoundingClientRect();
    return style.visibility === "visible" && box.width > 1 && box.height > 1 && opacity(element) > 0.05
      && !/^(rect|inset)\(/.test(style.clip + style.clipPath) && element.checkVisibility();
  };
  const called = element => {
    const within = element.closest("figure, [id]");
    const name = within && (within.id ? `#${within.id}` : within.getAttribute("aria-label"));
    return `<${element.tagName.toLowerCase()}>${name ? ` in ${name.slice(0, 60)}` : ""}`;
  };
  // Whether words stick out of what cuts them off, with no ellipsis that says so.
  const isCut = (node, element) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    for (let one = element; one && one !== document.body; one = one.parentElement) {
      const style = getComputedStyle(one);
      if (["auto", "scroll"].includes(style.overflowX) || style.textOverflow === "ellipsis") return false;
      const cuts = ["hidden", "clip"].includes(style.overflowX);
      const edge = one.getBoundingClientRect();
      if (cuts && (box.left < edge.left - 1 || box.right > edge.right + 1)) return true;
    }
    return false;
  };
  const judge = (ratio, bound, words) => {
    if (ratio < least) said.push(`${words} has a contrast of ${ratio.toFixed(2)}`);
    else if (ratio < bound) below.push(`${words} has a contrast of ${ratio.toFixed(2)}`);
  };

  // Text, as it stands.
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const words = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!words || !element || element.closest("script, style, noscript, template, title") || !seen(element))
      continue;
    const style = getComputedStyle(element), drawn = element instanceof SVGElement;
    const under = drawn ? belowText(element) : behind(element);
    const ink = drawn ? paint(style, "fill") : rgba(style.color);
    if (!under || !ink) continue;
    if (isCut(walker.currentNode, element)) said.push(`"${words.slice(0, 40)}" ${called(element)} is cut`);
    const [r, g, b, a] = ink;
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const large = size >= 24 || (bold && size >= 18.66);
    const shown = over([r, g, b, a * opacity(element)], under);
    judge(contrast(shown, under), large ? 3 : norm, `"${words.slice(0, 40)}" ${called(element)}`);
  }

  // Marks: what is drawn as a shape, unless it says nothing by itself. Grid lines and ticks do not
  // (the axis has numbers), nor colours of a map, which have a key or a number in each field.
  const silent = "defs, clipPath, mask, [id*='xtick'], [id*='ytick'], [id*='QuadContourSet'], "
    + "[id$='-key'], [aria-hidden='true']";
  for (const shape of document.querySelectorAll("svg :is(path, use, rect, circle, line, polyline, polygon)")) {
    const style = getComputedStyle(shape);
    if (shape.closest(silent) || style.visibility !== "visible" || !shape.closest("svg").checkVisibility())
      continue;
    const paints = ["fill", "stroke"].map(what => paint(style, what)).filter(Boolean);
    // What is hardly there is a shade behind marks, whose edges are judged by themselves.
    const whole = opacity(shape), strong = paints.filter(([, , , a]) => a * whole >= 0.35);
    if (!strong.length) continue;
    const under = behind(shape.closest("svg"));
    const shown = strong.map(([r, g, b, a]) => contrast(over([r, g, b, a * whole], under), under));
    judge(Math.max(...shown), 3, `a mark ${called(shape)}`);
  }

  // The page in its window.
  window.scrollTo(0, 0);
  const wide = document.documentElement.scrollWidth;
  if (wide > width) {
    const out = [...document.body.querySelectorAll("*")].filter(
      one => one.getBoundingClientRect().right > width + 1 && one.checkVisibility());
    said.push(`the page is ${wide} px wide, by ${out.slice(-1).map(called)} among others`);
  }
  for (const image of document.images)
    if (image.complete && !image.naturalWidth) said.push(`an image is not shown: ${image.src}`);
  for (const link of document.querySelectorAll("link[rel~=preconnect], link[rel~=dns-prefetch]"))
    said.push(`it connects to ${link.href}`);
  return { said: [...new Set(said)], below: [...new Set(below)] };
})
