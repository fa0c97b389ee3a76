// The API's pages at /docs: Swagger UI over this server's own OpenAPI document, with the key that the page already has.
const ui = window.SwaggerUIBundle({
  url: new URL("../../openapi.json", import.meta.url).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  onComplete: () => enter(),
  plugins: [() => ({ wrapComponents: { JsonSchemaForm: unfilled } })],
});

/** Leaves optional fields of a form empty, where Swagger UI would fill in a made-up value and send it. */
function unfilled(Field, system) {
  return (props) => {
    const made = !props.required && !["default", "example", "examples"].some((word) => props.schema?.has?.(word));
    return system.React.createElement(Field, made && props.dispatchInitialValue ? { ...props, dispatchInitialValue: false } : props);
  };
}

/** Whether the dark colours hold: the theme that was chosen on the page, else the system's. */
function dark() {
  try {
    const chosen = localStorage.getItem("overtone.theme");
    if (chosen) return chosen === "dark";
  } catch { /* storage is off: the system's theme holds */ }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Enter the key of this tab, where the server asks for one. */
function enter() {
  try {
    const key = sessionStorage.getItem("overtone.key");
    if (key) ui.preauthorizeApiKey("HTTPBearer", key);
  } catch { /* storage is off: "Authorize" asks for it */ }
}

document.documentElement.classList.toggle("dark-mode", dark());
