/** Line drawings, 20 × 20. */
import { html } from "../ui.js";

const PATHS = {
  try: "M10 3a2.5 2.5 0 0 1 2.5 2.5v4a2.5 2.5 0 0 1-5 0v-4A2.5 2.5 0 0 1 10 3ZM4.5 9.5a5.5 5.5 0 0 0 11 0M10 15v2.5",
  compare: "M3.5 4.5h5v11h-5zM11.5 4.5h5v11h-5z",
  adapters: "m10 3 7 3.5-7 3.5-7-3.5L10 3ZM3 10l7 3.5 7-3.5M3 13.5 10 17l7-3.5",
  data: "M3.5 5.5 5 7l2.5-3M3.5 13.5 5 15l2.5-3M10 5.5h6.5M10 13.5h6.5",
  train: "M3 16.5c3-1 3.5-9 6-9s2.5 5 4.5 5 2-8 3.5-9",
  server: "M3.5 4h13v5h-13zM3.5 11h13v5h-13zM6.5 6.5h.01M6.5 13.5h.01",
  play: "M7 4.5v11l8.5-5.5L7 4.5Z",
  pause: "M7 5v10M13 5v10",
  close: "m5.5 5.5 9 9M14.5 5.5l-9 9",
  upload: "M10 13V4M6.5 7.5 10 4l3.5 3.5M4 13.5v2h12v-2",
  download: "M10 4v9M6.5 9.5 10 13l3.5-3.5M4 15.5h12",
  copy: "M7.5 7.5h9v9h-9zM12.5 4.5v-1h-9v9h1",
  sun: "M10 6.5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7ZM10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M15.7 4.3l-1.1 1.1M5.4 14.6l-1.1 1.1",
  moon: "M16.5 11.8A7 7 0 0 1 8.2 3.5a7 7 0 1 0 8.3 8.3Z",
  pin: "M7 3h6l-1 5 3 3.5H5L8 8 7 3ZM10 11.5V17",
  back: "M7.5 4.5 4 8l3.5 3.5M4 8h8a4 4 0 0 1 0 8H8",
  trash: "M4 6h12M8 6V4h4v2M5.5 6l.7 10h7.6l.7-10",
  check: "m4.5 10.5 3.5 3.5 7.5-8",
  warning: "M10 3.5 17.5 16h-15L10 3.5ZM10 8.5v3.5M10 14h.01",
  key: "M12.5 3.5a4 4 0 1 1-3.4 6.1L3.5 15v2H6v-2h2v-2h1.5",
  stop: "M6 6h8v8H6z",
};

/** @param {{name: keyof PATHS}} props */
export const Icon = ({ name }) => html`
  <svg class="icon" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true" focusable="false"><path d=${PATHS[name]} /></svg>`;
