// The prompts: how long they are for the model, and weights by Ctrl and the arrow keys, as A1111 has them.
import { field, form, part, say } from './form-desk.js';

const boxes = [field('prompt'), field('negative_prompt')];

// -- tokens ------------------------------------------------------------------------------------------------------------------
let due = null, asked = null;
const count = async () => {
  asked?.abort();
  asked = new AbortController();
  const body = JSON.stringify({ prompt: boxes[0].value, negative_prompt: boxes[1].value, model: field('model').value });
  try {
    const answer = await fetch('api/v1/tokens', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body, signal: asked.signal });
    const counts = answer.ok ? await answer.json() : {};
    for (const box of boxes) {
      const shown = part('tokens', box.closest('.field')), found = counts[box.name];
      shown.textContent = found ? `${found.tokens}/${found.room}` : '';
      shown.title = found ? say('tooManyTokens', found) : '';
      shown.classList.toggle('long', Boolean(found && found.room > 75));
    }
  } catch { /* the next keystroke asks again */ }
};
const soon = () => { clearTimeout(due); due = setTimeout(count, 300); };
boxes.forEach(box => box.addEventListener('input', soon));
form.addEventListener('filled', soon);
form.addEventListener('change', event => { if (event.target.name === 'model') soon(); });

// -- weights -----------------------------------------------------------------------------------------------------------------
// The browser's own way to type, so that its undo knows it.
export const type = (box, from, to, text) => {
  box.focus();
  box.setSelectionRange(from, to);
  if (!document.execCommand('insertText', false, text)) {
    box.setRangeText(text, from, to, 'end');
    box.dispatchEvent(new Event('input', { bubbles: true }));
  }
};
const shown = number => String(+number.toFixed(2));

const weigh = (box, up) => {
  const text = box.value;
  let from = box.selectionStart, to = box.selectionEnd;
  // 1. Inside <lora:name:0.8>: its strength.
  const open = text.lastIndexOf('<lora:', from), close = open < 0 ? -1 : text.indexOf('>', open);
  if (open >= 0 && close >= to - 1) {
    const [, name, strength = '1'] = text.slice(open + 1, close).split(':');
    const lora = `<lora:${name}:${shown(Math.max(-5, Math.min(5, parseFloat(strength) + up * 0.05)))}>`;
    type(box, open, close + 1, lora);
    return box.setSelectionRange(open, open + lora.length);
  }
  // 2. Inside (words:1.2), with the cursor in them or all of them selected: their weight.
  const before = text.lastIndexOf('(', from === to || text[from] !== '(' ? from - (from === to ? 0 : 1) : from);
  const match = before >= 0 && /^\(([^()]*):([\d.]+)\)/.exec(text.slice(before));
  if (match && before + match[0].length >= to) {
    const weight = Math.max(0, Math.min(10, parseFloat(match[2]) + up * 0.1));
    const fresh = Math.abs(weight - 1) < 0.001 ? match[1] : `(${match[1]}:${shown(weight)})`;
    type(box, before, before + match[0].length, fresh);
    const begin = before + (fresh[0] === '(' ? 1 : 0);
    return box.setSelectionRange(begin, begin + match[1].length);
  }
  // 3. The selected words, or the word at the cursor.
  if (from === to) {
    while (from > 0 && !/[\s,()<>]/.test(text[from - 1])) from -= 1;
    while (to < text.length && !/[\s,()<>]/.test(text[to])) to += 1;
  }
  while (to > from && /\s/.test(text[to - 1])) to -= 1;
  if (from === to) return;
  const inside = text.slice(from, to);
  type(box, from, to, `(${inside}:${shown(1 + up * 0.1)})`);
  box.setSelectionRange(from + 1, from + 1 + inside.length);
};
boxes.forEach(box => box.addEventListener('keydown', event => {
  const up = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (!up || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  weigh(box, up);
}));
