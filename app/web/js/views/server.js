import { html } from "../ui.js";

export const Server = () => html`<p></p>`;
