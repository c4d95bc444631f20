// The form's comfort. Every bit of it works without this file: what is here saves reloads and keystrokes.
import { part } from './form-desk.js';
import './form-fields.js';
import './form-picture.js';
import './form-prompt.js';
import './form-styles.js';
import './form-memory.js';
import { send } from './form-send.js';
import { cancelLast } from './form-stage.js';

document.documentElement.classList.add('js');
const shortcuts = part('shortcuts');
part('help').addEventListener('click', () => shortcuts.showModal());

const types = target => target.closest?.('input:not([type=checkbox], [type=radio], [type=range], [type=file]), textarea, select');
addEventListener('keydown', event => {
  if (event.defaultPrevented || event.isComposing) return;
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); send(); }
  else if (event.key === 'Escape' && !shortcuts.open) cancelLast();
  else if (event.key === '?' && !types(event.target) && !shortcuts.open) { event.preventDefault(); shortcuts.showModal(); }
});
