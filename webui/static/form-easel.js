// The easel: a mask painted over the picture with mouse, pen, finger or keyboard. What is painted is what is to change.
import { field, form, part } from './form-desk.js';

const easel = part('easel'), board = part('board', easel), canvas = part('canvas', easel);
const brush = part('brush', easel), eraser = part('eraser', easel);
const pen = canvas.getContext('2d');
const ring = document.createElement('span');
ring.className = 'ring';
ring.hidden = true;
board.append(ring);

// The mask is what these came to: strokes, a picture that was loaded, all inverted. Undone, they are painted anew.
let steps = [], stroke = null, hand = null;
const color = () => getComputedStyle(board).color; // the accent of the light or the dark page

const paint = step => {
  pen.save();
  if (step.mask) pen.drawImage(step.mask, 0, 0, canvas.width, canvas.height);
  else if (step.inverts) {
    pen.globalCompositeOperation = 'xor';
    pen.fillStyle = color();
    pen.fillRect(0, 0, canvas.width, canvas.height);
  } else {
    pen.globalCompositeOperation = step.erases ? 'destination-out' : 'source-over';
    Object.assign(pen, { lineCap: 'round', lineJoin: 'round', lineWidth: step.width, strokeStyle: color() });
    pen.beginPath();
    const [[x, y], ...rest] = step.points;
    pen.moveTo(x, y);
    if (!rest.length) pen.lineTo(x + 0.01, y);
    for (const [nextX, nextY] of rest) pen.lineTo(nextX, nextY);
    pen.stroke();
  }
  pen.restore();
};
const repaint = () => { pen.clearRect(0, 0, canvas.width, canvas.height); steps.forEach(paint); tell(); };
const tell = () => {
  part('undo', easel).disabled = part('clear', easel).disabled = !steps.length;
  form.dispatchEvent(new CustomEvent('masked', { detail: steps.length > 0 }));
};

// -- the picture under it ------------------------------------------------------------------------------------------------------
form.addEventListener('picture', ({ detail: { slot, picture } }) => {
  if (slot === 'image') {
    easel.hidden = !picture;
    steps = [];
    if (picture) {
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
      board.style.backgroundImage = `url("${picture.src}")`;
      board.style.aspectRatio = `${canvas.width} / ${canvas.height}`;
      board.style.maxWidth = `calc(34rem * ${Math.min(1.6, canvas.width / canvas.height)})`;
      const widest = Math.max(canvas.width, canvas.height);
      Object.assign(brush, { min: Math.max(1, widest / 128), max: widest / 3, step: 'any', value: widest / 14 });
    }
    repaint();
  }
  if (slot === 'mask' && picture && !easel.hidden) {
    steps = [{ mask: asStrokes(picture) }]; // a mask that is loaded can be painted on
    repaint();
  }
});
// White of a mask as paint: its lightness becomes opacity.
const asStrokes = picture => {
  const made = Object.assign(document.createElement('canvas'), { width: canvas.width, height: canvas.height });
  const to = made.getContext('2d');
  to.drawImage(picture, 0, 0, made.width, made.height);
  const pixels = to.getImageData(0, 0, made.width, made.height);
  for (let at = 0; at < pixels.data.length; at += 4) pixels.data[at + 3] = pixels.data[at];
  to.putImageData(pixels, 0, 0);
  to.globalCompositeOperation = 'source-in';
  to.fillStyle = color();
  to.fillRect(0, 0, made.width, made.height);
  return made;
};

// -- painting ------------------------------------------------------------------------------------------------------------------
const place = event => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
};
const show = ([x, y]) => {
  const scale = canvas.getBoundingClientRect().width / canvas.width, width = brush.value * scale;
  ring.hidden = false;
  Object.assign(ring.style, { width: `${width}px`, height: `${width}px`, left: `${x * scale - width / 2}px`, top: `${y * scale - width / 2}px` });
};
const begin = point => {
  stroke = { points: [point], width: Number(brush.value), erases: eraser.getAttribute('aria-pressed') === 'true' };
  steps.push(stroke);
  paint(stroke);
  tell();
};
canvas.addEventListener('pointerdown', event => {
  if (event.button || !event.isPrimary) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  begin(place(event));
});
canvas.addEventListener('pointermove', event => {
  show(place(event));
  if (!stroke || !canvas.hasPointerCapture(event.pointerId)) return;
  for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
    const last = stroke.points.at(-1), next = place(each);
    paint({ ...stroke, points: [last, next] });
    stroke.points.push(next);
  }
});
for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, () => { stroke = null; });
canvas.addEventListener('pointerleave', () => { ring.hidden = true; });

// The keyboard: arrows move the brush, space paints a dab.
canvas.addEventListener('keydown', event => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  hand ??= [canvas.width / 2, canvas.height / 2];
  if (event.key === 'z' && (event.ctrlKey || event.metaKey)) undo();
  else if (event.key === ' ') { begin(hand); stroke = null; }
  else if (move) {
    hand = hand.map((at, axis) => Math.max(0, Math.min(axis ? canvas.height : canvas.width, at + move[axis] * brush.value / 2)));
    show(hand);
  } else return;
  event.preventDefault();
});

const undo = () => { steps.pop(); repaint(); };
part('undo', easel).addEventListener('click', undo);
part('clear', easel).addEventListener('click', () => { steps = []; repaint(); });
part('invert', easel).addEventListener('click', () => { const step = { inverts: true }; steps.push(step); paint(step); tell(); });
eraser.addEventListener('click', () => eraser.setAttribute('aria-pressed', eraser.getAttribute('aria-pressed') !== 'true'));

// The mask as a file, white on black; null when nothing is painted, or there is nothing to paint on.
export const mask = async () => {
  if (easel.hidden || !steps.length || field('kind').value !== 'inpaint') return null;
  const made = Object.assign(document.createElement('canvas'), { width: canvas.width, height: canvas.height });
  const to = made.getContext('2d');
  to.drawImage(canvas, 0, 0);
  to.globalCompositeOperation = 'source-in';
  to.fillStyle = '#fff';
  to.fillRect(0, 0, made.width, made.height);
  to.globalCompositeOperation = 'destination-over';
  to.fillStyle = '#000';
  to.fillRect(0, 0, made.width, made.height);
  return new Promise(done => made.toBlob(done, 'image/png'));
};
tell();
