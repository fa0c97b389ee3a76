import { html } from "../ui.js";

export const Train = () => html`<p></p>`;
